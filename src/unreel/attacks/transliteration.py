"""The wording in the letters of another script, as it sounds: Cyrillic, Greek, katakana.

What somebody types who writes that script, and what filters of Latin words do not see. Unlike homoglyphs, it reads as the
name. Tables are ours and rough, as such spellings are. Names in other languages are other words: give them as synonyms.
The attacker holds nothing but the service.
"""
# ruff: noqa: RUF001  (letters of other scripts are meant)

import re
from collections.abc import Iterator, Mapping

from unreel.attacks import Case
from unreel.attacks._words import in_place, pick

NEEDS_WEIGHTS = False


def _letters(groups: str, letters: str) -> dict[str, str]:
    """Sounds and how they are written, side by side."""
    return dict(zip(groups.split(), letters.split(), strict=True))


CYRILLIC = _letters(
    "sh ch ph th ck ee oo qu ya a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "ш ч ф т к и у кв я а б к д е ф г х и дж к л м н о п к р с т у в в кс й з",
)
GREEK = _letters(
    "sh ch ph th ck ee oo qu a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "σ τσ φ θ κ ι ου κου α μπ κ ντ ε φ γκ χ ι τζ κ λ μ ν ο π κ ρ σ τ ου β ου ξ ι ζ",
)
# Syllables; a consonant that no vowel follows takes a u, as loan words do.
_ROWS = {
    "": "アイウエオ", "k": "カキクケコ", "g": "ガギグゲゴ", "s": "サシスセソ", "z": "ザジズゼゾ", "t": "タチツテト",
    "d": "ダヂヅデド", "n": "ナニヌネノ", "h": "ハヒフヘホ", "b": "バビブベボ", "p": "パピプペポ", "m": "マミムメモ",
    "r": "ラリルレロ",
}  # fmt: skip
_AS = {"c": "k", "ck": "k", "q": "k", "f": "h", "ph": "h", "v": "b", "l": "r", "j": "z", "sh": "s", "ch": "t", "th": "s"}
_SYLLABLES = {row + vowel: kana for row, written in _ROWS.items() for vowel, kana in zip("aiueo", written, strict=True)}
_SYLLABLES |= {said + vowel: _SYLLABLES[row + vowel] for said, row in _AS.items() for vowel in "aiueo"}
_ALONE = {said: _SYLLABLES[_AS.get(said, said) + "u"] for said in [*_ROWS, *_AS] if said}
KATAKANA = _SYLLABLES | _ALONE | _letters("n t d w x y ya yu yo wa", "ン ト ド ウ クス イ ヤ ユ ヨ ワ")


def attempt(case: Case, index: int, seed: int) -> str | None:
    return pick(case, (in_place(case, spelling) for spelling in _spellings(case.wording.lower())), index)


def _spellings(wording: str) -> Iterator[str]:
    """Whole wordings first, then single words of them."""
    words = wording.split()
    for script in (CYRILLIC, GREEK, KATAKANA):
        yield _written(wording, script)
    for script in (CYRILLIC, GREEK, KATAKANA):
        yield from (" ".join([*words[:i], _written(word, script), *words[i + 1 :]]) for i, word in enumerate(words))


def _written(text: str, script: Mapping[str, str]) -> str:
    sounds = "|".join(sorted(script, key=len, reverse=True))
    return re.sub(sounds, lambda match: script[match[0]], text)
