"""The prompt in capitals. The attacker holds nothing but the service."""

from unreel.attacks import Case

NEEDS_WEIGHTS = False


def attempt(case: Case, index: int, seed: int) -> str | None:
    return case.prompt.upper() if index == 0 else None
