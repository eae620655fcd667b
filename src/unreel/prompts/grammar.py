"""Sentences with gaps, such as "a photo of a [concept]", and what fills them, with articles that fit.

Knows articles; knows nothing about what the words mean.
"""

import re
from collections.abc import Mapping

# "a uniform", but "an unidentified"; and what is spelled out, letter by letter
_LIKE_A_CONSONANT = r"one\b|once\b|eu|ewe|uku|us[aeiu]|ut[ei]|uni(?![dmn])|(?:ufos?|usb|url|uv|u)\b"
_LIKE_A_VOWEL = "[aeiou]|hono|honest|hour|heir"
_ARTICLES = re.compile(r"\b(?:a|an|the) (?=(?:a|an|the) )", re.IGNORECASE)
LAST_LETTER = 0x10FFFD  # of Unicode's for private use, which no text has
_BEFORE_A_VOWEL = re.compile(rf"\b(a) (?!{_LIKE_A_CONSONANT})(?={_LIKE_A_VOWEL})", re.IGNORECASE)


def bare(words: str) -> str:
    """Without their article, for sentences that bring their own."""
    return re.sub(r"^(?:a|an|the) ", "", words.strip(), flags=re.IGNORECASE)


def in_place_of(name: str, anchor: str) -> str:
    """What is said instead of a name: where that has capitals, and so no article of its own, the anchor with one, unless
    that is such a name too.
    """
    plain = anchor == bare(anchor) == anchor.lower()
    return f"a {anchor}" if name != name.lower() and anchor and plain else anchor


def fill(sentence: str, filled: Mapping[str, str]) -> str:
    """The sentence with its gaps filled; articles go with what is left out, and give way to those that words bring. What
    looks like an article within a word's name stays: J A Evans, Vuelta a España, U.S.A.
    """
    behind: dict[str, str] = {}
    for number, (gap, word) in enumerate(filled.items()):
        if not word and gap != "motion":  # before a motion stands what belongs to what moves
            sentence = re.sub(rf"\b(?:an?|the) \[{gap}\]", "", sentence)
        (start, rest), mark = _parted(word), chr(LAST_LETTER - number)
        sentence = sentence.replace(f"[{gap}]", start and start + mark)
        behind[mark] = rest
    sentence = with_articles(sentence)
    for mark, rest in behind.items():
        sentence = sentence.replace(mark, rest)
    return sentence


def _parted(words: str) -> tuple[str, str]:
    """What decides about the article before some words, with their own if they bring one, and the rest of them."""
    each = words.split()
    count = 2 if each and each[0].lower() in ("a", "an", "the") else 1
    return " ".join(each[:count]), "".join(f" {word}" for word in each[count:])


def with_articles(text: str) -> str:
    """The text with "an" where it belongs, the second of two articles alone, and single spaces."""
    return _BEFORE_A_VOWEL.sub(r"\1n ", _ARTICLES.sub("", " ".join(text.split())))
