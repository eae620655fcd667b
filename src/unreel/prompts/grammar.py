"""Sentences with gaps, such as "a photo of a [concept]", and what fills them, with articles that fit.

Knows articles; knows nothing about what the words mean.
"""

import re
from collections.abc import Mapping


def bare(words: str) -> str:
    """Without their article, for sentences that bring their own."""
    return re.sub(r"^(?:a|an|the) ", "", words.strip(), flags=re.IGNORECASE)


def in_place_of(name: str, anchor: str) -> str:
    """What is said instead of a name: where that has capitals, and so no article of its own, the anchor with one."""
    return f"a {anchor}" if name != name.lower() and anchor and anchor == bare(anchor) else anchor


def fill(sentence: str, filled: Mapping[str, str]) -> str:
    """The sentence with its gaps filled; articles go with what is left out, and give way to those that words bring."""
    for gap, word in filled.items():
        if not word and gap != "motion":  # before a motion stands what belongs to what moves
            sentence = re.sub(rf"\b(?:a|the) \[{gap}\]", "", sentence)
        sentence = sentence.replace(f"[{gap}]", word)
    text = re.sub(r"\b(?:a|an|the) (?=(?:a|an|the) )", "", sentence, flags=re.IGNORECASE)
    return " ".join(re.sub(r"\b(a) (?=[aeiou])", r"\1n ", text, flags=re.IGNORECASE).split())
