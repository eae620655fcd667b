"""How far an erasure went, and what else it moved, on prompts that nothing was learned from.

Knows text encoders and prompts; knows no pixels, and nothing about how the erasure was made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from unreel.models.conditioner import Conditioner
from unreel.models.reading import Aim, as_anchors, as_guided_from, as_read
from unreel.models.weights import Delta, changed
from unreel.progress import track
from unreel.prompts.pairs import PromptPair, Prompts

PAIRS, NEIGHBOURS, EVERYDAY_PROMPTS = 40, 40, 60
BATCH = 24
WORST = 0.1  # the share of prompts that stand for the worst

# What an erasure may fall short by: shares of the way left, and medians of what others moved by.
MOST_RESIDUAL, MOST_RESIDUAL_OF_WORST, MOST_NEIGHBOURS_MOVED, MOST_EVERYDAY_MOVED = 0.5, 0.9, 0.25, 0.1


@dataclass(frozen=True)
class SelfCheck:
    """Figures of one text encoder on held-out prompts, all of them shares.

    `residual` is how much of the squared distance to the anchor prompts remains, and `residual_worst` the mean over the
    worst tenth of prompts; None where the method aims at no anchor. `moved` is how far prompts that name the concept moved,
    `neighbours` and `everyday` how far prompts about what is near and about all else did: medians over prompts of
    || T'(q) - T(q) || / || T(q) ||. `away` is the same of what guidance leads away from; None where an empty prompt, which
    is an everyday one, stands for it.
    """

    residual: float | None
    residual_worst: float | None
    moved: float
    neighbours: float | None
    everyday: float
    away: float | None = None

    @property
    def shortfalls(self) -> list[str]:
        """What falls short of the stated bars, in words; empty if nothing does."""
        bars = (
            (self.residual, MOST_RESIDUAL, "of the way to the anchor is left"),
            (self.residual_worst, MOST_RESIDUAL_OF_WORST, "of the way is left on the worst tenth of prompts"),
            (self.neighbours, MOST_NEIGHBOURS_MOVED, "is how far prompts about what is near moved"),
            (self.everyday, MOST_EVERYDAY_MOVED, "is how far everyday prompts moved"),
            (self.away, MOST_EVERYDAY_MOVED, "is how far what guidance leads away from moved"),
        )
        # Whatever is no number falls short too.
        return [f"{_percent(v)} {what} (bar: {_percent(bar)})" for v, bar, what in bars if v is not None and not v <= bar]

    def __str__(self) -> str:
        near = "" if self.neighbours is None else f"what is near moved by {_percent(self.neighbours)}, "
        others = f"{near}everyday prompts by {_percent(self.everyday)}"
        if self.away is not None:
            others += f", what guidance leads away from by {_percent(self.away)}"
        if self.residual is None or self.residual_worst is None:
            return f"prompts for the concept moved by {_percent(self.moved)}, {others}"
        worst = f"worst tenth {_percent(self.residual_worst)}"
        return f"{_percent(self.residual)} of the way to the anchor is left ({worst}); {others}"

    def document(self) -> dict[str, Any]:
        """As plain data, in words too."""
        figures = {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}
        return {**figures, "summary": str(self), "shortfalls": self.shortfalls}

    @classmethod
    def worst_of(cls, checks: "Sequence[SelfCheck]") -> "SelfCheck":
        """One of several encoders: the worst of each figure."""

        def most(name: str) -> Any:
            values = [value for check in checks if (value := getattr(check, name)) is not None]
            return float(np.max(values)) if values else None  # what is no number is worse than any

        moved = float(np.min([check.moved for check in checks]))
        return cls(most("residual"), most("residual_worst"), moved, most("neighbours"), most("everyday"), most("away"))


class Exam:
    """What an encoder makes of held-out prompts as it is now, to be compared with what it makes of them changed."""

    def __init__(self, conditioner: Conditioner, prompts: Prompts, near: Sequence[str], *, anchored: bool = True):
        pairs, neighbours, everyday = (
            prompts.pairs(PAIRS),
            prompts.neighbours(near, NEIGHBOURS),
            prompts.everyday(EVERYDAY_PROMPTS),
        )
        self.conditioner, self.anchored = conditioner, anchored
        self.pairs = _batches(conditioner, pairs, as_anchors)
        self.named = _batches(conditioner, pairs, lambda reader, batch: as_read(reader, [pair.prompt for pair in batch]))
        self.neighbours = _batches(conditioner, neighbours, as_read)
        self.everyday = _batches(conditioner, everyday, as_read)
        self.away = [aim for aim in [as_guided_from(conditioner)] if aim]

    def grade(self, deltas: Mapping[str, Delta]) -> SelfCheck:
        """With the changes on; the weights are left as they were found."""
        with changed(self.conditioner.text_encoder, deltas):
            parts = (self.pairs, self.neighbours, self.everyday, self.away)
            states = iter([self._written(aim) for aim in track(list(chain(*parts)), "checking", brief=True)])
            written, *others = (list(islice(states, len(part))) for part in parts)
        near, everyday, away = map(_moved, parts[1:], others)
        residual = _distances(self.pairs, written)
        initial = _distances(self.pairs, [aim.states for aim in self.named])
        moved = _moved(self.named, written)
        anchored = self.anchored and initial.any()
        return SelfCheck(
            residual=float(residual.sum() / initial.sum()) if anchored else None,
            residual_worst=_worst(residual, initial) if anchored else None,
            moved=float(np.median(moved)) if len(moved) else 0.0,
            neighbours=float(np.median(near)) if len(near) else None,
            everyday=float(np.median(everyday)),
            away=float(away[0]) if len(away) else None,
        )

    @torch.no_grad()
    def _written(self, aim: Aim) -> torch.Tensor:
        return self.conditioner.encode_tokens(aim.tokens)


def _worst(residual: np.ndarray, initial: np.ndarray) -> float:
    """The share that is left of the worst tenth. Of a prompt that says nearly the same as its anchor prompt any distance
    would be a multiple of its way: none counts as shorter than half of what is usual.
    """
    shares = np.sort(residual / np.maximum(initial, np.median(initial) / 2))
    return float(shares[-max(1, round(WORST * len(shares))) :].mean())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _batches(conditioner: Conditioner, sentences: Sequence[Any], aim: Callable[..., Aim]) -> list[Aim]:
    ordered = sorted(sentences, key=lambda one: len(one.prompt if isinstance(one, PromptPair) else one))
    starts = track(range(0, len(ordered), BATCH), "reading what to check", brief=True)
    return [aim(conditioner, ordered[start : start + BATCH]) for start in starts]


def _distances(aims: Sequence[Aim], written: Sequence[torch.Tensor]) -> np.ndarray:
    parts = [aim.distances(states).double().cpu().numpy() for aim, states in zip(aims, written, strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _moved(aims: Sequence[Aim], written: Sequence[torch.Tensor]) -> np.ndarray:
    lengths = [aim.squares.double().cpu().numpy() for aim in aims]
    return (_distances(aims, written) / np.concatenate(lengths)) ** 0.5 if lengths else np.zeros(0)
