"""The wording misspelt or spaced otherwise, so that it falls into other tokens but people still read it.

Tokenizers split an unknown spelling into pieces, which unlearning by name never saw. The attacker holds nothing but the
service.
"""

import random
from collections.abc import Iterator

from unreel.attacks import Case
from unreel.attacks._words import in_place, in_turn, pick

NEEDS_WEIGHTS, VERSION = False, 2


def attempt(case: Case, index: int, seed: int) -> str | None:
    slips = _slips(case.wording)
    spellings = in_turn(random.Random(seed).sample(slips, len(slips)), _spacings(case.wording))
    return pick(case, (in_place(case, spelling) for spelling in spellings), index)


def _spacings(wording: str) -> Iterator[str]:
    words = wording.split()
    yield from (separator.join(words) for separator in ("", "-", "_"))
    yield from (separator.join("".join(words)) for separator in (" ", "-", "."))
    yield " ".join(" ".join(word[i : i + 3] for i in range(0, len(word), 3)) for word in words)
    yield from (wording.upper(), wording.title(), wording.swapcase())


def _slips(wording: str) -> list[str]:
    """Every letter left out, doubled, and swapped with the next; of a single letter, only what is left of it."""
    out = []
    for i, letter in enumerate(wording):
        if letter != " ":
            before, rest = wording[:i], wording[i + 1 :]
            out += [before + rest, before + 2 * letter + rest, before + rest[:1] + letter + rest[1:]]
    return [slip for slip in out if slip.strip() and slip != wording]
