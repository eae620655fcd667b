"""The closed form under attack: search for words that revive the concept, forget it among those too, and search again.

AdvUnlearn's two loops (Zhang et al., arXiv 2405.15234), made cheap: the inner search runs in text space, where a try costs
two passes through the text encoder and no denoiser. With T the edited encoder, T_0 the encoder as found, p a sentence that
names the concept and p' its twin, the words w around both revive the concept as far as

    r(w, p) = || T(w p) - T_0(w p') ||^2  /  mean_p || T_0(p) - T_0(p') ||^2

is large: 0 where the encoder writes what it writes for the twin, about 1 where nothing is forgotten.

Words that go with the concept, "extraterrestrial" with "alien", must not stand around it: their twins, in which they stay,
would teach the encoder to mean the concept by them again.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from unreel.conditioner import Conditioner
from unreel.erasure import LowRank, doubled
from unreel.errors import UnreelError
from unreel.methods.closed_form import BATCH, ClosedFormConfig, Moments, Twin, closed_form, tokenize, watch

KIN = 0.25  # r of a word on its own, as it was, above which it went with the concept; synonyms have 0.4 and more
MOST_WORDS = 2000  # to search with, drawn at random; CLIP's tokenizer knows more than ten times as many


@dataclass(frozen=True)
class AdversarialConfig(ClosedFormConfig):
    """Settings of the closed form and of the search: `rounds` of solving and searching, each with `generations` of `tries`,
    of which the `hardest` are forgotten too; up to `surround` words stand around a sentence. Raises UnreelError for values
    that make no sense.
    """

    rounds: int = 3
    generations: int = 4
    tries: int = 256
    hardest: int = 32
    surround: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rounds", "generations", "tries", "hardest", "surround"):
            if getattr(self, name) < 1:
                raise UnreelError(f"{name} must be greater than zero, not {getattr(self, name)}")
        if self.hardest > self.tries:
            raise UnreelError(f"of {self.tries} tries there are no {self.hardest} hardest: raise tries")


def adversarial(
    conditioner: Conditioner,
    twins: Sequence[Twin],
    retained: Moments,
    config: AdversarialConfig,
    *,
    words: Sequence[str],
    usable: Callable[[Twin], bool],
    concepts: int = 1,
) -> tuple[dict[str, LowRank], dict[str, Any]]:
    """As `closed_form`, with what a search over `words` found among the sentences to forget, if the pair is `usable`.

    Words that the plain closed form takes along with the concept are left out of the search.
    `revived` of the record is r of the hardest tries of each round, on average, before they were forgotten too.
    """
    from tqdm.auto import trange

    changes, record = closed_form(conditioner, twins, retained, config, concepts=concepts)
    search = _Search(conditioner, list(twins), list(words), usable, config)
    search.leave_out_kin(changes)
    found: list[Twin] = []
    revived = []
    for _ in trange(config.rounds, desc="searching what revives it", unit="round", leave=False):
        hardest, mean = search.hardest(changes)
        found += hardest
        revived.append(mean)
        changes, record = closed_form(conditioner, [*twins, *found], retained, config, concepts=concepts)
    return changes, record | {"revived": revived}


@dataclass(frozen=True)
class _Try:
    """A sentence, by its number, and the words around it."""

    number: int
    before: tuple[str, ...]
    after: tuple[str, ...]


class _Search:
    """Evolves words around sentences; what one round found breeds the next round's tries."""

    def __init__(
        self,
        conditioner: Conditioner,
        twins: list[Twin],
        words: list[str],
        usable: Callable[[Twin], bool],
        config: AdversarialConfig,
    ):
        self.conditioner, self.twins, self.usable, self.config = conditioner, twins, usable, config
        self.rng = random.Random(config.seed)
        self.words = words if len(words) <= MOST_WORDS else self.rng.sample(words, MOST_WORDS)
        self.best: list[_Try] = []
        self.way = sum(self._remaining(twins, {})) / len(twins)

    def leave_out_kin(self, changes: dict[str, LowRank]) -> None:
        """Search no longer with words that `changes` take far from what they meant."""
        moved = self._remaining([(word, word) for word in self.words], changes)
        self.words = [word for word, left in zip(self.words, moved, strict=True) if left < KIN * self.way]

    def hardest(self, changes: dict[str, LowRank]) -> tuple[list[Twin], float]:
        """The sentences that revive the concept most in the encoder with `changes`, with their twins, and r on average."""
        scored = dict(zip(self.best, self._revived(self.best, changes), strict=True))
        for _ in range(self.config.generations):
            fresh = [one for one in self._breed(list(scored)) if one not in scored]
            scored |= dict(zip(fresh, self._revived(fresh, changes), strict=True))
            ranked = sorted(scored, key=scored.__getitem__, reverse=True)[: self.config.hardest]
            scored = {one: scored[one] for one in ranked}
        self.best = list(scored)
        return [self._say(one) for one in self.best], sum(scored.values()) / max(len(scored), 1)

    def _breed(self, parents: list[_Try]) -> list[_Try]:
        """New tries: half of them at random, half of them parents with one word exchanged."""
        out: dict[_Try, None] = {}
        for _ in range(20 * self.config.tries if self.words else 0):  # enough, unless hardly anything is usable
            one = self._mutate(self.rng.choice(parents)) if parents and self.rng.random() < 0.5 else self._random()
            if self.usable(self._say(one)):
                out[one] = None
            if len(out) == self.config.tries:
                break
        return list(out)

    def _random(self) -> _Try:
        words = self.rng.choices(self.words, k=self.rng.randint(1, self.config.surround))
        cut = self.rng.randint(0, len(words))
        return _Try(self.rng.randrange(len(self.twins)), tuple(words[:cut]), tuple(words[cut:]))

    def _mutate(self, one: _Try) -> _Try:
        words = [*one.before, *one.after]
        words[self.rng.randrange(len(words))] = self.rng.choice(self.words)
        return _Try(one.number, tuple(words[: len(one.before)]), tuple(words[len(one.before) :]))

    def _say(self, one: _Try) -> Twin:
        sentence, twin = self.twins[one.number]
        return " ".join((*one.before, sentence, *one.after)), " ".join((*one.before, twin, *one.after))

    def _revived(self, tries: Sequence[_Try], changes: dict[str, LowRank]) -> list[float]:
        """r of every try."""
        return [left / self.way for left in self._remaining([self._say(one) for one in tries], changes)]

    def _remaining(self, twins: Sequence[Twin], changes: dict[str, LowRank]) -> list[float]:
        batches = (twins[start : start + BATCH] for start in range(0, len(twins), BATCH))
        return [left for batch in batches for left in remaining(self.conditioner, batch, changes).tolist()]


@torch.no_grad()
def remaining(conditioner: Conditioner, twins: Sequence[Twin], changes: dict[str, LowRank]) -> torch.Tensor:
    """How far the sentences are from their twins after the last layer of an encoder that `changes` are added to, where the
    twins' own encoder has none: squared distances, (n,).
    """
    last = conditioner.layers[-1:]
    said, wanted, places = tokenize(conditioner, twins)
    goal = watch(conditioner, wanted, last)[1][0]
    with _changed(conditioner, changes):
        reached = watch(conditioner, said, last)[1][0]
    far = (reached - goal.gather(1, places.expand_as(reached))) * said.seen[..., None]
    return far.float().square().sum((1, 2))


@contextmanager
def _changed(conditioner: Conditioner, changes: dict[str, LowRank]) -> Iterator[None]:
    """The encoder with `changes` added to its weights, which are as they were afterwards."""
    weights = {name: conditioner.text_encoder.get_parameter(name) for name in changes}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.copy_(doubled(weight) + changes[name].dense())
        yield
    finally:
        for name, weight in weights.items():
            weight.copy_(before[name])
