"""Did it work, and what else broke? The same prompts and seeds in the original and the edited model, judged and measured.

Knows prompts, videos and judges; knows nothing about how the erasure was made, and leaves every figure to `metrics`.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unreel.errors import UnreelError
from unreel.evaluation.video_cache import Batch, ClipStore
from unreel.files import write_json
from unreel.interventions.base import Intervention
from unreel.judges import Judge
from unreel.metrics import Figure, measure
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Settings, VideoModel
from unreel.prompts.concept import Concept
from unreel.prompts.files import PromptRow
from unreel.prompts.grammar import bare
from unreel.prompts.kinds import OBJECT_TEMPLATES
from unreel.prompts.suite import GROUPS, Prompt, suite
from unreel.prompts.vocabulary import EVERYDAY, KINDS, Vocabulary, nearest

RUN_FILE, CLIPS_FOLDER = "run.json", "clips"
UNRELATED_PROMPTS = 1000


class Seen(NamedTuple):
    """What a judge saw in n videos: the concept, the label and the anchor, each (n, frames) bool, and its features
    (n, frames, width) or None.
    """

    concept: np.ndarray
    label: np.ndarray
    anchor: np.ndarray
    features: np.ndarray | None


class Group:
    """The videos of one purpose, made from the same seeds by the original model ("before") and by the edited one ("after").

    Where its prompts have anchor prompts, the original model's videos of those are a third arm ("anchor").
    """

    def __init__(
        self,
        name: str,
        prompts: list[Prompt],
        concept: Concept,
        judge: Judge | None,
        store: ClipStore,
        erasure: Intervention,
    ):
        self.name, self.prompts, self.concept, self.judge, self.store = name, prompts, concept, judge, store
        texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
        self.batches: dict[str, list[Batch]] = {
            "before": store.batches(texts, seeds),
            "after": store.batches(texts, seeds, erasure),
        }
        self.anchors = [prompt.anchor for prompt in prompts if prompt.anchor is not None]
        if len(self.anchors) == len(prompts):
            self.batches["anchor"] = store.batches(self.anchors, seeds)
        self._seen: dict[str, Seen] = {}

    @property
    def has_anchor(self) -> bool:
        return "anchor" in self.batches

    @property
    def anchor_label(self) -> str:
        """The anchor without its article, as judges know things; empty without one."""
        return bare(self.concept.anchor or "")

    @property
    def knows_anchor(self) -> bool:
        """Whether the judge can tell if a video shows the anchor."""
        return self.judge is not None and self.anchor_label != "" and self.judge.knows(self.anchor_label)

    @property
    def asks_for_concept(self) -> bool:
        return self.name == "companions" or any(prompt.label == self.concept.name for prompt in self.prompts)

    @property
    def asks_for_others(self) -> bool:
        """Whether all of its prompts ask for something else, or something besides, that the judge can tell."""
        judge, labels = self.judge, {prompt.label for prompt in self.prompts}
        return judge is not None and self.concept.name not in labels and all(map(judge.knows, labels))

    def videos(self, arm: str) -> Iterator[np.ndarray]:
        """(frames, height, width, 3) uint8 each, read from disk one batch at a time."""
        return self.store.read(self.batches[arm])

    def concept_found(self, arm: str) -> np.ndarray:
        """Whether the judge finds the concept: (n, frames) bool."""
        return self._judged(arm).concept

    def label_found(self, arm: str) -> np.ndarray:
        """Whether the judge finds what else each prompt asks for; the concept, where it can tell nothing else."""
        return self._judged(arm).label

    def anchor_found(self, arm: str) -> np.ndarray:
        """Whether the judge finds the anchor; means nothing unless `knows_anchor`."""
        return self._judged(arm).anchor

    def features(self, arm: str) -> np.ndarray | None:
        """What the judge sees: (n, frames, width), or None if there is no judge or it has no features."""
        return self._judged(arm).features if self.judge else None

    def _judged(self, arm: str) -> Seen:
        if arm not in self._seen:
            judge = self.judge
            assert judge is not None
            anchor = self.anchor_label if self.knows_anchor else self.concept.name
            found, features = [], []
            for prompt, video in zip(self.prompts, self.videos(arm), strict=True):
                labels = [self.concept.name, prompt.label if judge.knows(prompt.label) else self.concept.name, anchor]
                found.append(judge.probabilities(video[None], labels)[0] >= judge.threshold)
                features.append(judge.features(video[None]))
            concept, label, shown = np.moveaxis(np.stack(found), -1, 0)
            seen = None if features[0] is None else np.concatenate([each for each in features if each is not None])
            self._seen[arm] = Seen(concept, label, shown, seen)
        return self._seen[arm]


class Evaluation:
    """One erasure on one video model: its groups of videos and every figure about them."""

    def __init__(
        self, model: VideoModel, erasure: Intervention, concept: Concept, judge: Judge | None, groups: dict[str, Group]
    ):
        self.model, self.erasure, self.concept, self.judge, self.groups = model, erasure, concept, judge, groups

    @property
    def conditioners(self) -> list[Conditioner]:
        return list(Conditioner.all_of(self.model.pipeline).values())

    @property
    def unrelated_prompts(self) -> list[str]:
        """1,000 prompts that do not ask for the concept, or fewer if there are not so many."""
        others = vocabulary(self.concept, self.judge, self.erasure.concepts)["concept"]
        prompts = [template.format(name) for template, name in product(OBJECT_TEMPLATES, others)]
        return random.Random(0).sample(prompts, min(UNRELATED_PROMPTS, len(prompts)))

    def seconds(self, arm: str) -> np.ndarray:
        """Seconds to generate one video, a figure for every batch."""
        return np.concatenate([group.store.seconds(group.batches[arm]) for group in self.groups.values()])

    @cached_property
    def figures(self) -> list[Figure]:
        return list(measure(self))

    def figure(self, metric: str, group: str = "") -> Figure:
        """Raises KeyError if it was not measured."""
        for figure in self.figures:
            if (figure.metric, figure.group) == (metric, group):
                return figure
        raise KeyError(f"{metric} of {group or 'all prompts'}")

    def metrics(self) -> dict[str, Any]:
        """Every figure as plain data: metrics()[group][metric]["before" | "after"], group "all" for what has none."""
        out: dict[str, dict[str, Any]] = {}
        for figure in self.figures:
            values = {when: asdict(estimate) for when, estimate in figure.estimates.items()}
            out.setdefault(figure.group or "all", {})[figure.metric] = values
        return out


def concept_of(erasure: Intervention, name: str | None = None) -> Concept:
    """The concept an erasure is about; `name` chooses among several. Raises UnreelError if it is not among them."""
    parts = erasure.provenance["parts"]
    if name is None and len(parts) > 1:
        raise UnreelError(f"this erasure is of {', '.join(erasure.concepts)}: choose one with --concept")
    for part in parts:
        if name is None or name.lower() == part["concept"].lower():
            return Concept(part["concept"], part["kind"], tuple(part["synonyms"]), part.get("anchor"))
    raise UnreelError(f"this erasure is of {', '.join(erasure.concepts)}, not of {name}")


def with_anchor(concept: Concept, erasure: Intervention) -> Concept:
    """The concept with the anchor that the erasure records for it, unless it has one of its own; few-shot records none."""
    parts = [part for part in erasure.provenance["parts"] if part["concept"].lower() == concept.name.lower()]
    recorded = next((part["anchor"] for part in parts if "anchor" in part), None)
    return concept if concept.anchor is not None else replace(concept, anchor=recorded)


def vocabulary(concept: Concept, judge: Judge | None, erased: Iterable[str] = ()) -> Vocabulary:
    """What else can be asked for, by kind: the judge's own labels, or everyday words; without the concept itself and
    whatever else is `erased`."""
    # A judge of nudity has no good neighbours to offer.
    words = judge.vocabulary if judge and judge.vocabulary else EVERYDAY
    names = [concept.name, *erased]
    same = {name.lower() for name in (*names, *concept.synonyms)}
    same |= {word.lower() for name in names for word in judge.wordings(name)} if judge else set()
    kinds = {kind: words.get(kind, []) for kind in KINDS}
    kinds["person"] = words.get("person") or kinds["concept"]  # where nobody has listed persons
    return {kind: [label for label in labels if label.lower() not in same] for kind, labels in kinds.items()}


def build_suite(
    conditioner: Conditioner,
    concept: Concept,
    judge: Judge | None,
    *,
    videos: int,
    seed: int,
    groups: Iterable[str] = GROUPS,
    given: Sequence[PromptRow] = (),
    erased: Iterable[str] = (),
) -> list[Prompt]:
    """The prompts of an evaluation, each with its seed: `videos` for each of unreel's groups, and all of `given`.

    What is `erased` besides the concept is not asked for.

    Raises UnreelError for unknown groups, for no videos, and for prompts the judge cannot judge.
    """
    groups = tuple(groups)
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise UnreelError(f"unknown prompt group {unknown[0]!r}: choose from {', '.join(GROUPS)}")
    if videos < 1:
        raise UnreelError(f"an evaluation needs at least one video for each group, not {videos}")
    if seed < 0:
        raise UnreelError(f"the seed must be zero or more, not {seed}")
    words = vocabulary(concept, judge, erased)
    for which in {concept.traits.neighbours, "concept"}:
        words[which] = nearest(conditioner, concept.name, words[which])
    synonyms = list(dict.fromkeys([*concept.synonyms, *(judge.wordings(concept.name) if judge else [])]))
    prompts = suite(concept, words, synonyms, videos=videos, seed=seed, groups=groups)
    for index, row in enumerate(given):
        label = row.label or concept.name
        if judge and not judge.knows(label):
            raise UnreelError(f"the judge does not know {label!r}, which the prompt {row.text!r} asks to look for")
        prompts.append(Prompt(row.text, row.group, label, seed + index if row.seed is None else row.seed))
    return prompts


def evaluate(
    model: VideoModel,
    erasure: Intervention,
    judge: Judge | None,
    *,
    concept: Concept | None = None,
    videos: int = 20,
    seed: int = 1000,
    groups: Iterable[str] = GROUPS,
    given: Sequence[PromptRow] = (),
    folder: str | Path | None = None,
    clips: str | Path | None = None,
) -> Evaluation:
    """Generate every prompt of the suite with the original and the edited model, from the same seeds, ready to be measured.

    So that what the edited model makes in the concept's place can be measured too, the original model also makes the anchor
    prompts of prompts that name the concept, if the concept has an anchor, or the erasure records one for it.
    `folder` keeps the finished videos (in `clips`, by default its own), so that the same call goes on where it was killed.
    Without a judge, videos are compared but nothing is looked for in them.
    Raises UnreelError, before anything is generated, if the erasure is for another text encoder, the judge does not know
    the concept, or the folder holds another run.
    """
    concept = with_anchor(concept or concept_of(erasure), erasure)
    conditioner = Conditioner.of(model.pipeline)
    if judge and not judge.knows(concept.name):
        known = ", ".join(label for labels in judge.vocabulary.values() for label in labels)
        hint = f" (it knows {known})" if known else ""
        raise UnreelError(f"the {judge.name} does not know {concept.name!r}{hint}: choose another with --judge")
    options: dict[str, Any] = {"videos": videos, "seed": seed, "groups": groups, "given": given}
    prompts = build_suite(conditioner, concept, judge, **options, erased=erasure.concepts)
    # Prompts of other people may be long: those are cut off, as pipelines do.
    own = [prompt for prompt in prompts if prompt.group in GROUPS]
    conditioner.require_room_for([prompt.text for prompt in own] + [prompt.anchor for prompt in own if prompt.anchor])
    erasure.require_matching(model.pipeline)
    home = None if folder is None else Path(folder)
    if home:
        what = {"erasure": erasure.identity, "model": model.source, "settings": sampling_of(model.settings)}
        claim(home, what | {"judge": judge and judge.name, "prompts": [asdict(prompt) for prompt in prompts]})
    store = ClipStore(model, Path(clips) if clips else home and home / CLIPS_FOLDER)
    purposes = {
        name: Group(name, [prompt for prompt in prompts if prompt.group == name], concept, judge, store, erasure)
        for name in dict.fromkeys(prompt.group for prompt in prompts)
    }
    arms = ("before", "anchor", "after")
    store.make([batch for arm in arms for g in purposes.values() for batch in g.batches.get(arm, ())], "evaluating")
    return Evaluation(model, erasure, concept, judge, purposes)


def sampling_of(settings: Settings) -> dict[str, Any]:
    """All that decides the videos of a run."""
    return settings.sampling | {"fps": settings.fps, "batch": settings.batch}


def claim(folder: Path, run: dict[str, Any]) -> None:
    """Make `folder` this run's. Raises UnreelError if it is another's, or anything else than a run's."""
    document = json.loads(json.dumps(run))
    file = folder / RUN_FILE
    if file.is_file():
        try:
            stored = json.loads(file.read_text())
        except (ValueError, RecursionError):
            stored = None
        if not isinstance(stored, dict):
            raise UnreelError(f"{file} is broken: choose another folder with --out, or delete that one")
        differs = [key for key, value in document.items() if not _same(stored.get(key), value)]
        if differs:
            raise UnreelError(
                f"{folder} holds the results of another run (its {' and '.join(differs)} differ): choose another folder "
                "with --out, or delete that one"
            )
        return
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UnreelError(f"{folder} exists and is no folder of an evaluation or attack: choose another with --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, document)


def _same(stored: Any, value: Any) -> bool:
    """Whether a run's stored setting is that one; what earlier versions of unreel stored besides makes no difference."""
    if isinstance(stored, dict) and isinstance(value, dict):
        return all(name in stored and stored[name] == it for name, it in value.items())
    return bool(stored == value)
