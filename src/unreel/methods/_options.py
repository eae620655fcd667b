"""Settings of methods that are options of the command line too, and what may stand in them."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unreel.errors import UnreelError


def option(default: Any, help: str) -> Any:
    """A field of a config with what the command line says of it."""
    return field(default=default, metadata={"help": help})


def require_offloadable(config: Any) -> None:
    """Raises UnreelError, saying what helps, if the method cannot learn while a text encoder waits in main memory."""
    refusal = getattr(config, "refuses_offloading", "")
    if refusal:
        raise UnreelError(refusal)


def require(config: Any, *, positive: Sequence[str], or_zero: Sequence[str] = ()) -> None:
    """Raises UnreelError unless settings are greater than zero, others zero or more, and those of which a few values make
    sense have one of these.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and (value := getattr(config, name)) not in get_args(kind):
            raise UnreelError(f"{name.replace('_', ' ')} must be one of {', '.join(get_args(kind))}, not {value!r}")
    for name in positive:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise UnreelError(f"{name.replace('_', ' ')} must be greater than zero, not {value}")
    for name in or_zero:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0):
            raise UnreelError(f"the {name.replace('_', ' ')} must be zero or more, not {value}")
