"""Low-rank changes that learn: a product of two thin factors beside matrices of a text encoder (LoRA, arXiv 2106.09685).

Knows matrices and what they are given; knows nothing about what they learn.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn
from torch.nn.functional import normalize

from unreel.models.deltas import LowRank

BLIND = 8  # factors are made blind to at most one in so many directions
SAME = 1e-3  # directions below this share of the largest singular value are rounding


class Factors:
    """Factors beside each of `matrices` (by weight name): `up` (out, rank), zero at first, times `down` (rank, in),
    random. The rank is at most the matrix's own. They are on `device`, where the matrices compute even if they wait
    elsewhere, and go when `afterwards` closes.
    """

    def __init__(
        self, matrices: Mapping[str, nn.Linear], rank: int, seed: int, device: torch.device, afterwards: ExitStack
    ):
        generator = torch.Generator("cpu").manual_seed(seed)
        self._blind: dict[str, torch.Tensor] = {}
        self.factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, matrix in matrices.items():
            own = min(rank, *matrix.weight.shape)
            down = torch.randn(own, matrix.in_features, generator=generator) / matrix.in_features**0.5
            up = torch.zeros(matrix.out_features, own)
            self.factors[name] = (up.to(device).requires_grad_(), down.to(device).requires_grad_())
            afterwards.enter_context(matrix.register_forward_hook(partial(self._add, name)))

    def parameters(self) -> list[torch.Tensor]:
        return [factor for pair in self.factors.values() for factor in pair]

    def deltas(self) -> dict[str, LowRank]:
        return {name: LowRank(up.detach(), down.detach()) for name, (up, down) in self.factors.items()}

    @torch.no_grad()
    def begin(self, deltas: Mapping[str, LowRank]) -> None:
        """Let the factors start as `deltas`, whose ranks are no higher than theirs."""
        for name, change in deltas.items():
            up, down = self.factors[name]
            up[:, : change.up.shape[1]], down[: len(change.down)] = change.up, change.down

    def be_blind_to(self, given: Mapping[str, torch.Tensor]) -> None:
        """From now on the factors add nothing to the inputs `given` (n, in), by weight name, provided that `blinded` is
        called after each step. For very many rows, that holds for their leading directions only.
        """
        for name, rows in given.items():
            _, sizes, directions = torch.linalg.svd(normalize(rows.float(), dim=1), full_matrices=False)
            most = max(1, rows.shape[1] // BLIND)
            self._blind[name] = directions[sizes > SAME * sizes[0]][:most].to(self.factors[name][1])
        self.blinded()

    @torch.no_grad()
    def blinded(self) -> None:
        """Take out of the factors what the last step has put in along the directions of `be_blind_to`."""
        for name, directions in self._blind.items():
            down = self.factors[name][1]
            down -= (down @ directions.T) @ directions

    def _add(self, name: str, _: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        up, down = self.factors[name]
        # On bfloat16 inputs, the matrix's own output is rounded as much; the factors themselves stay in float32.
        precision = torch.bfloat16 if args[0].dtype == torch.bfloat16 else down.dtype
        change = args[0].to(precision) @ down.to(precision).T @ up.to(precision).T
        return output + change.to(output.dtype)
