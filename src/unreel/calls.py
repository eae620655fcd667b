"""Calls of pipelines: what they make, or why they cannot; and what they call their parts with, so that nobody has to write
down for every class what it does.

Knows modules as functions; knows nothing about what they compute.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.families import frames_argument
from unreel.memory import enough_memory, forwarding, no_memory

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


class Outlines:
    """What modules that read tokens write, in shape alone: for the sake of what comes after them, where nobody looks at
    what they write. Each is really called once, to see.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        self._seen: dict[nn.Module, tuple[Any, tuple[int, ...]]] = {}

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, those that are known already write zeros."""
        with ExitStack() as afterwards:
            for module in self.modules:
                if module in self._seen:
                    afterwards.enter_context(forwarding(module, partial(self._zeros, module)))
                else:
                    afterwards.callback(module.register_forward_hook(self._note, with_kwargs=True).remove)
            yield

    def _note(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        outline = _mapped(output, lambda it: torch.empty_like(it, device="meta"))
        self._seen[module] = (outline, tuple(_ids(args, kwargs).shape))

    def _zeros(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        (output, before), ids = self._seen[module], _ids(args, kwargs)

        def zeros(outline: torch.Tensor) -> torch.Tensor:
            shape = list(outline.shape)
            for place in range(min(len(shape) - 1, 2)):  # prompts, then tokens where there is a width behind
                shape[place] = ids.shape[place] if shape[place] == before[place] else shape[place]
            return torch.zeros(shape, dtype=outline.dtype, device=ids.device)

        return _mapped(output, zeros)


def _ids(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else kwargs["input_ids"]


def _mapped(output: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """What a module writes, with every tensor in it changed, and nothing else kept, such as caches."""
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, (tuple, list)):
        return type(output)(_mapped(part, change) for part in output)
    if isinstance(output, Mapping):
        return type(output)(**{name: _mapped(part, change) for name, part in output.items()})
    return None


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
