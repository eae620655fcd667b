"""Sentences with gaps, such as "a photo of a [concept]", and what fills them, with articles that fit.

Knows articles; knows nothing about what the words mean.
"""

import re
from collections.abc import Mapping

# "a uniform", but "an unidentified"; and what is spelled out, letter by letter
_LIKE_A_CONSONANT = r"one\b|once\b|eu|ewe|uku|us[aeiu]|ut[ei]|uni(?![dmn])|(?:ufos?|usb|url|uv|u)\b"
_LIKE_A_VOWEL = "[aeiou]|hono|honest|hour|heir"
_ARTICLES = re.compile(r"\b(?:a|an|the) (?=(?:a|an|the) )", re.IGNORECASE)
LAST_LETTER = 0x10FFFD  # a private-use character, which no text has
_BEFORE_A_VOWEL = re.compile(rf"\b(a) (?!{_LIKE_A_CONSONANT})(?={_LIKE_A_VOWEL})", re.IGNORECASE)


def bare(words: str) -> str:
    """Words without the article they begin with, for sentences that bring their own."""
    return re.sub(r"^(?:a|an|the) ", "", words.strip(), flags=re.IGNORECASE)


def in_place_of(name: str, anchor: str) -> str:
    """What replaces `name` in a sentence. A capitalised name has no article, so a plain anchor gets one, unless the
    anchor is such a name too.
    """
    plain = anchor == bare(anchor) == anchor.lower()
    return f"a {anchor}" if name != name.lower() and anchor and plain else anchor


def fill(sentence: str, filled: Mapping[str, str]) -> str:
    """The sentence with its gaps filled. The article before a gap goes if the gap stays empty or its words bring their
    own. What looks like an article within a name stays: J A Evans, Vuelta a España, U.S.A.
    """
    behind: dict[str, str] = {}
    for number, (gap, word) in enumerate(filled.items()):
        if not word and gap != "motion":  # the article before a motion belongs to what moves
            sentence = re.sub(rf"\b(?:an?|the) \[{gap}\]", "", sentence)
        (start, rest), mark = _parted(word), chr(LAST_LETTER - number)
        sentence = sentence.replace(f"[{gap}]", start and start + mark)
        behind[mark] = rest
    sentence = with_articles(sentence)
    for mark, rest in behind.items():
        sentence = sentence.replace(mark, rest)
    return sentence


def _parted(words: str) -> tuple[str, str]:
    """Some words in two parts: those that decide about the article before them (the first word, with its own article if
    it has one), and the rest.
    """
    each = words.split()
    count = 2 if each and each[0].lower() in ("a", "an", "the") else 1
    return " ".join(each[:count]), "".join(f" {word}" for word in each[count:])


def with_articles(text: str) -> str:
    """The text with "an" where it belongs, the second of two articles alone, and single spaces."""
    return _BEFORE_A_VOWEL.sub(r"\1n ", _ARTICLES.sub("", " ".join(text.split())))
