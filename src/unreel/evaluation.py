"""Did it work, and what else broke? The same prompts and seeds with and without an erasure, judged.

Knows prompts, videos and judges; knows nothing about how the erasure was made.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from unreel.concept import Concept
from unreel.conditioner import Conditioner
from unreel.erasure import Erasure
from unreel.judges import Judge
from unreel.metrics import Share, found_in_video
from unreel.pair import Pair
from unreel.video import generate

NEIGHBOURS = 10
SUBJECT_PROMPTS = (
    "a photo of a {}",
    "a video of a {}",
    "a bouncing {}",
    "a spinning {}",
    "a {} sliding",
)
SUBJECTS_FOR_STYLES_AND_MOTIONS = ("cat", "castle", "penguin", "guitar", "robot", "rocket", "house", "owl")


def target_prompts(concept: Concept) -> list[str]:
    """Prompts that ask for the concept in plain words."""
    if concept.kind == "style":
        return [f"a {subject} in the style of {concept.name}" for subject in SUBJECTS_FOR_STYLES_AND_MOTIONS]
    if concept.kind == "motion":
        return [f"a {subject} {concept.name}" for subject in SUBJECTS_FOR_STYLES_AND_MOTIONS]
    return [prompt.format(concept.name) for prompt in SUBJECT_PROMPTS]


@dataclass(frozen=True)
class Clip:
    """One prompt and seed, generated twice, and whether the judge found `label`: (frames,) bool, None if unjudged."""

    prompt: str
    label: str
    seed: int
    before: np.ndarray
    after: np.ndarray
    found_before: np.ndarray | None
    found_after: np.ndarray | None


@dataclass(frozen=True)
class Group:
    """The clips of one purpose: the target, or what should stay."""

    clips: list[Clip]

    def share(self, when: str) -> Share:
        """Share of videos that show what was asked for, `when` "before" or "after"."""
        flags = [getattr(clip, f"found_{when}") for clip in self.clips]
        return Share.of(np.concatenate([found_in_video(frames[None]) for frames in flags]))

    def figures(self) -> dict[str, Any]:
        return {when: asdict(self.share(when)) for when in ("before", "after")}


@dataclass(frozen=True)
class Evaluation:
    """Groups `target` and, where a judge knows what to look for, `neighbours`."""

    concept: Concept
    groups: dict[str, Group]
    judge: Judge | None

    def metrics(self) -> dict[str, Any]:
        if self.judge is None:
            return {}
        return {name: group.figures() for name, group in self.groups.items()}


def nearest(pair: Pair, concept: Concept, names: list[str], count: int = NEIGHBOURS) -> list[str]:
    """The `count` names whose embeddings are most like the concept's, by the pair's own text encoder."""
    conditioner = Conditioner.of(pair.t2i)
    with torch.inference_mode():
        vectors = conditioner.encode([concept.name, *names]).float().mean(1)
        centred = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
        order = (centred[1:] @ centred[0]).argsort(descending=True)
    return [names[i] for i in order[:count].tolist()]


def evaluate(
    pair: Pair, erasure: Erasure, concept: Concept, judge: Judge | None, *, videos: int = 20, seed: int = 1000
) -> Evaluation:
    """Generate and judge `videos` clips of the target and as many of its neighbours, without and with the erasure.

    Each clip uses the same seed both times. A judge that does not know the concept is not asked.
    """
    if judge is not None and not judge.knows(concept.name):
        judge = None
    wanted = {"target": [(prompt, concept.name) for prompt in target_prompts(concept)]}
    if judge is not None:
        names = nearest(pair, concept, judge.neighbours(concept.name))
        wanted["neighbours"] = [(prompt.format(name), name) for prompt in SUBJECT_PROMPTS for name in names]
    groups = {}
    for group, rows in wanted.items():
        rows = [rows[i % len(rows)] for i in range(videos)]
        prompts, labels, seeds = [row[0] for row in rows], [row[1] for row in rows], [seed + i for i in range(videos)]
        before = generate(pair.t2v, prompts, seeds, pair.settings, what=f"{group} before")
        erasure.apply(pair.t2v)
        try:
            after = generate(pair.t2v, prompts, seeds, pair.settings, what=f"{group} after")
        finally:
            erasure.remove(pair.t2v)
        seen = [_found(judge, clips, labels) for clips in (before, after)]
        groups[group] = Group(
            [Clip(*row) for row in zip(prompts, labels, seeds, before, after, *seen, strict=True)],
        )
    return Evaluation(concept, groups, judge)


def _found(judge: Judge | None, videos: np.ndarray, labels: list[str]) -> list[np.ndarray | None]:
    if judge is None:
        return [None] * len(videos)
    return [judge.found(video[None], label)[0] for video, label in zip(videos, labels, strict=True)]
