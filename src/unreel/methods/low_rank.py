"""Low-rank changes that learn: a product of two thin factors beside matrices of a text encoder (LoRA, arXiv 2106.09685).

Knows matrices and what they are given; knows nothing about what they learn.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from unreel.erasure import LowRank

RIDGE = 0.1  # added to second moments, as a share of their mean
ROUNDS, BESIDES = 3, 8  # of subspace iteration, and how many directions more it follows than are wanted


class Factors:
    """`up` (out, rank), zero at first, times `down` (rank, in), random, beside every one of `matrices`, which are by the
    names of their weights and compute on `device`, though they may wait elsewhere; `afterwards` the factors are gone.
    """

    def __init__(
        self, matrices: Mapping[str, nn.Linear], rank: int, seed: int, device: torch.device, afterwards: ExitStack
    ):
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.inputs: dict[str, torch.Tensor] | None = None
        self.gradients: dict[str, torch.Tensor] | None = None
        self.factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, matrix in matrices.items():
            down = torch.randn(rank, matrix.in_features, generator=self.generator) / matrix.in_features**0.5
            up = torch.zeros(matrix.out_features, rank)
            self.factors[name] = (up.to(device).requires_grad_(), down.to(device).requires_grad_())
            afterwards.callback(matrix.register_forward_hook(partial(self._add, name)).remove)

    def parameters(self) -> list[torch.Tensor]:
        return [factor for pair in self.factors.values() for factor in pair]

    def changes(self) -> dict[str, LowRank]:
        return {name: LowRank(up.detach(), down.detach()) for name, (up, down) in self.factors.items()}

    def watching(self) -> AbstractContextManager[dict[str, torch.Tensor]]:
        """Inside, what every matrix was given last, by name: (..., in)."""
        return self._meanwhile("inputs", {})

    def slopes(self) -> AbstractContextManager[dict[str, torch.Tensor]]:
        """Inside, the gradients of the matrices themselves, by name, of all that is differentiated: (out, in)."""
        return self._meanwhile("gradients", {})

    @contextmanager
    def _meanwhile(self, name: str, value: Any) -> Iterator[Any]:
        before = getattr(self, name)
        setattr(self, name, value)
        try:
            yield value
        finally:
            setattr(self, name, before)

    @torch.no_grad()
    def point(self, gradients: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
        """Let every `down` begin with what lessens the loss most for what it changes elsewhere, not with chance.

        That is the leading right singular vectors of a matrix's gradient G (LoRA-GA, arXiv 2407.05000), here measured by
        the second moments C, of whatever scale, of what it is given when it is to change nothing: of G C^-1/2, brought
        back by C^-1/2, each of length one. Where a gradient is no number, chance it is.
        """
        for name, gradient in gradients.items():
            if not gradient.isfinite().all():
                continue
            _, down = self.factors[name]
            moment = moments[name]
            ridge = (RIDGE * moment.diagonal().mean()).clamp(min=1e-12) * torch.eye(len(moment), device=moment.device)
            root = torch.linalg.cholesky(moment + ridge)
            whitened = torch.linalg.solve_triangular(root, gradient.T, upper=False).T
            leading = _leading(whitened, len(down), self.generator)
            directions = torch.linalg.solve_triangular(root.T, leading.T, upper=True).T
            down[: len(directions)] = torch.nn.functional.normalize(directions, dim=1)

    def _add(self, name: str, _: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        if self.inputs is not None:
            self.inputs[name] = args[0]
        up, down = self.factors[name]
        # What a matrix makes of bfloat16 is rounded as much as this; the factors themselves stay in float32.
        precision = torch.bfloat16 if args[0].dtype == torch.bfloat16 else down.dtype
        change = args[0].to(precision) @ down.to(precision).T @ up.to(precision).T
        changed = output + change.to(output.dtype)
        if self.gradients is not None:
            changed.register_hook(partial(self._note, name, args[0].detach()))
        return changed

    def _note(self, name: str, given: torch.Tensor, slope: torch.Tensor) -> None:
        assert self.gradients is not None
        flat = slope.flatten(0, -2).float().T @ given.flatten(0, -2).float()
        self.gradients[name] = self.gradients[name] + flat if name in self.gradients else flat


def _leading(matrix: torch.Tensor, rank: int, generator: torch.Generator) -> torch.Tensor:
    """Its leading right singular vectors, by subspace iteration (Halko et al., arXiv 0909.4061): (rank, in), or fewer where
    it has no more.
    """
    guess = torch.randn(matrix.shape[1], min(rank + BESIDES, *matrix.shape), generator=generator).to(matrix)
    for _ in range(ROUNDS):
        basis, _ = torch.linalg.qr(matrix @ guess)
        guess = matrix.T @ basis
    _, _, vectors = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return vectors[:rank]
