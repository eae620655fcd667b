"""Control: the prompt without the concept's words, with nothing in their place.

Nobody asks for the concept, so what comes back comes back by chance, or the judge errs: a style that a model draws unasked,
a person who looks like another. An attack that works no more often than this does nothing. The attacker holds nothing.
"""

from unreel.attacks import Case
from unreel.attacks._words import around
from unreel.prompts.grammar import fill

NEEDS_WEIGHTS = False


def attempt(case: Case, index: int, seed: int) -> str:
    before, after = around(case)
    return fill(f"{before}[concept]{after}", {"concept": ""})
