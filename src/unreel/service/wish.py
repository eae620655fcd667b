"""What a request asks for: a prompt, a seed, and perhaps a negative prompt, a tenant or erasures by name.

Knows JSON; knows nothing of what may be had.
"""

from dataclasses import dataclass, fields
from typing import Any

from unreel.errors import is_text, shortened
from unreel.files import parse_json
from unreel.prompts.suite import LAST_SEED
from unreel.service.refusals import RefusedError

MOST_ERASURES = 32  # that a request may name


@dataclass(frozen=True)
class Wish:
    """What one request asks for. It names a `tenant` if a policy decides about erasures, else the `erasures`. Without a
    negative prompt, the service's own is used.
    """

    prompt: str
    seed: int = 0
    tenant: str | None = None
    erasures: tuple[str, ...] = ()
    negative_prompt: str | None = None

    @staticmethod
    def read(body: bytes) -> "Wish":
        """The wish in a request's body, which is JSON. Raises RefusedError if that is invalid."""
        try:
            wish = parse_json(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"the request is no JSON: {shortened(str(error))}") from None
        if not isinstance(wish, dict) or not set(wish) <= {field.name for field in fields(Wish)}:
            raise RefusedError(
                "a request is an object with prompt and, optionally, seed, negative_prompt and tenant or erasures"
            )
        prompt, seed, negative = wish.get("prompt"), wish.get("seed", 0), wish.get("negative_prompt")
        if not isinstance(prompt, str) or not prompt.strip() or not is_text(prompt):
            raise RefusedError("the prompt is a text that is not empty")
        if negative is not None and (not isinstance(negative, str) or not is_text(negative)):
            raise RefusedError("the negative_prompt is a text")
        if type(seed) is not int or not 0 <= seed <= LAST_SEED:
            raise RefusedError("the seed is a whole number from 0 on")
        if not isinstance(wish.get("tenant"), (str, type(None))):
            raise RefusedError("the tenant is a text")
        try:
            names = names_in(wish.get("erasures", []))
        except (ValueError, RecursionError):
            raise RefusedError("erasures are a list of names") from None
        if len(names) > MOST_ERASURES:  # all of them are in memory at once
            raise RefusedError(f"at most {MOST_ERASURES} erasures are put on at a time: unlearn the concepts together")
        return Wish(prompt, seed, wish.get("tenant"), tuple(names), negative)


def names_in(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{value!r} is no list of names")
    return value
