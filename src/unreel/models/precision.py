"""In which numbers modules compute for a while: finer, so that small steps are not lost, or coarser, where that is faster.

Knows modules and devices; knows no methods and no pipelines.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

LARGE = 2**17  # weights of a matrix from which on rounding what goes in and out takes less time than it saves


@contextmanager
def upcast(module: nn.Module) -> Iterator[None]:
    """Inside, weights are in float32 at least, because half precision would lose small steps; then as they were again.

    Buffers are left alone: those that turn positions are float32 in any model, and would come back rounded.
    """
    weights = [(weight, weight.dtype) for weight in module.parameters()]
    try:
        for weight, dtype in weights:
            weight.data = weight.data.to(torch.promote_types(dtype, torch.float32))
        yield
    finally:
        for weight, dtype in weights:
            weight.data = weight.data.to(dtype)


@contextmanager
def brisk(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, large matrices of `layers` multiply in bfloat16 where a CPU does that by itself, and all between them stays
    in float32; then they are as they were, bit for bit. Both are in memory meanwhile. Hooks set before see bfloat16.
    """
    with ExitStack() as afterwards:
        for matrix in _slow_matrices(layers):
            for weight in matrix.parameters(recurse=False):
                afterwards.callback(setattr, weight, "data", weight.data)
                weight.data = weight.data.to(torch.bfloat16)
            afterwards.enter_context(matrix.register_forward_pre_hook(_rounded))
            afterwards.enter_context(matrix.register_forward_hook(_widened))
        yield


def _slow_matrices(layers: Iterable[nn.Module]) -> list[nn.Linear]:
    if not multiplies_bfloat16():
        return []
    matrices = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    held = [m for m in matrices if m.weight.dtype == torch.float32 and m.weight.device.type == "cpu"]
    return [m for m in held if m.weight.numel() >= LARGE]


def _rounded(_: nn.Module, args: tuple) -> tuple:
    return (args[0].to(torch.bfloat16), *args[1:])


def _widened(_: nn.Module, __: tuple, output: torch.Tensor) -> torch.Tensor:
    return output.float()


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor multiplies matrices in bfloat16 by itself; others take longer for it."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
