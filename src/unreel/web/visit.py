"""One visitor of the app: what they made a model forget, in a folder of their own, and what they see of it meanwhile.

Knows jobs; knows no widgets. All visitors of a host share its model, whose weights are as they were between two jobs.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import ZipFile

from unreel.errors import UnreelError, shortened
from unreel.evaluation.attack import attack
from unreel.evaluation.evaluate import build_suite, concept_of, erased_by, evaluate
from unreel.files import file_name
from unreel.interventions import load_intervention
from unreel.interventions.base import ATTACKS_FOLDER, EVALUATION_FOLDER, Intervention
from unreel.interventions.erasure import Erasure
from unreel.interventions.export import export
from unreel.judges import Judge
from unreel.methods import DEFAULT
from unreel.models.adapter import text_encoders
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Pair, load_pair, require_makes_videos
from unreel.models.sampling import generate, write_mp4
from unreel.progress import Work, drawn_by, track
from unreel.report.page import write_attack_report, write_report
from unreel.report.verdict import attack_verdict, verdict
from unreel.workflow import FIRST_SEED, LOOKED_AT, Place, Sampling, UnlearnJob, judge_of, unlearn

LONGEST_TEXT = 300  # letters of what a visitor types
MOST_VIDEOS, MOST_CASES, MOST_ERASURES = 20, 12, 20
PATIENCE = 0.3  # seconds between two looks at what a job has come to


@dataclass(frozen=True)
class Clip:
    """A video to show, and its caption."""

    file: Path
    caption: str


@dataclass
class Seen:
    """What a visitor sees of a job by now: its `lines`, the `share` from 0 to 1 of what it is `doing`, `clips`, the
    original model's before the edited one's of each prompt, and a `file` to download.
    """

    lines: list[str] = field(default_factory=list)
    share: float = 0.0
    doing: str = ""
    clips: list[Clip] = field(default_factory=list)
    file: Path | None = None


class StoppedError(Exception):
    """The visitor has pressed stop, or left."""


class _Bar:
    """Shows a part of a job to a visitor, and ends it when they want."""

    def __init__(self, work: Work, show: Callable[[float, str], None], stop: threading.Event) -> None:
        self.work, self.done, self.show, self.stop = work, work.done, show, stop
        self.update(0)

    def update(self, n: int = 1) -> None:
        self.done += n
        if self.stop.is_set():
            raise StoppedError
        self.show(self.done / self.work.total if self.work.total else 0.0, self.work.what)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Host:
    """A model that is loaded once for all visitors. One job at a time computes with it, because unlearning changes its
    weights meanwhile. `worker`, which has one thread, computes for all threads that ask.
    """

    pair: Pair
    judge: Judge | None
    t2v: str | None
    place: Place
    worker: Executor = field(default_factory=partial(ThreadPoolExecutor, 1))

    @staticmethod
    def load(
        t2v: str | None, t2i: str | None, judge: str | None, place: Place, sampling: Sampling, worker: Executor
    ) -> "Host":
        place.require()
        pair = sampling.onto(load_pair(t2i, t2v, **place.of_weights))
        require_makes_videos(pair.t2v, pair.t2v_source)
        return Host(pair, judge_of(judge, t2v, place.device), t2v, place, worker)


class Visit:
    """One visitor's erasures, by name, and the jobs that they start. A job at a time. All of it lies in a folder within
    `within`, by default where temporary files go.
    """

    def __init__(self, host: Host, within: Path | None = None) -> None:
        self.host = host
        self.folder = Path(tempfile.mkdtemp(prefix="unreel-visit-", dir=within))
        self.erasures: dict[str, Path] = {}
        self.stop = threading.Event()

    def close(self) -> None:
        """Ends what is running, and deletes everything."""
        self.stop.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(
        self,
        concept: str,
        *,
        kind: str | None = None,
        synonyms: Sequence[str] = (),
        anchor: str | None = None,
        keep: Sequence[str] = (),
        method: str = DEFAULT,
        on_top: str | None = None,
        videos: int = 4,
        accept_weak: bool = False,
    ) -> Iterator[Seen]:
        """Unlearn a concept, then show videos of it and of what is near, original and edited, as they are made."""

        def work(seen: Seen) -> None:
            _require_short(concept, anchor or "", lists=(synonyms, keep))
            if len(self.erasures) >= MOST_ERASURES:
                raise UnreelError(f"a visit holds at most {MOST_ERASURES} erasures")
            if not 0 < videos <= MOST_VIDEOS:
                raise UnreelError(f"from 1 to {MOST_VIDEOS} videos are shown")
            name = self._new_name(concept)
            job = UnlearnJob([concept], kind, synonyms, anchor, keep, method, t2v=self.host.t2v, place=self.host.place)
            job = replace(job, videos=0, on_top=on_top, accept_weak=accept_weak, out=self._home(name))
            done = unlearn(
                job, lambda sort, news: seen.lines.append(f"{sort}: {news}"), load=lambda *_, **__: self.host.pair
            )
            self.erasures[name] = done.folder
            seen.lines.append(f"forgotten as {name}: {done.intervention.nbytes / 1e6:.2f} MB")
            self._look(done.intervention, videos, seen)

        return self._run(work)

    def _new_name(self, concept: str) -> str:
        """The concept as it was typed; with a number if the folder of that name is taken, maybe by another spelling."""
        name, number = concept.strip(), 1
        while self._home(name).exists():
            number += 1
            name = f"{concept.strip()} ({number})"
        return name

    def _home(self, name: str) -> Path:
        """The folder of an erasure; what is made of it lies in others, so that no name can be that of another's page."""
        return self.folder / "erasures" / file_name(name)

    def _look(self, learned: Intervention, videos: int, seen: Seen) -> None:
        """Videos of the concept and of what is near, one after the other."""
        pair, judge, concept = self.host.pair, self.host.judge, concept_of(learned)
        known = judge if judge and judge.knows(concept.name) else None
        options: dict[str, Any] = {"videos": videos, "seed": FIRST_SEED, "groups": LOOKED_AT, "erased": erased_by(learned)}
        prompts = build_suite(Conditioner.of(pair.t2v), concept, known, **options)
        for prompt in track(prompts, "making videos", "prompt"):
            seen.clips += self._both([learned], prompt.text, prompt.seed)

    def make(self, prompt: str, seed: int, on: Sequence[str]) -> Iterator[Seen]:
        """A video of a prompt by the original model, and one with the erasures of those names on."""

        def work(seen: Seen) -> None:
            _require_short(prompt)
            if not prompt.strip():
                raise UnreelError("type a prompt")
            seen.doing = "making videos"
            seen.clips += self._both([self._taken(name) for name in on], prompt, seed)

        return self._run(work)

    def _both(self, on: Sequence[Intervention], prompt: str, seed: int) -> list[Clip]:
        pair, clips = self.host.pair, []
        for arm, wanted in (("original", []), ("edited", on)):
            with ExitStack() as stack:
                for each in wanted:
                    stack.enter_context(each.on(pair.t2v))
                frames = generate(pair.t2v, [prompt], [seed], pair.settings, what="")[0]
            file = self.folder / f"{uuid4().hex}.mp4"
            write_mp4(file, frames, pair.settings.fps)
            clips.append(Clip(file, f"{arm}: {prompt}"))
        return clips

    def evaluate(self, name: str, videos: int) -> Iterator[Seen]:
        """Did it work, and what else broke? The page is the file to download."""

        def work(seen: Seen) -> None:
            learned, home = self._taken(name), self._page(name, EVALUATION_FOLDER)
            if not 0 < videos <= MOST_VIDEOS:
                raise UnreelError(f"from 1 to {MOST_VIDEOS} videos a group are made here")
            concept = concept_of(learned)
            judge = self.host.judge if self.host.judge and self.host.judge.knows(concept.name) else None
            run = evaluate(self.host.pair.video, learned, judge, concept=concept, videos=videos, folder=home)
            seen.file = write_report(home, run)
            seen.lines.append(str(verdict(run.run)))

        return self._run(work)

    def attack(self, name: str, cases: int) -> Iterator[Seen]:
        """Can it be brought back? The page is the file to download."""

        def work(seen: Seen) -> None:
            learned, home = self._taken(name), self._page(name, ATTACKS_FOLDER)
            if self.host.judge is None:
                raise UnreelError("an attack needs a judge, and this model has none")
            if not 0 < cases <= MOST_CASES:
                raise UnreelError(f"from 1 to {MOST_CASES} cases are tried here")
            result = attack(self.host.pair, learned, self.host.judge, cases=cases, folder=home)
            seen.file = write_attack_report(home, result)
            seen.lines.append(str(attack_verdict(result)))

        return self._run(work)

    def download(self, name: str, format: str) -> Iterator[Seen]:
        """The erasure as it is, or in a format that loads without unreel, as one file."""

        def work(seen: Seen) -> None:
            learned, folder = self._taken(name), self.erasures[name]
            if format != "erasure":
                if not isinstance(learned, Erasure):
                    raise UnreelError("only erasures, which change weights, can be exported")
                folder = self.folder / "exports" / f"{folder.name}-{file_name(format)}"
                self._require_room(format)
                export(learned, self.host.pair.t2v, folder, format=format, overwrite=True)
            seen.file = folder.with_name(f"{folder.name}.zip")
            with ZipFile(seen.file, "w") as packed:  # not compressed: weights hardly can be, and gigabytes take minutes
                for file in track(sorted(folder.rglob("*")), "packing", "file"):
                    packed.write(file, file.relative_to(folder))
            if format != "erasure":
                shutil.rmtree(folder)
            seen.lines.append(f"{seen.file.name}: {seen.file.stat().st_size / 1e6:.2f} MB")

        return self._run(work)

    def _require_room(self, format: str) -> None:
        """Raises UnreelError if the disk cannot hold an export in three copies: as a folder, packed, and on its way."""
        encoders = text_encoders(self.host.pair.t2v).values() if format == "text-encoder" else ()
        size = sum(weight.nbytes for encoder in encoders for weight in encoder.parameters())
        if shutil.disk_usage(self.folder).free < 3 * size:
            raise UnreelError(f"{size / 1e9:.1f} GB do not fit here: take the erasure, and export it with unreel")

    def _taken(self, name: str) -> Intervention:
        if name not in self.erasures:
            raise UnreelError("choose an erasure of this visit")
        return load_intervention(self.erasures[name])

    def _page(self, name: str, what: str) -> Path:
        """A folder for a page about an erasure of this visit; the last page of the same kind is deleted."""
        home = self.folder / what / self.erasures[name].name
        shutil.rmtree(home, ignore_errors=True)
        return home

    def _run(self, work: Callable[[Seen], None]) -> Iterator[Seen]:
        """What is seen of a job, again and again until it is over, while the host's worker does it. A caller that stops
        iterating stops the job.
        """
        stop = self.stop = threading.Event()  # of this job: one that was told to stop stays so when another begins
        seen = Seen(doing="waiting for other visitors")

        def show(share: float, doing: str) -> None:
            seen.share, seen.doing = share, doing

        def run() -> None:
            seen.doing = ""
            with drawn_by(lambda part: _Bar(part, show, stop)):
                work(seen)

        job = self.host.worker.submit(run)
        try:
            while not job.done():
                yield seen
                wait([job], PATIENCE)
                if stop.is_set():
                    job.cancel()  # if it has not begun
            seen.doing = ""
            try:
                job.result()
            except (StoppedError, CancelledError):
                seen.lines.append("stopped")
            except UnreelError as error:
                seen.lines.append(shortened(str(error)))
            yield seen
        finally:
            stop.set()
            job.cancel()


def _require_short(*texts: str, lists: Sequence[Sequence[str]] = ()) -> None:
    """Raises UnreelError for texts longer than the page's fields take, since others than the page may send them too;
    `lists` are those with ; between.
    """
    if any(len(text) > LONGEST_TEXT for text in (*texts, *("; ".join(several) for several in lists))):
        raise UnreelError(f"a text has at most {LONGEST_TEXT} letters here")
