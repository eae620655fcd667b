"""Visitors of the app: what they start, see and stop; what one makes is nobody else's."""

import json
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import FakeJudge, make_pair, same, weights

from unreel import UnreelError, active_interventions, attack, workflow
from unreel.interventions.base import RECORD_FILE
from unreel.web.visit import Host, Visit
from unreel.workflow import Place, Sampling, UnlearnJob, unlearn

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture(scope="module")
def host():
    return Host(make_pair(), FakeJudge(), "tiny", Place())


@pytest.fixture
def visit(host):
    visit = Visit(host)
    yield visit
    visit.close()


@pytest.fixture(autouse=True)
def short_searches(monkeypatch):
    monkeypatch.setitem(attack.__kwdefaults__, "steps", 1)
    monkeypatch.setitem(attack.__kwdefaults__, "attacks", ("plain", "typos"))


def last(seen):
    *_, end = seen
    return end


def forget(visit, concept="cat", **options):
    return last(visit.forget(concept, videos=2, accept_weak=True, **options))


def test_videos_of_both_models_grow_while_a_concept_is_forgotten(visit, host):
    before = weights(host.pair.t2v.text_encoder)
    seen = list(visit.forget("cat", videos=2, accept_weak=True))
    end = seen[-1]
    assert list(visit.erasures) == ["cat"] and any(line.startswith("check: ") for line in end.lines)
    assert len(end.clips) == 2 * 2 * 2 and all(clip.file.is_file() for clip in end.clips)
    captions = [clip.caption.partition(":")[0] for clip in end.clips]
    assert captions == ["original", "edited"] * 4
    assert same(before, weights(host.pair.t2v.text_encoder)) and not active_interventions(host.pair.t2v)


def test_other_words_are_forgotten_along(visit):
    forget(visit, synonyms=["tom", "grey kitten"])
    packed = zipfile.ZipFile(last(visit.download("cat", "erasure")).file)
    (part,) = json.loads(packed.read(RECORD_FILE))["parts"]
    assert part["synonyms"] == ["tom", "grey kitten"]


def test_what_denoises_forgets_too_where_that_goes_on_top(visit):
    forget(visit, on_top="uce")
    packed = zipfile.ZipFile(last(visit.download("cat", "erasure")).file)
    assert [part["method"] for part in json.loads(packed.read(RECORD_FILE))["parts"]] == ["text-ablation", "uce"]
    assert forget(visit, on_top="few-shot").lines[-1].startswith("few-shot does not go on top of text-ablation")
    assert list(visit.erasures) == ["cat"]


def test_erasures_are_switched_on_by_name(visit):
    forget(visit)
    forget(visit, "dog")
    forget(visit)
    assert list(visit.erasures) == ["cat", "dog", "cat (2)"]
    original, edited = (clip.file.read_bytes() for clip in last(visit.make("a cat", 3, ["cat", "dog"])).clips)
    plain = [clip.file.read_bytes() for clip in last(visit.make("a cat", 3, [])).clips]
    assert plain == [original, original] != [original, edited]


def test_pages_and_files_can_be_taken_along(visit):
    forget(visit)
    page = last(visit.evaluate("cat", 2)).file
    assert "Forgetting" in page.read_text()
    end = last(visit.attack("cat", 1))
    assert "Bringing back" in end.file.read_text() and "prompts" in end.lines[-1]
    packed = last(visit.download("cat", "erasure")).file
    assert "erasure.safetensors" in zipfile.ZipFile(packed).namelist()


def test_a_video_model_alone_is_attacked_by_all_that_it_allows(host, monkeypatch):
    monkeypatch.setitem(attack.__kwdefaults__, "attacks", ())
    alone = Visit(replace(host, pair=replace(host.pair, t2i=host.pair.t2v)))
    forget(alone)
    end = last(alone.attack("cat", 1))
    assert "Bringing back" in end.file.read_text() and "Left out: embedding_inversion, " in end.lines[-1]
    alone.close()


def test_what_makes_no_videos_is_neither_opened_nor_attacked(tmp_path, monkeypatch):
    make_pair().t2v.save_pretrained(tmp_path / "model")
    encoder = str(tmp_path / "model" / "text_encoder")
    with pytest.raises(UnreelError, match="text_encoder is a text encoder, no text-to-video pipeline"):
        Host.load(encoder, None, None, Place(), Sampling(), ThreadPoolExecutor(1))
    monkeypatch.setattr("unreel.workflow.judging.judge_of", lambda *of: FakeJudge())
    made = unlearn(UnlearnJob(["cat"], t2v=encoder, videos=0, accept_weak=True, out=tmp_path / "made")).folder
    with pytest.raises(UnreelError, match="text_encoder is a text encoder, no text-to-video pipeline"):
        workflow.attack(workflow.AttackJob(made, t2v=encoder))


def test_the_same_concept_in_another_spelling_is_another_erasure(visit):
    forget(visit, "Tokyo Tower")
    forget(visit, "tokyo  tower ")
    forget(visit, "Tokyo Tower")
    assert list(visit.erasures) == ["Tokyo Tower", "tokyo  tower (2)", "Tokyo Tower (2)"]


def test_no_erasure_is_where_pages_or_files_of_another_are(visit, monkeypatch):
    """Whatever words concepts have in common with what is made of others."""
    names = ["cat", "cat attacks", "cat evaluation", "cat text-encoder"]
    for name in names:
        forget(visit, name)
    before = {name: visit._taken(name).identity for name in names}
    packed = last(visit.download("cat text-encoder", "erasure")).file.read_bytes()
    last(visit.attack("cat", 1))
    last(visit.evaluate("cat", 2))
    exported = last(visit.download("cat", "text-encoder")).file
    assert {name: visit._taken(name).identity for name in names} == before
    assert exported.read_bytes() != packed == last(visit.download("cat text-encoder", "erasure")).file.read_bytes()
    assert "model.safetensors" in str(zipfile.ZipFile(exported).namelist())
    with monkeypatch.context() as patch:
        patch.setattr("unreel.web.visit.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        refused = last(visit.download("cat", "text-encoder"))
    assert "0.0 GB do not fit here" in refused.lines[-1] and not refused.file


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (lambda v: v.forget(" "), "the concept is empty"),
        (lambda v: v.forget("x" * 301), "at most 300 letters"),
        (lambda v: v.forget("cat", synonyms=["x" * 301]), "at most 300 letters"),
        (lambda v: v.forget("cat", synonyms=["x" * 9] * 100), "at most 300 letters"),
        (lambda v: v.forget("cat", videos=21), "from 1 to 20 videos"),
        (lambda v: v.forget("cat", kind="colour"), "colour"),
        (lambda v: v.make("", 0, []), "type a prompt"),
        (lambda v: v.make("a cat", 0, ["../../etc"]), "choose an erasure"),
        (lambda v: v.evaluate("dog", 2), "choose an erasure"),
        (lambda v: v.attack("dog", 2), "choose an erasure"),
        (lambda v: v.download("../..", "erasure"), "choose an erasure"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(visit, start, says):
    end = last(start(visit))
    assert says in end.lines[-1] and not visit.erasures and not end.clips


def test_a_job_that_is_stopped_or_left_ends_and_lets_others_go_on(visit, host):
    before = weights(host.pair.t2v.text_encoder)
    seen = visit.forget("cat", videos=20, accept_weak=True)
    next(seen)
    visit.stop.set()
    assert last(seen).lines[-1] == "stopped"
    left = visit.forget("dog", videos=20, accept_weak=True)
    next(left)
    left.close()
    other = Visit(host)
    assert len(forget(other, "owl").clips) == 8
    other.close()
    assert same(before, weights(host.pair.t2v.text_encoder)) and not active_interventions(host.pair.t2v)


def test_a_job_that_was_left_stays_stopped_when_the_next_one_begins(visit):
    left = visit.forget("dog", videos=20, accept_weak=True)
    seen = next(seen for seen in left if seen.doing == "making videos")
    left.close()
    assert len(last(visit.make("a cat", 3, [])).clips) == 2
    assert len(seen.clips) < 2 * 2 * 20  # which the other would have waited for


def test_visitors_share_nothing_but_the_model(host):
    visits = [Visit(host) for _ in range(4)]
    names = ["cat", "dog", "owl", "car"]
    threads = [threading.Thread(target=forget, args=pair) for pair in zip(visits, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [list(visit.erasures) for visit in visits] == [[name] for name in names]
    assert len({visit.folder for visit in visits}) == 4
    alone = Visit(host)
    forget(alone, "dog")
    for visit, name in ((visits[1], "dog"), (alone, "dog")):
        assert (visit.folder / "erasures" / "dog" / "erasure.safetensors").is_file() and list(visit.erasures) == [name]
    taken = [visit._taken("dog").identity for visit in (visits[1], alone)]
    assert taken[0] == taken[1]
    for visit in [*visits, alone]:
        visit.close()
        assert not visit.folder.exists()
