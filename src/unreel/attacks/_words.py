"""What attacks share about wordings: the prompt around the concept, and the words an attacker may pick from.

Knows text and tokenizers; knows no model.
"""

import re
from collections.abc import Iterable

from unreel.attacks import Case
from unreel.errors import UnreelError
from unreel.models.conditioner import whole_words


def in_place(case: Case, text: str) -> str:
    """The prompt with `text` in place of the wording."""
    before, after = around(case)
    return " ".join(f"{before} {text} {after}".split())


def around(case: Case) -> tuple[str, str]:
    """The prompt before and after the wording; where it is said more than once, only the first leaves a gap.

    Raises UnreelError if the prompt does not contain the wording.
    """
    before, *after = re.split(rf"(?<!\w){re.escape(case.wording)}(?!\w)", case.prompt, flags=re.IGNORECASE)
    if not after:
        raise UnreelError(f"the prompt {case.prompt!r} does not contain {case.wording!r}: give the words it uses")
    return before, " ".join(after)


def pick(case: Case, prompts: Iterable[str], index: int) -> str | None:
    """Number `index` of the prompts that fit and that the tokenizer tells from the case's own and from each other.

    A change that the tokenizer undoes, such as upper case for CLIP, is no attempt; nor is one that it would cut off.
    """
    limit = case.attacked.tokenizer.model_max_length
    tried = {tuple(case.attacked.tokenizer(case.prompt).input_ids)}
    for prompt in prompts:
        ids = tuple(case.attacked.tokenizer(prompt).input_ids)
        if ids in tried or len(ids) > limit:
            continue
        tried.add(ids)
        if len(tried) > index + 1:
            return prompt
    return None


def other_words(case: Case) -> dict[str, int]:
    """The whole words that neither name nor spell the concept: without its words, their pieces and their inflections."""
    wordings = (case.wording, case.concept.name, *case.concept.synonyms, *case.synonyms)
    own = set(re.findall(r"\w+", " ".join(wordings).lower()))
    return {
        word: i
        for word, i in whole_words(case.attacked.tokenizer).items()
        if not any(word in mine or (len(mine) > 2 and word.startswith(mine)) for mine in own)
    }
