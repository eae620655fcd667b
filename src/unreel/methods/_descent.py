"""Descent, step by step, and what must stay a number on the way.

Knows optimizers and losses; knows no method.
"""

import math
from collections.abc import Callable, Iterable

import torch

from unreel.errors import UnreelError
from unreel.progress import track


def descended(optimizer: torch.optim.Optimizer, loss: Callable[[int], torch.Tensor], steps: int) -> list[float]:
    """Take `steps` steps down the `loss` of each, counted from 0; returns the losses.

    Raises UnreelError if one, or in the end what learned, is no number.
    """
    rate, losses = optimizer.param_groups[0]["lr"], []
    for step in track(range(steps), "unlearning", "step"):
        value = loss(step)
        losses.append(finite(value.item(), step + 1, rate))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    require_finite(weight for group in optimizer.param_groups for weight in group["params"])
    return losses


def finite(value: float, step: int, learning_rate: float) -> float:
    """A loss, or what else is measured at a step. Raises UnreelError if it is no number any more."""
    if not math.isfinite(value):
        raise UnreelError(
            f"the loss became {value} at step {step}: nothing was kept; lower the learning rate (it was "
            f"{learning_rate:g}) or use --dtype float32"
        )
    return value


def require_finite(learned: Iterable[torch.Tensor]) -> None:
    """Raises UnreelError if something in what was learned is no number: no loss tells what the last step did."""
    if not all(bool(weight.isfinite().all()) for weight in learned):
        raise UnreelError(
            "a weight stopped being a number: nothing was kept; lower the learning rate or use --dtype float32"
        )
