"""The evaluation's promises: same prompts and seeds, no trace left, no mixing of runs, figures that can be trusted."""

import copy
import json
import re
from dataclasses import replace
from itertools import groupby
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import FakeJudge, make_pair, same, weights

from unreel import Concept, Erasure, FewShotConfig, UnreelError, active_interventions, attack, evaluate, unlearn
from unreel.evaluation import video_cache
from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.evaluate import build_suite, concept_of, erased_by, vocabulary
from unreel.evaluation.run import Run
from unreel.files import alone_in, read_tensors, write_tensors
from unreel.interventions.erasure import ComponentDelta
from unreel.methods import configure
from unreel.methods.uce import UCEConfig
from unreel.metrics import embeddings
from unreel.models.conditioner import Conditioner
from unreel.models.sampling import generate
from unreel.prompts.files import PromptRow
from unreel.prompts.suite import GROUPS
from unreel.report.verdict import verdict
from unreel.versions import versions

pytestmark = pytest.mark.usefixtures("hasty")
VIDEOS = 4


@pytest.fixture(scope="module")
def setting():
    pair = make_pair()
    return pair, unlearn("cat", pair, FewShotConfig(learning_rate=1e-2))


@pytest.fixture(scope="module")
def run(setting):
    pair, erasure = setting
    return evaluate(pair.video, erasure, FakeJudge(), videos=VIDEOS)


def test_what_names_the_concept_by_any_of_its_words_is_nothing_else_to_ask_for():
    judge = SimpleNamespace(vocabulary={"concept": ["kate bush", "cat"]}, wordings=lambda name: [])
    assert vocabulary(Concept("George Bush", "face", ("Bush",)), judge)["concept"] == ["cat"]


def nothing(erasure: Erasure) -> Erasure:
    """An erasure that changes no weight."""
    deltas = {name: torch.zeros_like(change) for name, change in erasure.components[0].deltas.items()}
    return Erasure((ComponentDelta(deltas, erasure.components[0].fingerprint),), erasure.provenance)


def test_every_group_is_measured_and_every_interval_holds_its_value(run):
    assert list(run.groups) == list(GROUPS)
    for figure in run.figures:
        for estimate in figure.estimates.values():
            assert estimate.ci[0] - 1e-9 <= estimate.value <= estimate.ci[1] + 1e-9, figure
            assert figure.unit != "%" or figure.metric in ("embedding_shift", "motion") or 0 <= estimate.value <= 1
    for group in GROUPS:
        assert {"concept_found", "concept_peak_frame", "ssim", "frechet", "motion"} <= run.metrics()[group].keys()
    assert {"judge_floor", "judge_accuracy", "embedding_shift", "artifact_size"} <= run.metrics()["all"].keys()
    assert run.figure("artifact_size").edited.value == pytest.approx(run.erasure.nbytes / 1e6)


def test_the_same_call_gives_the_same_figures_and_leaves_the_encoder_as_it_was(setting, run):
    pair, erasure = setting
    before = weights(pair.t2v.text_encoder)
    again = evaluate(pair.video, erasure, FakeJudge(), videos=VIDEOS)
    times = ("generation_seconds",)
    first, second = ([f for f in r.figures if f.metric not in times] for r in (run, again))
    assert first == second
    assert same(before, weights(pair.t2v.text_encoder))


def test_a_pipeline_alone_is_evaluated_too(setting, monkeypatch):
    pair, erasure = setting
    monkeypatch.setattr("unreel.models.pair.settings_of", lambda *_: pair.settings)
    first, second = (evaluate(model, erasure, None, videos=1, groups=["explicit"]) for model in (pair.t2v, pair.video))
    assert first.figure("ssim", "explicit") == second.figure("ssim", "explicit") and first.model.source


def test_an_erasure_that_changes_nothing_changes_no_figure(setting):
    pair, erasure = setting
    run = evaluate(pair.video, nothing(erasure), FakeJudge(), videos=2)
    for group in run.groups.values():
        assert all(np.array_equal(a, b) for a, b in zip(group.videos("original"), group.videos("edited"), strict=True))
        assert run.figure("ssim", group.name).edited.value == 1
    for figure in run.figures:
        if figure.original and figure.edited and figure.metric != "generation_seconds":
            assert figure.original == figure.edited
    assert run.figure("embedding_shift").edited.value == 0
    assert run.figure("embedding_same").edited.value == 1


def test_an_erasure_that_changes_something_is_seen_to(run):
    assert run.figure("embedding_shift").edited.value > 0
    assert run.figure("embedding_same").edited.value < 1
    assert run.figure("ssim", "explicit").edited.value < 1


def test_text_encoders_that_an_edit_leaves_alone_write_what_they_wrote(setting):
    pair, _ = setting
    run = evaluate(pair.video, unlearn("cat", pair, UCEConfig()), FakeJudge(), videos=1, groups=["explicit"])
    moved, alike = embeddings.changes(run)
    assert not moved.any() and alike.all()
    assert run.figure("embedding_shift").edited == Estimate.mean(moved)
    assert run.figure("embedding_same").edited == Estimate.share(alike)


def test_how_far_embeddings_moved_is_found_without_keeping_those_of_all_prompts(setting, monkeypatch):
    pair, erasure = setting
    run = evaluate(pair.video, erasure, FakeJudge(), videos=1, groups=["explicit"])
    whole = embeddings.changes(run)
    read, network_inputs = [], Conditioner.network_inputs

    def noted(reader, prompts):
        read.append(("edited" if active_interventions(pair.t2v) else "original", len(prompts)))
        return network_inputs(reader, prompts)

    assert embeddings.BATCH * embeddings.AT_ONCE < 200
    for name, few in (("BATCH", 5), ("AT_ONCE", 3)):
        monkeypatch.setattr(embeddings, name, few)
    monkeypatch.setattr(Conditioner, "network_inputs", noted)
    moved, same = embeddings.changes(run)
    kept = [sum(count for _, count in calls) for arm, calls in groupby(read, lambda call: call[0]) if arm == "original"]
    assert sum(kept) == len(run.unrelated_prompts) and max(kept) == 15 and max(count for _, count in read) == 5
    np.testing.assert_allclose(moved, whole[0], rtol=1e-3)  # a batch's size leaves traces in the last bits
    assert moved.any() and (same == whole[1]).all()
    assert not any(weight.is_inference() for weight in pair.t2v.text_encoder.parameters())


@pytest.mark.parametrize("method", ["safree", "video-eraser"])
def test_of_what_projects_what_encoders_write_it_is_not_said_that_they_write_the_same(setting, method):
    pair, _ = setting
    run = evaluate(pair.video, unlearn("cat", pair, configure(method, {})), FakeJudge(), videos=1, groups=["explicit"])
    assert run.unrelated_prompts and not {"embedding_shift", "embedding_same"} & run.metrics()["all"].keys()


def test_prompts_of_ones_own_are_judged_by_their_own_labels_and_seeds(setting):
    pair, erasure = setting
    given = [PromptRow("a dog on the moon", "moon", "dog", 77), PromptRow("a cat on the moon", "moon", None, None)]
    run = evaluate(pair.video, erasure, FakeJudge(), videos=1, groups=["explicit"], own_prompts=given)
    prompts = {name: [(p.label, p.seed) for p in group.prompts] for name, group in run.groups.items() if "moon" in name}
    assert prompts == {"moon: others": [("dog", 77)], "moon": [("cat", 1001)]}
    assert "concept_found" in run.metrics()["moon"]


def test_prompts_of_ones_own_that_ask_for_something_else_are_measured_apart_from_those_that_name_the_concept(setting):
    pair, erasure = setting
    given = [PromptRow(f"a {name}", "given", name, None) for name in ("dog", "cat", "kitten", "owl", "car")]
    given += [PromptRow("a dog", "dogs", "dog", None), PromptRow("a cat", "cats", None, None)]
    run = evaluate(pair.video, erasure, FakeJudge(), videos=0, own_prompts=given)
    counts = {name: len(group.prompts) for name, group in run.groups.items()}
    assert counts == {"given: others": 3, "given": 2, "dogs": 1, "cats": 1}
    assert run.figure("concept_found", "given").edited.n == 2 and "label_found" not in run.metrics()["given"]
    assert run.figure("label_found", "given: others").edited.n == 3
    assert run.figure("judge_floor").original.n == 4
    taken = [*given, PromptRow("an owl", "given: others", "owl", None)]
    with pytest.raises(UnreelError, match="'given: others': call that group otherwise"):
        evaluate(pair.video, erasure, FakeJudge(), videos=0, own_prompts=taken)


def test_a_label_that_is_the_concept_otherwise_spelled_asks_for_the_concept(setting):
    pair, erasure = setting
    given = [PromptRow("a cat on the moon", "moon", label, None) for label in ("Cat", "kitten", "CATS")]
    run = evaluate(pair.video, erasure, FakeJudge(), videos=1, groups=["explicit"], own_prompts=given)
    assert {prompt.label for prompt in run.groups["moon"].prompts} == {"cat"}
    assert "label_found" not in run.metrics()["moon"]


def test_prompts_that_ask_for_nothing_that_can_be_told_are_no_prompts_for_the_concept(setting):
    pair, erasure = setting
    given = [PromptRow("a tea party", "manners", "", None), PromptRow("a dog", "manners", "dog", None)]
    run = evaluate(pair.video, erasure, FakeJudge(), videos=1, groups=["explicit"], own_prompts=given)
    assert "label_found" not in run.metrics()["manners"] and "judge_floor" in run.metrics()["all"]


def test_of_prompts_of_ones_own_alone_it_is_told_what_they_asked_for_and_how_far_the_judge_is_right(setting):
    pair, erasure = setting
    dogs, tea = PromptRow("a dog", "given", "dog", None), PromptRow("a tea party", "manners", "", None)
    said = []
    for given in ([tea], [dogs, tea], [dogs, tea, PromptRow("a cat", "given", None, None)]):
        run = evaluate(pair.video, erasure, FakeJudge(), videos=0, own_prompts=given)
        said.append(str(verdict(run.run)))
        assert run.metrics()["all"].get("judge_accuracy", {}).get("original", {}).get("n", 0) == len(given) - 1
    assert all("Not asked for. No prompt asked for “cat” alone" in text and "Asked for “" not in text for text in said[:2])
    assert "in 1 of 1 videos" in said[2] or "in 0 of 1 videos" in said[2]


@pytest.mark.parametrize("order", ["AAA", "AAAA", "ABABAB", "AABB"])
def test_prompts_with_any_number_of_seeds_are_measured(setting, order):
    pair, erasure = setting
    given = [PromptRow(f"a {letter} boat", "boats", "", None) for letter in order]
    run = evaluate(pair.video, erasure, FakeJudge(), videos=1, groups=["explicit"], own_prompts=given)
    assert "concept_found" in run.metrics()["boats"]


def test_a_judge_that_knows_the_concept_alone_has_nothing_unrelated_to_ask_for(setting):
    class Portrait(FakeJudge):
        vocabulary: ClassVar = {"concept": ["cat"], "person": ["cat"]}

    pair, erasure = setting
    run = evaluate(pair.video, erasure, Portrait(), videos=1, groups=["explicit"])
    assert run.unrelated_prompts == [] and "embedding_shift" not in run.metrics()["all"]


def test_groups_with_nothing_to_ask_for_are_said_and_a_run_of_none_is_refused(setting, tmp_path):
    class Portrait(FakeJudge):
        vocabulary: ClassVar = {"concept": ["cat"], "person": ["cat"]}

    pair, erasure = setting
    said = []
    options = {"videos": 1, "tell": lambda sort, text: said.append((sort, text))}
    evaluate(pair.video, erasure, Portrait(), groups=["explicit", "styles", "motions"], **options)
    assert said == [("left out", "styles, motions: there is nothing to ask for with this judge")]
    with pytest.raises(UnreelError, match="none of these groups of prompts has anything to ask for with this judge"):
        evaluate(pair.video, erasure, Portrait(), groups=["styles"], folder=tmp_path / "made", **options)
    assert not (tmp_path / "made").exists()


def test_what_was_forgotten_with_other_concepts_is_not_asked_for_as_if_it_should_stay(setting):
    pair, erasure = setting
    (part,) = erasure.provenance["parts"]
    parts = [part, {**part, "concept": "house", "synonyms": ["castle"]}, {**part, "concept": "robot", "synonyms": []}]
    both = erasure.with_record(parts=parts)
    asked, once = (
        [each.text for each in build_suite(Conditioner.of(pair.t2v), Concept("cat"), None, videos=60, seed=0, erased=of)]
        for of in (erased_by(both), erased_by(erasure))
    )
    for word in ("castle", "house", "robot"):
        named = re.compile(rf"\b{word}\b")
        assert any(map(named.search, once)) and not any(map(named.search, asked))


def test_a_run_that_failed_before_anything_was_made_is_in_nobodys_way(setting, tmp_path, monkeypatch):
    pair, erasure = setting
    options = {"groups": ["explicit"], "folder": tmp_path}
    with monkeypatch.context() as broken:
        broken.setattr(video_cache, "generate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(pair.video, erasure, None, videos=2, **options)
    evaluate(pair.video, erasure, None, videos=1, **options)
    with pytest.raises(UnreelError, match="holds the results of another run"):
        evaluate(pair.video, erasure, None, videos=2, **options)


def test_what_other_runs_have_made_is_no_room_of_this_ones(setting, tmp_path, monkeypatch):
    pair, erasure = setting
    options = {"videos": 2, "groups": ["explicit"], "clips": tmp_path}
    evaluate(pair.video, erasure, None, **options)
    monkeypatch.setattr(video_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    evaluate(pair.video, erasure, None, **options)  # all of it is there
    with pytest.raises(UnreelError, match=r"2 videos of .* do not fit"):
        evaluate(pair.video, erasure, None, seed=5, **{**options, "videos": 1})


@pytest.mark.parametrize("frames", [1, 2])
def test_there_is_no_spread_of_one_frame(setting, frames):
    pair, erasure = setting
    short = replace(pair.video, settings=replace(pair.video.settings, frames=frames))
    run = evaluate(short, erasure, FakeJudge(), videos=4, groups=["explicit"])
    assert ("frechet" in run.metrics()["explicit"]) == (frames == 2)


def test_seconds_of_several_devices_are_no_figure_and_files_that_name_none_count(setting, tmp_path):
    pair, erasure = setting
    options = {"videos": 2, "groups": ["explicit"], "clips": tmp_path}
    made = evaluate(pair.video, erasure, None, **options)
    assert made.devices == {"cpu"} and made.figure("generation_seconds").edited.value > 0
    (file, *_) = (batch.file for batch in made.groups["explicit"].batches["edited"])
    tensors, about = read_tensors(file, ("videos", "seconds"))
    for device, devices in ({"device": "another"}, 2), ({}, 1):
        told = {name: said for name, said in about.items() if name != "device"} | device
        write_tensors(file, tensors, told)
        run = evaluate(pair.video, erasure, None, **options)
        assert len(run.devices) == devices and ("generation_seconds" in run.metrics()["all"]) == (devices == 1)


def test_without_a_judge_videos_are_compared_but_nothing_is_looked_for(setting):
    pair, erasure = setting
    run = evaluate(pair.video, erasure, None, videos=1, groups=["explicit", "neighbours"])
    keys = {figure.metric for figure in run.figures}
    assert {"ssim", "degenerate", "motion"} <= keys and not {"concept_found", "frechet"} & keys


def test_a_judge_of_one_thing_only_is_asked_for_nothing_else(setting):
    class OneThing(FakeJudge):
        vocabulary: ClassVar = {}

        def knows(self, label):
            return label == "cat"

    pair, erasure = setting
    run = evaluate(pair.video, erasure, OneThing(), videos=2, groups=["explicit", "neighbours"])
    assert run.figure("concept_found", "neighbours") and run.figure("judge_floor")
    with pytest.raises(KeyError):
        run.figure("label_found", "neighbours")
    assert run.figure("judge_accuracy").original.n == 2


def recording(erasure: Erasure, anchor: str) -> Erasure:
    """The erasure as if it had been made towards an anchor."""
    (part,) = erasure.provenance["parts"]
    return replace(erasure, provenance=erasure.provenance | {"parts": [part | {"anchor": anchor}]})


def measured(run, group="explicit"):
    return {metric for metric in run.metrics()[group] if metric.startswith(("anchor", "fidelity"))}


@pytest.mark.parametrize("recorded", [True, False])
def test_the_original_model_makes_the_anchor_prompts_from_the_same_seeds(setting, recorded):
    pair, erasure = setting
    given = {} if recorded else {"concept": Concept("cat", anchor="a dog")}
    run = evaluate(pair.video, recording(erasure, "a dog") if recorded else erasure, FakeJudge(), videos=2, **given)
    named = {"explicit", "paraphrases", "companions"}
    assert {name for name, group in run.groups.items() if group.has_anchor} == named
    for name in named:
        group = run.groups[name]
        prompts, seeds = ([getattr(prompt, what) for prompt in group.prompts] for what in ("anchor", "seed"))
        assert all("dog" in prompt and "cat" not in prompt and "kitten" not in prompt for prompt in prompts)
        assert np.array_equal(list(group.videos("anchor")), generate(pair.t2v, prompts, seeds, pair.settings))
        assert {"anchor_found", "fidelity_ssim", "fidelity_ssim_seeds", "fidelity_features"} <= measured(run, name)
    assert not measured(run, "neighbours") and "anchor_ceiling" in run.metrics()["all"]


def test_fidelity_is_measured_as_far_as_there_is_something_to_measure_it_by(setting):
    pair, erasure = setting
    options = {"videos": 2, "groups": ["explicit"]}
    assert not measured(evaluate(pair.video, erasure, FakeJudge(), **options))  # few-shot has no anchor
    unknown = measured(evaluate(pair.video, recording(erasure, "a submarine"), FakeJudge(), **options))
    assert unknown == measured(evaluate(pair.video, recording(erasure, ""), FakeJudge(), **options))
    assert "anchor_found" not in unknown and {"fidelity_ssim", "fidelity_features"} <= unknown
    blind = measured(evaluate(pair.video, recording(erasure, "a dog"), None, **options))
    assert blind == {"fidelity_ssim", "fidelity_ssim_seeds"}


def test_an_anchor_of_ones_own_goes_before_the_recorded_one_and_makes_another_run(setting, tmp_path, monkeypatch):
    pair, erasure = setting
    options = {"videos": 2, "groups": ["explicit"], "folder": tmp_path / "run"}
    concept = Concept("cat", anchor="owl")
    run = evaluate(pair.video, recording(erasure, "dog"), FakeJudge(), concept=concept, **options)
    assert all("owl" in prompt.anchor for prompt in run.groups["explicit"].prompts)
    with pytest.raises(UnreelError, match="another run"):
        evaluate(pair.video, recording(erasure, "dog"), FakeJudge(), **options)
    monkeypatch.setattr("unreel.evaluation.video_cache.generate", None)  # nothing is made again
    again = evaluate(pair.video, recording(erasure, "dog"), FakeJudge(), concept=concept, **options)
    assert again.figure("fidelity_ssim", "explicit") == run.figure("fidelity_ssim", "explicit")


def test_results_of_another_run_are_never_mixed_in(setting, tmp_path):
    pair, erasure = setting
    options = {"videos": 1, "groups": ["explicit"], "folder": tmp_path / "run"}
    evaluate(pair.video, erasure, FakeJudge(), **options)
    before = sorted(file.name for file in (tmp_path / "run").rglob("*"))
    for change in ({"videos": 2}, {"seed": 5}, {"groups": ["neighbours"]}):
        with pytest.raises(UnreelError, match="another run"):
            evaluate(pair.video, erasure, FakeJudge(), **(options | change))
    with pytest.raises(UnreelError, match="another run"):
        evaluate(pair.video, nothing(erasure), FakeJudge(), **options)
    other = FakeJudge()
    other.identity = "fake judge, of other weights"
    with pytest.raises(UnreelError, match="not the same judge"):
        evaluate(pair.video, erasure, other, **options)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.txt").write_text("mine")
    with pytest.raises(UnreelError, match="no folder of an evaluation"):
        evaluate(pair.video, erasure, FakeJudge(), **(options | {"folder": tmp_path / "photos"}))
    assert sorted(file.name for file in (tmp_path / "run").rglob("*")) == before
    (tmp_path / "odd").mkdir()
    for broken in ("[1, 2]", "5", '"run"', "null", "{", ""):
        (tmp_path / "odd" / "run.json").write_text(broken)
        with pytest.raises(UnreelError, match=r"run\.json is broken"):
            evaluate(pair.video, erasure, FakeJudge(), **(options | {"folder": tmp_path / "odd"}))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["erasure"] == erasure.identity


def test_a_run_is_not_gone_on_with_in_another_precision_or_by_other_libraries(setting, tmp_path, monkeypatch):
    pair, erasure = setting
    options = {"videos": 1, "groups": ["explicit"], "folder": tmp_path / "run"}
    evaluate(pair.video, erasure, FakeJudge(), **options)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    lower = copy.deepcopy(pair.t2v).to(torch.bfloat16)
    with pytest.raises(UnreelError, match=r"another run \(dtype float32 instead of bfloat16\)"):
        evaluate(replace(pair.video, pipeline=lower), erasure, FakeJudge(), **options)
    newer = versions() | {"diffusers": "99.1"}
    with monkeypatch.context() as upgraded:
        upgraded.setattr("unreel.evaluation.evaluate.versions", lambda: newer)
        with pytest.raises(UnreelError, match=r"\(diffusers [\w.]+ instead of 99.1\): choose another folder with --out"):
            evaluate(pair.video, erasure, FakeJudge(), **options)
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({key: run[key] for key in run if key != "dtype"}))
    with pytest.raises(UnreelError, match="it does not say which dtype"):
        evaluate(pair.video, erasure, FakeJudge(), **options)


def test_two_processes_do_not_evaluate_into_one_folder(setting, tmp_path):
    pair, erasure = setting
    options = {"videos": 1, "groups": ["explicit"], "folder": tmp_path / "run"}
    evaluate(pair.video, erasure, FakeJudge(), **options)
    with alone_in(tmp_path / "run"), pytest.raises(UnreelError, match=f"another process works in {tmp_path / 'run'}:"):
        evaluate(pair.video, erasure, FakeJudge(), **options)


def test_runs_that_share_a_folder_of_videos_make_the_original_ones_once_and_groups_may_go_first(
    setting, tmp_path, monkeypatch
):
    pair, erasure = setting
    options = {"videos": 2, "clips": tmp_path / "clips"}
    for group in ("explicit", "neighbours"):
        evaluate(pair.video, erasure, FakeJudge(), groups=[group], folder=tmp_path / group, **options)
    made = []
    monkeypatch.setattr(video_cache, "generate", lambda *given, **more: made.append(given[1]) or generate(*given, **more))
    whole = evaluate(
        pair.video, erasure, FakeJudge(), groups=["explicit", "neighbours"], folder=tmp_path / "both", **options
    )
    alone = evaluate(pair.video, erasure, FakeJudge(), videos=2, groups=["explicit", "neighbours"])
    assert whole.figure("ssim", "explicit") == alone.figure("ssim", "explicit")
    assert len(made) == 4 and not (tmp_path / "both" / "clips").exists()  # all of them of `alone`
    other = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    made.clear()
    evaluate(pair.video, other, FakeJudge(), groups=["explicit"], folder=tmp_path / "other", **options)
    assert len(made) == 1  # of two, the edited model's


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": 0}, "at least one video"),
        ({"seed": -1}, "zero or more"),
        ({"groups": ["friends"]}, "unknown prompt group 'friends'"),
        ({"concept": Concept("submarine")}, "does not know 'submarine'"),
        ({"own_prompts": [PromptRow("a boat", "given", "boat", None)]}, "does not know 'boat'"),
        ({"concept": Concept("cat", synonyms=("xylophone " * 20,)), "videos": 40}, "cut off"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(setting, tmp_path, change, message):
    pair, erasure = setting
    with pytest.raises(UnreelError, match=message):
        evaluate(pair.video, erasure, FakeJudge(), **({"videos": 1, "folder": tmp_path / "run"} | change))
    assert not (tmp_path / "run").exists()


def test_a_model_with_something_on_is_no_original_to_compare_with(setting, tmp_path):
    pair, erasure = setting
    with erasure.on(pair.t2v), pytest.raises(UnreelError, match="what forgets cat is on this AnimateDiffPipeline"):
        evaluate(pair.video, erasure, FakeJudge(), videos=1, folder=tmp_path / "run")
    for model in (pair.t2i, pair.t2v):
        with erasure.on(model), pytest.raises(UnreelError, match="take it off first"):
            attack(pair, erasure, FakeJudge(), attacks=["plain"], cases=1, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_without_room_for_all_videos_is_refused_before_anything_is_written(setting, tmp_path, monkeypatch):
    pair, erasure = setting
    options = {"concept": Concept("cat", anchor="a dog"), "videos": 2, "groups": ["explicit", "neighbours"]}
    needed = (3 + 2) * 2 * pair.video.video_bytes
    monkeypatch.setattr(video_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(UnreelError, match=r"10 videos of .* do not fit into .*run/clips"):
        evaluate(pair.video, erasure, FakeJudge(), **options, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(video_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    evaluate(pair.video, erasure, FakeJudge(), **options, folder=tmp_path / "run")
    monkeypatch.setattr(video_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    evaluate(pair.video, erasure, FakeJudge(), **options, folder=tmp_path / "run")  # all are there


def test_an_erasure_of_another_encoder_is_refused(setting, tmp_path):
    with pytest.raises(UnreelError, match="another text encoder"):
        evaluate(make_pair(seed=1).video, setting[1], FakeJudge(), videos=1, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_concept_comes_from_the_erasure(setting):
    pair, erasure = setting
    assert concept_of(erasure) == Concept("cat")
    both = erasure + unlearn(Concept("ink", "style"), pair, FewShotConfig(epochs=1))
    with pytest.raises(UnreelError, match="choose one with --concept"):
        concept_of(both)
    assert concept_of(both, "Ink").kind == "style"
    with pytest.raises(UnreelError, match="not of dog"):
        concept_of(both, "dog")


def test_a_module_put_among_the_metrics_is_measured(setting, monkeypatch, tmp_path):
    from unreel import metrics
    from unreel.plugins import Registry

    (tmp_path / "sharpness_of_tests.py").write_text(
        "from unreel.evaluation.estimate import Estimate\nfrom unreel.metrics import Figure\n"
        "def measure(run):\n    yield Figure('sharp', 'sharpness', '', None, Estimate(1.0, (1.0, 1.0), 1))\n"
    )
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    monkeypatch.setattr(metrics, "_REGISTRY", Registry("metrics", metrics.__path__, "metric", ("measure",)))
    pair, erasure = setting
    run = evaluate(pair.video, erasure, FakeJudge(), videos=1, groups=["explicit"])
    assert isinstance(run.figure("sharp"), Figure) and run.metrics()["all"]["sharp"]["edited"]["value"] == 1


def test_what_came_of_an_evaluation_is_loaded_as_it_was_saved(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    run = evaluate(pair.video, erasure, FakeJudge(), videos=4, groups=["explicit", "neighbours"]).run
    run.save(str(tmp_path))
    loaded = Run.load(tmp_path)
    assert json.dumps(loaded.document(), sort_keys=True) == json.dumps(run.document(), sort_keys=True)
    assert sorted(map(str, loaded.figures)) == sorted(map(str, run.figures))
    assert loaded.figure("concept_found", "explicit").edited == run.figure("concept_found", "explicit").edited
    older = {name: value for name, value in run.document().items() if name != "metrics"}
    (tmp_path / "metrics.json").write_text(json.dumps(older))
    assert Run.load(tmp_path).metrics() == loaded.metrics()


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[]", "no JSON", '{"figures": 5}'),
        *('{"figures": {"all": {"x": {"edited": {}}}}}', '{"figures": {}, "by_video": {"x": {}}}'),
    ],
)
def test_what_is_no_evaluation_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(UnreelError, match="evaluate first"):
        Run.load(tmp_path)
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UnreelError, match="is broken, or of another program"):
        Run.load(tmp_path)
