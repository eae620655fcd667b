"""The prompts of an evaluation: what should be gone, and what should stay.

Knows wordings; knows no model and no pixels.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from unreel.prompts.concept import Concept
from unreel.prompts.grammar import bare, fill
from unreel.prompts.kinds import GAP, TRAITS

# Groups that ask for the concept, and groups that ask for something else. `companions` ask for both.
ERASED = ("explicit", "paraphrases")
KEPT = ("companions", "neighbours", "unrelated", "styles", "motions")
NAMING = (*ERASED, "companions")
GROUPS = (*ERASED, *KEPT)

NEIGHBOURS = 10
UNRELATED = 20
SEEDS_PER_GROUP = 10_000
LAST_SEED = 2**62  # from which one can still count on


@dataclass(frozen=True)
class Prompt:
    """One video to make. `label` is what it was asked to show besides or instead of the concept, or the concept's name.

    `anchor` is the anchor prompt of one that names a concept with an anchor: the same sentence with that in its place.
    """

    text: str
    group: str
    label: str
    seed: int
    anchor: str | None = None
    repetition: int = 0  # how often its group has said the same before, with other seeds


@dataclass(frozen=True)
class _Row:
    """A sentence with a gap, what fills it, and the label to look for."""

    sentence: str
    wording: str
    label: str

    @property
    def text(self) -> str:
        return fill(self.sentence, {GAP[1:-1]: self.wording})


def suite(
    concept: Concept,
    vocabulary: dict[str, list[str]],
    synonyms: Sequence[str],
    *,
    videos: int,
    seed: int,
    groups: Iterable[str] = GROUPS,
    gone: Callable[[str], bool] = lambda text: False,
) -> list[Prompt]:
    """`videos` prompts for each group, every one with a seed of its own; a group that has nothing to ask for is left out.

    The second half of a group says the same as the first with other seeds, so that what the seed does can be told from what
    an erasure does.

    `vocabulary` lists what else could be asked for, by kind, each list from the nearest to the concept to the farthest;
    without the concept itself. `gone` says of a text whether it names something else that is erased, which is no loss.
    """
    near, far = vocabulary[concept.traits.neighbours][:NEIGHBOURS], vocabulary["concept"][-UNRELATED:]
    unrelated = [name for name in far if name not in near] or far  # where hardly anything is listed, the two meet
    neighbours, thing = TRAITS[concept.traits.asked_as or concept.kind], TRAITS["object"]
    rows = {
        "explicit": [_Row(sentence, concept.name, concept.name) for sentence in concept.traits.plain],
        "paraphrases": _paraphrases(concept, synonyms),
        "companions": _companions(concept, far),
        "neighbours": [_Row(sentence, name, name) for name in near for sentence in neighbours.plain],
        "unrelated": [_Row(sentence, name, name) for sentence, name in product(thing.plain, unrelated)],
        "styles": [_Row(sentence, name, name) for name in vocabulary["style"] for sentence in TRAITS["style"].plain],
        "motions": [_Row(sentence, name, name) for name in vocabulary["motion"] for sentence in TRAITS["motion"].plain],
    }
    for group in ("neighbours", "unrelated", "styles", "motions"):
        rows[group] = [row for row in rows[group] if not concept.is_named_in(row.text) and not gone(row.text)]
    rows["companions"] = [row for row in rows["companions"] if not gone(row.label)]
    out = []
    for index, group in enumerate(GROUPS):
        if group in groups and rows[group]:
            mixed = random.Random(0).sample(rows[group], len(rows[group]))  # so that few videos still span the group
            for i in range(videos):
                half = -(-videos // 2)
                row = mixed[i % half % len(mixed)]
                anchor = _with_anchor(concept, row.sentence) if group in NAMING else None
                number = seed + index * SEEDS_PER_GROUP + i
                out.append(Prompt(row.text, group, row.label, number, anchor, repetition=i // half))
    return out


def _with_anchor(concept: Concept, sentence: str) -> str | None:
    """The sentence with the concept's anchor in its gap, articles right; None without one."""
    if concept.anchor is None:
        return None
    gap = "motion" if concept.kind == "motion" else "concept"  # which is how grammar knows what takes no article
    anchor = bare(concept.anchor) if concept.traits.article else concept.anchor.strip()
    return fill(sentence.replace(GAP, f"[{gap}]"), {gap: anchor})


def _paraphrases(concept: Concept, synonyms: Sequence[str]) -> list[_Row]:
    """Other words for the concept in plain prompts, and the concept's name in other sentences."""
    rows = [_Row(sentence, wording, concept.name) for wording in synonyms for sentence in concept.traits.plain]
    return rows + [_Row(sentence, concept.name, concept.name) for sentence in concept.traits.paraphrases]


def _companions(concept: Concept, others: Sequence[str]) -> list[_Row]:
    """The concept together with something that must survive: another object, or what has the style or makes the motion."""
    traits = concept.traits
    if traits.subjects:
        subjects = [subject for subject in traits.subjects for _ in traits.sentences]
        pairs = list(zip(traits.plain, subjects, strict=True))
    else:
        pairs = [(text.format(GAP, other=other), other) for text, other in product(traits.companions, others)]
    return [_Row(sentence, concept.name, label) for sentence, label in pairs]
