"""How far an erasure went, and what else it moved, on prompts that nothing was learned from: in what the pipeline gives to
its network.

Knows text encoders and prompts; knows no pixels, and nothing about how the erasure was made.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from math import isnan
from typing import Any

import numpy as np
import torch

from unreel.errors import summarise
from unreel.models.conditioner import Conditioner
from unreel.models.reading import at_places, side_by_side
from unreel.models.weights import Delta, changed
from unreel.progress import track
from unreel.prompts.pairs import PromptPair, Prompts

PAIRS, NEIGHBOURS, EVERYDAY_PROMPTS = 40, 40, 60
EACH = 8  # prompts about each of several concepts, where PAIRS are fewer
NAMED = 5  # how many concepts that fall short are named
BATCH = 24
WORST = 0.1  # the share of prompts that stand for the worst

# What an erasure may fall short by: shares of the way left, and medians of what others moved by.
MOST_RESIDUAL, MOST_RESIDUAL_OF_WORST, MOST_NEIGHBOURS_MOVED, MOST_EVERYDAY_MOVED = 0.5, 0.9, 0.25, 0.1


@dataclass(frozen=True)
class SelfCheck:
    """Figures of one text encoder on held-out prompts, all of them shares.

    `residual` is how much of the squared distance to the anchor prompts remains, of several concepts the mean of what
    remains of each (`by_concept`, empty for one): their ways differ in length. `residual_worst` is the mean over the worst
    tenth of prompts; both are None where the method aims at no anchor. `moved` is how far prompts that name the concept
    moved, `neighbours` and `everyday` how far prompts about what is near and about all else did: medians over prompts of
    || T'(q) - T(q) || / || T(q) ||, where T(q) is what the network is given of what the encoder writes. `away` is the same
    of what guidance leads away from; None where an empty prompt, which is an everyday one, stands for it.
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
        """What falls short of the stated bars, in words; empty if nothing does. Of several concepts, each is to reach its
        own: what one keeps would be lost among the others.
        """
        bars = (
            (self.residual, MOST_RESIDUAL, "of the way to the anchor is left"),
            (self.residual_worst, MOST_RESIDUAL_OF_WORST, "of the way is left on the worst tenth of prompts"),
            (self.neighbours, MOST_NEIGHBOURS_MOVED, "is how far prompts about what is near moved"),
            (self.everyday, MOST_EVERYDAY_MOVED, "is how far everyday prompts moved"),
            (self.away, MOST_EVERYDAY_MOVED, "is how far what guidance leads away from moved"),
        )
        # Whatever is no number falls short too.
        short = [f"{_percent(v)} {what} (bar: {_percent(bar)})" for v, bar, what in bars if v is not None and not v <= bar]
        behind = sorted(
            ((left, name) for name, left in self.by_concept.items() if not left <= MOST_RESIDUAL),
            key=lambda row: (isnan(row[0]), row[0]),
            reverse=True,
        )
        if behind:
            named = summarise([f"{name} {_percent(left)}" for left, name in behind], NAMED)
            way = f"of the way to its anchor is left (bar: {_percent(MOST_RESIDUAL)})"
            short.append(f"of {len(behind)} of {len(self.by_concept)} concepts too much {way}: {named}")
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
        """As plain data, in words too."""
        figures = asdict(self)
        each = {name: round(left, 4) for name, left in figures.pop("by_concept").items()}
        figures = {name: None if value is None else round(value, 4) for name, value in figures.items()}
        return {**figures, **({"by_concept": each} if each else {}), "summary": str(self), "shortfalls": self.shortfalls}

    @classmethod
    def worst_of(cls, checks: "Sequence[SelfCheck]") -> "SelfCheck":
        """One of several encoders: the worst of each figure."""

        def most(name: str) -> Any:
            values = [value for check in checks if (value := getattr(check, name)) is not None]
            return float(np.max(values)) if values else None  # what is no number is worse than any

        moved = float(np.min([check.moved for check in checks]))
        each = {
            name: float(np.max([check.by_concept[name] for check in checks if name in check.by_concept]))
            for name in chain(*(check.by_concept for check in checks))
        }
        figures = {name: most(name) for name in ("residual", "residual_worst", "neighbours", "everyday", "away")}
        return cls(moved=moved, by_concept=each, **figures)


@dataclass(frozen=True)
class Question:
    """A batch of prompts, what of them `given` says that the network gets, and what that was before anything changed, both
    (views, prompts, numbers): the first view is of all of it. Of prompts that are to be read as their anchor prompts are, a
    second one is of what says something about the way there (`side_by_side`), and `goal` (prompts, numbers) is its end.
    """

    given: Callable[[], torch.Tensor]
    before: torch.Tensor
    goal: torch.Tensor | None = None
    concepts: Sequence[str] = ()  # what each prompt that names one is about

    @classmethod
    def about(cls, conditioner: Conditioner, prompts: Sequence[str]) -> "Question":
        def given() -> torch.Tensor:
            return conditioner.given(prompts)[None]

        return cls(given, given())

    @classmethod
    def away(cls, conditioner: Conditioner) -> "Question | None":
        """About what guidance leads away from; None where an empty prompt stands for it."""
        if conditioner.negative_prompt:
            return cls.about(conditioner, [conditioner.negative_prompt])
        tokens = conditioner.guided_from()
        if tokens is None:
            return None

        @torch.no_grad()
        def given() -> torch.Tensor:
            return (conditioner.encode_tokens(tokens) * tokens.mask[..., None]).flatten(1)[None]

        return cls(given, given())

    @classmethod
    @torch.no_grad()
    def naming(cls, conditioner: Conditioner, pairs: Sequence[PromptPair]) -> "Question":
        prompts = [pair.prompt for pair in pairs]
        tokens, anchors, aligned, counted = side_by_side(conditioner, pairs)

        @torch.no_grad()
        def given() -> torch.Tensor:
            written = conditioner.write(tokens)
            some = conditioner.given(prompts, written, lambda states: states * counted[..., None])
            return torch.stack([conditioner.given(prompts, written), some])

        written = conditioner.write(anchors)
        goal = conditioner.given(prompts, written, lambda states: at_places(states, aligned) * counted[..., None])
        return cls(given, given(), goal, [pair.concept for pair in pairs])

    def left(self, given: torch.Tensor) -> np.ndarray:
        """The squared distance from the goal, one a prompt: (prompts,); of none where there is no goal."""
        return np.zeros(0) if self.goal is None else _squares(given[1] - self.goal)

    def moved(self, given: torch.Tensor) -> np.ndarray:
        """How far all of it moved, as a share of its length, one a prompt: (prompts,)."""
        return (_squares(given[0] - self.before[0]) / _squares(self.before[0])) ** 0.5


class Exam:
    """Held-out prompts to ask an encoder about as it is now, and then changed. Where something was to be kept, half of the
    prompts about what is near are about it.
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
        pairs, neighbours, everyday = (
            prompts.pairs(max(PAIRS, EACH * len(prompts.concepts))),
            prompts.neighbours(near, NEIGHBOURS, keep),
            prompts.everyday(EVERYDAY_PROMPTS),
        )
        named = [pair.prompt for pair in pairs]
        self.named = _batches(conditioner, *((pairs, Question.naming) if anchored else (named, Question.about)))
        self.neighbours = _batches(conditioner, neighbours, Question.about)
        self.everyday = _batches(conditioner, everyday, Question.about)
        self.away = Question.away(conditioner)

    def grade(self, deltas: Mapping[str, Delta]) -> SelfCheck:
        """With the changes on; the weights are left as they were found."""
        parts = (self.named, self.neighbours, self.everyday)
        with changed(self.conditioner.text_encoder, deltas):
            answers = iter([question.given() for question in track(list(chain(*parts)), "checking", brief=True)])
            away = None if self.away is None else float(self.away.moved(self.away.given())[0])
        asked = [list(zip(part, islice(answers, len(part)), strict=True)) for part in parts]
        moved, near, everyday = (_joined(question.moved(now) for question, now in part) for part in asked)
        residual = _joined(question.left(now) for question, now in asked[0])
        initial = _joined(question.left(question.before) for question in self.named)
        anchored = bool(initial.any())
        concepts = [concept for question in self.named for concept in question.concepts]
        shares = _shares(concepts, residual, initial) if anchored else {}
        return SelfCheck(
            residual=float(np.mean(list(shares.values()))) if anchored else None,
            residual_worst=_worst(residual, initial) if anchored else None,
            moved=float(np.median(moved)) if len(moved) else 0.0,
            neighbours=float(np.median(near)) if len(near) else None,
            everyday=float(np.median(everyday)),
            away=away,
            by_concept=shares if len(shares) > 1 else {},
        )


def _shares(concepts: Sequence[str], residual: np.ndarray, initial: np.ndarray) -> dict[str, float]:
    """By concept, what is left of its way."""
    about, tiny = np.array(concepts), np.finfo(np.float64).tiny
    return {
        name: float(residual[about == name].sum() / max(tiny, initial[about == name].sum()))
        for name in dict.fromkeys(concepts)
    }


def _worst(residual: np.ndarray, initial: np.ndarray) -> float:
    """The share that is left of the worst tenth. Of a prompt that says nearly the same as its anchor prompt any distance
    would be a multiple of its way: none counts as shorter than half of what is usual.
    """
    shares = np.sort(residual / np.maximum(initial, np.median(initial) / 2))
    return float(shares[-max(1, round(WORST * len(shares))) :].mean())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _batches(conditioner: Conditioner, sentences: Sequence[Any], ask: Callable[..., Question]) -> list[Question]:
    ordered = sorted(sentences, key=lambda one: len(one.prompt if isinstance(one, PromptPair) else one))
    starts = track(range(0, len(ordered), BATCH), "reading what to check", brief=True)
    return [ask(conditioner, ordered[start : start + BATCH]) for start in starts]


def _squares(rows: torch.Tensor) -> np.ndarray:
    return rows.float().square().sum(1).double().cpu().numpy()


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts])
