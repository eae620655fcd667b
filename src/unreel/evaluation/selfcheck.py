"""How far an erasure went, and what else it moved, on prompts that nothing was learned from: measured on the inputs that
the pipeline gives to its network.

Knows text encoders and prompts; knows no pixels, and nothing about how the erasure was made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from math import isnan
from typing import Any

import numpy as np
import torch

from unreel.errors import summarise
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import Delta, changed
from unreel.models.reading import at_places, side_by_side
from unreel.models.weights import doubled
from unreel.progress import Work, drawn
from unreel.prompts.pairs import PromptPair, Prompts

PAIRS, NEIGHBOURS, EVERYDAY_PROMPTS = 40, 40, 60
EACH = 8  # prompts about each of several concepts, if that is more than PAIRS in all
NAMED = 5  # how many concepts that fall short are named
BATCH, AT_ONCE = 24, 8  # prompts of a batch; batches that are read without the changes before they are read with them
WORST = 0.1  # the share of prompts that stand for the worst

# The bars: the largest residual shares, and the largest medians of how far other prompts moved, that pass.
MOST_RESIDUAL, MOST_RESIDUAL_OF_WORST, MOST_NEIGHBOURS_MOVED, MOST_EVERYDAY_MOVED = 0.5, 0.9, 0.25, 0.1


@dataclass(frozen=True)
class SelfCheck:
    """Figures of one text encoder on held-out prompts, all of them shares.

    `residual` is how much of the squared distance to the anchor prompts remains. For several concepts, it is the mean of
    what remains of each (`by_concept`, empty for one), because their initial distances differ. `residual_worst` is the
    mean over the worst tenth of prompts. Both are None if the method aims at no anchor.

    `moved`, `neighbours` and `everyday` are how far prompts that name the concept, prompts about what is near and all
    others moved: medians over prompts of || T'(q) - T(q) || / || T(q) ||, where T(q) is what the network gets of the
    encoder's output. `away` is the same of what guidance leads away from; None if that is an empty prompt, which is
    among the everyday ones.
    """

    residual: float | None
    residual_worst: float | None
    moved: float
    neighbours: float | None
    everyday: float
    away: float | None = None
    by_concept: Mapping[str, float] = field(default_factory=dict)

    @property
    def shortfalls(self) -> list[str]:
        """What falls short of the stated bars, in words; empty if nothing does. Of several concepts, each has to reach
        the bar by itself: in their mean, one that is hardly forgotten would not show.
        """
        bars = (
            (self.residual, MOST_RESIDUAL, "of the way to the anchor is left"),
            (self.residual_worst, MOST_RESIDUAL_OF_WORST, "of the way is left on the worst tenth of prompts"),
            (self.neighbours, MOST_NEIGHBOURS_MOVED, "is how far prompts about what is near moved"),
            (self.everyday, MOST_EVERYDAY_MOVED, "is how far everyday prompts moved"),
            (self.away, MOST_EVERYDAY_MOVED, "is how far what guidance leads away from moved"),
        )
        # NaN falls short too.
        short = [f"{_percent(v)} {what} (bar: {_percent(bar)})" for v, bar, what in bars if v is not None and not v <= bar]
        behind = sorted(
            ((residual, name) for name, residual in self.by_concept.items() if not residual <= MOST_RESIDUAL),
            key=lambda row: (isnan(row[0]), row[0]),
            reverse=True,
        )
        if behind:
            named = summarise([f"{name} {_percent(residual)}" for residual, name in behind], NAMED)
            keep = f"keep too much of the way to their anchors (bar: {_percent(MOST_RESIDUAL)})"
            short.append(f"{len(behind)} of {len(self.by_concept)} concepts {keep}: {named}")
        return short

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
        """The figures as plain data, and what they say in words."""
        figures = asdict(self)
        each = {name: round(residual, 4) for name, residual in figures.pop("by_concept").items()}
        figures = {name: None if value is None else round(value, 4) for name, value in figures.items()}
        return {**figures, **({"by_concept": each} if each else {}), "summary": str(self), "shortfalls": self.shortfalls}

    @classmethod
    def worst_of(cls, checks: "Sequence[SelfCheck]") -> "SelfCheck":
        """The self-check of several encoders: the worst of each figure."""

        def most(name: str) -> Any:
            values = [value for check in checks if (value := getattr(check, name)) is not None]
            return float(np.max(values)) if values else None  # NaN is worse than any number

        moved = float(np.min([check.moved for check in checks]))
        each = {
            name: float(np.max([check.by_concept[name] for check in checks if name in check.by_concept]))
            for name in chain(*(check.by_concept for check in checks))
        }
        figures = {name: most(name) for name in ("residual", "residual_worst", "neighbours", "everyday", "away")}
        return cls(moved=moved, by_concept=each, **figures)


@dataclass(frozen=True)
class Question:
    """A batch of prompts. `network_inputs()` computes what the network gets for them now; `original` is what it got with
    nothing changed. Both are (views, prompts, numbers). View 0 is all of it. Prompts with anchor prompts have a view 1,
    only the tokens that count (`side_by_side`), whose target is `goal` (prompts, numbers).
    """

    network_inputs: Callable[[], torch.Tensor]
    original: torch.Tensor
    goal: torch.Tensor | None = None
    concepts: Sequence[str] = ()  # what each prompt that names one is about

    @classmethod
    def about(cls, conditioner: Conditioner, prompts: Sequence[str]) -> "Question":
        def network_inputs() -> torch.Tensor:
            return conditioner.network_inputs(prompts)[None]

        return cls(network_inputs, network_inputs())

    @classmethod
    def away(cls, conditioner: Conditioner) -> "Question | None":
        """The question about what guidance leads away from; None if that is an empty prompt."""
        if conditioner.negative_prompt:
            return cls.about(conditioner, [conditioner.negative_prompt])
        tokens = conditioner.guided_from()
        if tokens is None:
            return None

        @torch.no_grad()
        def network_inputs() -> torch.Tensor:
            return (conditioner.encode_tokens(tokens) * tokens.mask[..., None]).flatten(1)[None]

        return cls(network_inputs, network_inputs())

    @classmethod
    @torch.no_grad()
    def naming(cls, conditioner: Conditioner, pairs: Sequence[PromptPair]) -> "Question":
        prompts = [pair.prompt for pair in pairs]
        tokens, anchors, aligned, counted = side_by_side(conditioner, pairs)

        @torch.no_grad()
        def network_inputs() -> torch.Tensor:
            written = conditioner.write(tokens)
            some = conditioner.network_inputs(prompts, written, lambda states: states * counted[..., None])
            return torch.stack([conditioner.network_inputs(prompts, written), some])

        written = conditioner.write(anchors)
        goal = conditioner.network_inputs(prompts, written, lambda states: at_places(states, aligned) * counted[..., None])
        return cls(network_inputs, network_inputs(), goal, [pair.concept for pair in pairs])

    def marks(self, inputs: torch.Tensor) -> "Marks":
        """The results, from what the network gets with the changes on."""
        return Marks(self.residual(inputs), self.residual(self.original), self.moved(inputs), self.concepts)

    def residual(self, inputs: torch.Tensor) -> np.ndarray:
        """Squared distance of each prompt from the goal: (prompts,); (0,) without a goal."""
        return np.zeros(0) if self.goal is None else _squares(inputs[1] - self.goal)

    def moved(self, inputs: torch.Tensor) -> np.ndarray:
        """How far what the network gets has moved from `original`, as a share of the norm of that: (prompts,)."""
        return (_squares(inputs[0] - self.original[0]) / _squares(self.original[0])) ** 0.5


@dataclass(frozen=True)
class Marks:
    """Results on some prompts, each (prompts,). `residual` and `initial`: squared distance to the anchor prompt, now and
    before any change; (0,) without anchor prompts. `moved`: distance moved as a share of the original norm. `concepts`:
    which concept each prompt is about.
    """

    residual: np.ndarray
    initial: np.ndarray
    moved: np.ndarray
    concepts: Sequence[str]

    @classmethod
    def joined(cls, parts: "Sequence[Marks]") -> "Marks":
        residual, initial, moved = (
            np.concatenate([np.zeros(0), *(getattr(part, name) for part in parts)])
            for name in ("residual", "initial", "moved")
        )
        return cls(residual, initial, moved, [concept for part in parts for concept in part.concepts])


class Exam:
    """Held-out prompts that measure a text encoder's changes: it reads them as it is and with the changes on. With
    `keep`, half of the prompts about what is near are about that.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        prompts: Prompts,
        near: Sequence[str],
        keep: Sequence[str] = (),
        *,
        anchored: bool = True,
    ):
        self.conditioner = conditioner
        pairs = prompts.pairs(max(PAIRS, EACH * len(prompts.concepts)))
        named = (Question.naming, pairs) if anchored else (Question.about, [pair.prompt for pair in pairs])
        neighbours = Question.about, prompts.neighbours(near, NEIGHBOURS, keep)
        everyday = Question.about, prompts.everyday(EVERYDAY_PROMPTS)
        # One list of batches for each sort of prompts.
        self.asks = [_batches(conditioner, ask, sentences) for ask, sentences in (named, neighbours, everyday)]
        self.asks.append([partial(Question.away, conditioner)])

    def grade(self, deltas: Mapping[str, Delta]) -> SelfCheck:
        """The figures of the encoder with the changes on; afterwards its weights are as they were."""
        named, near, everyday, away = map(Marks.joined, self._marks(deltas))
        anchored = bool(named.initial.any())
        shares = _shares(named) if anchored else {}
        return SelfCheck(
            residual=float(np.mean(list(shares.values()))) if anchored else None,
            residual_worst=_worst(named.residual, named.initial) if anchored else None,
            moved=float(np.median(named.moved)) if len(named.moved) else 0.0,
            neighbours=float(np.median(near.moved)) if len(near.moved) else None,
            everyday=float(np.median(everyday.moved)),
            away=float(away.moved[0]) if len(away.moved) else None,
            by_concept=shares if len(shares) > 1 else {},
        )

    def _marks(self, deltas: Mapping[str, Delta]) -> list[list[Marks]]:
        """Results by sort of prompts, in the order of `asks`. A few batches at a time are read without the changes and
        then with them: what the network gets for all prompts would take far more memory than the changes do.
        """
        marks: list[list[Marks]] = [[] for _ in self.asks]
        asks = [(sort, ask) for sort, batches in zip(marks, self.asks, strict=True) for ask in batches]
        with drawn(Work("checking", "batch", 2 * len(asks), brief=True)) as bar:
            for start in range(0, len(asks), AT_ONCE):
                asked = []
                for sort, ask in asks[start : start + AT_ONCE]:
                    asked.append((sort, ask()))
                    bar.update()
                with changed(self.conditioner.text_encoder, deltas):
                    for sort, question in asked:
                        if question is not None:
                            sort.append(question.marks(question.network_inputs()))
                        bar.update()
        return marks


def _shares(named: Marks) -> dict[str, float]:
    """By concept: its prompts' summed residual divided by their summed initial distance."""
    names, which = np.unique(named.concepts, return_inverse=True)
    residual, initial = (np.bincount(which, weights=squares) for squares in (named.residual, named.initial))
    shares = residual / np.maximum(initial, np.finfo(np.float64).tiny)
    return dict(zip(names.tolist(), shares.tolist(), strict=True))


def _worst(residual: np.ndarray, initial: np.ndarray) -> float:
    """Mean of residual / initial distance over the worst tenth of prompts. Each initial distance counts as at least half
    the median: a prompt that nearly equals its anchor prompt would otherwise dominate.
    """
    shares = np.sort(residual / np.maximum(initial, np.median(initial) / 2))
    return float(shares[-max(1, round(WORST * len(shares))) :].mean())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _batches(
    conditioner: Conditioner, ask: Callable[..., Question], sentences: Sequence[Any]
) -> list[Callable[[], Question | None]]:
    """One callable per batch of sentences, sorted by length; calling it asks about that batch."""
    ordered = sorted(sentences, key=lambda one: len(one.prompt if isinstance(one, PromptPair) else one))
    return [partial(ask, conditioner, ordered[start : start + BATCH]) for start in range(0, len(ordered), BATCH)]


def _squares(rows: torch.Tensor) -> np.ndarray:
    return doubled(rows.float().square().sum(1)).cpu().numpy()
