"""Did it work, and what else broke? The same prompts and seeds with and without an erasure, judged and measured.

Knows prompts, videos and judges; knows nothing about how the erasure was made, and leaves every figure to `metrics`.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from unreel.clips import Batch, ClipStore
from unreel.concept import OBJECT_TEMPLATES, Concept
from unreel.conditioner import Conditioner
from unreel.erasure import Erasure
from unreel.errors import UnreelError
from unreel.files import write_json
from unreel.judges import Judge
from unreel.metrics import Figure, measure
from unreel.pair import VideoModel
from unreel.prompt_files import PromptRow
from unreel.prompts import GROUPS, Prompt, suite, vocabulary_kind
from unreel.vocabulary import EVERYDAY, KINDS, Vocabulary, nearest

RUN_FILE, CLIPS_FOLDER = "run.json", "clips"
UNRELATED_PROMPTS = 1000


class Group:
    """The videos of one purpose, each made twice from one seed: without the erasure ("before") and with it ("after")."""

    def __init__(
        self, name: str, prompts: list[Prompt], concept: Concept, judge: Judge | None, store: ClipStore, erasure: Erasure
    ):
        self.name, self.prompts, self.concept, self.judge, self.store = name, prompts, concept, judge, store
        texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
        self.batches: dict[str, list[Batch]] = {
            "before": store.batches(texts, seeds),
            "after": store.batches(texts, seeds, erasure),
        }
        self._seen: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}

    @property
    def asks_for_concept(self) -> bool:
        return self.name == "companions" or any(prompt.label == self.concept.name for prompt in self.prompts)

    @property
    def asks_for_others(self) -> bool:
        """Whether all of its prompts ask for something else, or something besides, that the judge can tell."""
        judge, labels = self.judge, {prompt.label for prompt in self.prompts}
        return judge is not None and self.concept.name not in labels and all(map(judge.knows, labels))

    def videos(self, when: str) -> Iterator[np.ndarray]:
        """(frames, height, width, 3) uint8 each, read from disk one batch at a time."""
        return self.store.read(self.batches[when])

    def concept_found(self, when: str) -> np.ndarray:
        """Whether the judge finds the concept: (n, frames) bool."""
        return self._judged(when)[0]

    def label_found(self, when: str) -> np.ndarray:
        """Whether the judge finds what else each prompt asks for; the concept, where it can tell nothing else."""
        return self._judged(when)[1]

    def features(self, when: str) -> np.ndarray | None:
        """What the judge sees: (n, frames, width), or None if there is no judge or it has no features."""
        return self._judged(when)[2] if self.judge else None

    def _judged(self, when: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if when not in self._seen:
            judge = self.judge
            assert judge is not None
            concept, label, features = [], [], []
            for prompt, video in zip(self.prompts, self.videos(when), strict=True):
                other = prompt.label if judge.knows(prompt.label) else self.concept.name
                found = judge.probabilities(video[None], [self.concept.name, other])[0] >= judge.threshold
                concept.append(found[:, 0])
                label.append(found[:, 1])
                features.append(judge.features(video[None]))
            seen = None if features[0] is None else np.concatenate([shown for shown in features if shown is not None])
            self._seen[when] = np.stack(concept), np.stack(label), seen
        return self._seen[when]


class Evaluation:
    """One erasure on one video model: its groups of videos and every figure about them."""

    def __init__(
        self, model: VideoModel, erasure: Erasure, concept: Concept, judge: Judge | None, groups: dict[str, Group]
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

    def seconds(self, when: str) -> np.ndarray:
        """Seconds to generate one video, a figure for every batch."""
        return np.concatenate([group.store.seconds(group.batches[when]) for group in self.groups.values()])

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


def concept_of(erasure: Erasure, name: str | None = None) -> Concept:
    """The concept an erasure is about; `name` chooses among several. Raises UnreelError if it is not among them."""
    parts = erasure.provenance["parts"]
    if name is None and len(parts) > 1:
        raise UnreelError(f"this erasure is of {', '.join(erasure.concepts)}: choose one with --concept")
    for part in parts:
        if name is None or name.lower() == part["concept"].lower():
            return Concept(part["concept"], part["kind"], tuple(part["synonyms"]), part.get("anchor"))
    raise UnreelError(f"this erasure is of {', '.join(erasure.concepts)}, not of {name}")


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
    kind = vocabulary_kind(concept)
    for which in {kind, "concept"}:
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
    erasure: Erasure,
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
    """Generate every prompt of the suite without and with the erasure, from the same seeds, ready to be measured.

    `folder` keeps the finished videos (in `clips`, by default its own), so that the same call goes on where it was killed.
    Without a judge, videos are compared but nothing is looked for in them.
    Raises UnreelError, before anything is generated, if the erasure is for another text encoder, the judge does not know
    the concept, or the folder holds another run.
    """
    concept = concept or concept_of(erasure)
    conditioner = Conditioner.of(model.pipeline)
    if judge and not judge.knows(concept.name):
        known = ", ".join(label for labels in judge.vocabulary.values() for label in labels)
        hint = f" (it knows {known})" if known else ""
        raise UnreelError(f"the {judge.name} does not know {concept.name!r}{hint}: choose another with --judge")
    options: dict[str, Any] = {"videos": videos, "seed": seed, "groups": groups, "given": given}
    prompts = build_suite(conditioner, concept, judge, **options, erased=erasure.concepts)
    # Prompts of other people may be long: those are cut off, as pipelines do.
    conditioner.require_room_for([prompt.text for prompt in prompts if prompt.group in GROUPS])
    erasure.apply(model.pipeline)  # refuses another text encoder
    erasure.remove(model.pipeline)
    home = None if folder is None else Path(folder)
    if home:
        what = {"erasure": erasure.identity, "model": model.source, "settings": asdict(model.settings)}
        claim(home, what | {"judge": judge and judge.name, "prompts": [asdict(prompt) for prompt in prompts]})
    store = ClipStore(model, Path(clips) if clips else home and home / CLIPS_FOLDER)
    purposes = {
        name: Group(name, [prompt for prompt in prompts if prompt.group == name], concept, judge, store, erasure)
        for name in dict.fromkeys(prompt.group for prompt in prompts)
    }
    store.make(
        [batch for when in ("before", "after") for g in purposes.values() for batch in g.batches[when]], "evaluating"
    )
    return Evaluation(model, erasure, concept, judge, purposes)


def claim(folder: Path, run: dict[str, Any]) -> None:
    """Make `folder` this run's. Raises UnreelError if it is another's, or anything else than a run's."""
    document = json.loads(json.dumps(run))
    file = folder / RUN_FILE
    if file.is_file():
        try:
            stored = json.loads(file.read_text())
        except ValueError:
            stored = {}
        differs = [key for key in document if stored.get(key) != document[key]]
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
