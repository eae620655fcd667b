"""Whole jobs as functions: unlearn and look, evaluate, attack, generate. The command line calls them, and so may an app or
a sweep.

Knows what belongs together and in which order; leaves every part of it to others, says what happens through `tell`, and
draws how far it is as `unreel.progress` is told to.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch

from unreel.adoption import ADOPTED
from unreel.adoption import adopt as adopt_weights
from unreel.errors import UnreelError
from unreel.evaluation.attack import BUDGETS, STEPS, AttackRun
from unreel.evaluation.attack import attack as attack_intervention
from unreel.evaluation.attack import require_sensible as require_sensible_attacks
from unreel.evaluation.evaluate import concept_of
from unreel.evaluation.evaluate import evaluate as evaluate_intervention
from unreel.evaluation.evaluate import require_sensible as require_sensible_prompts
from unreel.evaluation.run import Evaluation
from unreel.evaluation.video_cache import Batch, VideoCache, require_room
from unreel.files import alone_in, file_name, require_new, short_digest
from unreel.interventions import load_intervention
from unreel.interventions.base import RECORD_FILE, REPORT_FILE, Intervention
from unreel.interventions.card import CHECK
from unreel.interventions.erasure import Erasure
from unreel.judges import Judge, load_judge, require_judge
from unreel.methods import DEFAULT, Task, configure, load_method, method_of, require_offloadable
from unreel.models.adapter import require_size, require_tiling
from unreel.models.loading import require_place
from unreel.models.pair import Pair, TextModel, VideoModel, load_pair, load_video_model, move, moved
from unreel.models.sampling import comment_of, write_mp4
from unreel.models.sampling import generate as sample
from unreel.models.shipped import EMBEDDED, names, preset_of, world_of
from unreel.progress import Tell, Work, drawn, nobody
from unreel.prompts.concept import Concept
from unreel.prompts.files import read_prompts
from unreel.prompts.suite import GROUPS
from unreel.prompts.takedowns import Takedown
from unreel.prompts.vocabulary import kind_of, spelled_alike
from unreel.report.page import write_attack_report, write_report
from unreel.unlearning import DIGEST, WeakError, check, require_some_change, require_strong, was_asked_for
from unreel.unlearning import unlearn as unlearn_concepts
from unreel.wordings import Wording, find_wordings, require_drawn

LOOKED_AT = ("explicit", "neighbours")  # prompt groups of the first look
FIRST_SEED = 1000  # of its videos
NO_JUDGE = "none"  # in place of a judge's name
EVERYDAY_WORDS = "everyday"  # to look for other words among, in place of a list
NOTE = "unreel generate: "  # in a video's file, before a short name for all that decided it
CACHE_FOLDER = ".clips"  # in an erasure's folder until all videos of a first look are made


class TakenError(UnreelError):
    """The folder that a job goes on in holds another erasure than it asks for."""


@dataclass(frozen=True)
class Place:
    """Where to compute, and in which precision."""

    device: str = "cpu"
    dtype: str = "float32"
    offload: bool = False

    def require(self) -> None:
        """Raises UnreelError if nothing can be put there."""
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise UnreelError(f"{self.dtype!r} is no precision: choose float32, bfloat16 or float16")
        require_place(self.device, getattr(torch, self.dtype))
        if self.offload and self.device == "cpu":
            raise UnreelError("offloading moves what waits to main memory: leave --offload out, or choose another --device")

    @property
    def of_weights(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": getattr(torch, self.dtype)}


@dataclass(frozen=True)
class Sampling:
    """How to make videos, in place of a pipeline's own ways; None leaves those."""

    steps: int | None = None
    guidance: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    fps: int | None = None
    tiling: bool = False

    def onto(self, model: Any) -> Any:
        """A pair or a video model with these settings. Raises UnreelError for a size or tiling that it cannot have."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        chosen = {name: value for name, value in values.items() if value is not None}
        pipeline = model.t2v if isinstance(model, Pair) else model.pipeline
        if getattr(pipeline, "vae", None):  # without, it was loaded to read text, and samples nothing
            require_tiling(pipeline, self.tiling)
            if self.size:
                require_size(pipeline, self.size)
        return replace(model, settings=replace(model.settings, **chosen))


def _require_lists(**lists: Any) -> None:
    """Raises UnreelError for a text in place of a list of texts: its letters would be taken for them."""
    for name, values in lists.items():
        if isinstance(values, str):
            raise UnreelError(f"{name} is a list, for example [{values!r}], not a text")


@dataclass(frozen=True)
class UnlearnJob:
    """What to unlearn, and how to look at it. `concepts` are names, or takedowns, each with a kind, synonyms, an anchor and
    what to keep of its own. `anchor` is what to make instead, `settings` are of the method, `seed` is of sentences, images,
    draws and videos. Without a `kind`, it is what a name is listed as. `wordings` are phrases, or "everyday" words: those
    of them that the image model draws a concept from are forgotten with it. `on_top` is a method that changes what
    denoises, whose change is added: the result is of one video model then. With `resume`, what is finished is taken as it
    lies in the folder `out`, if it is what is asked for.
    """

    concepts: Sequence[str | Takedown]
    kind: str | None = None
    synonyms: Sequence[str] = ()
    anchor: str | None = None
    keep: Sequence[str] = ()
    method: str = DEFAULT
    settings: Mapping[str, Any] = field(default_factory=dict)
    t2i: str | None = None
    t2v: str | None = None
    images: Path | None = None
    seed: int = 0
    videos: int = 20
    sampling: Sampling = Sampling()
    judge: str | None = None
    out: Path | None = None
    overwrite: bool = False
    resume: bool = False
    accept_weak: bool = False
    place: Place = Place()
    wordings: Sequence[str] = ()
    on_top: str | None = None

    def __post_init__(self) -> None:
        _require_lists(concepts=self.concepts, synonyms=self.synonyms, keep=self.keep)
        if self.wordings != EVERYDAY_WORDS:
            _require_lists(wordings=self.wordings)

    @property
    def folder(self) -> Path:
        return Path(self.out) if self.out else Path("runs") / file_name(" ".join(each.concept for each in self.takedowns))

    @property
    def takedowns(self) -> list[Takedown]:
        """The concepts, each with what is asked of it."""
        return [
            each if isinstance(each, Takedown) else Takedown(each, self.kind, tuple(self.synonyms), self.anchor)
            for each in self.concepts
        ]

    @property
    def kept(self) -> tuple[str, ...]:
        """What is to be left as it is besides everyday concepts."""
        return (*self.keep, *dict.fromkeys(name for each in self.takedowns for name in each.keep))

    @property
    def methods(self) -> tuple[str, ...]:
        """The method, and the one on top, if there is one."""
        return (self.method,) if self.on_top is None else (self.method, self.on_top)

    def config(self, method: str, pair: Pair | None = None) -> Any:
        """The settings of one of its methods. Raises UnreelError for those that none of them has or can use."""
        having = {each: {setting.name for setting in fields(load_method(each).Config)} for each in self.methods}
        others = {name for each, names in having.items() if each != method for name in names} - having[method]
        chosen = {name: value for name, value in self.settings.items() if name not in others}
        seed = {"seed": self.seed} if self.seed and "seed" in having[method] else {}
        return configure(method, chosen | seed, pair.settings if pair else None)

    def concepts_of(self, pair: Pair | None = None) -> list[Concept]:
        """With the kinds under which a pair lists them, unless the kind is given."""
        return _concepts([replace(each, kind=each.kind or self.kind) for each in self.takedowns], pair)


def _concepts(takedowns: Sequence[Takedown], pair: Pair | None = None) -> list[Concept]:
    """What is asked for, each of the kind that it is given, or else listed as by a pair."""
    return [
        Concept(
            each.concept.strip(),
            each.kind or (kind_of(each.concept, pair.vocabulary) if pair else "object"),  # type: ignore[arg-type]
            each.synonyms,
            each.anchor,
        )
        for each in takedowns
    ]


@dataclass(frozen=True)
class Unlearned:
    """What came of it: the intervention in its folder, and, by concept, what a first look at it found, with its pages."""

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
    with _claimed(job, tell) as stopped:
        pair, judge = _prepared(job, tell, load)
        concepts, configs = job.concepts_of(pair), [job.config(method, pair) for method in job.methods]
        if stopped:
            learned = load_intervention(job.folder)
            asked = _as_found(concepts, job, learned)
            if asked is None or not was_asked_for(learned, asked, pair, configs, job.images, job.kept):
                raise _another(job, learned)
            tell("goes on", f"with the erasure in {job.folder}")
        else:
            if job.videos:
                each = job.videos * len(concepts)  # of two groups, by the original and the edited model, and of anchors
                require_room(pair.video, job.folder / CACHE_FOLDER, 4 * each, 5 * each, tell)
            concepts, searches = _with_wordings(concepts, job, pair, tell)
            learned = _recorded(_learned(job, concepts, pair, configs), searches)
        if not job.accept_weak:
            with _nothing_written("try other settings of the method (`unreel unlearn --help` lists them)"):
                require_some_change(learned)
            if learned.edits_text_encoder and not load_method(job.method).AS_PUBLISHED:
                with _nothing_written("have something else made instead, or more kept (--replace, --keep)"):
                    require_strong(learned)
        if not stopped:
            learned.save_pretrained(job.folder, overwrite=job.overwrite)
        say_check(learned, tell)
        if not job.videos:
            return Unlearned(learned, job.folder, {}, [])
        if stopped and not (job.folder / CACHE_FOLDER).is_dir() and (pages := _pages(job, concepts)):
            return Unlearned(learned, job.folder, {}, pages)  # they were finished
        evaluations, pages = _first_look(job, learned, concepts, pair, judge, stopped)
        return Unlearned(learned, job.folder, evaluations, pages)


@contextmanager
def _nothing_written(instead: str) -> Iterator[None]:
    """Inside, what is too weak to be written is refused, saying what to do `instead`."""
    try:
        yield
    except WeakError as weak:
        ways = f"{instead}, or write it all the same with --accept-weak"
        raise UnreelError(f"{weak}. Nothing was written: {ways}") from None


def _another(job: UnlearnJob, learned: Intervention) -> TakenError:
    """What to say where a job cannot go on with what lies in its folder."""
    part = learned.provenance["parts"][0]
    untold = job.images is not None and part.get("images") == "given" and DIGEST not in part  # up to version 0.2
    what = "an erasure that does not say which images it was learned from" if untold else "another erasure"
    return TakenError(
        f"{job.folder} holds {what}{'' if job.resume else ', whose videos are not finished'}: choose another folder with "
        "--out, or replace it with --overwrite"
    )


def _learned(job: UnlearnJob, concepts: Sequence[Concept], pair: Pair, configs: Sequence[Any]) -> Intervention:
    """What the job's method makes, with what the one on top adds to it."""
    config, *on_top = configs
    # First, since these say at once where a model is none that they can change.
    added = [_weights(job, _made(job, concepts, pair, each)) for each in on_top]
    learned = _made(job, concepts, pair, config, job.images)
    if not added:
        return learned
    total = reduce(add, added, _weights(job, learned))
    # What was added changes nothing that text encoders write.
    checked = {name: said for name, said in learned.provenance.items() if name == CHECK}
    return replace(total, provenance=total.provenance | checked)


def _made(
    job: UnlearnJob, concepts: Sequence[Concept], pair: Pair, config: Any, images: Path | None = None
) -> Intervention:
    """What a method makes; one that needs the video model has all of it where it is to compute."""
    whole, place = method_of(config).NEEDS == "video" and not isinstance(pair.t2v, TextModel), job.place
    with moved(pair.t2v, pair.t2v_source, place.device, offload=place.offload) if whole else nullcontext():
        return unlearn_concepts(concepts, pair, config, images=images, keep=job.kept)


def _weights(job: UnlearnJob, learned: Intervention) -> Any:
    """What a method made. Raises UnreelError for what changes no weights, where something is to go on top of something."""
    if not isinstance(learned, Erasure):
        method = learned.provenance["parts"][0]["method"]
        raise UnreelError(
            f"{' and '.join(job.methods)} do not both change weights, and cannot be added up: choose another than {method}"
        )
    return learned


@dataclass(frozen=True)
class WordingsJob:
    """Which of some phrases, or "everyday" words, a pair's image model draws a concept from."""

    concept: str
    kind: str | None = None
    phrases: Sequence[str] = EVERYDAY_WORDS
    t2i: str | None = None
    t2v: str | None = None
    seed: int = 0
    place: Place = Place()

    def __post_init__(self) -> None:
        if self.phrases != EVERYDAY_WORDS:
            _require_lists(phrases=self.phrases)


def wordings(job: WordingsJob, tell: Tell = nobody) -> list[Wording]:
    """Nearest first. Raises UnreelError for what cannot be looked for, before any work wherever that can be known."""
    if not job.phrases:
        raise UnreelError("there is nothing to look among: give phrases")
    asked = UnlearnJob([job.concept], job.kind, wordings=job.phrases, t2i=job.t2i, t2v=job.t2v, place=job.place, videos=0)
    require_sensible(asked)
    pair, _ = _prepared(asked, tell, load_pair)
    return _wordings_of(asked.concepts_of(pair), asked, pair, job.seed)[job.concept.strip()]


def _wordings_of(concepts: Sequence[Concept], job: UnlearnJob, pair: Pair, seed: int) -> dict[str, list[Wording]]:
    phrases = None if job.wordings == EVERYDAY_WORDS else job.wordings
    return find_wordings(concepts, pair, phrases, seed=seed)


def _with_wordings(
    concepts: list[Concept], job: UnlearnJob, pair: Pair, tell: Tell
) -> tuple[list[Concept], dict[str, dict[str, Any]]]:
    """The concepts with the words that they are drawn from, if those are to be forgotten with them, but for what is to be
    kept or to be made instead; and what to record of the search.
    """
    if not job.wordings:
        return concepts, {}
    Task(concepts, pair, job.kept, job.images).require_nothing_kept_is_forgotten()  # before minutes are spent
    instead = [concept.anchor for concept in concepts]
    stays = [Concept(text) for text in (*job.kept, *dict.fromkeys(instead)) if text and text.strip()]
    forgotten = {}
    for name, rows in _wordings_of(concepts, job, pair, job.seed).items():
        texts = [row.text for row in rows]
        left = [
            text for text in texts if any(each.is_named_in(text) or Concept(text).is_named_in(each.name) for each in stays)
        ]
        forgotten[name] = [text for text in texts if text not in left]
        tell("wordings", f"of {name}: {', '.join(forgotten[name]) or 'none was found'}")
        if left:
            tell("wordings", f"of {name} that stay, since they name what is kept or made instead: {', '.join(left)}")
    widened = [replace(concept, synonyms=(*concept.synonyms, *forgotten[concept.name])) for concept in concepts]
    return widened, {name: {"among": _among(job), "found": texts} for name, texts in forgotten.items()}


def _among(job: UnlearnJob) -> str:
    """A short name for what other words are looked for among, and how."""
    return short_digest([list(job.wordings) if job.wordings != EVERYDAY_WORDS else job.wordings, job.seed])


def _recorded(learned: Any, searches: Mapping[str, Mapping[str, Any]]) -> Any:
    """The intervention with what was found for its concepts in its record."""
    if not searches:
        return learned
    parts = [part | {"wordings": searches[part["concept"]]} for part in learned.provenance["parts"]]
    return replace(learned, provenance={**learned.provenance, "parts": parts})


def _as_found(concepts: list[Concept], job: UnlearnJob, learned: Intervention) -> list[Concept] | None:
    """The concepts with the wordings that were found when the erasure was learned; None if they were not looked for then,
    or among others.
    """
    if not job.wordings:
        return concepts
    searches = {part["concept"]: part.get("wordings", {}) for part in learned.provenance["parts"]}
    if any(searches.get(concept.name, {}).get("among") != _among(job) for concept in concepts):
        return None
    return [replace(concept, synonyms=(*concept.synonyms, *searches[concept.name]["found"])) for concept in concepts]


def _home_of(job: UnlearnJob, concept: Concept, concepts: Sequence[Concept]) -> Path:
    """Where the page about one of a job's concepts goes."""
    return job.folder if len(concepts) == 1 else job.folder / file_name(concept.name)


def _pages(job: UnlearnJob, concepts: Sequence[Concept]) -> list[Path]:
    """The pages of a finished first look; none unless all are there."""
    pages = [_home_of(job, concept, concepts) / REPORT_FILE for concept in concepts]
    return pages if all(page.is_file() for page in pages) else []


def require_sensible(job: UnlearnJob) -> None:
    """Raises UnreelError for what is known to be wrong before anything is loaded."""
    if job.synonyms and len(job.concepts) > 1:
        raise UnreelError(
            "synonyms belong to one concept: put each into a row of a table, with its own, and unlearn all rows with "
            "`unreel batch TABLE --together NAME`"
        )
    for concept in job.concepts_of():
        if job.wordings:
            require_drawn(concept)
    if job.videos < 0:
        raise UnreelError("videos must be zero or more")
    if job.on_top is not None:
        _require_on_top(job)
    configs = [job.config(method) for method in job.methods]
    if job.place.offload:
        require_offloadable(configs[0])
    if job.images is not None and not Path(job.images).is_dir():
        raise UnreelError(f"{job.images} is no folder of images")
    _require_judge(job.judge)
    job.place.require()


def _require_judge(name: str | None) -> None:
    """Raises UnreelError for a name that `judge_of` would not take, whatever it would load."""
    if name not in (None, NO_JUDGE):
        require_judge(name)


def _require_on_top(job: UnlearnJob) -> None:
    """Raises UnreelError if the job's second method is not one to put on top of the first."""
    first, second = (load_method(method).NEEDS == "video" for method in job.methods)
    if first or not second:
        raise UnreelError(
            f"{job.on_top} does not go on top of {job.method}: --method is to be one that changes text encoders, --on-top "
            "one that changes what denoises, for example uce"
        )


@contextmanager
def _claimed(job: UnlearnJob, tell: Tell) -> Iterator[bool]:
    """Gives whether the erasure is there, and the job goes on with it. Raises UnreelError if its folder is taken."""
    clips = job.folder / CACHE_FOLDER
    if bool(job.videos) and clips.is_dir() and not clips.is_symlink() and not job.overwrite:
        with alone_in(clips):
            yield True
        return
    if job.resume and (job.folder / RECORD_FILE).is_file():
        yield True
        return
    _require_new(job.folder, job.overwrite, tell)
    yield False


def _require_new(folder: Path, overwrite: bool, tell: Tell) -> None:
    """As `require_new`; says what goes with what is replaced."""
    require_new(folder, overwrite, RECORD_FILE)
    lost = [name for name in ("evaluation", "attacks") if (folder / name).exists()]
    if lost and overwrite:
        tell("replaces", f"{folder}, with its {' and '.join(lost)}")


def _prepared(job: UnlearnJob, tell: Tell, load: Callable[..., Pair]) -> tuple[Pair, Judge | None]:
    """The pair, with what reads text, and an image model that is needed, where they are to compute and the rest in main
    memory, and the judge of the videos.
    """
    needs, place = {load_method(method).NEEDS for method in job.methods}, job.place
    # Text alone needs neither image nor video model, unless there is something to show.
    text_only = needs == {"text"} and not job.videos and not job.wordings
    makes_videos = bool(job.videos) or "video" in needs
    pair = load(job.t2i, job.t2v, text_only=text_only, makes_videos=makes_videos, dtype=place.of_weights["dtype"])
    if job.videos and isinstance(pair.t2v, TextModel):
        raise UnreelError(f"{job.t2v} is a text encoder, which makes no videos: add --videos 0")
    pair = job.sampling.onto(pair)
    text_only = "images" not in needs and not job.wordings
    move(pair.t2i, pair.t2i_source, place.device, offload=place.offload, text_only=text_only)
    # The judge of a pair with a world of its own knows what is in it.
    world = judge_of(None, job.t2v, place.device) if world_of(job.t2v) else None
    for name in (each.name for each in job.concepts_of(pair) if world and not world.knows(each.name)):
        alike = " or ".join(map(repr, spelled_alike(name, pair.vocabulary)))
        tell("unknown", f"{name!r} is not listed in this pair's world" + (f": do you mean {alike}?" if alike else ""))
    if not job.videos:
        return pair, None
    judge = judge_of(job.judge, job.t2v, place.device) if job.judge else world
    unknown = [each.name for each in job.concepts_of() if judge and not judge.knows(each.name)]
    if unknown and job.judge:
        raise UnreelError(f"the {job.judge} judge does not know {unknown[0]!r}: choose another with --judge")
    return pair, None if unknown else judge  # nobody asked for one that does not know it: compare by eye


def _first_look(
    job: UnlearnJob,
    learned: Intervention,
    concepts: Sequence[Concept],
    pair: Pair,
    judge: Judge | None,
    stopped: bool,
) -> tuple[dict[str, Evaluation], list[Path]]:
    """Videos of each concept and of its neighbours, without and with the intervention; their pages go into its folder."""
    clips = job.folder / CACHE_FOLDER
    clips.mkdir(exist_ok=True)
    evaluations, pages, place = {}, [], job.place
    move(pair.t2i, pair.t2i_source, "cpu")
    with (
        nullcontext() if stopped else alone_in(clips),  # a job that goes on is alone there already
        moved(pair.t2v, pair.t2v_source, place.device, offload=place.offload),
    ):
        options: dict[str, Any] = {"videos": job.videos, "seed": FIRST_SEED + job.seed, "groups": LOOKED_AT, "clips": clips}
        for concept in concepts:
            evaluation = evaluate_intervention(pair.video, learned, judge, concept=concept, **options)
            home = _home_of(job, concept, concepts)
            home.mkdir(exist_ok=True)
            pages.append(write_report(home, evaluation))
            evaluations[concept.name] = evaluation
        # What the figures are read from goes with it, so they are measured by now.
        shutil.rmtree(clips, ignore_errors=True)
    return evaluations, pages


def say_check(learned: Intervention, tell: Tell) -> None:
    """What the self-check said, and what falls short in it."""
    checked = learned.provenance.get(CHECK)
    if checked is None:
        tell("check", "none of what text encoders write, which stays as it is: see what an evaluation says")
        return
    tell("check", checked["summary"])
    for shortfall in checked["shortfalls"]:
        tell("weak", shortfall)


def judge_of(name: str | None, t2v: str | None, device: str) -> Judge | None:
    """The judge asked for, None for "none"; by default the one that comes with the pair, or CLIP."""
    if name == NO_JUDGE:
        return None
    return load_judge(name or preset_of(t2v).get("judge", "clip"), device)


def model_of(t2v: str | None, *learned: Intervention) -> str:
    """The video model to put interventions on: the one that is asked for, or the pair of unreel's that the first was made
    on. Raises UnreelError for any other that nobody asked for: what a file names is not loaded for that alone.
    """
    made_on = t2v or next((each.model for each in learned), EMBEDDED)
    if t2v is None and made_on not in names():
        raise UnreelError(
            f"this was made on {made_on}: add --t2v with that model's folder or hub id, or with another it fits"
        )
    return made_on


def _home(folder: str | Path, what: str, learned: Intervention, concept: Concept) -> Path:
    """Where what is found out about a concept goes: into the intervention's folder, or into runs/ for one from the hub;
    there, each of several concepts has a folder of its own.
    """
    folder = Path(folder)
    home = (folder if folder.is_dir() else Path("runs") / file_name(folder.name)) / what
    return home if len(learned.concepts) == 1 else home / file_name(concept.name)


@dataclass(frozen=True)
class EvaluateJob:
    """What to judge and measure: what lies in `folder`, or under a hub id, on `videos` prompts of each of `groups` (all of
    them without any) and on those in the files `prompts`. Without `t2v`, it is the pair of unreel's that it was made on;
    without a `judge`, the pair's own, or CLIP. `clips` is a folder of finished videos that runs may share.
    """

    folder: Path
    t2v: str | None = None
    judge: str | None = None
    concept: str | None = None
    prompts: Sequence[Path] = ()
    groups: Sequence[str] = ()
    videos: int = 50
    seed: int = 1000
    sampling: Sampling = Sampling()
    out: Path | None = None
    clips: Path | None = None
    place: Place = Place()

    def __post_init__(self) -> None:
        _require_lists(prompts=self.prompts, groups=self.groups)


def evaluate(job: EvaluateJob, tell: Tell = nobody) -> tuple[Evaluation, Path]:
    """Judge and measure an intervention; returns that and the page.

    The same job goes on where it was stopped. Raises UnreelError for what cannot be done, before any work.
    """
    rows = [row for file in job.prompts for row in read_prompts(file)]
    require_sensible_prompts(job.videos, job.seed, job.groups, rows)
    _require_judge(job.judge)
    learned = load_intervention(job.folder)
    job.place.require()
    concept = concept_of(learned, job.concept)
    home = Path(job.out or _home(job.folder, "evaluation", learned, concept))
    t2v = model_of(job.t2v, learned)
    judge = judge_of(job.judge, t2v, job.place.device)
    model = job.sampling.onto(load_video_model(t2v, **job.place.of_weights, offload=job.place.offload))
    asked: dict[str, Any] = {"videos": job.videos, "seed": job.seed, "groups": tuple(job.groups or GROUPS)}
    asked |= {"own_prompts": rows, "folder": home, "clips": job.clips, "tell": tell}
    evaluation = evaluate_intervention(model, learned, judge, concept=concept, **asked)
    return evaluation, write_report(home, evaluation)


@dataclass(frozen=True)
class AttackJob:
    """What to attack, and how often: what lies in `folder`, or under a hub id, by `attacks` (all of them without any), in
    `cases` prompts, each of which may take as many videos as `budgets` say and `steps` of a search for each. Without `t2v`,
    it is the pair of unreel's that it was made on. `clips` is a folder of finished videos that runs may share.
    """

    folder: Path
    t2i: str | None = None
    t2v: str | None = None
    judge: str | None = None
    concept: str | None = None
    attacks: Sequence[str] = ()
    cases: int = 12
    budgets: Sequence[int] = BUDGETS
    steps: int = STEPS
    seed: int = 2000
    sampling: Sampling = Sampling()
    out: Path | None = None
    clips: Path | None = None
    place: Place = Place()

    def __post_init__(self) -> None:
        _require_lists(attacks=self.attacks)


def attack(job: AttackJob, tell: Tell = nobody) -> tuple[AttackRun, Path]:
    """Try to bring back what an intervention makes a model forget; returns what came of it, and the page.

    The same job goes on where it was stopped. Raises UnreelError for what cannot be done, before any work.
    """
    require_sensible_attacks(job.attacks, job.cases, job.budgets, job.steps, job.seed)
    _require_judge(job.judge)
    learned = load_intervention(job.folder)
    job.place.require()
    concept = concept_of(learned, job.concept)
    home = Path(job.out or _home(job.folder, "attacks", learned, concept))
    t2v = model_of(job.t2v, learned)
    judge = judge_of(job.judge, t2v, job.place.device)
    if judge is None:
        raise UnreelError("an attack needs a judge: choose one with --judge")
    pair = job.sampling.onto(load_pair(job.t2i, t2v, **job.place.of_weights))
    options: dict[str, Any] = {"attacks": job.attacks, "cases": job.cases, "budgets": job.budgets, "steps": job.steps}
    options |= {"seed": job.seed, "folder": home, "clips": job.clips, "tell": tell}
    result = attack_intervention(pair, learned, judge, concept=concept, **options)
    return result, write_attack_report(home, result)


@dataclass(frozen=True)
class GenerateJob:
    """Which videos to write into the folder `out`: one of each of `prompts`, whose seeds count up from `seed`, with what
    lies in `folders`, or under hub ids, on. Without `t2v`, it is the pair of unreel's that the first was made on.
    """

    prompts: Sequence[str]
    folders: Sequence[Path] = ()
    t2v: str | None = None
    seed: int = 0
    sampling: Sampling = Sampling()
    out: Path = Path("videos")
    overwrite: bool = False
    place: Place = Place()

    def __post_init__(self) -> None:
        _require_lists(prompts=self.prompts, folders=self.folders)

    @property
    def seeds(self) -> list[int]:
        return [self.seed + i for i in range(len(self.prompts))]

    @property
    def files(self) -> list[Path]:
        return [
            Path(self.out) / f"{file_name(text)}-{seed}.mp4" for text, seed in zip(self.prompts, self.seeds, strict=True)
        ]


def generate(job: GenerateJob, tell: Tell = nobody) -> Iterator[Path]:
    """Write each video as soon as it is made; returns the files that are written, one after the other.

    The same job goes on where it was stopped: what decided a video is noted in its file. Raises UnreelError, before
    anything is made, for what cannot be, and for files that are there otherwise.
    """
    if not all(text.strip() for text in job.prompts):
        raise UnreelError("a prompt is empty")
    there = {} if job.overwrite else {file: comment_of(file) for file in job.files if file.exists()}
    finished = len(there) == len(job.files)
    for file, comment in there.items():
        if finished or not comment.startswith(NOTE):
            raise _taken(file)
    learned = [load_intervention(folder) for folder in job.folders]
    job.place.require()
    t2v = model_of(job.t2v, *learned)
    model = job.sampling.onto(load_video_model(t2v, **job.place.of_weights, offload=job.place.offload))
    for each in learned:
        each.apply(model.pipeline)
    files = iter(job.files)
    # Whose names tell everything that decides pixels; nothing is kept in it.
    batches = VideoCache(model, job.out).batches(job.prompts, job.seeds)
    asked = [(batch, [next(files) for _ in batch.prompts]) for batch in batches]
    notes = {file: f"{NOTE}{batch.file.stem}, {model.settings.fps} a second" for batch, own in asked for file in own}
    for file, comment in there.items():
        if comment != notes[file]:
            raise _taken(file)
    left = [(batch, own) for batch, own in asked if not set(own) <= set(there)]
    done = len(notes) - sum(len(own) for _, own in left)
    if done:
        tell("goes on", f"{done} of {len(notes)} videos are made")
    return _written(model, left, notes, done)


def _taken(file: Path) -> UnreelError:
    return UnreelError(f"{file} exists: choose another --out or --seed, or replace it with --overwrite")


def _written(
    model: VideoModel, left: Sequence[tuple[Batch, list[Path]]], notes: Mapping[Path, str], done: int
) -> Iterator[Path]:
    """Writes the videos of the batches that are left into their files, with what is to be noted in each."""
    with drawn(Work("generating videos", "video", len(notes), done)) as bar:
        for batch, files in left:
            videos = sample(model.pipeline, batch.prompts, batch.seeds, model.settings, what="")
            for file, frames in zip(files, videos, strict=True):
                write_mp4(file, frames, model.settings.fps, notes[file])
                bar.update()
                yield file


def combine(
    folders: Sequence[str | Path],
    out: str | Path,
    tell: Tell = nobody,
    *,
    t2v: str | None = None,
    overwrite: bool = False,
    accept_weak: bool = False,
    place: Place = Place(),
) -> Erasure:
    """Write one erasure of several that were made for the same model, checked as a whole on held-out prompts.

    `t2v` is the model to check it on, by default the pair of unreel's that it was made on. Raises UnreelError if they do
    not go together or fall short together, or nothing can be put in that `place`; then nothing is written.
    """
    out = Path(out)
    _require_new(out, overwrite, tell)
    place.require()
    parts = [Erasure.from_pretrained(folder) for folder in folders]
    if len({part.identity for part in parts}) < max(2, len(parts)):
        raise UnreelError("give at least two erasures, each of them once")
    total = reduce(add, parts)
    if total.edits_text_encoder:  # what else an erasure changes, nothing that encoders write tells of
        pair = load_pair(t2v=model_of(t2v, total), text_only=True, **place.of_weights)
        total = replace(total, provenance={**total.provenance, CHECK: check(total, pair).document()})
        if not accept_weak:
            with _nothing_written("unlearn them together, in one command"):
                require_strong(total)
    total.save_pretrained(out, overwrite=overwrite)
    return total


def adopt(
    weights: str | Path,
    takedowns: Sequence[Takedown],
    tell: Tell = nobody,
    *,
    method: str = ADOPTED,
    t2v: str = EMBEDDED,
    out: Path | None = None,
    overwrite: bool = False,
    place: Place = Place(),
) -> tuple[Erasure, Path]:
    """Write what other code changed in the model `t2v` to make it forget, as an erasure; returns it, and where it lies.

    Nothing is refused for how far it goes: that is what its card and an evaluation say. Raises UnreelError as
    `adoption.adopt` does, if nothing can be put in that `place`, or the folder exists; then nothing is written.
    """
    folder = Path(out) if out else Path("runs") / file_name(" ".join(each.concept for each in takedowns))
    _require_new(folder, overwrite, tell)
    place.require()
    _concepts(takedowns)  # what is wrong with a name is said before anything is loaded
    pair = load_video_model(t2v, **place.of_weights).alone
    adopted = adopt_weights(weights, _concepts(takedowns, pair), pair, method=method)
    adopted.save_pretrained(folder, overwrite=overwrite)
    return adopted, folder
