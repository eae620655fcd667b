"""What a pipeline calls its parts with: ask it, instead of writing down for every class what it does.

Knows modules as functions; knows nothing about what they compute.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


class _Reached(Exception):  # noqa: N818  (no error: the way out of a pipeline that has said what was asked)
    pass


def first_call(part: nn.Module, run: Callable[[], Any]) -> dict[str, Any] | None:
    """The arguments by name with which `run()` calls `part` for the first time, which ends the run; None if it does not."""
    seen: list[dict[str, Any]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
        seen.append(given | given.pop("kwargs", {}))
        raise _Reached

    hook = part.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run()
    except _Reached:
        return seen[0]
    finally:
        hook.remove()
    return None
