import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import typer
from conftest import bars, same, weights
from diffusers import DiffusionPipeline
from PIL import Image
from pipelines import PIPELINES

from unreel import Erasure, TextAblationConfig, __version__, cli, load_pair, unlearning
from unreel.attacks import names
from unreel.errors import LONGEST, UnreelError
from unreel.evaluation import video_cache as clips
from unreel.files import alone_in
from unreel.methods import few_shot, text_ablation
from unreel.models.families import FAMILIES
from unreel.prompts.suite import GROUPS
from unreel.workflow import Place, Sampling, UnlearnJob, common, generation, judging, learning, wording_search

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture(scope="session")
def cat(models, tmp_path_factory):
    """The folder of an erasure of "cat" for the tiny models, which all tests share."""
    pair = load_pair(str(models / "t2i"), str(models / "t2v"))
    few = TextAblationConfig(steps=5, forget=20, retain=20, solve_retain=30)
    return unlearning.unlearn("cat", pair, few).save_pretrained(tmp_path_factory.mktemp("erasure") / "cat")


@pytest.fixture
def made(cat, tiny, tmp_path):
    """The arguments that go with a copy of it, and make short videos."""
    shutil.copytree(cat, tmp_path / "made")
    return ["made", "--t2v", tiny[3], "--judge", "embedded", "--frames", "4"]


PAPER = ["--method", "few-shot"]
SHORT = ["--steps", "2", "--frames", "4"]
WEAK = "--accept-weak"  # of networks with random weights nothing is known that would hold


@pytest.fixture
def wan(tmp_path):
    """A transformer that learns from its own frames."""
    PIPELINES["WanPipeline"]().save_pretrained(tmp_path / "wan")
    return ["--t2v", tmp_path / "wan", "--size", 16, 16, "--frames", 5, "--fps", 16]


def test_a_video_transformer_goes_all_the_way(command, wan):
    rank = ["--rank", "2", "--shots", "1", "--epochs", "1"]
    for folder, method in {"text": ["--forget", "20", WEAK], "frames": [*PAPER, *rank]}.items():
        code, out, _ = command("unlearn", "castle", *wan, *method, "--steps", 2, "--videos", 2, "--out", folder)
        assert code == 0 and "similarity" in out
        document = json.loads(Path(folder, "metrics.json").read_text())
        assert document["sampling"] == {"steps": 2, "guidance": 5.0, "frames": 5, "size": [16, 16], "tiling": False}
    groups = ["--group", "explicit", "--videos", 1, "--judge", "none"]
    code, out, err = command("evaluate", "text", *wan, "--steps", 2, "--tiling", *groups, "--json")
    metrics = json.loads(Path("text", "evaluation", "metrics.json").read_text())
    assert code == 0 and metrics["sampling"]["tiling"]
    assert json.loads(out) == metrics | {"report": "text/evaluation/report.html"}
    assert "similarity to original" in err and max(map(len, err.splitlines()[-30:])) <= 80  # where no terminal is wider
    code, out, _ = command("generate", "a castle", *wan, "--steps", 2, "--erasure", "text", "--json")
    (made,) = json.loads(out)
    assert (made["prompt"], made["seed"]) == ("a castle", 0)
    with av.open(made["file"]) as video:
        assert video.streams.video[0].frames == 5 and video.streams.video[0].average_rate == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the concept is empty"),
        (["cat", "--method", "magic"], "unknown method 'magic'"),
        (["cat", "--epochs", "3"], "text-ablation has no epochs"),
        (["cat", *PAPER, "--replace", "a dog"], "few-shot makes nothing in particular instead"),
        (["cat", "--on-top", "esd", "--replace", "a dog"], "esd makes nothing in particular instead"),
        (["cat", *PAPER, "--layers", "3"], "few-shot has no layers"),
        (["cat", "--method", "concept-ablation", "--layers", "3"], "concept-ablation has no layers"),
        (["cat", "--offload"], "offloading moves what waits to main memory: leave --offload out"),
        (["cat", *PAPER, "--offload"], "train low-rank changes, with --rank 16"),
        (["cat", "--method", "concept-ablation", "--offload"], "concept ablation cannot be offloaded"),
        (
            ["cat", "--method", "concept-ablation", "--gradient-checkpointing"],
            "concept-ablation has no gradient checkpointing",
        ),
        (["cat", "--layers", "-1"], "layers must be zero or more"),
        (["the"], "'the' says nothing"),
        (["cat", "--synonym", "..."], "'...' says nothing"),
        (["cat <|endoftext|>"], "is a mark that the text encoder's tokenizer uses itself"),
        (["cat", "--guidance", "nan"], "the guidance is a number, not nan"),
        (["cat", "--size", "63", "64"], "AnimateDiffPipeline cannot generate with --size 63 64: `height` and `width` have"),
        (["cat", "--size", "0", "0"], "a side of a video has 8 to 16384 pixels, not 0 x 0"),
        (["cat", "--method", "concept-ablation", "--rank", "4"], "concept-ablation has no rank"),
        (["cat", "--forget", "0"], "forget must be greater than zero"),
        (["cat", *PAPER, "--forget", "9"], "few-shot has no forget"),
        (["cat", *PAPER, "--shot-steps", "-1"], "the shot steps must be zero or more"),
        (["cat", "--shot-steps", "5"], "text-ablation has no shot steps"),
        (["cat", "--retain-weight", "-1"], "the retain weight must be zero or more"),
        (["cat", "--replace", "a black cat"], "is to be forgotten"),
        (["cat", "--keep", "a black cat"], "both to be forgotten and to be kept"),
        (["cat", "--images", "."], "text-ablation takes no images"),
        (["cat", "--wordings", "absent.txt"], "cannot read absent.txt"),
        (["spinning", "--wordings", "everyday"], "no picture shows 'spinning', a motion"),
        (["cat", "dog", *PAPER], "unlearn one concept and keep nothing by name"),
        (["cat", "dog", "--synonym", "kitten"], "synonyms belong to one concept"),
        (["xylophone " * 12], "cut off"),
        (["cat", "--kind", "animal"], "unknown kind 'animal'"),
        (["cat", *PAPER, "--shots", "0"], "shots must be greater than zero"),
        (["cat", *PAPER, "--epochs", "-1"], "epochs must be greater than zero"),
        (["cat", *PAPER, "--learning-rate", "0"], "learning rate must be greater than zero"),
        (["cat", *PAPER, "--trainable", "most"], "trainable must be one of"),
        (["cat", "--videos", "-1"], "videos must be zero or more"),
        (["cat", "--device", "cuda:99"], "not available"),
        (["cat", "--t2i", "nowhere/at/all", "--t2v", "."], "does not exist"),
        (["cat", "--t2i", ".", "--t2v", "."], "is no pipeline"),
        (["cat", *PAPER, "--images", "absent"], "is no folder"),
        (["cat", *PAPER, "--shots", "1", "--shot-steps", "1", "--learning-rate", "1e30"], "nothing was kept"),
        (["cat", "--learning-rate", "1e30"], "nothing was kept"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(command, tmp_path, arguments, message):
    code, _, err = command("unlearn", *arguments, "--out", "made")
    assert code == 2
    assert next(line for line in err.splitlines() if line.startswith("unreel: ")).count(message) == 1
    assert "Traceback" not in err
    assert not (tmp_path / "made").exists() and not list(tmp_path.glob(".made*"))


@pytest.mark.parametrize("option", ["--seed", "--videos", "--steps", "--frames", "--fps"])
def test_numbers_that_would_never_end_are_refused(command, tmp_path, option):
    code, _, err = command("unlearn", "cat", option, str(2**65), "--out", "made")
    assert code == 2 and option in err and "Traceback" not in err
    assert not (tmp_path / "made").exists()


def test_a_single_file_is_refused_and_says_what_to_do(command, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "model.ckpt").write_bytes(b"")
    code, _, err = command("unlearn", "cat", "--t2v", "model.safetensors", "--out", "made")
    assert code == 2 and "is a single file" in err and "from_single_file" in err
    code, _, err = command("unlearn", "cat", "--t2v", "model.ckpt", "--out", "made")
    assert code == 2 and "is a pickle" in err


def test_it_says_its_version(command):
    code, out, _ = command("--version")
    assert code == 0 and out.strip() == f"unreel {__version__}"


def test_an_existing_folder_is_refused_before_any_work(command, tmp_path):
    (tmp_path / "made").mkdir()
    code, _, err = command("unlearn", "cat", "--out", "made")
    assert code == 2 and "--overwrite" in err
    assert list((tmp_path / "made").iterdir()) == []


def test_an_output_that_cannot_be_created_is_refused(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = command("unlearn", "cat", "--out", "file/made")
    assert code == 2 and "cannot write" in err


def test_unlearn_then_generate_with_a_pair_of_folders(command, tiny, tmp_path):
    strong = [*PAPER, "--learning-rate", "0.05"]  # so that a network with random weights notices
    code, _out, err = command("unlearn", "cat", *tiny, *strong, "--out", "made", "--videos", "0")
    assert code == 0, err
    pair = load_pair(*map(str, tiny[1::2]))
    before = weights(pair.t2v.text_encoder)
    Erasure.from_pretrained(tmp_path / "made").apply(pair.t2v)
    assert not same(before, weights(pair.t2v.text_encoder))
    arguments = ["generate", "a cat", "--t2v", tiny[3], "--steps", "1", "--frames", "2"]
    code, _, err = command(*arguments, "--out", "plain")
    assert code == 0, err
    assert command(*arguments, "--out", "erased", "--erasure", "made")[0] == 0
    plain, erased = (tmp_path / name / "a-cat-0.mp4" for name in ("plain", "erased"))
    assert plain.read_bytes() != erased.read_bytes()
    code, _, err = command(*arguments, "--out", "plain")
    assert code == 2 and "--overwrite" in err


@pytest.mark.parametrize("method", ["text-ablation", "few-shot"])
def test_only_one_model_at_a_time_is_on_the_device(command, tiny, monkeypatch, method):
    """Learning from text needs no more than text encoders, which no whole pipeline is moved for."""
    moved, plainly = [], DiffusionPipeline.to

    def to(self, *args, **kwargs):
        moved.append((type(self).__name__.removesuffix("Pipeline"), args[0]))
        return plainly(self, *args, **kwargs)

    monkeypatch.setattr(DiffusionPipeline, "to", to)
    options = ["--method", method, WEAK, "--videos", "1", "--device", "cpu:0", *SHORT]
    code, _out, err = command("unlearn", "cat", *tiny, "--out", "made", *options)
    assert code == 0, err
    image, video = "StableDiffusion", "AnimateDiff"
    learning = [(image, "cpu:0")] if method == "few-shot" else []
    assert moved == [(image, "cpu"), (video, "cpu"), *learning, (image, "cpu"), (video, "cpu:0")]


def test_several_concepts_go_into_one_erasure(command, tiny, tmp_path):
    arguments = [
        "pizza",
        "robot",
        *tiny,
        "--keep",
        "pine tree",
        "--replace",
        "a castle",
        "--judge",
        "none",
        "--videos",
        "1",
        WEAK,
        *SHORT,
    ]
    code, said, err = command("unlearn", *arguments, "--out", "made")
    assert code == 0, err
    assert "instead  of pizza: a castle" in said
    erasure = Erasure.from_pretrained(tmp_path / "made")
    assert erasure.concepts == ["pizza", "robot"]
    assert {part["anchor"] for part in erasure.provenance["parts"]} == {"a castle"}
    assert all((tmp_path / "made" / name / "report.html").is_file() for name in erasure.concepts)
    assert "'a castle' in its place" in (tmp_path / "made" / "README.md").read_text()


def test_what_falls_short_is_not_written_unless_that_is_accepted(command, tiny, tmp_path, monkeypatch):
    arguments = ["unlearn", "cat", *tiny, "--forget", "20", "--videos", "0", "--out", "made"]
    bars(monkeypatch, -1.0)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*arguments)
    (line,) = (line for line in err.splitlines() if line.startswith("unreel: "))
    assert code == 2 and "the erasure of cat falls short on held-out prompts: " in line and "--accept-weak" in line
    assert ". Nothing was written: have something else made instead" in line
    assert "Traceback" not in err and not out and sorted(tmp_path.rglob("*")) == before
    code, out, err = command(*arguments, WEAK)
    assert code == 0, err
    check = Erasure.from_pretrained(tmp_path / "made").provenance["check"]
    card = (tmp_path / "made" / "README.md").read_text()
    assert f"check    {check['summary']}" in out and len(check["shortfalls"]) == 4
    for shortfall in check["shortfalls"]:
        assert f"weak     {shortfall}" in out and f"**Falls short:** {shortfall}" in card
    bars(monkeypatch, float("inf"))
    code, out, err = command(*arguments, "--overwrite")
    assert code == 0 and "check    " in out and "weak     " not in out, err
    code, out, err = command(*arguments, "--overwrite", "--json")
    made = json.loads(out)
    assert code == 0 and made["erasure"] == "made" and made["check"]["shortfalls"] == [] and made["reports"] == [], err
    assert [(part["concept"], part["method"]) for part in made["concepts"]] == [("cat", "text-ablation")]
    assert f"check    {made['check']['summary']}" in err
    assert "Falls short" not in (tmp_path / "made" / "README.md").read_text()


def test_an_erasure_that_changes_nothing_is_not_written_whatever_the_method(command, tiny, tmp_path):
    arguments = ["unlearn", "cat", *tiny, "--method", "concept-ablation", "--videos", "0", "--out", "made", *SHORT]
    arguments += ["--learning-rate", "0.1"]  # all prompts are far off before they are looked at
    code, out, err = command(*arguments)
    (line,) = (line for line in err.splitlines() if line.startswith("unreel: "))
    assert code == 2 and "the erasure of cat changes nothing (other prompts moved too far: went back to step 0)" in line
    assert not out and not (tmp_path / "made").exists()
    code, out, err = command(*arguments, WEAK)
    assert code == 0 and "went back to step 0" in out, err


@pytest.mark.parametrize("method", ["few-shot", "concept-ablation"])
def test_what_others_published_is_written_and_marked(command, tiny, tmp_path, monkeypatch, method):
    bars(monkeypatch, -1.0)
    code, out, err = command("unlearn", "cat", *tiny, "--method", method, "--shots", "1", "--videos", "0", "--out", "made")
    assert code == 0, err
    assert "weak     " in out and "Falls short" in (tmp_path / "made" / "README.md").read_text()


def test_concept_ablation_says_why_it_stopped(command, tiny, tmp_path):
    arguments = ["cat", *tiny, "--method", "concept-ablation", "--videos", "1", "--judge", "none", *SHORT]
    code, said, err = command("unlearn", *arguments, "--out", "made")
    assert code == 0, err
    (part,) = Erasure.from_pretrained(tmp_path / "made").provenance["parts"]
    assert part["method"] == "concept-ablation" and f"stopped  because {part['stopped']}" in said
    assert f"It stopped because {part['stopped']}" in (tmp_path / "made" / "report.html").read_text()


def test_a_run_that_was_stopped_at_its_videos_goes_on_with_them(command, tiny, tmp_path, monkeypatch):
    arguments = [
        "unlearn",
        "cat",
        *tiny,
        "--forget",
        "20",
        "--judge",
        "none",
        "--videos",
        "2",
        "--out",
        "made",
        WEAK,
        *SHORT,
    ]
    write = clips.write_tensors
    finished = []

    def stop_at_the_third(file, *rest):
        if len(finished) == 2:
            raise KeyboardInterrupt
        write(file, *rest)
        finished.append(file)

    monkeypatch.setattr(clips, "write_tensors", stop_at_the_third)
    assert command(*arguments)[0] != 0
    monkeypatch.setattr(clips, "write_tensors", write)
    kept = {file: file.stat().st_mtime_ns for file in [tmp_path / "made" / "erasure.safetensors", *map(Path, finished)]}
    for other in (["--layers", "2"], ["--replace", "a boat"], ["--dtype", "bfloat16"], ["--seed", "1"]):
        code, _, err = command(*arguments, *other)
        assert code == 2 and "made holds another erasure, whose videos are not finished" in err
    code, _, err = command(*arguments, "--videos", "0")
    assert code == 2 and "made exists" in err
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    monkeypatch.setattr(text_ablation, "text_ablation", None)  # learning again would fail
    with alone_in(tmp_path / "made" / ".clips"):  # as another process would be
        code, _, err = command(*arguments)
    assert code == 2 and "another process works in made" in err
    code, out, err = command(*arguments)
    assert code == 0 and "goes on  with the erasure in made" in out, err
    assert (tmp_path / "made" / "erasure.safetensors").stat().st_mtime_ns == next(iter(kept.values()))
    assert (tmp_path / "made" / "report.html").is_file() and not (tmp_path / "made" / ".clips").exists()
    code, _, err = command(*arguments)
    assert code == 2 and "made exists" in err


@pytest.mark.usefixtures("hasty")
def test_the_videos_of_what_was_made_without_are_made_by_one_process_alone(models, tmp_path, monkeypatch):
    folders = {"t2i": str(models / "t2i"), "t2v": str(models / "t2v"), "judge": "none", "out": tmp_path / "made"}
    job = UnlearnJob(["cat"], settings={"forget": 20}, videos=0, accept_weak=True, **folders)
    learning.unlearn(job)

    def looked(*_, clips, **__):
        with pytest.raises(UnreelError, match="another process works in"), alone_in(clips):
            pytest.fail("nobody is alone there")
        raise KeyboardInterrupt

    monkeypatch.setattr(learning, "evaluate_intervention", looked)
    with pytest.raises(KeyboardInterrupt):
        learning.unlearn(replace(job, videos=1, resume=True))


def test_a_run_from_given_images_goes_on_with_the_same_images_alone(command, tiny, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for name, shade in {"a": 40, "b": 200}.items():
        Image.new("RGB", (16, 16), (shade, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    arguments = ["unlearn", "cat", *tiny, *PAPER, "--images", "images", "--epochs", "1", "--judge", "none", "--videos", "1"]
    arguments += ["--out", "made", WEAK, *SHORT]
    write = clips.write_tensors
    monkeypatch.setattr(clips, "write_tensors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command(*arguments)[0] != 0
    monkeypatch.setattr(clips, "write_tensors", write)
    weights, record = (tmp_path / "made" / f"erasure.{kind}" for kind in ("safetensors", "json"))
    before, told = weights.read_bytes(), record.read_text()
    older = json.loads(told)
    del older["parts"][0]["images_digest"]  # as earlier versions wrote it
    Image.new("RGB", (16, 16), (0, 90, 0)).save(tmp_path / "images" / "b.png")
    code, _, err = command(*arguments)
    assert code == 2 and "made holds another erasure, whose videos are not finished" in err
    record.write_text(json.dumps(older))
    code, _, err = command(*arguments)
    assert code == 2 and "made holds an erasure that does not say which images it was learned from" in err
    record.write_text(told)
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "images" / "b.png")
    monkeypatch.setattr(few_shot, "few_shot", None)  # learning again would fail
    code, out, err = command(*arguments)
    assert code == 0 and "goes on  with the erasure in made" in out, err
    assert weights.read_bytes() == before and (tmp_path / "made" / "report.html").is_file()


def test_ctrl_c_leaves_no_half_written_artifact(tmp_path):
    command = [sys.executable, "-m", "unreel.cli", "unlearn", "cat", *PAPER, "--epochs", "100000", "--out", "made"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells have background jobs ignore it
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=heard)
    assert process.stderr is not None
    seen = b""
    while b"unlearning:" not in seen:
        piece = process.stderr.read1()  # type: ignore[attr-defined]
        assert piece, f"it ended by itself: {seen.decode()}"
        seen += piece
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=1800)[1]  # on however busy a machine
    assert process.returncode != 0 and b"Traceback" not in seen + rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--judge", "none"]])
def test_a_name_that_the_pair_does_not_know_is_questioned_though_no_video_is_made(command, monkeypatch, more):
    def learn(what, pair, *_, **__):
        raise UnreelError("this test needs no more")

    monkeypatch.setattr(learning, "unlearn_concepts", learn)
    _, out, err = command("unlearn", "Santa Clause", "--videos", "0", *more, "--out", "made")
    assert "this test needs no more" in err
    assert "unknown  'Santa Clause' is not listed in this pair's world: do you mean 'santa claus'?" in out
    assert "unknown" not in command("unlearn", "Santa Claus", "--videos", "0", *more, "--out", "other")[1]


def test_what_videos_take_of_the_disk_is_said_or_refused_before_anything_is_learned(command, tiny, tmp_path, monkeypatch):
    def learn(*_, **__):
        raise UnreelError("this test needs no more")

    monkeypatch.setattr(learning, "unlearn_concepts", learn)
    monkeypatch.setattr(clips, "LARGE", 0)
    arguments = ["unlearn", "cat", *tiny, *SHORT, "--videos", 3, "--out", "made"]
    _, out, err = command(*arguments)
    assert "this test needs no more" in err and "disk     up to 0.0 GB for 15 videos of 0.0 MB in made/.clips" in out
    monkeypatch.setattr(clips.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    code, out, err = command(*arguments)
    (line,) = (line for line in err.splitlines() if line.startswith("unreel: "))
    assert code == 2 and line.startswith(
        "unreel: 12 videos of 0.0 MB do not fit into made/.clips, whose disk has 0.0 GB left"
    )
    assert "disk " not in out and not list(tmp_path.iterdir())


def test_quiet_draws_no_bars_and_says_the_same(tiny, tmp_path):
    arguments = ["unlearn", "castle", *tiny, *PAPER, "--shots", "1", "--epochs", "1", "--videos", "0"]
    command = [sys.executable, "-m", "unreel.cli", *map(str, arguments)]
    loud, quiet = (
        subprocess.run([*command, "--out", name, *more], cwd=tmp_path, capture_output=True, text=True)
        for name, more in (("loud", []), ("quiet", ["--quiet"]))
    )
    assert loud.returncode == quiet.returncode == 0, loud.stderr + quiet.stderr
    assert "unlearning" in loud.stderr and quiet.stderr == ""
    assert quiet.stdout == loud.stdout.replace("loud", "quiet")


def test_nothing_is_made_with_what_would_be_on_and_do_nothing(command, tiny, tmp_path):
    code, _, said = command("unlearn", "cat", *tiny, "--method", "negative-prompt", "--out", "made", "--videos", "0")
    assert code == 0, said
    asked = ["generate", "a cat", "--t2v", tiny[3], "--erasure", "made", "--steps", "1", "--frames", "2", "--out", "videos"]
    code, _, said = command(*asked, "--guidance", "1")
    assert code == 2 and "a negative-prompt needs guidance" in said and not list(tmp_path.glob("videos/*.mp4"))


def test_what_to_do_next_takes_the_options_that_it_is_told_with(capsys):
    record = {"parts": [{"concept": "cat", "kind": "object", "synonyms": [], "method": "m"}]}
    learned = SimpleNamespace(provenance=record, concepts=["cat"], nbytes=0, identity="x")
    done = SimpleNamespace(intervention=learned, folder=Path("made"), evaluations={}, pages=[Path("report.html")])
    place = Place("cuda", "bfloat16", offload=True)
    cli.learning._say_unlearned(done, UnlearnJob(["cat"], t2v="a model", place=place))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next "))
    commands = [shlex.split(each) for each in line.removeprefix("next").split(";")]
    assert [each[:3] for each in commands] == [["unreel", "evaluate", "made"], ["unreel", "attack", "made"]]
    for each in commands:
        options = [name for param in typer.main.get_command(cli.app).commands[each[1]].params for name in param.opts]
        assert {name for name in each if name.startswith("--")} <= set(options)
    assert "--offload" in commands[0] and commands[1][3:] == ["--t2v", "a model", "--device", "cuda", "--dtype", "bfloat16"]
    sampling = Sampling(steps=3, guidance=0.0, frames=8, size=(64, 32), fps=4, tiling=True, negative_prompt="fog")
    job = UnlearnJob(["cat"], t2v="a model", t2i="its images", judge="clip:a b", sampling=sampling)
    for judge, asked in (("clip:a b", ["--judge", "clip:a b"]), ("none", [])):
        cli.learning._say_unlearned(done, replace(job, judge=judge))
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next "))
        evaluated, attacked = (shlex.split(each)[3:] for each in line.removeprefix("next").split(";"))
        said = shlex.split("--guidance 0.0 --frames 8 --size 64 32 --fps 4 --tiling --negative-prompt fog")
        assert evaluated == ["--t2v", "a model", "--judge", judge, "--steps", "3", *said]
        assert attacked == ["--t2i", "its images", "--t2v", "a model", *asked, "--video-steps", "3", *said]


def test_wordings_lists_what_draws_the_concept_and_unlearn_takes_the_same_list(command, tiny, tmp_path, monkeypatch):
    (tmp_path / "phrases.txt").write_text("# of our users\npalace\na rocket\nfortress\n")
    looked, look = [], wording_search.find_wordings

    def looked_once(*asked, **how):
        if not looked:
            looked.append(look(*asked, **how))
        return looked[0]

    monkeypatch.setattr(wording_search, "find_wordings", looked_once)
    code, out, err = command("wordings", "castle", "--phrases", "phrases.txt")
    assert code == 0, err
    *rows, next_step = out.splitlines()
    assert sorted(row.split("  ")[1] for row in rows) == ["fortress", "palace"]
    assert next_step == "next  unreel unlearn castle --wordings phrases.txt"
    code, out, _ = command("wordings", "castle", "--phrases", "phrases.txt", "--dtype", "bfloat16")
    assert out.splitlines()[-1] == f"{next_step} --dtype bfloat16"
    code, out, _ = command("wordings", "castle", "--phrases", "phrases.txt", "--json")
    assert {row["text"] for row in json.loads(out)} == {"fortress", "palace"}
    code, out, err = command(
        "unlearn", "castle", *tiny, "--wordings", "phrases.txt", "--videos", "0", "--out", "made", WEAK
    )
    assert code == 0 and "wordings of castle: " in out, err
    (part,) = Erasure.from_pretrained(tmp_path / "made").provenance["parts"]
    assert set(part["synonyms"]) == {"fortress", "palace"}
    code, out, _ = command("wordings", "castle", "--phrases", "none.txt")
    assert code == 2


def test_generate_refuses_an_erasure_of_another_model_and_writes_nothing(command, made, tmp_path):
    for model, message in ((["--t2v", "embedded"], "another text encoder"), ([], "this was made on")):
        code, _, err = command("generate", "a cat", "--erasure", "made", "--out", "videos", *model)
        assert code == 2 and message in err
        assert not (tmp_path / "videos").exists()


THREE = ["generate", "a cat", "a dog", "an owl"]


@pytest.mark.parametrize("batch", [1, 2])
def test_generate_writes_each_video_as_soon_as_it_is_made_and_goes_on_when_it_was_killed(
    command, tiny, tmp_path, monkeypatch, batch
):
    load, write, sample = generation.load_video_model, generation.write_mp4, generation.sample
    made, options = [], [*tiny[2:], "--steps", 1, "--frames", 2]

    def several_at_once(*sources, **how):
        model = load(*sources, **how)
        return replace(model, settings=replace(model.settings, batch=batch))

    def killed(*rest):
        if len(list(Path("killed").iterdir())) == 1:
            raise KeyboardInterrupt
        write(*rest)

    monkeypatch.setattr(generation, "load_video_model", several_at_once)
    monkeypatch.setattr(
        generation, "sample", lambda on, prompts, *rest, **how: made.extend(prompts) or sample(on, prompts, *rest, **how)
    )
    code, out, err = command(*THREE, *options, "--out", "whole")
    assert code == 0 and out.split() == ["whole/a-cat-0.mp4", "whole/a-dog-1.mp4", "whole/an-owl-2.mp4"], err
    monkeypatch.setattr(generation, "write_mp4", killed)
    code, out, err = command(*THREE, *options, "--out", "killed")
    assert (
        code
        and "Traceback" not in err
        and out.split() == ["killed/a-cat-0.mp4"]
        and [file.name for file in Path("killed").iterdir()] == ["a-cat-0.mp4"]
    )
    monkeypatch.setattr(generation, "write_mp4", write)
    made.clear()
    code, out, err = command(*THREE, *options, "--out", "killed", "--json")
    assert code == 0 and made == (["a dog", "an owl"] if batch == 1 else ["a cat", "a dog", "an owl"]), err
    assert [row["file"] for row in json.loads(out)] == ["killed/a-cat-0.mp4", "killed/a-dog-1.mp4", "killed/an-owl-2.mp4"]
    assert ("goes on  1 of 3 videos are made" in err) == (batch == 1)
    for file in Path("whole").iterdir():
        assert file.read_bytes() == Path("killed", file.name).read_bytes()


def test_generate_goes_on_with_nothing_that_was_made_otherwise(command, made, tmp_path, monkeypatch):
    options = ["--out", "videos", *made[1:3], "--steps", 1, "--frames", 2]
    assert command(*THREE, *options)[0] == 0
    Path("videos", "an-owl-2.mp4").unlink()
    before = {file: file.read_bytes() for file in Path("videos").iterdir()}
    for other in (["--erasure", "made"], ["--steps", 2], ["--fps", 9], ["--dtype", "bfloat16"]):
        code, out, err = command(*THREE, *options, *other)
        assert code == 2 and not out and "videos/a-cat-0.mp4 exists: choose another --out" in err
    monkeypatch.setattr(generation, "load_video_model", lambda *_, **__: pytest.fail("it was loaded"))
    Path("videos", "a-dog-1.mp4").write_text("of somebody else's")
    code, _, err = command(*THREE, *options)
    assert code == 2 and "videos/a-dog-1.mp4 exists" in err
    before[Path("videos", "a-dog-1.mp4")] = b"of somebody else's"
    assert before == {file: file.read_bytes() for file in Path("videos").iterdir()}


def test_evaluate_prints_and_saves_one_table_and_a_page(command, made, tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,group,label\na dog on the moon,moon,dog\n")
    code, out, err = command(
        "evaluate", *made, "--steps", "2", "--videos", "2", "--prompts", "mine.csv", "--clips", "shared"
    )
    assert code == 0, err
    figures = json.loads((tmp_path / "made" / "evaluation" / "metrics.json").read_text())["figures"]
    assert set(figures) == {*GROUPS, "moon", "all"}
    assert "concept found where nobody asked for it" in out and "together with something else" in out
    assert (tmp_path / "made" / "evaluation" / "report.html").is_file()
    assert list(Path("shared").glob("*.safetensors")) and not (tmp_path / "made" / "evaluation" / "clips").exists()
    assert Erasure.from_pretrained(tmp_path / "made").concepts == ["cat"]


def test_attack_prints_and_saves_one_table_and_a_page(command, tiny, made, tmp_path):
    arguments = [*made, *tiny[:2], "--cases", "1", "--budget", "1", "--budget", "2", "--steps", "1", "--video-steps", "2"]
    arguments += ["--clips", "shared"]
    code, out, err = command("attack", *arguments)
    assert code == 0, err
    document = json.loads((tmp_path / "made" / "attacks" / "attacks.json").read_text())
    attacks = document["attacks"]
    assert document["budgets"] == [1, 2] and document["search_steps"] == 1
    asked_for = ("video_inversion", "initial_latents")  # which are run only then
    usual = [name for name in names() if name not in asked_for]
    assert list(attacks) == usual and all(name in out for name in usual)
    assert max(map(len, out.splitlines())) <= 80
    assert (tmp_path / "made" / "attacks" / "report.html").is_file()
    assert list(Path("shared").glob("attempt-*")) and not (tmp_path / "made" / "attacks" / "clips").exists()
    code, out, _ = command("attack", *arguments, "--json")
    assert code == 0 and json.loads(out)["attacks"] == attacks


def test_each_of_several_concepts_in_one_erasure_is_evaluated_and_attacked_in_a_folder_of_its_own(
    command, models, tiny, tmp_path
):
    pair = load_pair(str(models / "t2i"), str(models / "t2v"))
    unlearning.unlearn(["pizza", "pine tree"], pair).save_pretrained(tmp_path / "made")
    shared = ["--t2v", tiny[3], "--judge", "embedded", "--frames", "2"]
    for name in ("pizza", "pine tree"):
        asked = ["--concept", name, *shared]
        code, _, err = command("evaluate", "made", *asked, "--steps", 1, "--videos", 1, "--group", "explicit")
        assert code == 0, err
        attacks = ["--attack", "plain", "--cases", 1, "--budget", 1, "--video-steps", 1]
        code, _, err = command("attack", "made", *asked, *tiny[:2], *attacks)
        assert code == 0, err
    homes = [Path("made", what, name) for what in ("attacks", "evaluation") for name in ("pine-tree", "pizza")]
    assert sorted(file.parent for file in Path("made").rglob("report.html")) == homes
    told = [json.loads((home / "metrics.json").read_text())["concept"] for home in homes[2:]]
    assert told == ["pine tree", "pizza"]
    code, out, err = command("compare", *homes[2:])
    assert code == 0 and "made/pizza (" in out and "made/pine-tree (" in out and "concept differ" in out, err
    code, _, err = command("compare", "made", homes[2], "--out", "page")
    told = "made was evaluated on several concepts: choose made/evaluation/pine-tree or made/evaluation/pizza"
    assert code == 2 and told in err and not Path("page").exists()


def test_attack_says_what_it_leaves_out_of_a_video_model_alone_and_refuses_it_by_name(command, made, tmp_path):
    arguments = [*made, "--cases", "1", "--budget", "1", "--video-steps", "2", "--steps", "1"]
    code, out, err = command("attack", *arguments)
    assert code == 0 and "Left out: embedding_inversion, " in out, err
    document = json.loads((tmp_path / "made" / "attacks" / "attacks.json").read_text())
    assert "embedding_inversion" in document["left_out"] and "typos" in document["attacks"]
    code, _, err = command("attack", *arguments, "--attack", "embedding_inversion", "--out", "named")
    assert code == 2 and "unreel: embedding_inversion needs a text-to-image pipeline" in err
    assert not (tmp_path / "named").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "absent"], "is no erasure: there is no such folder"),
        (
            ["evaluate", "made", "--judge", "oracle", "--t2v", "embedded"],
            "unknown judge 'oracle': choose from clip, embedded",
        ),
        (["evaluate", "made", "--videos", "0", "--t2v", "embedded"], "at least one video"),
        (["evaluate", "made", "--group", "friends", "--t2v", "embedded"], "unknown prompt group 'friends'"),
        (["evaluate", "made", "--prompts", "absent.csv"], "absent.csv"),
        (["evaluate", "made", "--prompts", "empty.csv"], "row 1"),
        (["evaluate", "made", "--prompts", "photo.png"], "unknown suffix"),
        (["evaluate", "made", "--concept", "dog"], "not of dog"),
        (["evaluate", "made", "--t2v", "embedded"], "another text encoder"),
        (["evaluate", "made"], "this was made on"),
        (["attack", "made", "--attack", "magic", "--t2v", "embedded"], "unknown attack 'magic': choose from"),
        (["attack", "made", "--cases", "0", "--t2v", "embedded"], "at least one case"),
        (["attack", "made", "--judge", "none", "--t2v", "embedded"], "needs a judge"),
        (["attack", "made", "--t2v", "embedded"], "another text encoder"),
        (["attack", "made"], "this was made on"),
    ],
)
def test_bad_input_to_evaluate_and_attack_writes_nothing(command, made, tmp_path, arguments, message):
    (tmp_path / "photo.png").write_text("mine")
    (tmp_path / "empty.csv").write_text("prompt\n")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command(*arguments)
    assert code == 2
    assert next(line for line in err.splitlines() if line.startswith("unreel: ")).count(message) == 1
    assert "Traceback" not in err and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unlearn", "cat", "--judge", "clpi"], "unknown judge 'clpi': choose from clip"),
        (["unlearn", "cat", "--judge", "clpi:own/clip", "--videos", "0"], "unknown judge 'clpi': choose from clip"),
        (["unlearn", "cat", *PAPER, "--images", "absent"], "absent is no folder of images"),
        (["evaluate", "made", "--group", "explict"], "unknown prompt group 'explict': choose from explicit"),
        (["evaluate", "made", "--videos", "0"], "at least one video"),
        (["evaluate", "made", "--judge", "clpi"], "unknown judge 'clpi'"),
        (["attack", "made", "--attack", "tpyos", "--budget", "0"], "unknown attack 'tpyos': choose from"),
        (["attack", "made", "--budget", "0"], "budgets are numbers of videos from 1"),
        (["attack", "made", "--cases", "0"], "at least one case"),
        (["attack", "made", "--steps", "0"], "at least one step"),
        (["attack", "made", "--judge", "clpi"], "unknown judge 'clpi'"),
    ],
)
def test_what_is_misspelled_or_senseless_is_refused_before_anything_is_loaded(command, monkeypatch, arguments, message):
    def loaded(*_, **__):
        pytest.fail("it was loaded")

    for module, loaders in {
        judging: ("load_pair", "load_video_model", "load_intervention"),
        learning: ("load_intervention",),
        common: ("load_judge",),
    }.items():
        for name in loaders:
            monkeypatch.setattr(module, name, loaded)
    monkeypatch.setattr(learning.unlearn, "__kwdefaults__", {"load": loaded})
    code, _, err = command(*arguments, "--t2v", "own/model")
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1


def test_a_judge_that_does_not_know_the_concept_is_refused(command, tiny, tmp_path):
    learned = command("unlearn", "submarine", *tiny, *PAPER, "--shots", "1", "--out", "made", "--videos", "0")
    assert learned[0] == 0, learned
    for verb in ("evaluate", "attack"):
        code, _, err = command(verb, "made", "--judge", "embedded", "--t2v", "embedded")
        assert code == 2 and "does not know 'submarine'" in err
    assert not (tmp_path / "made" / "evaluation").exists() and not (tmp_path / "made" / "attacks").exists()


def test_an_evaluation_killed_at_any_moment_goes_on_and_ends_the_same(command, made, tmp_path):
    groups = ["--group", "explicit", "--group", "neighbours"]
    arguments = ["evaluate", *map(str, made), "--steps", "4", "--videos", "2", *groups]
    assert command(*arguments, "--out", "whole")[0] == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "unreel.cli", *arguments, "--out", "killed"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    clips = tmp_path / "killed" / "clips"
    while process.poll() is None and not list(clips.glob("*.safetensors")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = {file: file.stat().st_mtime_ns for file in clips.glob("[!.]*.safetensors")}
    assert finished
    assert command(*arguments, "--out", "killed")[0] == 0
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items())
    whole, killed = (json.loads((tmp_path / name / "metrics.json").read_text())["figures"] for name in ("whole", "killed"))
    for figures in (whole, killed):
        del figures["all"]["generation_seconds"]
    assert whole == killed


def test_check_proves_the_embedded_pair(command):
    code, out, _ = command("check")
    assert code == 0 and out.split()[0] == "text_encoder" and out.strip().endswith("shared")
    assert out.splitlines()[:2] == ["text_encoder of embedded image", "text_encoder of embedded video"]
    assert command("check", "embedded")[1] == out


def test_check_tells_which_of_several_models_share(command, tiny):
    image, video = tiny[1], tiny[3]
    code, out, err = command("check", image, "embedded", video, video / "text_encoder")
    assert code == 0, err
    ours, embedded = out.split("\n\n")
    assert ours.splitlines()[:3] == [f"text_encoder of {image}", f"text_encoder of {video}", f"{video / 'text_encoder'}"]
    assert ours.endswith(": shared") and embedded.strip().endswith(": shared")
    assert command("check", image)[1].strip().endswith(": not shared")
    both = json.loads(command("check", image, "embedded", "--json")[1])
    assert [(len(group["encoders"]), group["shared"]) for group in both] == [(1, False), (2, True)]
    assert both[0]["nearest"] is None and both[1]["differs"] == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere/at/all", "does not exist"),
        ("nobody/nothing", "not complete in the local cache"),
        (".", "is no model"),
        ("photo.png", "is no model"),
    ],
)
def test_check_refuses_what_is_no_model(command, tmp_path, model, message):
    (tmp_path / "photo.png").write_text("mine")
    code, out, err = command("check", "embedded", model)
    assert code == 2 and not out
    (line,) = (line for line in err.splitlines() if line.startswith("unreel: "))
    assert message in line and "Traceback" not in err


def test_families_lists_every_pipeline_in_100_columns(command):
    code, out, _ = command("families")
    assert code == 0 and max(map(len, out.splitlines())) <= 100
    for family in FAMILIES:
        assert all(name in out for name in (family.name, family.text_encoder, *family.t2v, *family.t2i))
    assert [family["name"] for family in json.loads(command("families", "--json")[1])] == [it.name for it in FAMILIES]


def test_an_error_does_not_echo_all_that_was_said(command, tmp_path):
    code, _, err = command("unlearn", "cat " * 5000, "--out", "made")
    assert code == 2 and len(err.splitlines()[-1]) < LONGEST + 20 and "name it in fewer words" in err


@pytest.mark.parametrize("name", ["", *(info.name or info.callback.__name__ for info in cli.app.registered_commands)])
def test_flags_read_like_flags(command, name):
    """`<bool>` behind one would ask for a value, which no flag takes."""
    code, out, _ = command(*filter(None, [name]), "--help")
    assert code == 0 and "--help" in out and "bool" not in out.lower()


@pytest.mark.parametrize("argument", ["--help", "families"])
def test_help_and_families_need_none_of_the_heavy_imports(argument):
    program = f"import sys; from unreel import cli; sys.argv = ['unreel', {argument!r}]\n"
    program += "try: cli.main()\nexcept SystemExit: pass\n"
    program += "print(sorted({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_nothing_is_left_in_an_empty_home(tmp_path):
    """Loading everything there is, with all extras that are installed."""
    code = "import unreel; unreel.load_pair(); from importlib.util import find_spec; find_spec('onnxruntime') and "
    usual = {name: value for name, value in os.environ.items() if not name.endswith("TELEMETRY")}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code + "__import__('onnxruntime')"]
    subprocess.run(command, env={**usual, **home}, check=True, capture_output=True)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
