"""The anchor of a concept, what is near it, and the prompts to learn both from, as a text encoder reads them.

Knows words and text encoders; knows nothing about how anything is learned.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import torch

from unreel.errors import UnreelError
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Pair
from unreel.models.reading import Meanings, as_anchors, nearest
from unreel.models.tokenizer import whole_words
from unreel.prompts import captions
from unreel.prompts.concept import Concept, naming
from unreel.prompts.corpus import Corpus
from unreel.prompts.pairs import PromptPair, Prompts, own_words
from unreel.prompts.vocabulary import EVERYDAY, Vocabulary

TOO_NEAR = 10  # the nearest one in so many things is too much like the concept to be its anchor
# Tokens of a prompt to learn from, and to measure on: what is learned from short ones carries over.
LONGEST, LONGEST_HELD_OUT = 28, 80
NEAR, LOOKED_AT = 20, 240  # how many nearest things to keep by name; of how many everyday words they are chosen
ALONE = ("a photo of {}", "{} at night", "a picture of {} in the rain")
READ_AS = 0.25  # the share of the squared distance to the anchor below which words are taken for the concept
STILL = "standing"  # the anchor of motions
SAFE = "everyday life"  # the anchor of unsafe content, which no single thing could replace


def prompts_for(
    concepts: Sequence[Concept], pair: Pair, conditioner: Conditioner, seed: int, held_out: bool = False
) -> Prompts:
    """The prompts to forget `concepts` by, each of which has its anchor; or, `held_out`, the prompts to check that on."""
    anchors = {concept.name: concept.anchor or "" for concept in concepts}
    corpus = Corpus(pair.vocabulary, list(whole_words(conditioner.tokenizer)), f"{seed}/held out" if held_out else seed)
    longest = LONGEST_HELD_OUT if held_out else LONGEST
    own = [words for concept in concepts for words in words_to_keep(concept, conditioner)]
    return Prompts(concepts, anchors, corpus, partial(conditioner.has_room_for, most=longest), held_out, own)


@torch.no_grad()
def words_to_keep(concept: Concept, conditioner: Conditioner) -> list[str]:
    """A name's own words, without those that the encoder takes for the concept itself ("Picasso"): to keep these would
    be to keep the concept. They are far nearer to it than the anchor is.
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
    """The things of each concept's kind that the text encoder finds nearest to it. `known` is as in `nearest`."""
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


def anchored(
    concepts: Sequence[Concept], conditioner: Conditioner, vocabulary: Vocabulary, known: Meanings | None = None
) -> list[Concept]:
    """The concepts, each with what to make instead of it, as `anchor_for` has it; no name is read twice."""
    known = {} if known is None else known
    return [replace(each, anchor=anchor_for(each, concepts, conditioner, vocabulary, known)) for each in concepts]


def anchor_for(
    concept: Concept,
    concepts: Sequence[Concept],
    conditioner: Conditioner,
    vocabulary: Vocabulary,
    known: Meanings | None = None,
) -> str:
    """What to make instead of `concept`: its own anchor if it has one. For a motion: "standing", or nothing if that is
    to be forgotten or the pair has a world of its own. For unsafe content: "everyday life". Else the name of its kind
    that the text encoder finds nearest, after skipping the nearest tenth, which is easily taken for the concept
    (benchmarks/anchor_choice.py); names that are to be forgotten are left out.

    `known` is as in `nearest`. Raises UnreelError if no name is left.
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
