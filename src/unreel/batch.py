"""Many takedowns, each an erasure of its own, or all of them one: one after the other, or over a Ray cluster; killed ones
go on.

Knows that a takedown is done, refused or failed, and how often to try again; how one is unlearned is for `workflow`.
"""

import json
import socket
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from unreel.errors import UnreelError, needs, shortened, summarise
from unreel.evaluation.run_folder import claimed
from unreel.files import short_digest, write_json
from unreel.interventions import load_intervention
from unreel.interventions.record import CHECK
from unreel.models.memory import no_memory
from unreel.models.pair import Pair, load_pair
from unreel.models.shipped import names, shipped
from unreel.progress import Tell, Work, drawn
from unreel.prompts.takedowns import Takedown, read_takedowns
from unreel.report.page import write_batch_report
from unreel.versions import versions
from unreel.workflow import Place, TakenError, Unlearned, UnlearnJob, require_sensible, unlearn

BATCH_FILE = "batch.json"
PATIENCE = 5  # seconds to wait for a cluster to answer
AHEAD = 2  # takedowns that a cluster is given for each of its processors at a time

Status = Literal["passed", "weak", "unchecked", "refused", "failed"]
ERASED: tuple[Status, ...] = ("passed", "weak", "unchecked")  # there is an erasure, and this is what its self-check says


@dataclass(frozen=True)
class Outcome:
    """What came of one takedown. `says` is what the self-check says of its erasure, or why there is none.

    "unchecked" is an erasure that no self-check covers; "refused" is what trying again would not help; "failed" is what
    went wrong or ran out of memory `attempts` times.
    """

    takedown: Takedown
    asked: str  # digest of everything that decides the erasure: done is only what was asked for alike
    status: Status
    says: str
    attempts: int = 1
    seconds: float = 0.0
    nbytes: int = 0
    identity: str = ""  # of the erasure
    pages: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        return self.status in ERASED

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "folder": self.takedown.folder}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "Outcome":
        values = {name: value for name, value in document.items() if name != "folder"}
        lists = {name: tuple(values["takedown"][name]) for name in ("synonyms", "keep")}
        return Outcome(**{**values, "takedown": Takedown(**values["takedown"] | lists), "pages": tuple(values["pages"])})


@dataclass(frozen=True)
class BatchJob:
    """Unlearn every takedown in `file` with the settings of the job `each`, whose `out` is the folder of them all. `ray`
    is the address of a cluster whose machines see that folder under the same path; "local" is this machine's own
    processors. With `together`, one erasure of that name forgets all of them.
    """

    file: Path
    each: UnlearnJob
    retries: int = 2
    ray: str = ""
    together: str | None = None

    @property
    def folder(self) -> Path:
        return Path(self.each.out) if self.each.out else Path("runs") / Path(self.file).stem

    def jobs_of(self, takedowns: Sequence[Takedown]) -> dict[Takedown, UnlearnJob]:
        """The jobs, by takedown; with `together`, a single one. Raises UnreelError if `together` says nothing."""
        if self.together is None:
            return {takedown: self.job_of(takedown) for takedown in takedowns}
        named = Takedown(self.together)
        job = replace(self.each, concepts=takedowns, out=self.folder.absolute() / named.folder, resume=True)
        return {named: job}

    def job_of(self, takedown: Takedown) -> UnlearnJob:
        return replace(
            self.each,
            concepts=[takedown.concept],
            kind=takedown.kind or self.each.kind,
            synonyms=takedown.synonyms,
            anchor=takedown.anchor,
            keep=[*self.each.keep, *takedown.keep],
            out=self.folder.absolute() / takedown.folder,
            resume=True,
        )


def _sendable(job: UnlearnJob) -> UnlearnJob:
    """The same job for a worker in another working directory, where a relative folder would be missing or read as a hub
    id.
    """
    return replace(
        job,
        t2i=_from_anywhere(job.t2i),
        t2v=_from_anywhere(job.t2v),
        images=None if job.images is None else Path(job.images).absolute(),
        judge=_judge_from_anywhere(job.judge),
    )


def _from_anywhere(source: str | None) -> str | None:
    """A model's name that means the same in every working directory."""
    return source if source is None or shipped(source) or not Path(source).exists() else str(Path(source).absolute())


def _judge_from_anywhere(judge: str | None) -> str | None:
    """As `_from_anywhere`, of `NAME:ARGUMENT`; the judge of a pair that ships with unreel is called as that is."""
    name, _, argument = (judge or "").partition(":")
    return judge if not argument or judge in names() else f"{name}:{_from_anywhere(argument)}"


@dataclass(frozen=True)
class Batch:
    """The outcomes of takedowns in the order of their file. `others` are outcomes in the same folder that the file does
    not list: another file asked for them, or this one did before.
    """

    outcomes: list[Outcome]
    others: list[Outcome] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return all(outcome.done for outcome in self.outcomes)

    def count(self, *status: Status) -> int:
        return sum(outcome.status in status for outcome in self.outcomes)

    @property
    def summary(self) -> str:
        done, total = self.count(*ERASED), len(self.outcomes)
        words_of: dict[Status, str] = {
            "passed": "passed the self-check",
            "weak": "short of its bars",
            "unchecked": "not checked",
            "refused": "refused",
            "failed": "failed",
        }
        parts = [f"{self.count(status)} {words}" for status, words in words_of.items() if self.count(status)]
        return f"{done} of {total} takedown{'s have' if total != 1 else ' has'} an erasure: {', '.join(parts)}"

    def document(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "complete": self.complete,
            "takedowns": [outcome.document() for outcome in self.outcomes],
            "others": [outcome.document() for outcome in self.others],
            "versions": versions(),
        }


def batch(job: BatchJob, tell: Tell) -> tuple[Batch, Path]:
    """Unlearn all takedowns; returns what came of each, and the page about all of them.

    The same job goes on where it was stopped, and tries again what was refused or has failed. Raises UnreelError for what
    is known to be wrong with any row or setting, before any work.
    """
    jobs = job.jobs_of(read_takedowns(Path(job.file)))
    for each in jobs.values():
        require_sensible(each, here=not job.ray)
    kind, _, number = job.each.place.device.partition(":")
    if job.ray and number:
        raise UnreelError(f"each of Ray's workers sees a device of its own: ask for --device {kind}")
    if job.retries < 0:
        raise UnreelError("retries must be zero or more")
    with _cluster(job.ray):
        return _worked_through(job, jobs, tell)


def _worked_through(job: BatchJob, jobs: Mapping[Takedown, UnlearnJob], tell: Tell) -> tuple[Batch, Path]:
    """As `batch`, for a job whose settings are checked and whose cluster is connected."""
    run = _over_ray if job.ray else _here
    with claimed(job.folder, {"what": "takedowns"}):  # and no folder of anything else
        stored = _stored(job.folder)
        outcomes = {t: stored[t] for t, each in jobs.items() if t in stored and _is_done(job.folder, stored[t], each)}
        listed = {takedown.folder for takedown in jobs}
        others = [outcome for outcome in stored.values() if outcome.takedown.folder not in listed]
        left = {takedown: each for takedown, each in jobs.items() if takedown not in outcomes}
        if outcomes:
            tell("goes on", f"{len(outcomes)} of {len(jobs)} are done")
        with drawn(Work("takedowns", "takedown", len(jobs), len(outcomes))) as bar:
            for outcome in run(job, left):
                outcomes[outcome.takedown] = outcome
                made = Batch([outcomes[takedown] for takedown in jobs if takedown in outcomes], others)
                write_json(job.folder / BATCH_FILE, made.document())
                if not outcome.done:
                    tell(outcome.status, f"{outcome.takedown.folder}: {outcome.says}")
                bar.update()
        made = Batch([outcomes[takedown] for takedown in jobs], others)
        write_json(job.folder / BATCH_FILE, made.document())
        return made, write_batch_report(job.folder, made.document())


def _asked(job: UnlearnJob) -> str:
    """A digest of all that decides a job's erasure: not where it is computed and written, nor what that replaces."""
    # What precision it is learned in decides what is learned.
    wanted = asdict(
        replace(job, settings=dict(job.settings), out=None, overwrite=False, place=Place(dtype=job.place.dtype))
    )
    return short_digest(wanted)


def _stored(folder: Path) -> dict[Takedown, Outcome]:
    """What an earlier run has recorded; of a broken record, nothing: folders are looked into anyway."""
    try:
        document = json.loads((folder / BATCH_FILE).read_text(encoding="utf-8"))
        outcomes = [Outcome.from_document(each) for each in [*document["takedowns"], *document.get("others", [])]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UnreelError):
        return {}
    return {outcome.takedown: outcome for outcome in outcomes if (folder / outcome.takedown.folder).is_dir()}


def _is_done(folder: Path, outcome: Outcome, job: UnlearnJob) -> bool:
    """Whether an outcome is what the job asks for, and its folder still holds the erasure that came of it."""
    if not outcome.done or outcome.asked != _asked(job):
        return False
    try:
        there = load_intervention(folder / outcome.takedown.folder).identity
    except UnreelError:
        return False
    return outcome.identity in ("", there)  # earlier records do not name it


@lru_cache(maxsize=1)
def _kept_pair(*sources: Any, **options: Any) -> Pair:
    """The pair that the takedowns of this process share: unlearning leaves its weights as they were."""
    return load_pair(*sources, **options)


def _unlearned(job: UnlearnJob) -> Unlearned:
    """The erasure that is there if it is what is asked for, else a new one; another one is replaced only if the job says
    so.
    """
    try:
        return unlearn(replace(job, overwrite=False), load=_kept_pair)
    except UnreelError as error:
        replaces = isinstance(error, TakenError) or _is_broken(job.folder)
        if not (job.overwrite and replaces):
            raise
    return unlearn(replace(job, resume=False), load=_kept_pair)


def _is_broken(folder: Path) -> bool:
    """Whether the folder exists without an erasure that can be loaded, as after writing or copying that was cut short."""
    if not folder.is_dir():
        return False
    try:
        load_intervention(folder)
    except UnreelError:
        return True
    return False


def attempt(job: UnlearnJob) -> dict[str, Any]:
    """Unlearn one takedown; returns the fields of its outcome. An UnreelError makes it refused, except for a lack of
    memory; that and any other error make it failed.
    """
    try:
        done = _unlearned(job)
    except TakenError:
        elsewhere = "give the row a ticket of its own" if len(job.concepts) == 1 else "give --together another name"
        way = f"replace it with --overwrite, or {elsewhere}"
        return {"status": "refused", "says": shortened(f"{job.folder} holds another erasure: {way}")}
    except UnreelError as error:
        # Others may leave more memory another time.
        status = "failed" if error.__cause__ and no_memory(error.__cause__) else "refused"
        return {"status": status, "says": shortened(str(error))}
    except Exception as error:  # whatever it is, the other takedowns are none the worse for it
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
        return {"status": "failed", "says": shortened(message)}
    learned = done.intervention
    check = learned.provenance.get(CHECK)
    status, says = "unchecked", "no self-check: text encoders stay as they are, so only an evaluation tells"
    if check:
        status, says = "weak" if check["shortfalls"] else "passed", check["summary"]
    if len(job.concepts) > 1:
        says = f"{summarise(learned.concepts)} together: {says}"
    parts = learned.provenance["parts"]
    wordings = dict.fromkeys(word for part in parts for word in part.get("wordings", {}).get("found", []))
    return {
        "status": status,
        "says": says + (f"; forgotten with it, since they draw it: {', '.join(wordings)}" if wordings else ""),
        "seconds": sum(part.get("seconds", 0.0) for part in parts),
        "nbytes": learned.nbytes,
        "identity": learned.identity,
        "pages": tuple(str(page.relative_to(job.folder.parent)) for page in done.pages),
    }


def _here(job: BatchJob, left: Mapping[Takedown, UnlearnJob]) -> Iterator[Outcome]:
    """One after the other in this process."""
    for takedown, each in left.items():
        attempts, fields = 1, attempt(each)
        while fields["status"] == "failed" and attempts <= job.retries:
            attempts, fields = attempts + 1, attempt(each)
        yield Outcome(takedown, _asked(each), attempts=attempts, **fields)


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Inside, this process is connected to the Ray cluster at `address`, unless that is empty. Raises UnreelError, in
    seconds, where nobody listens.
    """
    if not address:
        yield
        return
    try:
        import ray
    except ImportError:
        raise needs("--ray", "Ray", "ray") from None
    try:
        _require_listening(address)
        ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, OverflowError) as error:
        raise UnreelError(f"there is no Ray cluster at {address!r}: {shortened(str(error))}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raises OSError, ValueError or OverflowError if the address is a machine's and nobody listens there: Ray itself
    would try for minutes.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:  # not "local" or "auto"
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def _over_ray(job: BatchJob, left: Mapping[Takedown, UnlearnJob]) -> Iterator[Outcome]:
    """The outcomes from a cluster, in the order in which they are done. A worker that dies costs an attempt; the cluster
    is given only a few takedowns ahead.
    """
    import ray

    gpus = int(not job.each.place.device.startswith(("cpu", "mps")))
    if gpus and not ray.cluster_resources().get("GPU"):  # it would wait for one without end
        raise UnreelError(f"no machine of the Ray cluster at {job.ray!r} has a GPU: add one, or choose --device cpu")
    run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(attempt)
    most = max(1, int(ray.cluster_resources().get("CPU", 1))) * AHEAD
    waiting = [(takedown, 1) for takedown in reversed(list(left))]
    running: dict[Any, tuple[Takedown, int]] = {}
    while waiting or running:
        while waiting and len(running) < most:
            takedown, number = waiting.pop()
            running[run.remote(_sendable(left[takedown]))] = takedown, number
        (ended,), _ = ray.wait(list(running), num_returns=1)
        takedown, number = running.pop(ended)
        try:
            fields = ray.get(ended)
        except ray.exceptions.RayError as error:
            fields = {"status": "failed", "says": f"its worker died: {shortened(str(error))}"}
        if fields["status"] == "failed" and number <= job.retries:
            waiting.append((takedown, number + 1))
            continue
        yield Outcome(takedown, _asked(left[takedown]), attempts=number, **fields)
