"""A table of takedowns becomes erasures, each once, whatever happens on the way."""

import json
import os
import re
import shutil
import signal
import socket
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import make_pair

from unreel import Erasure, UnreelError, cli
from unreel import batch as package
from unreel.batch import BATCH_FILE, BatchJob, _sendable, _stored, attempt, batch
from unreel.files import alone_in
from unreel.interventions.base import WEIGHTS_FILE
from unreel.models.memory import enough_memory
from unreel.prompts.takedowns import read_takedowns
from unreel.workflow import Place, UnlearnJob

pytestmark = pytest.mark.usefixtures("hasty")


NOTHING_MUCH = {"learning_rate": 1e-4}  # is learned so, by no concept


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_pair().t2v.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def job(tmp_path, model):
    """Of three takedowns in a tiny model, whose erasures are written even if they are weak."""
    file = tmp_path / "takedowns.csv"
    file.write_text("concept,kind,ticket\ntokyo tower,,A\npizza,object,B\nink,style,C\n")
    return BatchJob(file, UnlearnJob((), t2v=model, videos=0, accept_weak=True, out=tmp_path / "out"), retries=1)


def news():
    lines = []
    return lines, lambda sort, text: lines.append((sort, text))


def test_every_takedown_becomes_an_erasure_of_its_own(job):
    made, page = batch(job, lambda *_: None)
    assert made.complete and [outcome.takedown.ticket for outcome in made.outcomes] == ["A", "B", "C"]
    for outcome in made.outcomes:
        erasure = Erasure.from_pretrained(job.folder / outcome.takedown.folder)
        assert erasure.concepts == [outcome.takedown.concept] and erasure.nbytes == outcome.nbytes > 0
    assert made.outcomes[2].takedown.kind == "style"
    document = json.loads((job.folder / BATCH_FILE).read_text())
    assert document["complete"] and [each["status"] for each in document["takedowns"]] == [o.status for o in made.outcomes]
    assert "tokyo tower" in page.read_text() and "3 of 3 takedowns have an erasure" in page.read_text()


def test_a_batch_goes_on_where_it_was_stopped(job, monkeypatch):
    def stopped(each):
        if each.concepts == ["pizza"]:
            raise KeyboardInterrupt
        return attempt(each)

    monkeypatch.setattr(package, "attempt", stopped)
    with pytest.raises(KeyboardInterrupt):
        batch(job, lambda *_: None)
    first = job.folder / "a-tokyo-tower" / "erasure.json"
    written, asked = first.stat().st_mtime_ns, []
    monkeypatch.setattr(package, "attempt", lambda each: asked.append(each.concepts) or attempt(each))
    lines, tell = news()
    made, _ = batch(job, tell)
    assert made.complete and asked == [["pizza"], ["ink"]] and first.stat().st_mtime_ns == written
    assert ("goes on", "1 of 3 are done") in lines


def test_a_lost_record_makes_nothing_twice(job):
    batch(job, lambda *_: None)
    before = {file: file.stat().st_mtime_ns for file in job.folder.glob("*/erasure.json")}
    (job.folder / BATCH_FILE).unlink()
    made, _ = batch(job, lambda *_: None)
    assert made.complete and before == {file: file.stat().st_mtime_ns for file in job.folder.glob("*/erasure.json")}


@pytest.mark.parametrize("lost", ["its weights are gone", "it is another"])
def test_what_is_not_there_any_more_is_not_called_done(job, lost):
    made, _ = batch(job, lambda *_: None)
    first, second = (job.folder / outcome.takedown.folder for outcome in made.outcomes[:2])
    if lost == "it is another":
        shutil.rmtree(first)
        shutil.copytree(second, first)
    else:
        (first / WEIGHTS_FILE).unlink()
    again, _ = batch(job, lambda *_: None)
    assert [outcome.done for outcome in again.outcomes] == [False, True, True] and again.outcomes[0].status == "refused"
    assert batch(replace(job, each=replace(job.each, overwrite=True)), lambda *_: None)[0].complete


def test_what_is_asked_for_otherwise_is_not_taken_for_done(job, tmp_path):
    batch(job, lambda *_: None)
    job.file.write_text("concept,kind,ticket,replace\ntokyo tower,,A,a castle\npizza,object,B,\nink,style,C,\n")
    made, _ = batch(job, lambda *_: None)
    assert made.outcomes[0].status == "refused" and not made.complete
    assert "holds another erasure" in made.outcomes[0].says
    folder = job.folder / "a-tokyo-tower"
    assert made.outcomes[0].says.endswith(": replace it with --overwrite, or give the row a ticket of its own")
    shutil.rmtree(folder)
    assert batch(job, lambda *_: None)[0].complete


def identities(job):
    return {file.parent.name: Erasure.from_pretrained(file.parent).identity for file in job.folder.glob("*/erasure.json")}


def test_only_what_has_changed_is_replaced_and_only_when_the_new_one_is_there(job, model, monkeypatch):
    batch(job, lambda *_: None)
    before, asked = identities(job), []
    over = replace(job, each=replace(job.each, overwrite=True))
    monkeypatch.setattr(package, "attempt", lambda each: asked.append(each.concepts) or attempt(each))
    assert batch(over, lambda *_: None)[0].complete and not asked and identities(job) == before
    job.file.write_text("concept,kind,ticket,synonyms\ntokyo tower,,A,big mast\npizza,object,B,\nink,style,C,\n")
    strict = replace(over, each=replace(over.each, accept_weak=False))
    made, _ = batch(strict, lambda *_: None)
    assert made.outcomes[0].status == "refused" and identities(job) == before  # what is too weak replaces nothing
    (job.folder / BATCH_FILE).unlink()
    made, _ = batch(over, lambda *_: None)
    after = identities(job)
    assert made.complete and {name for name in before if before[name] != after[name]} == {"a-tokyo-tower"}
    part, *_ = Erasure.from_pretrained(job.folder / "a-tokyo-tower").provenance["parts"]
    assert part["synonyms"] == ["big mast"]


def test_another_precision_is_learned_anew_and_a_broken_folder_is_replaced_where_that_is_asked_for(job):
    first, _ = batch(job, lambda *_: None)
    finer = replace(job, each=replace(job.each, place=Place(dtype="bfloat16")))
    refused, _ = batch(finer, lambda *_: None)
    assert [outcome.status for outcome in refused.outcomes] == ["refused"] * 3
    again, _ = batch(replace(finer, each=replace(finer.each, overwrite=True)), lambda *_: None)
    folders = [job.folder / outcome.takedown.folder for outcome in first.outcomes]
    assert again.complete and {Erasure.from_pretrained(each).provenance["dtype"] for each in folders} == {"bfloat16"}
    weights = folders[0] / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.rmtree(folders[1])
    folders[1].mkdir()
    (job.folder / BATCH_FILE).unlink()
    left, _ = batch(finer, lambda *_: None)
    assert [outcome.done for outcome in left.outcomes] == [False, False, True]
    whole, _ = batch(replace(finer, each=replace(finer.each, overwrite=True)), lambda *_: None)
    assert whole.complete and all(Erasure.from_pretrained(each).nbytes for each in folders)


def test_who_only_hands_work_out_needs_no_device_for_it(job, monkeypatch):
    asked = []
    monkeypatch.setattr(Place, "require", lambda place: asked.append(place))
    monkeypatch.setattr(package, "_cluster", lambda address: nullcontext())
    monkeypatch.setattr(package, "_worked_through", lambda *_: "done")
    cluster = replace(job, each=replace(job.each, place=Place("cuda")), ray="head:6379")
    assert batch(cluster, lambda *_: None) == "done" and not asked
    with pytest.raises(UnreelError, match=r"a device of its own: ask for --device cuda$"):
        batch(replace(cluster, each=replace(job.each, place=Place("cuda:1"))), lambda *_: None)
    assert batch(job, lambda *_: None) == "done" and asked


def test_all_rows_together_are_one_erasure_each_with_what_its_row_says(job):
    table = "concept,kind,synonyms,replace,keep\ntokyo tower,,big mast,a castle,owl\nink,style,,nothing,\n"
    job.file.write_text(table)
    job = replace(job, together="For All")
    made, page = batch(job, lambda *_: None)
    (outcome,) = made.outcomes
    erasure = Erasure.from_pretrained(job.folder / "for-all")
    assert made.complete and list(identities(job)) == ["for-all"] and outcome.says.startswith("tokyo tower, ink together: ")
    assert [(part["kind"], part["synonyms"], part["anchor"]) for part in erasure.provenance["parts"]] == [
        ("object", ["big mast"], "a castle"),
        ("style", [], ""),
    ]
    assert all(part["settings"]["keep"] == ["owl"] for part in erasure.provenance["parts"])
    (job.folder / BATCH_FILE).unlink()
    again, _ = batch(job, lambda *_: None)
    assert again.complete and identities(job) == {"for-all": erasure.identity} and "For All" in page.read_text()
    job.file.write_text(table + "pizza,,,,\n")
    refused, _ = batch(job, lambda *_: None)
    assert refused.outcomes[0].says.endswith("replace it with --overwrite, or give --together another name")
    assert batch(replace(job, each=replace(job.each, overwrite=True)), lambda *_: None)[0].complete
    assert Erasure.from_pretrained(job.folder / "for-all").concepts == ["tokyo tower", "ink", "pizza"]


def test_the_record_is_of_the_table_also_where_nothing_is_left_to_do(job):
    batch(job, lambda *_: None)
    record = job.folder / BATCH_FILE
    document = json.loads(record.read_text())
    for each in document["takedowns"]:
        del each["identity"]  # as earlier versions wrote it
    record.write_text(json.dumps(document))
    job.file.write_text("concept,kind,ticket\ntokyo tower,,A\n")
    lines, tell = news()
    batch(job, tell)
    document = json.loads(record.read_text())
    assert ("goes on", "1 of 1 are done") in lines
    assert [each["takedown"]["ticket"] for each in document["takedowns"]] == ["A"] and len(document["others"]) == 2


def test_what_another_table_asked_for_in_the_same_folder_stays_on_record(job, tmp_path):
    first, _ = batch(job, lambda *_: None)
    (tmp_path / "us").mkdir()
    table = tmp_path / "us" / job.file.name
    table.write_text("concept,kind,ticket\nowl,,D\npizza,object,B\n")
    shutil.rmtree(job.folder / "c-ink")  # whoever deletes an erasure wants it off the record
    for _ in range(2):
        made, page = batch(replace(job, file=table), lambda *_: None)
        assert made.complete and [outcome.takedown.ticket for outcome in made.outcomes] == ["D", "B"]
        document = json.loads((job.folder / BATCH_FILE).read_text())
        assert [each["folder"] for each in document["others"]] == ["a-tokyo-tower"]
        assert "2 of 2 takedowns" in made.summary and "Not in this table" in page.read_text()
    lines, tell = news()
    again, page = batch(replace(job, file=job.file), tell)
    assert again.outcomes[:2] == first.outcomes[:2] and ("goes on", "2 of 3 are done") in lines
    assert [outcome.takedown.ticket for outcome in again.others] == ["D"]


def test_what_breaks_is_tried_again_and_what_is_refused_is_not(job, monkeypatch):
    tried = []

    def breaking(each, **options):
        tried.append(each.concepts[0])
        if each.concepts == ["pizza"]:
            raise UnreelError("no pizza today")
        if each.concepts == ["ink"] or tried.count("tokyo tower") == 1:
            raise RuntimeError("out of luck")
        return unlearn(each, **options)

    unlearn = package.unlearn
    monkeypatch.setattr(package, "unlearn", breaking)
    lines, tell = news()
    made, page = batch(job, tell)
    assert tried == ["tokyo tower", "tokyo tower", "pizza", "ink", "ink"]
    assert [(o.status, o.attempts) for o in made.outcomes[1:]] == [("refused", 1), ("failed", 2)]
    assert made.outcomes[0].done and made.outcomes[0].attempts == 2 and not made.complete
    assert ("refused", "b-pizza: no pizza today") in lines
    assert "1 of 3 takedowns have an erasure" in made.summary and "1 refused, 1 failed" in made.summary
    assert page.read_text().index("out of luck") < page.read_text().index("no pizza today")


def test_what_memory_ran_out_for_is_tried_again(job, monkeypatch):
    """Whoever shares the card may leave more of it another time."""
    tried = []

    def crowded(each, **options):
        tried.append(each.concepts[0])
        if each.concepts == ["pizza"] or len(tried) == 1:
            with enough_memory("unlearning", torch.device("cuda"), ["--batch-size 1"]):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return unlearn(each, **options)

    unlearn = package.unlearn
    monkeypatch.setattr(package, "unlearn", crowded)
    made, _ = batch(job, lambda *_: None)
    assert tried == ["tokyo tower", "tokyo tower", "pizza", "pizza", "ink"]
    assert [outcome.attempts for outcome in made.outcomes] == [2, 2, 1]
    assert [outcome.done for outcome in made.outcomes] == [True, False, True] and made.outcomes[1].status == "failed"
    assert made.outcomes[1].says.startswith("unlearning does not fit into the memory of cuda")
    assert made.outcomes[1].says.endswith("try --batch-size 1")


def test_weak_erasures_are_refused_unless_they_are_asked_for(job, model, tmp_path):
    each = UnlearnJob((), t2v=model, videos=0, settings=NOTHING_MUCH, out=tmp_path / "strict")
    made, _ = batch(BatchJob(job.file, each), lambda *_: None)
    assert {outcome.status for outcome in made.outcomes} == {"refused"} and not made.complete
    assert all("falls short on held-out prompts" in outcome.says for outcome in made.outcomes)
    assert not list((tmp_path / "strict").glob("*/erasure.json"))


def test_what_no_self_check_looks_at_does_not_pass_one(job, model, tmp_path):
    each = UnlearnJob((), t2v=model, videos=0, method="negative-prompt", out=tmp_path / "negative")
    made, page = batch(BatchJob(job.file, each), lambda *_: None)
    assert {outcome.status for outcome in made.outcomes} == {"unchecked"} and made.complete
    assert made.summary == "3 of 3 takedowns have an erasure: 3 not checked" and made.summary in page.read_text()


def test_a_row_that_cannot_be_meant_stops_all_of_it_before_any_work(job):
    job.file.write_text("concept,kind\npizza,object\nink,stile\n")
    with pytest.raises(UnreelError, match="row 2"):
        batch(job, lambda *_: None)
    assert not job.folder.exists()


def test_a_folder_of_something_else_is_left_as_it_is(job, model):
    made, _ = batch(job, lambda *_: None)
    other = job.folder / made.outcomes[0].takedown.folder
    before = {file: file.read_bytes() for file in other.iterdir()}
    with pytest.raises(UnreelError, match="is no folder of an evaluation, an attack or takedowns"):
        batch(BatchJob(job.file, UnlearnJob((), t2v=model, videos=0, out=other)), lambda *_: None)
    assert before == {file: file.read_bytes() for file in other.iterdir()}


@pytest.mark.parametrize("broken", ['{"takedowns": ["a"]}', '{"takedowns": [{"takedown": "a"}]}', "[]", "[" * 100_000])
def test_of_a_broken_record_nothing_is_taken(tmp_path, broken):
    (tmp_path / "batch.json").write_text(broken)
    assert _stored(tmp_path) == {}


def test_models_and_judges_in_folders_are_found_from_wherever_a_worker_stands(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("models/wan", "models/sana", "faces", "modern", "embedded", "pictures"):
        Path(folder).mkdir(parents=True)

    def asked(**how):
        (takedown, *_) = read_takedowns(job.file)
        here = BatchJob(job.file, replace(job.each, **how)).job_of(takedown)
        assert (here.t2i, here.t2v, here.judge) == (how.get("t2i"), how.get("t2v"), how.get("judge"))  # as in its record
        return _sendable(here)

    made = asked(t2i="models/sana", t2v="models/wan", judge="faces:faces", images=Path("pictures"))
    assert (made.t2i, made.t2v, made.judge) == (
        f"{tmp_path}/models/sana",
        f"{tmp_path}/models/wan",
        f"faces:{tmp_path}/faces",
    )
    assert made.images == tmp_path / "pictures" and made.out.is_absolute()
    for t2v, judge in (("embedded", "embedded:modern"), ("embedded:modern", "clip:own/clip"), ("own/model@v1", "none")):
        same = asked(t2v=t2v, judge=judge)
        assert (same.t2i, same.t2v, same.judge, same.images) == (None, t2v, judge, None)


def test_two_batches_do_not_work_in_one_folder(job):
    batch(job, lambda *_: None)
    with alone_in(job.folder), pytest.raises(UnreelError, match=f"another process works in {job.folder}:"):
        batch(job, lambda *_: None)


def test_the_command_says_by_its_exit_code_whether_all_is_done(job, model, tmp_path, monkeypatch, capsys):
    def run(*more):
        arguments = ["unreel", "batch", job.file, "--t2v", model, "--out", tmp_path / "cli", "-q", *more]
        arguments += ["--learning-rate", "1e-4"]
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    code, out, _ = run("--videos", "0")
    assert code == 1 and "0 of 3 takedowns have an erasure: 3 refused" in out and "report" in out
    code, out, _ = run("--videos", "0", "--accept-weak", "--json")
    assert code == 0 and json.loads(out)["complete"]
    code, _, err = run("--retries", "-1")
    assert code == 2 and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("where", ["127.0.0.1", "[::1]", "127.0.0.1:none"])
def test_where_no_cluster_answers_that_is_said_at_once_and_nothing_written(job, monkeypatch, scheme, where):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: pytest.fail("Ray would try for minutes")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"{scheme}{where}:{taken.getsockname()[1]}"
        with pytest.raises(UnreelError, match=re.escape(f"there is no Ray cluster at {address!r}: ")) as raised:
            batch(replace(job, ray=address), lambda *_: None)
    assert "\n" not in str(raised.value) and not job.folder.exists()


def test_workers_of_a_cluster_may_die(job, monkeypatch):
    """Each takedown's first worker is killed; nothing is lost, and nothing made twice."""
    pytest.importorskip("ray", reason="Ray is in the extra `benchmarks`, and not in `dev`")
    marks = job.folder.parent / "marks"
    marks.mkdir()

    def dying(each):
        mark = marks / each.out.name
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt(each)

    monkeypatch.setattr(package, "attempt", dying)
    each = replace(job.each, settings={"steps": 3, "forget": 20, "retain": 20, "solve_retain": 30})  # no fixture is there
    made, _ = batch(BatchJob(job.file, each, retries=1, ray="local"), lambda *_: None)
    assert made.complete and {outcome.attempts for outcome in made.outcomes} == {2}
    assert len(list(job.folder.glob("*/erasure.json"))) == 3
