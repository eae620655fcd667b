"""Settings of methods that are options of the command line too."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """A field of a config with what the command line says of it."""
    return field(default=default, metadata={"help": help})
