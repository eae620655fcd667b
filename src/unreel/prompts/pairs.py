"""What a text encoder learns to forget on, and what it is measured on: prompts that name a concept, each with its anchor
prompt, prompts about what is near to it, and everyday prompts.

Knows sentences; knows no model but whether it has room for them.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

from unreel.prompts import captions, spelling
from unreel.prompts.captions import CaptionKind, everyday, frames
from unreel.prompts.concept import Concept, naming
from unreel.prompts.corpus import Corpus
from unreel.prompts.grammar import bare, fill, in_place_of

HELD_OUT = 5  # one of so many frames of captions is for measuring only
CAPTIONS = 0.75  # the share of captions among the sentences; the others are about what the model's vocabulary lists
VARIED = 0.6  # the share of prompts that name the concept in a spelling drawn by chance, not as it was given
SPELLED = {"capitals": 4, "lower case": 4, "plural": 3}  # how often a spelling is drawn while each other one is drawn once
KEPT = 0.5  # the share of the prompts about what is near that are about what was asked to be kept, if anything was
TRIES = 40  # at most so many sentences are drawn for each one wanted: few may fit
SMALL_WORDS = {"a", "an", "and", "at", "by", "de", "for", "from", "in", "la", "le", "of", "on", "or", "the", "to", "with"}

_PERSONS = {"character": ("person",), "face": ("famous", "person"), "animal": ("animal",)}
_NO_THINGS = ("action",)

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class PromptPair:
    """A prompt that names a concept as `wording`, and its anchor prompt. `concept` is the concept's own name, where there
    may be several.
    """

    prompt: str
    anchor: str
    wording: str
    concept: str = ""


@dataclass(frozen=True)
class Prompts:
    """Prompts to forget `concepts` by. `anchors` says, by a concept's name, what to make instead; no prompt is longer
    than `fits` allows. `own` are words of the concepts' names that are to be kept in other company.

    Prompts that are `held_out` are for measuring only: they share no caption frame and no sentence with the others, and
    their corpus has another seed.
    """

    concepts: Sequence[Concept]
    anchors: Mapping[str, str]
    corpus: Corpus
    fits: Callable[[str], bool]
    held_out: bool = False
    own: Sequence[str] = ()

    def pairs(self, count: int) -> list[PromptPair]:
        """About `count` prompts that name the concepts in turn, spelled as people spell them. Every concept gets at
        least one, if a prompt exists that fits and names nothing else that is to be forgotten.
        """
        rng, each = self._random("pairs"), -(-count // max(1, len(self.concepts)))
        out = self._take(self._pairs(rng, self.concepts, count), count, _texts_of)
        named = {pair.concept for pair in out}
        for concept in self.concepts:
            if concept.name not in named:
                out += self._take(self._pairs(rng, [concept], each), each, _texts_of)
        return out

    def neighbours(self, names: Sequence[str], count: int, keep: Sequence[str] = ()) -> list[str]:
        """About `count` prompts about `names` (what is near the concepts) and about the concepts' own words in other
        company. With `keep`, half of them are about that.
        """
        rng = self._random("neighbours")

        def drawn() -> Iterator[str]:
            while self.own or names or keep:
                if keep and rng.random() < KEPT:
                    yield self._caption(rng, self._kind(rng.choice(list(self.concepts))), rng.choice(list(keep)))
                elif self.own and (not names or rng.random() < 0.65):
                    yield self._caption(rng, "object", _in_company(rng, rng.choice(self.own)))
                elif names:
                    yield self._caption(rng, self._kind(rng.choice(list(self.concepts))), rng.choice(list(names)))

        return self._take(drawn(), count, lambda text: (text,))

    def everyday(self, count: int) -> list[str]:
        """About `count` prompts about everything else, the empty one among them unless they are held out."""
        rng = self._random("everyday")
        listed = self.corpus.retain(count, by_name=not self.held_out)
        plain = rng.sample(listed, len(listed))

        def drawn() -> Iterator[str]:
            if not self.held_out:
                yield ""
            while True:
                if plain and rng.random() > CAPTIONS:
                    yield plain.pop()
                else:
                    kind = rng.choice(captions.KINDS)
                    yield self._caption(rng, kind, self._filling(rng, kind))

        return self._take(drawn(), count, lambda text: (text,))

    def _take(self, drawn: Iterator[Drawn], count: int, texts: Callable[[Drawn], Sequence[str]]) -> list[Drawn]:
        """The first `count` items whose texts all fit and whose last text names nothing that is to be forgotten."""
        out: dict[Drawn, None] = {}
        forgotten = naming(self.concepts)
        for one in islice(drawn, TRIES * count):
            *_, last = texts(one)  # the anchor prompt of a pair
            if not forgotten(last) and all(map(self.fits, texts(one))):
                out[one] = None
            if len(out) == count:
                break
        return list(out)

    def _pairs(self, rng: random.Random, concepts: Sequence[Concept], count: int) -> Iterator[PromptPair]:
        renamed = {w.lower(): self.anchors[c.name] for c in self.concepts for w in c.wordings}
        each = min(count, -(-TRIES * count // max(1, len(concepts))))  # no concept needs more
        listed = [(concept, *pair) for concept in concepts for pair in self.corpus.forget(concept, renamed, each)]
        rng.shuffle(listed)
        wordings = {concept.name: cycle(concept.wordings) for concept in concepts}
        for concept in islice(cycle(concepts), TRIES * count):
            wording = next(wordings[concept.name])
            if concept.traits.article and rng.random() < CAPTIONS:
                yield self._pair(rng, concept, wording)
            elif listed:
                concept, prompt, anchor = listed.pop()
                named = next((w for w in concept.wordings if w.lower() in prompt.lower()), wording)
                yield PromptPair(prompt, anchor, named, concept.name)

    def _pair(self, rng: random.Random, concept: Concept, wording: str) -> PromptPair:
        variants = concept.variants(wording)
        often = [SPELLED.get(form, 1) for form in variants]
        (form,) = rng.choices(list(variants), often) if rng.random() < VARIED else ("as given",)
        kind, anchor = self._kind(concept), self.anchors[concept.name]
        named = None if kind in captions.GAPS else wording != wording.lower()
        gap = captions.GAPS.get(kind, "[concept]")[1:-1]
        text = captions.write(rng, rng.choice(self._frames(kind)), kind, named)
        instead = anchor if kind in captions.GAPS else in_place_of(wording, anchor) if named else bare(anchor)
        if form == "plural":
            instead = spelling.pluralised(bare(anchor)) or bare(anchor)
        elif form == "possessive" and anchor:
            instead = spelling.possessive(instead) or instead
        return PromptPair(fill(text, {gap: variants[form]}), fill(text, {gap: instead}), variants[form], concept.name)

    def _caption(self, rng: random.Random, kind: CaptionKind, filling: str) -> str:
        gap = captions.GAPS.get(kind, "[concept]")[1:-1]
        return fill(captions.write(rng, rng.choice(self._frames(kind)), kind), {gap: filling})

    def _frames(self, kind: CaptionKind) -> list[str]:
        return [frame for i, frame in enumerate(frames(kind)) if (i % HELD_OUT == 0) == self.held_out]

    def _kind(self, concept: Concept) -> CaptionKind:
        if concept.kind == "object" and concept.name.lower() in everyday()["animal"]:
            return "animal"
        kind = concept.traits.asked_as or concept.kind
        assert kind != "unsafe"  # captions ask for what is as for things
        return kind

    def _filling(self, rng: random.Random, kind: CaptionKind) -> str:
        if kind == "style":
            return rng.choice(self.corpus.vocabulary["style"])
        if kind == "motion":
            return captions.common(rng, "action")
        things = [name for name in everyday() if name not in _NO_THINGS]
        return captions.common(rng, rng.choice(_PERSONS.get(kind, things)))

    def _random(self, purpose: str) -> random.Random:
        return random.Random(f"{self.corpus.seed}/{purpose}/{self.held_out}/{[concept.name for concept in self.concepts]}")


def _texts_of(pair: PromptPair) -> tuple[str, str]:
    return pair.prompt, pair.anchor


def own_words(concept: Concept) -> list[str]:
    """Words of a concept's wordings, single ones and runs of them, that mean something else in other company. Left out
    are runs that begin or end with a small word such as "of", the name cut short at its beginning ("van Gogh"), and what
    names the concept itself.
    """
    out: dict[str, None] = {}
    for wording in concept.wordings:
        words = re.split(r"[\s-]+", wording)
        runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words))] + [words[-1:]]
        for run in runs:
            if not {run[0].lower(), run[-1].lower()} & SMALL_WORDS:
                out[" ".join(run)] = None
    return [text for text in out if not concept.is_named_in(text)]


def _in_company(rng: random.Random, words: str) -> str:
    """Some of a name's words alone, or with another word before or behind them."""
    other = captions.common(rng, rng.choice([name for name in everyday() if name not in _NO_THINGS]))
    text = rng.choice((words, f"{words} {other}", f"{other} {words}"))
    return text.lower() if rng.random() < 0.3 else text
