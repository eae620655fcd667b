"""What is asked for where something is to be unlearned, refused where it makes no sense, and loaded.

Knows methods by their names; knows nothing of what comes of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.files import file_name
from unreel.judges import Judge
from unreel.methods import DEFAULT, configure, load_method, require_offloadable
from unreel.models.pair import Pair
from unreel.models.pipelines import TextModel, move
from unreel.models.shipped import world_of
from unreel.progress import Tell
from unreel.prompts.concept import Concept
from unreel.prompts.takedowns import Takedown
from unreel.prompts.vocabulary import spelled_alike
from unreel.unlearning import as_concepts
from unreel.wordings import require_drawn
from unreel.workflow.common import Place, Sampling, judge_of, require_known_judge, require_lists

EVERYDAY_WORDS = "everyday"  # to look for other words among, in place of a list


@dataclass(frozen=True)
class UnlearnJob:
    """What to unlearn, and how to look at it.

    `concepts` are names, or takedowns, each with a kind, synonyms, an anchor and things to keep of its own. Without a
    `kind`, a concept has the one under which the pair lists its name. `anchor` is what to make instead. `settings` are
    those of the method. `seed` is that of sentences, images, draws and videos.

    `wordings` are phrases, or "everyday" words: those that the image model draws a concept from are forgotten with it.
    `on_top` is a method that changes the denoiser; its change is added, and the result fits one video model only. With
    `resume`, what is finished in the folder `out` is used if it is what is asked for.
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
        require_lists(concepts=self.concepts, synonyms=self.synonyms, keep=self.keep)
        if self.wordings != EVERYDAY_WORDS:
            require_lists(wordings=self.wordings)

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
        """The names to keep besides everyday concepts."""
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
        """The concepts. One without a kind has the kind under which the pair lists its name."""
        words = pair.vocabulary if pair else None
        return [replace(each, kind=each.kind or self.kind).as_concept(words) for each in self.takedowns]


def require_sensible(job: UnlearnJob, *, here: bool = True) -> None:
    """Raises UnreelError for what is known to be wrong before anything is loaded, on this machine unless not `here`."""
    if job.synonyms and len(job.concepts) > 1:
        raise UnreelError(
            "synonyms belong to one concept: put each into a row of a table, with its own, and unlearn all rows with "
            "`unreel batch TABLE --together NAME`"
        )
    for concept in as_concepts(job.concepts_of()):
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
    require_known_judge(job.judge)
    if here:
        job.place.require()


def _require_on_top(job: UnlearnJob) -> None:
    """Raises UnreelError if the job's second method is not one to put on top of the first."""
    first, second = (load_method(method).NEEDS == "video" for method in job.methods)
    if first or not second:
        raise UnreelError(
            f"{job.on_top} does not go on top of {job.method}: --method is to be one that changes text encoders, --on-top "
            "one that changes what denoises, for example uce"
        )


def loaded(job: UnlearnJob, load: Callable[..., Pair]) -> Pair:
    """The pair. Its text encoders, and the image model if it is needed, are on the job's device; the rest is in main
    memory. Raises UnreelError if videos are asked of a text encoder alone.
    """
    needs, place = {load_method(method).NEEDS for method in job.methods}, job.place
    # Text alone needs neither image nor video model, unless there is something to show.
    loads_text_only = needs == {"text"} and not job.videos and not job.wordings
    makes = {"makes_images": "images" in needs or bool(job.wordings), "makes_videos": bool(job.videos) or "video" in needs}
    pair = load(job.t2i, job.t2v, text_only=loads_text_only, dtype=place.of_weights["dtype"], **makes)
    if job.videos and isinstance(pair.t2v, TextModel):
        raise UnreelError(f"{job.t2v} is a text encoder, which makes no videos: add --videos 0")
    pair = job.sampling.onto(pair)
    moves_text_only = "images" not in needs and not job.wordings
    move(pair.t2i, pair.t2i_source, place.device, offload=place.offload, text_only=moves_text_only)
    return pair


def judge_for(job: UnlearnJob, pair: Pair, tell: Tell) -> Judge | None:
    """The judge of the job's videos; None if there are none, or if they are to be compared by eye. Tells of concepts
    that are unknown to the judge of a pair with a world of its own, since it knows all that is in that world.
    """
    own = judge_of(None, job.t2v, job.place.device) if world_of(job.t2v) else None
    for name in (each.name for each in job.concepts_of(pair) if own and not own.knows(each.name)):
        alike = " or ".join(map(repr, spelled_alike(name, pair.vocabulary)))
        tell("unknown", f"{name!r} is not listed in this pair's world" + (f": do you mean {alike}?" if alike else ""))
    if not job.videos:
        return None
    judge = judge_of(job.judge, job.t2v, job.place.device) if job.judge else own
    unknown = [each.name for each in job.concepts_of() if judge and not judge.knows(each.name)]
    if unknown and job.judge:
        raise UnreelError(f"the {job.judge} judge does not know {unknown[0]!r}: choose another with --judge")
    return None if unknown else judge  # nobody asked for one that does not know it
