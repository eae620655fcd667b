"""What is on a module: changes of its weights go on, add up in whatever order, and come off bit for bit, whatever else
happens to the module meanwhile.

Knows weights and changes of them; knows nothing about what a change is for.
"""

import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.models.deltas import Delta, Deltas, LowRank, dense
from unreel.models.weights import (
    doubled,
    held_weights,
    is_quantized,
    linear_layers,
    require_lasting,
    sampled,
    set_aside,
    set_weight,
    token_table,
    token_table_copies,
    unquantized_shapes,
)

_APPLIED = "_unreel_applied"  # where a module keeps what is on it, so that its copies know


class Identified(Protocol):
    """What changes belong to; what has the same identity is the same."""

    @property
    def identity(self) -> str: ...


@dataclass
class _Applied:
    """What is on a module: its own weights where they were changed, whose changes, and marks of the weights as left; and
    the hooks that add the changes of weights that are quantized.
    """

    base: dict[str, torch.Tensor] = field(default_factory=dict)
    deltas: dict[Any, Deltas] = field(default_factory=dict)
    marks: dict[str, torch.Tensor] = field(default_factory=dict)
    beside: dict[Any, list[Any]] = field(default_factory=dict)

    def sum(self, name: str, device: torch.device, without: Identified | None = None) -> torch.Tensor:
        """The weight with all changes. In float64 and in an order that the changes' contents give, so that the order in
        which they were put on leaves no trace.
        """
        weight = self.base[name].to(device)
        owners = sorted(self.deltas, key=lambda owner: owner.identity) if len(self.deltas) > 1 else self.deltas
        for owner in owners:
            if owner != without and name in self.deltas[owner]:
                weight = doubled(weight) + dense(self.deltas[owner][name].to(device))
        return weight


def _applied_on(module: nn.Module) -> _Applied | None:
    return getattr(module, _APPLIED, None)


def original_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's own weights as they are with nothing on them, by their portable names."""
    applied = _applied_on(module)
    own = {name: weight.detach() for name, weight in held_weights(module).items()}
    return own | (applied.base if applied else {})


_locks: "weakref.WeakKeyDictionary[nn.Module, Any]" = weakref.WeakKeyDictionary()
_finding = threading.Lock()


@contextmanager
def locked(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, no other thread that asks changes what is on the modules."""
    with _finding:
        locks = {id(lock): lock for lock in (_locks.setdefault(module, threading.RLock()) for module in modules)}
    with ExitStack() as held:
        for _, lock in sorted(locks.items()):  # in one order, so that no two wait for each other
            held.enter_context(lock)
        yield


@torch.no_grad()
def put_on(module: nn.Module, owner: Identified, deltas: Deltas, instead: str = "") -> None:
    """Add changes, on top of all others, to weights of the module. Those of low rank of a linear layer whose weight is
    quantized go beside it, and leave it as it is: what they make of what enters is added to what comes out.

    Raises UnreelError, before anything changes, for changes of weights that it does not have, that have another shape, or
    to which nothing can be added, saying what may be done `instead` of quantizing first.
    """
    with locked([module]):
        weights, linear = held_weights(module), linear_layers(module)
        shapes, table = unquantized_shapes(module, weights), token_table(module)
        if table is not None and table in deltas:
            deltas = {**deltas, **dict.fromkeys(token_table_copies(weights, table), deltas[table])}
        for name, change in deltas.items():
            _require_fitting(name, weights.get(name), shapes.get(name), change, name in linear, instead)
        beside = {name: change for name, change in deltas.items() if is_quantized(weights[name])}
        inside = {name: change for name, change in deltas.items() if name not in beside}
        applied = _applied_on(module) or _Applied()
        _require_kept(applied, weights)
        require_lasting(module, {name: weights[name] for name in inside})
        _take_in(applied, weights, inside)
        applied.base |= set_aside({name: weights[name] for name in inside if name not in applied.base})
        applied.deltas[owner] = inside
        setattr(module, _APPLIED, applied)
        try:
            _renew(applied, weights, inside)
            adding = {
                linear[name]: change.to(weights[name].device)
                for name, change in beside.items()
                if isinstance(change, LowRank)
            }
            applied.beside[owner] = [part.register_forward_hook(partial(_add, change)) for part, change in adding.items()]
            _compile_anew(applied, owner)
        except BaseException:
            take_off(module, owner)
            raise


def _compile_anew(applied: _Applied, owner: Identified) -> None:
    """What torch has compiled knows of no hook that came later; weights it looks at every time."""
    if applied.beside.get(owner) and "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _require_kept(applied: _Applied, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises UnreelError if weights with changes in them have been quantized since."""
    for name, base in applied.base.items():
        if is_quantized(weights[name]) or weights[name].shape != base.shape:
            raise UnreelError(
                f"{name} was quantized while an erasure was in it, and cannot be told apart any more: load the model again"
            )


def _add(change: LowRank, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """What a linear layer made of `inputs`, one (..., in), with what the change makes of it."""
    factors = change.to(output.device)
    return output + (inputs[0].to(factors.down.dtype) @ factors.down.T @ factors.up.T).to(output.dtype)


@torch.no_grad()
def take_off(module: nn.Module, owner: Identified) -> None:
    """Take the owner's changes off again. Without any left, weights are as they were found, bit for bit, but for what
    somebody else has added to them meanwhile.
    """
    with locked([module]):
        applied, weights = _applied_on(module), held_weights(module)
        assert applied is not None
        names = applied.deltas[owner]
        _require_kept(applied, weights)
        _take_in(applied, weights, names)
        _renew(applied, weights, names, without=owner)
        del applied.deltas[owner]
        _compile_anew(applied, owner)
        for hook in applied.beside.pop(owner, ()):
            hook.remove()
        for name in names:
            if not any(name in deltas for deltas in applied.deltas.values()):
                del applied.base[name], applied.marks[name]
        if not applied.deltas:
            delattr(module, _APPLIED)


def stands_beside(module: nn.Module) -> bool:
    """Whether some of what is on the module is in no weight of it."""
    applied = _applied_on(module)
    return applied is not None and any(applied.beside.values())


def owners_on(module: nn.Module) -> list[Any]:
    """Whose changes are on the module, in the order in which they were put on."""
    applied = _applied_on(module)
    return list(applied.deltas) if applied else []


def _take_in(applied: _Applied, weights: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """What somebody else has done to weights since they were set last, such as fusing a LoRA or loading others in their
    place, becomes part of the base.

    Either other weights took the place of the base, or something was added to base and changes. All touched weights decide
    together, since a large LoRA may well go against the changes in one matrix: nearer to the base than to the sum, they
    become the base; else what was added to the sum is added to the base. A LoRA that takes back more than half of all
    changes cannot be told from other weights, and is taken for them.
    """
    touched = [name for name in names if name in applied.marks and not _is_as_left(applied, name, weights[name])]

    def added(name: str, changes: bool) -> torch.Tensor:
        weight = weights[name]
        return doubled(weight) - doubled((applied.sum(name, weight.device) if changes else applied.base[name]).to(weight))

    to_base, to_sum = (sum(float(added(name, on).square().sum()) for name in touched) for on in (False, True))
    for name in touched:
        weight, base = weights[name], applied.base[name]
        now = doubled(weight) if to_base < to_sum else doubled(base.to(weight)) + added(name, True)
        applied.base[name], applied.marks[name] = now.to(base.device, weight.dtype), sampled(weight)


def _is_as_left(applied: _Applied, name: str, weight: torch.Tensor) -> bool:
    return torch.equal(applied.marks[name].to(weight), sampled(weight))


def _renew(
    applied: _Applied, weights: Mapping[str, torch.Tensor], names: Iterable[str], without: Identified | None = None
) -> None:
    """Set weights to their base and all changes but those of `without`."""
    for name in names:
        set_weight(weights[name], applied.sum(name, weights[name].device, without))
        applied.marks[name] = sampled(weights[name])


def _require_fitting(
    name: str, weight: torch.Tensor | None, has: tuple[int, ...] | None, change: Delta, linear: bool, instead: str
) -> None:
    """`has` is the weight's shape where it is not quantized; `linear` says whether a linear layer holds it; `instead` is
    what else may be done where it is.
    """
    shape = (len(change.up), change.down.shape[1]) if isinstance(change, LowRank) else tuple(change.shape)
    if weight is None or has != shape:
        reason = "has no such weight" if weight is None else f"has one of {has}"
        raise UnreelError(f"the change of {name}, {shape}, does not fit: the module {reason}")
    if is_quantized(weight) and not (linear and isinstance(change, LowRank)):
        raise UnreelError(
            f"{name} is quantized, and its change is of full rank, which cannot stand beside it: apply the erasure before "
            f"quantizing{instead}"
        )
