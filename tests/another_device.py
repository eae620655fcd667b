"""A device that is not the CPU, for machines that have no other: tensors on it are CPU tensors that say they are elsewhere,
and whatever mixes the two fails, as it would on a GPU.

What it computes is the CPU's to rounding. It says nothing about speed, memory or precision.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "elsewhere"
# Operations that take tensors of both devices on a GPU too.
COPIES = {"copy_", "_to_copy"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # with indices that are on the CPU


class Backend(_DummyBackendModule):
    """What torch, accelerate and diffusers ask of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        pass

    def device(self, index: int) -> Any:
        return nullcontext()

    def synchronize(self, device: Any = None) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    free = True

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return 2**40 if self.free else 0, 2**40

    def memory_reserved(self, device: Any = None) -> int:
        return 0

    memory_allocated = memory_reserved


_setup_privateuseone_for_python_backend(NAME, Backend())
DEVICE = torch.device(NAME, 0)


class _There(torch.Tensor):
    """A tensor that says it is on the device; its numbers are in `here`."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor):
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        there = torch.Tensor._make_wrapper_subclass(cls, here.shape, device=DEVICE, **layout)
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(function, args, kwargs or {})

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_as_tensors(index))

    def tolist(self) -> Any:
        return self.here.tolist()


def _as_tensors(index: Any) -> Any:
    # Indexing by lists makes tensors where no dispatch mode can see it.
    if isinstance(index, tuple):
        return tuple(map(_as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments or results of an operation with everything in them changed; torch's own tree functions would take half of
    all the time.
    """
    if isinstance(value, (tuple, list)):
        return type(value)([_each(part, change) for part in value])
    if isinstance(value, dict):
        return {name: _each(part, change) for name, part in value.items()}
    return change(value)


def _run(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run the operation on the CPU; its results are on the device if that was asked for, or if its arguments are."""
    name = function.overloadpacket.__name__
    there: list[_There] = []
    here: list[torch.Tensor] = []

    def brought(leaf: Any) -> Any:
        if isinstance(leaf, _There):
            there.append(leaf)
            return leaf.here
        if isinstance(leaf, torch.Tensor) and leaf.dim():  # numbers go anywhere
            here.append(leaf)
        return leaf

    near = _each(args, brought), _each(kwargs, brought)
    first = bool(args) and isinstance(args[0], _There)
    if there and here and not (name in COPIES or (name in INDEXED and first)):
        shapes = " and of ".join(str([tuple(tensor.shape) for tensor in part]) for part in (there, here))
        raise RuntimeError(f"Expected all tensors to be on the same device: {function} of {shapes} on the CPU")
    asked, generator = kwargs.get("device"), kwargs.get("generator")
    onto = torch.device(asked).type == NAME if asked is not None else first if name in COPIES | INDEXED else bool(there)
    if onto and generator is not None:
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found {generator.device}")
    args, kwargs = near
    out = function(*args, **kwargs | ({"device": torch.device("cpu")} if asked is not None else {}))
    if not onto:
        return out
    arguments = {id(tensor.here): tensor for tensor in there}

    def moved(leaf: Any) -> Any:
        if id(leaf) in arguments:
            return arguments[id(leaf)]  # operations in place return an argument
        return _There(leaf) if isinstance(leaf, torch.Tensor) else leaf

    return _each(out, moved)


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(function, args, kwargs or {})


def _numbers(values: list) -> list:
    return [value.here if isinstance(value, _There) and not value.dim() else value for value in values]


def _made(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        # Numbers of the device in a list are taken out of it where no dispatch mode can see it.
        out = function(*(_numbers(arg) if isinstance(arg, list) else arg for arg in args), **kwargs)
        return out if device is None else out.to(device)

    return make


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """As `scaled_dot_product_attention`, which asks each device for a kernel of its own."""
    if not torch.is_grad_enabled():
        options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return _run(torch.ops.aten.scaled_dot_product_attention.default, (query, key, value, attn_mask), options)
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.softmax(scores, -1).nan_to_num() @ value


@contextmanager
def another_device(*, same_weights: bool = False) -> Iterator[str]:
    """Inside, there is another device; gives its name. With `same_weights`, weights stay the same objects when their module
    moves, as they do between real devices; weights that a gradient graph holds cannot move then.
    """
    with (
        _Dispatch(),
        # Operations in other threads, or in inference mode, would not be dispatched here.
        torch.autograd.set_multithreading_enabled(False),
        patch.object(torch._C, "_InferenceMode", lambda mode: torch.set_grad_enabled(not mode)),
        patch.object(torch, "tensor", _made(torch.tensor)),
        patch.object(torch, "as_tensor", _made(torch.as_tensor)),
        patch.object(torch.nn.functional, "scaled_dot_product_attention", _attention),
        patch.object(torch.__future__, "_swap_module_params_on_conversion", same_weights),
    ):
        yield str(DEVICE)
