"""Low-rank changes that learn: a product of two thin factors beside matrices of a text encoder (LoRA, arXiv 2106.09685).

Knows matrices; knows nothing about what they learn.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn

from unreel.erasure import LowRank


class Factors:
    """`up` (out, rank), zero at first, times `down` (rank, in), random, beside every one of `matrices`, which are by the
    names of their weights and compute on `device`, though they may wait elsewhere; `afterwards` the factors are gone.
    """

    def __init__(
        self, matrices: Mapping[str, nn.Linear], rank: int, seed: int, device: torch.device, afterwards: ExitStack
    ):
        generator = torch.Generator("cpu").manual_seed(seed)
        self.on = True
        self.factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, matrix in matrices.items():
            down = torch.randn(rank, matrix.in_features, generator=generator) / matrix.in_features**0.5
            up = torch.zeros(matrix.out_features, rank)
            self.factors[name] = (up.to(device).requires_grad_(), down.to(device).requires_grad_())
            afterwards.callback(matrix.register_forward_hook(partial(self._add, name)).remove)

    def parameters(self) -> list[torch.Tensor]:
        return [factor for pair in self.factors.values() for factor in pair]

    def changes(self) -> dict[str, LowRank]:
        return {name: LowRank(up.detach(), down.detach()) for name, (up, down) in self.factors.items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the encoder answers as it was found."""
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def _add(self, name: str, _: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if not self.on:
            return None
        up, down = self.factors[name]
        return output + (args[0].to(down.dtype) @ down.T @ up.T).to(output.dtype)
