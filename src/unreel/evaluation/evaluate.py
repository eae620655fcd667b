"""The same prompts and seeds in the original and the edited model: which prompts, and their videos.

Knows prompts and videos; knows nothing about how the intervention was made, and leaves every figure to `metrics`.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unreel.errors import UnreelError, summarise
from unreel.evaluation.run import Evaluation, Group
from unreel.evaluation.run_folder import CLIPS_FOLDER, claimed
from unreel.evaluation.video_cache import VideoCache, dtype_of, require_room
from unreel.interventions import require_original
from unreel.interventions.base import Intervention
from unreel.judges import Judge, judge_identity
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Pair, VideoModel
from unreel.models.reading import nearest
from unreel.progress import Tell, nobody
from unreel.prompts import captions
from unreel.prompts.concept import Concept, naming
from unreel.prompts.files import PromptRow
from unreel.prompts.kinds import OBJECT_TEMPLATES
from unreel.prompts.suite import ERASED, GROUPS, Prompt, suite
from unreel.prompts.vocabulary import EVERYDAY, KINDS, Vocabulary
from unreel.versions import versions

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

UNRELATED_PROMPTS = 1000


def concept_of(erasure: Intervention, name: str | None = None) -> Concept:
    """The concept an erasure is about; `name` chooses among several. Raises UnreelError if it is not among them."""
    parts = erasure.provenance["parts"]
    if name is None and len(erasure.concepts) > 1:
        raise UnreelError(f"this erasure is of {', '.join(erasure.concepts)}: choose one with --concept")
    for part in parts:
        if name is None or name.lower() == part["concept"].lower():
            return Concept.recorded(part)
    raise UnreelError(
        f"this erasure is of {', '.join(erasure.concepts)}, not of {name}: choose one of these with --concept"
    )


def unrelated_prompts(concept: Concept, judge: Judge | None, erased: Iterable[Concept]) -> list[str]:
    """1,000 prompts that do not ask for the concept, or fewer if there are not so many."""
    others = vocabulary(concept, judge, erased)["concept"]
    prompts = [template.format(name) for template, name in product(OBJECT_TEMPLATES, others)]
    return random.Random(0).sample(prompts, min(UNRELATED_PROMPTS, len(prompts)))


def with_anchor(concept: Concept, erasure: Intervention) -> Concept:
    """The concept with its own anchor, or else the one that the erasure records. Few-shot records none."""
    parts = [part for part in erasure.provenance["parts"] if part["concept"].lower() == concept.name.lower()]
    recorded = next((part["anchor"] for part in parts if "anchor" in part), None)
    return concept if concept.anchor is not None else replace(concept, anchor=recorded)


def erased_by(erasure: Intervention) -> list[Concept]:
    """All that an erasure is of, each with the other words that were forgotten with it."""
    return [Concept.recorded(part) for part in erasure.provenance["parts"]]


def vocabulary(concept: Concept, judge: Judge | None, erased: Iterable[Concept] = ()) -> Vocabulary:
    """Labels to ask for besides the concept, by kind: the judge's own, or everyday words. Leaves out what names the
    concept or anything in `erased`.
    """
    # A judge of nudity has no good neighbours to offer.
    words = judge.vocabulary if judge and judge.vocabulary else EVERYDAY
    gone = naming(_with_all_wordings(each, judge) for each in (concept, *erased))
    kinds = {kind: words.get(kind, []) for kind in KINDS}
    kinds["person"] = words.get("person") or kinds["concept"]  # where nobody has listed persons
    if words is EVERYDAY and concept.traits.listed == "person":  # which lists few of them, and nobody by name
        kinds["person"] = [*kinds["person"], *captions.everyday()["famous"]]
    return {kind: [label for label in labels if not gone(label)] for kind, labels in kinds.items()}


def _with_all_wordings(concept: Concept, judge: Judge | None) -> Concept:
    """The concept with the judge's wordings of it as further synonyms. It has no anchor here, since a judge may use the
    anchor's words for the concept too.
    """
    synonyms = dict.fromkeys([*concept.synonyms, *(judge.wordings(concept.name) if judge else [])])
    return Concept(concept.name, concept.kind, tuple(synonyms))


def build_suite(
    conditioner: Conditioner,
    concept: Concept,
    judge: Judge | None,
    *,
    videos: int,
    seed: int,
    groups: Iterable[str] = GROUPS,
    own_prompts: Sequence[PromptRow] = (),
    erased: Sequence[Concept] = (),
) -> list[Prompt]:
    """The prompts of an evaluation, each with its seed: `videos` for each of unreel's groups (0: none of those), then
    all `own_prompts`. A group of own prompts that only partly asks for the concept is split in two.

    What is `erased` besides the concept is not asked for.

    Raises UnreelError for unknown groups, for no videos, for prompts that the judge cannot judge, and for a group that
    already has the name of such a second part.
    """
    groups = tuple(groups)
    require_sensible(videos, seed, groups, own_prompts)
    words = vocabulary(concept, judge, erased)
    for which in {concept.traits.neighbours, "concept"} if set(groups) - set(ERASED) else ():  # ERASED need no others
        words[which] = nearest(conditioner, concept.name, words[which])
    named = _with_all_wordings(concept, judge)
    gone = naming([each for each in erased if each.name.casefold() != concept.name.casefold()])
    prompts = suite(concept, words, named.synonyms, videos=videos, seed=seed, groups=groups, gone=gone)
    repetitions: Counter[tuple[str, str]] = Counter()
    labels = [concept.name if row.label is None or named.is_spelled(row.label) else row.label for row in own_prompts]
    groups_of = _groups_by_label(own_prompts, [label == concept.name for label in labels])
    for index, (row, label, group) in enumerate(zip(own_prompts, labels, groups_of, strict=True)):
        if judge and label and not judge.knows(label):
            raise UnreelError(f"the judge does not know {label!r}, which the prompt {row.text!r} asks to look for")
        number = seed + index if row.seed is None else row.seed
        prompts.append(Prompt(row.text, group, label, number, repetition=repetitions[row.text, group]))
        repetitions[row.text, group] += 1
    return prompts


def require_sensible(videos: int, seed: int, groups: Iterable[str], own_prompts: Sequence[PromptRow] = ()) -> None:
    """Raises UnreelError for what of `build_suite`'s arguments is known to be wrong before a model is loaded."""
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise UnreelError(f"unknown prompt group {unknown[0]!r}: choose from {', '.join(GROUPS)}")
    if videos < (0 if own_prompts else 1):
        raise UnreelError(f"an evaluation needs at least one video for each group, or prompts of your own, not {videos}")
    if seed < 0:
        raise UnreelError(f"the seed must be zero or more, not {seed}")


def _groups_by_label(rows: Sequence[PromptRow], naming: Sequence[bool]) -> list[str]:
    """The group of each row. If a group has rows that ask for the concept (`naming`) and rows that do not, the latter go
    into '<group>: others'. Raises UnreelError if a group of that name exists.
    """
    sorts = {(row.group, named) for row, named in zip(rows, naming, strict=True)}
    apart = {group: f"{group}: others" for group, named in sorts if named and (group, False) in sorts}
    for group, others in apart.items():
        if {(others, True), (others, False)} & sorts:
            raise UnreelError(f"prompts of {group!r} that ask for something else are {others!r}: call that group otherwise")
    return [row.group if named else apart.get(row.group, row.group) for row, named in zip(rows, naming, strict=True)]


def evaluate(
    model: "VideoModel | DiffusionPipeline",
    erasure: Intervention,
    judge: Judge | None,
    *,
    concept: Concept | None = None,
    videos: int = 20,
    seed: int = 1000,
    groups: Iterable[str] = GROUPS,
    own_prompts: Sequence[PromptRow] = (),
    folder: str | Path | None = None,
    clips: str | Path | None = None,
    tell: Tell = nobody,
) -> Evaluation:
    """Generate every prompt of the suite with the original and the edited model, from the same seeds, ready to be measured.
    A pipeline is sampled from as `Pair.of` has it.

    If the concept has an anchor, or the erasure records one for it, the original model also makes videos of the anchor
    prompts of prompts that name the concept: what the edited model makes in the concept's place is compared with them.
    `folder` keeps the finished videos (in `clips`, by default its own), so that the same call goes on where it was killed.
    Several runs may share `clips`, at once too: what one has made, none makes again.
    `tell` gets news of what takes much room there, and of groups
    that are left out. Without a judge, videos are compared but nothing is looked for in them.
    Raises UnreelError, before anything is generated, if the erasure is for another text encoder, the judge does not know
    the concept, the folder holds another run, or the disk has no room for the videos.
    """
    model, groups = model if isinstance(model, VideoModel) else Pair.of(model).video, tuple(groups)
    concept = with_anchor(concept or concept_of(erasure), erasure)
    conditioner = Conditioner.of(model.pipeline)
    if judge and not judge.knows(concept.name):
        known = ", ".join(label for labels in judge.vocabulary.values() for label in labels)
        hint = f" (it knows {known})" if known else ""
        raise UnreelError(f"the {judge.name} does not know {concept.name!r}{hint}: choose another with --judge")
    options: dict[str, Any] = {"videos": videos, "seed": seed, "groups": groups, "own_prompts": own_prompts}
    erased = erased_by(erasure)
    prompts = build_suite(conditioner, concept, judge, **options, erased=erased)
    _asked_for(prompts, groups if videos else (), tell)
    # The user's own prompts may be too long: pipelines cut them off.
    ours = [prompt for prompt in prompts if prompt.group in GROUPS]
    conditioner.require_room_for([prompt.text for prompt in ours] + [prompt.anchor for prompt in ours if prompt.anchor])
    erasure.require_matching(model.pipeline)
    require_original(model.pipeline)
    home = None if folder is None else Path(folder)
    kept = Path(clips) if clips else home and home / CLIPS_FOLDER
    cache = VideoCache(model, kept, begin=False)
    groups_by_name = {
        name: Group(name, [prompt for prompt in prompts if prompt.group == name], concept, judge, cache, erasure)
        for name in dict.fromkeys(prompt.group for prompt in prompts)
    }
    arms = ("original", "anchor", "edited")
    batches = [batch for arm in arms for group in groups_by_name.values() for batch in group.batches.get(arm, ())]
    left = sum(len(batch.prompts) for batch in batches if not batch.finished)
    require_room(model, kept, left, left, tell)
    what = measured_with(model, erasure, judge) | {"prompts": [_decisive(prompt) for prompt in prompts]}
    with claimed(home, what) if home else nullcontext():
        cache.begin()
        cache.make(batches, "evaluating")
    unrelated = unrelated_prompts(concept, judge, erased)
    return Evaluation(model, erasure, concept, judge, groups_by_name, unrelated)


def _asked_for(prompts: Sequence[Prompt], groups: Sequence[str], tell: Tell) -> None:
    """Tells which groups have nothing to ask for. Raises UnreelError if none of them has a prompt."""
    if not prompts:
        raise UnreelError("none of these groups of prompts has anything to ask for with this judge: choose others")
    if left := [group for group in groups if group not in {prompt.group for prompt in prompts}]:
        tell("left out", f"{summarise(left)}: there is nothing to ask for with this judge")


def _decisive(prompt: Prompt) -> dict[str, Any]:
    """All of a prompt that decides what is made of it and looked for in it."""
    return {name: value for name, value in asdict(prompt).items() if name != "repetition"}


def measured_with(model: VideoModel, erasure: Intervention, judge: Judge | None) -> dict[str, Any]:
    """All besides prompts and seeds that decides the videos of a run and what is found in them."""
    settings = model.settings
    return {
        "erasure": erasure.identity,
        "model": model.source,
        "settings": settings.sampling | {"fps": settings.fps, "batch": settings.batch},
        "dtype": dtype_of(model.pipeline),
        "judge": judge and judge_identity(judge),
        "versions": versions(),
    }
