"""Settings of methods that are options of the command line too, and what may stand in them."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from unreel.errors import UnreelError


def option(default: Any, help: str) -> Any:
    """A field of a config with what the command line says of it."""
    return field(default=default, metadata={"help": help})


def require(config: Any, *, positive: Sequence[str], or_zero: Sequence[str] = ()) -> None:
    """Raises UnreelError unless settings are greater than zero, and others zero or more."""
    for name in positive:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise UnreelError(f"{name.replace('_', ' ')} must be greater than zero, not {value}")
    for name in or_zero:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0):
            raise UnreelError(f"the {name.replace('_', ' ')} must be zero or more, not {value}")


def finite(value: float, step: int, learning_rate: float) -> float:
    """A loss, or what else is measured at a step. Raises UnreelError if it is no number any more."""
    if not math.isfinite(value):
        raise UnreelError(
            f"the loss became {value} at step {step}: nothing was kept; lower the learning rate (it was "
            f"{learning_rate:g}) or use --dtype float32"
        )
    return value
