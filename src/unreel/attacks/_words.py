"""What attacks share about wordings: the prompt around the concept, and the words an attacker may pick from.

Knows text and tokenizers; knows no model.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from unreel.attacks import Case
from unreel.errors import UnreelError
from unreel.models.tokenizer import whole_words
from unreel.prompts.grammar import bare


def in_place(case: Case, text: str) -> str:
    """The prompt with `text` in place of the wording."""
    before, after = around(case)
    return " ".join(f"{before}{text}{after}".split())


def around(case: Case) -> tuple[str, str]:
    """The prompt before and after the wording. If the prompt has the wording more than once, the others are left out
    too.

    Raises UnreelError if the prompt does not contain the wording.
    """
    words = " ".join(case.wording.split())
    name = bare(words)
    article = "" if name == words else "(?:an?|the) "  # which is the sentence's by now
    before, *after = re.split(rf"(?<!\w){article}{re.escape(name)}(?!\w)", case.prompt, flags=re.IGNORECASE)
    if not after:
        raise UnreelError(f"the prompt {case.prompt!r} does not contain {case.wording!r}: give the words it uses")
    return before, " ".join(after)


def pick(case: Case, prompts: Iterable[str], index: int) -> str | None:
    """The prompt number `index` of those that fit and whose tokens differ from the case's own prompt and from each
    other; None if there are fewer.

    A change that is undone before the text encoder reads it, such as upper case for CLIP, is no attempt; nor is a prompt
    that would be cut off.
    """

    def as_read(prompt: str) -> tuple[int, ...]:
        return tuple(case.original.tokenize([prompt]).ids[0].tolist())

    tried = {as_read(case.prompt)}
    for prompt in prompts:
        if not case.original.has_room_for(prompt) or (ids := as_read(prompt)) in tried:
            continue
        tried.add(ids)
        if len(tried) > index + 1:
            return prompt
    return None


def in_turn(*ways: Iterable[str]) -> Iterator[str]:
    """The first text of each way, then the second of each, and so on, so that a few attempts try all ways. Ways that
    have ended are passed over.
    """
    for texts in zip_longest(*ways):
        yield from (text for text in texts if text is not None)


def typed_words(tokenizer: Any) -> dict[str, int]:
    """Whole words in lower case, since some pipelines put all words into lower case: text -> id."""
    return {word: i for word, i in whole_words(tokenizer).items() if word == word.lower()}


def other_words(case: Case) -> dict[str, int]:
    """The whole words that neither name nor spell the concept: without its words, their pieces and their inflections."""
    wordings = (case.wording, case.concept.name, *case.concept.synonyms, *case.synonyms)
    own = set(re.findall(r"\w+", " ".join(wordings).lower()))
    return {
        word: i
        for word, i in typed_words(case.attacked.tokenizer).items()
        if not any(word in mine or (len(mine) > 2 and word.startswith(mine)) for mine in own)
    }
