"""What a method is given to learn from: concepts, the pair, what is made instead, what is near and what is to be kept.

Knows words and text encoders; knows no method.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from unreel.errors import UnreelError
from unreel.interventions.erasure import NETWORK, ComponentDelta, Erasure
from unreel.models.adapter import only_network_of
from unreel.models.conditioner import Conditioner, whole_words
from unreel.models.loading import recorded
from unreel.models.pair import Pair
from unreel.models.reading import Meanings, as_anchors, nearest
from unreel.models.weights import Delta, Fingerprint, held_weights, is_quantized
from unreel.prompts import captions
from unreel.prompts.concept import Concept, naming
from unreel.prompts.corpus import Corpus
from unreel.prompts.pairs import PromptPair, Prompts, own_words
from unreel.prompts.vocabulary import EVERYDAY, Vocabulary
from unreel.versions import versions

TOO_NEAR = 10  # one in so many things is too much like the concept to be made instead of it
LONGEST, LONGEST_HELD_OUT = 28, 80  # tokens of a prompt to learn from and to measure on; what is learned carries over
NEAR, LOOKED_AT = 20, 240  # nearest things to keep by name, among so many everyday words
ALONE = ("a photo of {}", "{} at night", "a picture of {} in the rain")
READ_AS = 0.25  # the share of the squared distance to the anchor below which words are taken for the concept
STILL = "standing"  # what is done where nothing else is
SAFE = "everyday life"  # what is unsafe is no thing, so no thing can stand in for it


@dataclass(frozen=True)
class Task:
    """Concepts to unlearn in a pair. `keep` names what is to be protected besides everything else, `images` is a folder of
    pictures to use in place of generated ones, `method` the name of what is to do it.

    Raises UnreelError unless every text encoder can learn, and reads all that names the concepts.
    """

    concepts: Sequence[Concept]
    pair: Pair
    keep: Sequence[str] = ()
    images: Path | None = None
    method: str = "this method"
    _near: dict[int, list[str]] = field(default_factory=dict, repr=False)
    _meanings: dict[int, Meanings] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.conditioners:
            raise UnreelError(f"{self.pair.t2v_source} has no text encoder that reads prompts")
        for reader in self.conditioners:
            _require_learning(reader.text_encoder)
        for concept, reader in product(self.concepts, self.conditioners):
            reader.require_known([*concept.wordings, concept.anchor or ""])
            reader.require_room_for(concept.forget_prompts)

    @cached_property
    def conditioners(self) -> list[Conditioner]:
        """The shared text encoders, each as its pipeline uses it."""
        return list(self.pair.conditioners().values())

    @cached_property
    def anchored(self) -> list[Concept]:
        """The concepts with what is made instead of each; the first text encoder chooses, so that all say the same.

        Raises UnreelError if that is to be forgotten too, or too long.
        """
        first = self.conditioners[0]
        words, known = self.pair.vocabulary, self._known(first)
        out = [replace(c, anchor=anchor_for(c, self.concepts, first, words, known)) for c in self.concepts]
        forgotten = naming(self.concepts)
        for concept in out:
            anchor = concept.anchor or ""
            if forgotten(anchor):
                raise UnreelError(f"{anchor!r} is to be forgotten too: make something else instead of {concept.name!r}")
            if anchor.strip():
                first.require_room_for(Concept(anchor, concept.kind).forget_prompts)
        return out

    @property
    def anchors(self) -> dict[str, str]:
        """What is made instead of each concept, by the concept's name."""
        return {concept.name: concept.anchor or "" for concept in self.anchored}

    def near(self, conditioner: Conditioner) -> list[str]:
        """What a text encoder takes to be most like the concepts, found once."""
        if id(conditioner) not in self._near:
            known = self._known(conditioner)
            self._near[id(conditioner)] = near_to(self.concepts, conditioner, self.pair.vocabulary, known)
        return self._near[id(conditioner)]

    def _known(self, conditioner: Conditioner) -> Meanings:
        """What is known of what words mean to a text encoder as it is before anything is learned."""
        return self._meanings.setdefault(id(conditioner), {})

    def prompts(self, conditioner: Conditioner, seed: int) -> Prompts:
        """What to forget the concepts by, and what to keep."""
        return prompts_for(self.anchored, self.pair, conditioner, seed)

    def only_concept(self) -> Concept:
        """Raises UnreelError for several, and for what is to be kept by name."""
        if len(self.concepts) > 1 or self.keep:
            raise UnreelError(
                "methods that learn from images unlearn one concept and keep nothing by name: use the default method"
            )
        return self.concepts[0]

    def require_no_images(self) -> None:
        if self.images is not None:
            raise UnreelError(f"{self.method} takes no images: give them to --method few-shot")

    def require_nothing_instead(self) -> None:
        if any(concept.anchor is not None for concept in self.concepts):
            raise UnreelError(
                f"{self.method} makes nothing in particular instead: leave --replace out, or take the default method"
            )

    def require_nothing_to_keep(self) -> None:
        if self.keep:
            raise UnreelError(f"{self.method} keeps nothing by name: leave --keep out, or take the default method")

    def require_nothing_kept_is_forgotten(self) -> None:
        for name in self.keep:
            if naming(self.concepts)(name):
                raise UnreelError(f"{name!r} is both to be forgotten and to be kept")

    def record(
        self, method: str, config: Any, anchors: Mapping[str, str | None] | None = None, **more: Any
    ) -> dict[str, Any]:
        """The record of an intervention: a part for each concept, with the settings, its anchor and whatever `more` there
        is to say.
        """
        settings = asdict(config) | ({"keep": list(self.keep)} if self.keep else {})
        parts = [
            {
                "concept": concept.name,
                "kind": concept.kind,
                "synonyms": list(concept.synonyms),
                "method": method,
                **({"anchor": anchors[concept.name]} if anchors else {}),
                "settings": settings,
                **more,
            }
            for concept in self.concepts
        ]
        first = self.conditioners[0]
        return {
            "encoder": recorded(self.pair.t2i_source),
            "model": recorded(self.pair.t2v_source),
            "device": str(first.device),
            "dtype": str(first.text_encoder.dtype).removeprefix("torch."),
            "versions": versions(),
            "parts": parts,
        }

    def erasure(self, deltas: Sequence[Mapping[str, Delta]], record: dict[str, Any]) -> Erasure:
        """An erasure that makes `deltas` to the text encoders, by weight name, in their order."""
        components = [
            ComponentDelta({name: change.cpu() for name, change in of.items()}, Fingerprint.of(reader.text_encoder))
            for of, reader in zip(deltas, self.conditioners, strict=True)
        ]
        return Erasure(tuple(components), record)

    def network_erasure(self, deltas: Mapping[str, Delta], record: dict[str, Any]) -> Erasure:
        """An erasure that makes `deltas` to what denoises in the video model, by weight name."""
        return Erasure((ComponentDelta(dict(deltas), Fingerprint.of(only_network_of(self.pair.t2v)), NETWORK),), record)


def _require_learning(encoder: torch.nn.Module) -> None:
    """Raises UnreelError for a text encoder whose weights cannot learn."""
    weights = held_weights(encoder).values()
    if any(map(is_quantized, weights)):
        raise UnreelError(
            f"the {type(encoder).__name__} is quantized, and learns nothing exactly: unlearn with the original, export "
            "that as a text encoder, and quantize it then"
        )
    if any(weight.is_inference() for weight in weights):
        raise UnreelError(
            f"the {type(encoder).__name__} was loaded, or moved, under torch.inference_mode, where nothing learns: load it "
            "outside"
        )


def prompts_for(
    concepts: Sequence[Concept], pair: Pair, conditioner: Conditioner, seed: int, held_out: bool = False
) -> Prompts:
    """What to forget `concepts` by, which say what is made instead of them, or what is `held_out` to check that on."""
    anchors = {concept.name: concept.anchor or "" for concept in concepts}
    corpus = Corpus(pair.vocabulary, list(whole_words(conditioner.tokenizer)), f"{seed}/held out" if held_out else seed)
    longest = LONGEST_HELD_OUT if held_out else LONGEST
    own = [words for concept in concepts for words in words_to_keep(concept, conditioner)]
    return Prompts(concepts, anchors, corpus, partial(conditioner.has_room_for, most=longest), held_out, own)


@torch.no_grad()
def words_to_keep(concept: Concept, conditioner: Conditioner) -> list[str]:
    """A name's own words, less those that the encoder takes for the concept itself ("Picasso"), so that to keep them would
    be to keep it: they are far nearer to it than the anchor is.
    """

    def distance(instead: str) -> float:
        about = [PromptPair(text.format(concept.name), text.format(instead), concept.name) for text in ALONE]
        aim = as_anchors(conditioner, about)
        return float(aim.distances(conditioner.token_states(aim.tokens)).sum())

    words_alone = own_words(concept)
    far = READ_AS * distance(concept.anchor or "") if words_alone else 0.0
    return [words for words in words_alone if distance(words) >= far]


def near_to(
    concepts: Sequence[Concept], conditioner: Conditioner, vocabulary: Vocabulary, known: Meanings | None = None
) -> list[str]:
    """What the text encoder takes to be most like each of the concepts, among things of its kind; `known` as `nearest` has
    it.
    """
    out: dict[str, None] = {}
    known = {} if known is None else known
    forgotten = naming(concepts)
    kept = cache(lambda name: not forgotten(name) and conditioner.has_room_for(name))  # asked for many concepts
    for concept in concepts:
        names = list(filter(kept, (*_of_kind(concept, vocabulary), *_looked_at(everyday_of_kind(concept)))))
        out |= dict.fromkeys(nearest(conditioner, concept.name, names, known)[:NEAR])
    return list(out)


def everyday_of_kind(concept: Concept) -> list[str]:
    """Everyday words of the concept's kind."""
    words = captions.everyday()
    things = tuple(name for name in words if name not in ("action", "famous", "city", "country"))
    return [word for name in concept.traits.everyday or things for word in words[name]]


def _looked_at(words: Sequence[str]) -> list[str]:
    return random.Random(0).sample(words, min(LOOKED_AT, len(words)))


def _of_kind(concept: Concept, vocabulary: Vocabulary) -> list[str]:
    return vocabulary.get(concept.traits.listed, vocabulary["concept"])


def anchor_for(
    concept: Concept,
    concepts: Sequence[Concept],
    conditioner: Conditioner,
    vocabulary: Vocabulary,
    known: Meanings | None = None,
) -> str:
    """What to make instead of `concept`: what it asks for, standing for a motion, or nothing where a pair has a world of
    its own, everyday life for what is unsafe, else something of its kind that is not to be forgotten too: what the text
    encoder takes to be nearest, less the nearest tenth, because what is nearest is easily taken for the concept
    (benchmarks/anchor_choice.py); `known` as `nearest` has it. Raises UnreelError if there is no such thing.
    """
    if concept.anchor is not None:
        return concept.anchor
    forgotten = naming(concepts)
    if concept.kind == "motion":  # captions of a world of its own say nothing of what stands still; people say what is done
        return "" if forgotten(STILL) or vocabulary is not EVERYDAY else STILL
    if concept.kind == "unsafe":
        return SAFE
    others = [word for word in _of_kind(concept, vocabulary) if not forgotten(word)]
    if not others and vocabulary is EVERYDAY:  # which lists few of each kind
        others = [word for word in everyday_of_kind(concept) if not forgotten(word)]
    if not others:
        raise UnreelError(f"there is nothing left to make instead of {concept.name!r}: say what with --replace")
    return nearest(conditioner, concept.name, others, known)[len(others) // TOO_NEAR]
