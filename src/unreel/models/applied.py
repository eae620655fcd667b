"""The changes that are on a module: they go on, add up in any order, and come off bit for bit, whatever else happens to
the module meanwhile.

Knows weights and changes of them; knows nothing about what a change is for.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
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

_APPLIED = "_unreel_applied"  # the attribute of a module with what is on it, so that copies of the module have it too


class Identified(Protocol):
    """The owner of changes; owners with the same identity are the same."""

    @property
    def identity(self) -> str: ...


@dataclass
class _Applied:
    """What is on a module: `base`, the original weights that were changed; `deltas`, the changes by owner; `marks`,
    samples of the weights as last written; `beside`, by owner, the hooks that add changes to quantized layers.
    """

    base: dict[str, torch.Tensor] = field(default_factory=dict)
    deltas: dict[Any, Deltas] = field(default_factory=dict)
    marks: dict[str, torch.Tensor] = field(default_factory=dict)
    beside: dict[Any, list[Any]] = field(default_factory=dict)

    def sum(self, name: str, device: torch.device, without: Identified | None = None) -> torch.Tensor:
        """The weight with all changes but those of `without`. It is summed in float64 and in an order that the owners'
        identities give, so that the order in which changes were put on leaves no trace.
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
    """Inside, no other thread that uses `locked` changes what is on the modules."""
    with _finding:
        locks = {id(lock): lock for lock in (_locks.setdefault(module, threading.RLock()) for module in modules)}
    with ExitStack() as held:
        for _, lock in sorted(locks.items()):  # in one order, so that no two wait for each other
            held.enter_context(lock)
        yield


@torch.no_grad()
def put_on(module: nn.Module, owner: Identified, deltas: Deltas, instead: str = "") -> None:
    """Add the owner's changes to the module's weights, on top of all others. A quantized weight of a linear layer stays
    as it is: a hook adds what a low-rank change makes of the layer's input to its output.

    Raises UnreelError, before anything changes, if a weight is missing, has another shape, or cannot take a change;
    `instead` says what else can be done than quantizing first.
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
        _absorb_outside_edits(applied, weights, inside)
        applied.base |= set_aside({name: weights[name] for name in inside if name not in applied.base})
        applied.deltas[owner] = inside
        setattr(module, _APPLIED, applied)
        with _or_back(partial(take_off, module, owner), module):
            _renew(applied, weights, inside)
            adding = {
                linear[name]: change.to(weights[name].device)
                for name, change in beside.items()
                if isinstance(change, LowRank)
            }
            applied.beside[owner] = [part.register_forward_hook(partial(_add, change)) for part, change in adding.items()]
            _compile_anew(applied, owner)


@contextmanager
def _or_back(back: Callable[[], None], module: nn.Module) -> Iterator[None]:
    """If what is inside fails, `back` is called. If that fails too, as where memory is short for sums, all changes are
    taken off, so that none is ever listed as being on the module that is not there. Then TornError is raised.
    """
    try:
        yield
    except BaseException as error:
        try:
            back()
        except BaseException:
            clear(module)
            raise TornError from error
        raise


class TornError(Exception):
    """Changes went neither on nor back, so all were taken off the module. Its cause is what went wrong first."""


def clear(module: nn.Module) -> None:
    """Take all changes off the module by copying back the weights that it was found with, which takes no memory for sums.
    What other code has added to changed weights since goes too.
    """
    applied, weights = _applied_on(module), held_weights(module)
    if applied is None:
        return
    for name, base in applied.base.items():
        set_weight(weights[name], base)
    for owner, hooks in applied.beside.items():
        _compile_anew(applied, owner)
        for hook in hooks:
            hook.remove()
    delattr(module, _APPLIED)


def _compile_anew(applied: _Applied, owner: Identified) -> None:
    """Let torch compile again if the owner has hooks: compiled modules ignore hooks that are set later, but read weights
    anew.
    """
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
    """The output of a linear layer, called with one input (..., in), plus what the change makes of that input."""
    factors = change.to(output.device)
    return output + (inputs[0].to(factors.down.dtype) @ factors.down.T @ factors.up.T).to(output.dtype)


@torch.no_grad()
def take_off(module: nn.Module, owner: Identified) -> None:
    """Take the owner's changes off again. After the last owner's, weights are as they were found, bit for bit, plus what
    other code has added to them meanwhile.
    """
    with locked([module]):
        applied, weights = _applied_on(module), held_weights(module)
        assert applied is not None
        names = applied.deltas[owner]
        _require_kept(applied, weights)
        _absorb_outside_edits(applied, weights, names)
        with _or_back(partial(_renew, applied, weights, names), module):
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
    """Whether some changes on the module are hooks beside its weights and not in them."""
    applied = _applied_on(module)
    return applied is not None and any(applied.beside.values())


def owners_on(module: nn.Module) -> list[Any]:
    """Whose changes are on the module, in the order in which they were put on."""
    applied = _applied_on(module)
    return list(applied.deltas) if applied else []


def _absorb_outside_edits(applied: _Applied, weights: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """Make what other code did to the weights since they were last set (fused a LoRA, loaded others) part of the base.

    All touched weights decide together, because a large LoRA may go against the changes in one matrix. If they are
    nearer to the base than to the sum of base and changes, they become the base; else what was added to the sum is added
    to the base. A LoRA that undoes more than half of all changes is taken for other weights.
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
    """Raises UnreelError if the change does not fit the weight. `has` is the weight's shape before quantization;
    `linear` says whether a linear layer holds it; `instead` says what else can be done than quantizing first.
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
