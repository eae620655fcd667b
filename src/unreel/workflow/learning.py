"""Unlearn and look: an erasure, checked and written, and the first videos without and with it.

Knows what belongs together and in which order; leaves every part of it to others.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from unreel.checking import require_some_change, require_strong
from unreel.errors import UnreelError
from unreel.evaluation.evaluate import evaluate as evaluate_intervention
from unreel.evaluation.run import Evaluation
from unreel.evaluation.video_cache import made_in, require_room
from unreel.files import alone_in, file_names
from unreel.interventions import load_intervention
from unreel.interventions.base import RECORD_FILE, REPORT_FILE, Intervention
from unreel.interventions.erasure import Erasure
from unreel.interventions.record import CHECK, DIGEST
from unreel.judges import Judge
from unreel.methods import load_method, method_of
from unreel.models.pair import Pair, load_pair
from unreel.models.pipelines import TextModel, move, moved
from unreel.progress import Tell, nobody
from unreel.prompts.concept import Concept
from unreel.report.page import write_report
from unreel.unlearning import unlearn as unlearn_concepts
from unreel.unlearning import was_asked_for
from unreel.workflow.common import nothing_written, require_new_erasure, say_check
from unreel.workflow.unlearn_job import UnlearnJob, judge_for, loaded, require_sensible
from unreel.workflow.wording_search import as_found, with_searches, with_wordings

LOOKED_AT = ("explicit", "neighbours")  # prompt groups of the first look
FIRST_SEED = 1000  # of its videos
CACHE_FOLDER = ".clips"  # in an erasure's folder until all videos of a first look are made


class TakenError(UnreelError):
    """The folder that a job goes on in holds another erasure than it asks for."""


@dataclass(frozen=True)
class Unlearned:
    """The intervention, its folder and, by concept, the evaluations of a first look at it, with their pages."""

    intervention: Intervention
    folder: Path
    evaluations: dict[str, Evaluation]
    pages: list[Path]


def unlearn(job: UnlearnJob, tell: Tell = nobody, *, load: Callable[..., Pair] = load_pair) -> Unlearned:
    """Unlearn concepts, write what does it, and compare videos from the same seeds without and with it.

    The same job goes on with the videos where it was stopped. `load` gives the pair, as `load_pair` does; the pair's
    weights are left as they were. Raises UnreelError for what cannot be done, before any work wherever that can be known.
    """
    require_sensible(job)
    with _claimed(job, tell) as (exists, alone):
        pair = loaded(job, load)
        judge = judge_for(job, pair, tell)
        concepts, configs = job.concepts_of(pair), [job.config(method, pair) for method in job.methods]
        if exists:
            learned = load_intervention(job.folder)
            asked = as_found(concepts, job, learned)
            if asked is None or not was_asked_for(learned, asked, pair, configs, job.images, job.kept):
                raise _another(job, learned)
            concepts = asked
            tell("goes on", f"with the erasure in {job.folder}")
        else:
            if job.videos:
                each = job.videos * len(concepts)  # times 4: two groups, each by two models; times 5: anchor prompts too
                clips = job.folder / CACHE_FOLDER
                require_room(pair.video, clips, 4 * each, 5 * each, tell, made=made_in(clips))
            concepts, searches = with_wordings(concepts, job, pair, tell)
            learned = with_searches(_learned(job, concepts, pair, configs), searches)
        if not job.accept_weak:
            with nothing_written("try other settings of the method (`unreel unlearn --help` lists them)"):
                require_some_change(learned)
            if learned.edits_text_encoder and not load_method(job.method).AS_PUBLISHED:
                with nothing_written("have something else made instead, or more kept (--replace, --keep)"):
                    require_strong(learned)
        if not exists:
            learned.save_pretrained(job.folder, overwrite=job.overwrite)
        say_check(learned, tell)
        if not job.videos:
            return Unlearned(learned, job.folder, {}, [])
        if exists and not (job.folder / CACHE_FOLDER).is_dir() and (pages := _pages(job, concepts)):
            return Unlearned(learned, job.folder, {}, pages)  # they were finished
        evaluations, pages = _first_look(job, learned, concepts, pair, judge, alone, tell)
        return Unlearned(learned, job.folder, evaluations, pages)


def _another(job: UnlearnJob, learned: Intervention) -> TakenError:
    """The error for a job that cannot go on with the erasure in its folder."""
    part = learned.provenance["parts"][0]
    untold = job.images is not None and part.get("images") == "given" and DIGEST not in part  # up to version 0.2
    what = "an erasure that does not say which images it was learned from" if untold else "another erasure"
    return TakenError(
        f"{job.folder} holds {what}{'' if job.resume else ', whose videos are not finished'}: choose another folder with "
        "--out, or replace it with --overwrite"
    )


def _learned(job: UnlearnJob, concepts: Sequence[Concept], pair: Pair, configs: Sequence[Any]) -> Intervention:
    """The intervention of the job's method, with the changes of the method on top added."""
    config, *on_top = configs
    # Methods on top learn first: they refuse at once a model that they cannot change.
    added = [_weights(job, _made(job, concepts, pair, each)) for each in on_top]
    learned = _made(job, concepts, pair, config, job.images)
    if not added:
        return learned
    total = reduce(add, added, _weights(job, learned))
    # The self-check holds for the sum: what was added changes no text encoder.
    return total.with_record(**{name: value for name, value in learned.provenance.items() if name == CHECK})


def _made(
    job: UnlearnJob, concepts: Sequence[Concept], pair: Pair, config: Any, images: Path | None = None
) -> Intervention:
    """The intervention that a method learns. If it needs the video model, all of that is on the job's device meanwhile."""
    whole, place = method_of(config).NEEDS == "video" and not isinstance(pair.t2v, TextModel), job.place
    with moved(pair.t2v, pair.t2v_source, place.device, offload=place.offload) if whole else nullcontext():
        return unlearn_concepts(concepts, pair, config, images=images, keep=job.kept)


def _weights(job: UnlearnJob, learned: Intervention) -> Any:
    """The learned intervention. Raises UnreelError if it changes no weights, since it is to be added to another."""
    if not isinstance(learned, Erasure):
        method = learned.provenance["parts"][0]["method"]
        raise UnreelError(
            f"{' and '.join(job.methods)} do not both change weights, and cannot be added up: choose another than {method}"
        )
    return learned


def _home_of(job: UnlearnJob, concept: Concept, concepts: Sequence[Concept]) -> Path:
    """Where the page about one of a job's concepts goes."""
    return job.folder if len(concepts) == 1 else job.folder / file_names(each.name for each in concepts)[concept.name]


def _pages(job: UnlearnJob, concepts: Sequence[Concept]) -> list[Path]:
    """The pages of a finished first look; none unless all are there."""
    pages = [_home_of(job, concept, concepts) / REPORT_FILE for concept in concepts]
    return pages if all(page.is_file() for page in pages) else []


@contextmanager
def _claimed(job: UnlearnJob, tell: Tell) -> Iterator[tuple[bool, bool]]:
    """Gives two flags: whether the erasure exists and the job goes on with it, and whether this process holds the lock
    of its videos. Raises UnreelError if the folder is taken.
    """
    clips = job.folder / CACHE_FOLDER
    if job.videos and clips.is_dir() and not clips.is_symlink() and not job.overwrite:
        with alone_in(clips):
            yield True, True
        return
    if job.resume and (job.folder / RECORD_FILE).is_file():
        yield True, False
        return
    require_new_erasure(job.folder, job.overwrite, tell)
    yield False, False


def _first_look(
    job: UnlearnJob,
    learned: Intervention,
    concepts: Sequence[Concept],
    pair: Pair,
    judge: Judge | None,
    alone: bool,
    tell: Tell,
) -> tuple[dict[str, Evaluation], list[Path]]:
    """Videos of each concept and of its neighbours, without and with the intervention; their pages go into its folder."""

    def tell_what_is_new(sort: str, news: str) -> None:
        if sort != "disk":  # how much room all of it takes has been told
            tell(sort, news)

    clips = job.folder / CACHE_FOLDER
    clips.mkdir(exist_ok=True)
    evaluations, pages, place = {}, [], job.place
    move(pair.t2i, pair.t2i_source, "cpu")
    with (
        nullcontext() if alone else alone_in(clips),
        moved(pair.t2v, pair.t2v_source, place.device, offload=place.offload),
    ):
        options: dict[str, Any] = {"videos": job.videos, "seed": FIRST_SEED + job.seed, "groups": LOOKED_AT}
        options |= {"clips": clips, "tell": tell_what_is_new}
        for concept in concepts:
            evaluation = evaluate_intervention(pair.video, learned, judge, concept=concept, **options)
            home = _home_of(job, concept, concepts)
            home.mkdir(exist_ok=True)
            pages.append(write_report(home, evaluation))
            evaluations[concept.name] = evaluation
        # The reports have measured all figures by now, so the videos can go.
        shutil.rmtree(clips, ignore_errors=True)
    return evaluations, pages
