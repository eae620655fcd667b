"""Calls of pipelines: what they make, or why they cannot; and what they call their parts with, so that nobody has to write
down for every class what it does.

Knows modules as functions; knows nothing about what they compute.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.families import frames_argument
from unreel.memory import enough_memory, no_memory

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def made_by(pipeline: "DiffusionPipeline", **options: Any) -> Any:
    """What the pipeline makes. Raises UnreelError for what it cannot make, such as more frames than it was trained for."""
    device, video = pipeline._execution_device, frames_argument(pipeline) is not None
    ways = {
        "--dtype bfloat16": pipeline.dtype == torch.float32,
        "--offload": device.type != "cpu" and pipeline.device == device,
        "--tiling": video and not getattr(pipeline.vae, "use_tiling", True),
        "fewer --frames": video,
        "a smaller --size": video,
    }
    with enough_memory("generating", device, [way for way, helps in ways.items() if helps]):
        try:
            return pipeline(**options)
        except (ValueError, RuntimeError, IndexError) as error:
            if no_memory(error):
                raise
            numbers = ", ".join(f"{name}={it}" for name, it in options.items() if isinstance(it, (int, float)))
            reason = " ".join(str(error).split())
            raise UnreelError(f"{type(pipeline).__name__} cannot generate with {numbers}: {reason}") from error


class _Reached(Exception):  # noqa: N818  (no error: the way out of a pipeline that has said what was asked)
    pass


def first_call(part: nn.Module, run: Callable[[], Any]) -> dict[str, Any] | None:
    """The arguments by name with which `run()` calls `part` for the first time, which ends the run; None if it does not."""
    seen: list[dict[str, Any]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        takes = inspect.signature(getattr(module, "_orig_mod", module).forward)  # what torch compiled takes anything
        given = dict(takes.bind(*args, **kwargs).arguments)
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
