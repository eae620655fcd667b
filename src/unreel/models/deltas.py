"""Changes of weights: whole or of low rank, added up, put on while something is computed.

Knows tensors; knows nothing about what a change is for.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from unreel.models.weights import doubled, held_weights, is_quantized, portable, require_lasting, restored, set_weight

_ROWS = 64  # rows of a weight that tell how much of a change rounding loses


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change of one matrix as a product: `up` (out, rank) times `down` (rank, in)."""

    up: torch.Tensor
    down: torch.Tensor

    def to(self, device: torch.device | str) -> "LowRank":
        return LowRank(self.up.to(device), self.down.to(device))

    def cpu(self) -> "LowRank":
        return self.to("cpu")

    def dense(self) -> torch.Tensor:
        """(out, in) in float64, so that machines agree about the product as far as any weight can tell."""
        return doubled(self.up) @ doubled(self.down)


Delta = torch.Tensor | LowRank
Deltas = Mapping[str, Delta]  # by the names of weights


def is_felt(change: Delta) -> bool:
    """Whether a change is not zero."""
    parts = (change.up, change.down) if isinstance(change, LowRank) else (change,)
    return all(bool(part.any()) for part in parts)


def dense(change: Delta) -> torch.Tensor:
    """The change as a matrix in float64."""
    return change.dense() if isinstance(change, LowRank) else doubled(change)


def scaled(change: Delta, scale: float) -> Delta:
    """The change times `scale`."""
    return LowRank(scale * change.up, change.down) if isinstance(change, LowRank) else scale * change


def total(a: Delta, b: Delta) -> Delta:
    """The sum of two changes of one weight; of two low-rank ones a low-rank one, as long as that is smaller."""
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        up, down = torch.cat([a.up, b.up], dim=1), torch.cat([a.down, b.down])
        if up.numel() + down.numel() < len(up) * down.shape[1]:
            return LowRank(up, down)
    return (dense(a) + dense(b)).to(torch.promote_types(_dtype(a), _dtype(b)))


def _dtype(change: Delta) -> torch.dtype:
    return change.up.dtype if isinstance(change, LowRank) else change.dtype


@torch.no_grad()
def rounded_away(module: nn.Module, deltas: Deltas) -> float:
    """The share of the changes' norm that is lost when they are rounded to the precision of the module's weights,
    estimated from some rows of each; 0 if nothing is lost.
    """
    weights, lost, wanted = held_weights(module), 0.0, 0.0
    for name, change in deltas.items():
        weight = weights[name].detach()
        if weight.dtype.itemsize > 2 or is_quantized(weight):
            continue
        rows = torch.linspace(0, len(weight) - 1, min(len(weight), _ROWS)).long()
        own, added = doubled(weight[rows.to(weight.device)]).cpu(), dense(_rows(change, rows)).cpu()
        lost += float(((own + added).to(weight.dtype).double() - (own + added)).square().sum())
        wanted += float(added.square().sum())
    return math.sqrt(lost / wanted) if wanted else 0.0


def _rows(change: Delta, rows: torch.Tensor) -> Delta:
    if isinstance(change, LowRank):
        return LowRank(change.up[rows.to(change.up.device)], change.down)
    return change[rows.to(change.device)]


def differences(weights: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]) -> dict[str, Delta]:
    """The differences of the weights from `before`, by the same names."""
    return {name: weight.detach() - before[name].to(weight.device) for name, weight in weights.items()}


@contextmanager
def changed(module: nn.Module, deltas: Deltas) -> Iterator[None]:
    """Inside, the changes are added to the module's weights; afterwards these are as they were, bit for bit."""
    held, deltas = held_weights(module), {portable(name): change for name, change in deltas.items()}
    require_lasting(module, {name: held[name] for name in deltas})
    with restored({name: held[name] for name in deltas}):
        for name, change in deltas.items():
            set_weight(held[name], doubled(held[name].detach()) + dense(change).to(held[name].device))
        yield
