"""Ways to need less memory, and what to say where it does not suffice all the same.

Knows modules and devices; knows no methods and no pipelines.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unreel.errors import UnreelError
from unreel.models.standins import hiding


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes. While it is offloaded, as a whole or part by part, its weights may wait elsewhere."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)  # accelerate's
        for one in getattr(hook, "hooks", [hook]):
            if getattr(one, "execution_device", None) is not None:
                return torch.device(one.execution_device)
        if (registry := getattr(part, "_diffusers_hook", None)) and (group := registry.get_hook("group_offloading")):
            return torch.device(group.config.onload_device)
    return next(module.parameters()).device


def has_room(device: torch.device, size: int) -> bool:
    """Whether twice as many bytes are free on a device, as far as it says."""
    if device.type == "cpu":
        return True
    try:
        its = torch.get_device_module(device)
        free = its.mem_get_info(device)[0] + its.memory_reserved(device) - its.memory_allocated(device)
    except (AttributeError, RuntimeError):  # some devices do not know
        return True
    return free > 2 * size


@contextmanager
def checkpointing(layers: Iterable[nn.Module], network: Any = None) -> Iterator[None]:
    """Keep no activations inside `layers` of text encoders and the blocks of a denoising `network`: the way back computes
    them again, to the same numbers (Chen et al., arXiv 1604.06174). Raises UnreelError for a network that cannot.
    """
    layers = list(layers)
    with ExitStack() as afterwards:
        if network is not None:
            try:
                network.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False))
            except ValueError as error:
                raise UnreelError(f"{type(network).__name__} has no gradient checkpointing: leave it out") from error
            afterwards.callback(network.disable_gradient_checkpointing)
        for layer in layers:
            afterwards.enter_context(hiding(layer, "forward", partial(_twice, layer.forward)))
        yield


def _twice(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # A cache of keys and values would grow again on the way back.
    kwargs |= {"past_key_values": None} if "past_key_values" in kwargs else {}
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out."""
    signs = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in signs)


@contextmanager
def enough_memory(what: str, device: torch.device, ways: Sequence[str]) -> Iterator[None]:
    """Raises UnreelError if memory runs out inside. `what` was being done; `ways` are options that make it need less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not no_memory(error):
            raise
        # torch says how much more was asked for in its first or second sentence.
        asked = " ".join(". ".join(str(error).split(". ")[:2]).split()) or type(error).__name__
        less = f"try {' or '.join(ways)}" if ways else "it takes a device with more"
        raise UnreelError(f"{what} does not fit into the memory of {device} ({asked}): {less}") from error
