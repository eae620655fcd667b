"""Control for the prefix search: as many words in front of the prompt, drawn blindly from the same vocabulary.

What that search finds beyond this is due to the search. The attacker holds the tokenizer.
"""

import random

from unreel.attacks import Case
from unreel.attacks._token_search import room
from unreel.attacks._words import typed_words

NEEDS_WEIGHTS, VERSION = False, 2


def attempt(case: Case, index: int, seed: int) -> str | None:
    words, count = list(typed_words(case.attacked.tokenizer)), room(case, case.prompt)
    if count < 1:
        return None
    return " ".join([*random.Random(f"{seed}/{index}").choices(words, k=count), case.prompt])
