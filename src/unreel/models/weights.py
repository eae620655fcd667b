"""A module's own weights: under names that no library changes, wherever they are held, whatever else is on the module;
whether those of two modules are the same; and changes of them, put on and taken off.

Knows tensors, and how adapters, compilers and offloading hold them; knows nothing about what a change is for.
"""

import hashlib
import json
import math
import re
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
from unreel.files import short_digest

# What is put around a weight's own name: by torch.compile, by peft, and by transformers before 5.6 around CLIP's.
_AROUND = re.compile(r"(?<![^.])(?:_orig_mod|base_layer|original_module|text_model)\.")
_SAMPLES = 4096  # of a module, to tell it from others
FUSED = 0.5  # of a matrix's norm, what a fused LoRA may have changed
_MARKS = 512  # of a weight, to see that somebody else has changed it
_NEARLY_ALL = 0.9  # of the samples; less may be ones and zeros that training never touched
_ROWS = 64  # of a weight, to see how much of a change its precision has room for
_APPLIED = "_unreel_applied"  # where a module keeps what is on it, so that its copies know


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """In float64: where the tensor is, or on the CPU if its device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


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
    """Whether it changes anything."""
    parts = (change.up, change.down) if isinstance(change, LowRank) else (change,)
    return all(bool(part.any()) for part in parts)


def dense(change: Delta) -> torch.Tensor:
    """In float64."""
    return change.dense() if isinstance(change, LowRank) else doubled(change)


def total(a: Delta, b: Delta) -> Delta:
    """Two changes of one weight as one; two products of low rank stay a product as long as that is smaller."""
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        up, down = torch.cat([a.up, b.up], dim=1), torch.cat([a.down, b.down])
        if up.numel() + down.numel() < len(up) * down.shape[1]:
            return LowRank(up, down)
    return (dense(a) + dense(b)).to(torch.promote_types(_dtype(a), _dtype(b)))


def _dtype(change: Delta) -> torch.dtype:
    return change.up.dtype if isinstance(change, LowRank) else change.dtype


def portable(name: str) -> str:
    """The name of a weight without what libraries put around it."""
    return _AROUND.sub("", name)


def held_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's own weights, as they are now, by their portable names and in the order of these. Adapters that are on
    it are left out; of weights that accelerate offloads, what waits for its turn.

    Raises UnreelError if some are nowhere.
    """
    parts = dict(module.named_modules())
    adapted = [f"{name}." for name, part in parts.items() if isinstance(getattr(part, "base_layer", None), nn.Module)]
    weights_by_name = {}
    for name, weight in module.named_parameters():
        if not any(name.startswith(one) and not name.startswith(f"{one}base_layer.") for one in adapted):
            owner, _, leaf = name.rpartition(".")
            weights_by_name[portable(name)] = _waiting(parts[owner], leaf) if weight.device.type == "meta" else weight
    return dict(sorted(weights_by_name.items()))


def _waiting(owner: nn.Module, leaf: str) -> torch.Tensor:
    hook = getattr(owner, "_hf_hook", None)  # accelerate's
    for one in getattr(hook, "hooks", [hook]):
        if getattr(one, "weights_map", None) is not None:
            return one.weights_map[leaf]
    raise UnreelError("the module's weights are not in memory: load them first")


@dataclass(frozen=True)
class Fingerprint:
    """Tells one module from another, whatever precision it is loaded in.

    `structure` hashes names and shapes of all weights; `samples` are numbers taken at even distances through all of them,
    in the coarsest of their precisions. Of the token table only so many rows count as the largest power of two that it
    has, since tokens may be added behind them. Two modules are the same if structures are equal and samples agree to the
    coarser of the two precisions that they are loaded in, or exactly in the coarser of those that they are stored in.
    """

    structure: str
    samples: torch.Tensor

    @classmethod
    def of(cls, module: nn.Module) -> "Fingerprint":
        """Of the module's own weights, whatever is on it; of one that is quantized, of those that are not."""
        weights = _originals(module)
        shapes = json.dumps([(name, list(shape)) for name, shape in _shapes(module, weights).items()])
        samples = list(_samples(weights).values())
        coarsest = max({some.dtype for some in samples}, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)
        samples = [some.to("cpu", coarsest) for some in samples]
        return cls(hashlib.sha256(shapes.encode()).hexdigest(), torch.cat(samples))

    @property
    def identity(self) -> str:
        """A short name for exactly these weights."""
        return hashlib.sha256(self.structure.encode() + self.samples.float().numpy().tobytes()).hexdigest()[:16]

    def matches(self, other: "Fingerprint") -> bool:
        return (
            self.structure == other.structure
            and self.samples.shape == other.samples.shape
            and bool(self._alike(other).all())
        )

    def fits(self, module: nn.Module) -> bool:
        """Whether it is the module's."""
        return self.matches(Fingerprint.of(module))

    def fits_quantized(self, module: nn.Module) -> bool:
        """Whether it is that of a module of which this one has some weights quantized: all that are not are the same."""
        weights, other = _originals(module), Fingerprint.of(module)
        counts = {name: _count(math.prod(shape), len(weights)) for name, shape in _shapes(module, weights).items()}
        if self.structure != other.structure or sum(counts.values()) != len(self.samples):
            return False
        parts = zip(weights.values(), self.samples.split(list(counts.values())), strict=True)
        own = [part for weight, part in parts if not is_quantized(weight)]
        return 0 < len(own) < len(weights) and bool(Fingerprint(self.structure, torch.cat(own))._alike(other).all())

    def differing(self, module: nn.Module) -> dict[str, float]:
        """The weights of the module in which it is another one, and by how much, as a share of their norm; all of them, and
        infinitely, if it is built in another way.
        """
        weights, other = _originals(module), Fingerprint.of(module)
        if self.structure != other.structure or self.samples.shape != other.samples.shape:
            return dict.fromkeys(weights, math.inf)
        alike, out, start = self._alike(other), {}, 0
        for name, some in _samples(weights).items():
            part = slice(start, start := start + len(some))
            if not alike[part].all():
                own, theirs = self.samples[part].float(), other.samples[part].float()
                out[name] = float((own - theirs).norm() / own.norm().clamp(min=1e-12))
        return out

    def is_built_like(self, module: nn.Module) -> bool:
        """Whether the module has weights of the same names and shapes."""
        return self.structure == Fingerprint.of(module).structure

    def nearly_fits(self, module: nn.Module) -> bool:
        """Whether it is the module's but for matrices that are not quite the same, as after a LoRA was fused into them."""
        linear = _linear(module)
        return all(name in linear and share < FUSED for name, share in self.differing(module).items())

    @property
    def stored_in(self) -> torch.dtype:
        """The coarsest that has nearly all of the samples exactly: weights are often stored in less than they are loaded
        in, and some may have been changed since.
        """
        return _exact_in(self.samples)

    def _alike(self, other: "Fingerprint") -> torch.Tensor:
        """Which samples agree; they are of weights of the same shapes."""
        loaded = max((self.samples.dtype, other.samples.dtype), key=lambda dtype: torch.finfo(dtype).eps)
        coarse = max((self.stored_in, other.stored_in), key=lambda dtype: torch.finfo(dtype).eps)
        a, b = self.samples.to(coarse).float(), other.samples.to(coarse).float()
        info = torch.finfo(coarse)
        rounded_once = coarse != loaded  # then one is the other, but for numbers that are too small for float16
        return torch.isclose(a, b, rtol=0 if rounded_once else info.eps, atol=1e-7 + info.eps * info.smallest_normal)


def stored_in(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The precision that weights were stored in, as `Fingerprint.stored_in` tells it of a module's."""
    return _exact_in(torch.cat([some.cpu() for some in _samples(weights).values()]))


def _exact_in(numbers: torch.Tensor) -> torch.dtype:
    for dtype in (torch.bfloat16, torch.float16):
        exact = numbers.to(dtype).float() == numbers.float()
        if len(exact) and exact.float().mean() > _NEARLY_ALL:
            return dtype
    return numbers.dtype


def _originals(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's own weights as they are with nothing on them, without tokens that were added."""
    weights = {name: weight.detach() for name, weight in held_weights(module).items()}
    applied, table = _applied(module), _token_table(module)
    weights |= applied.base if applied else {}
    if table is not None:
        for name in _copies(weights, table):
            del weights[name]
        rows = len(weights[table])
        weights[table] = weights[table][: 1 << (rows.bit_length() - 1)]
    return weights


def _copies(weights: Mapping[str, torch.Tensor], table: str) -> list[str]:
    """Weights that are the token table once more: some releases of transformers tie T5's and UMT5's two, others copy."""
    own = weights[table]
    alike = [name for name, weight in weights.items() if name != table and weight.shape == own.shape]
    return [name for name in alike if "embed" in name and torch.equal(_mark(weights[name]).to(own), _mark(own))]


def _token_table(module: nn.Module) -> str | None:
    """What the weight is called that has a row for every token; None for a module that reads no tokens."""
    try:
        table = module.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    table = getattr(table, "base_layer", table)
    if not isinstance(table, nn.Embedding):
        return None
    return next((portable(name) for name, weight in module.named_parameters() if weight is table.weight), None)


def _samples(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    each = -(-_SAMPLES // len(weights))
    plain = {name: weight for name, weight in weights.items() if not is_quantized(weight)}
    return {name: weight.flatten()[:: max(1, weight.numel() // each)][:each] for name, weight in plain.items()}


def _count(numbers: int, weights: int) -> int:
    """How many samples are taken of a weight of so many numbers, one of so many weights."""
    each = -(-_SAMPLES // weights)
    return min(each, -(-numbers // max(1, numbers // each)))


def _shapes(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Of weights of the module, as they are where they are not quantized: that packs some into other shapes."""
    linear = _linear(module)
    return {
        name: (linear[name].out_features, linear[name].in_features)
        if is_quantized(weight) and name in linear
        else tuple(weight.shape)
        for name, weight in weights.items()
    }


def _linear(module: nn.Module) -> dict[str, nn.Linear]:
    """The module's linear layers by the names of their weights."""
    linear = {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    return {portable(name): part for name, part in linear.items()}


def is_quantized(weight: torch.Tensor) -> bool:
    """Whether a weight is held in too few bits, or in a form of its own, for a change to be added to it exactly."""
    own_form = type(weight.data).dequantize is not torch.Tensor.dequantize  # as the tensors of quanto and torchao
    return own_form or not weight.is_floating_point() or weight.element_size() < 2


def precision(module: nn.Module) -> str:
    """How the module's weights are quantized, and what numbers they became; empty if they are not."""
    held = {name: weight for name, weight in held_weights(module).items() if is_quantized(weight)}
    described = [
        (name, type(part).__name__, str(part.dtype), list(part.shape), str(getattr(part, "quant_type", "")))
        for name, part in held.items()
    ]
    return short_digest(described) if described else ""


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
        weights, linear = held_weights(module), _linear(module)
        shapes, table = _shapes(module, weights), _token_table(module)
        if table is not None and table in deltas:
            deltas = {**deltas, **dict.fromkeys(_copies(weights, table), deltas[table])}
        for name, change in deltas.items():
            _require_fitting(name, weights.get(name), shapes.get(name), change, name in linear, instead)
        beside = {name: change for name, change in deltas.items() if is_quantized(weights[name])}
        inside = {name: change for name, change in deltas.items() if name not in beside}
        applied = _applied(module) or _Applied()
        _require_kept(applied, weights)
        _take_in(applied, weights, inside)
        for name in inside:
            if name not in applied.base:
                applied.base[name] = weights[name].detach().clone()
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


@torch.no_grad()
def rounded_away(module: nn.Module, deltas: Deltas) -> float:
    """The share of the changes, of their norm, that the precision of the module's weights has no room for, told from some
    rows of each; 0 where nothing is lost.
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
        applied, weights = _applied(module), held_weights(module)
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
    applied = _applied(module)
    return bool(applied) and any(applied.beside.values())


def owners_on(module: nn.Module) -> list[Any]:
    """Whose changes are on the module, in the order in which they were put on."""
    applied = _applied(module)
    return list(applied.deltas) if applied else []


def _applied(module: nn.Module) -> Any:
    return getattr(module, _APPLIED, None)


def _take_in(applied: _Applied, weights: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """What somebody else has done to weights since they were set last, such as fusing a LoRA or loading others in their
    place, becomes part of the base.

    Nearer to what was there before than to that with the changes, they were put back or put in its place, not added to it.
    All of them say so together: a large LoRA may well go against the changes in one matrix. One that takes back more than
    half of all changes leaves what may be other weights in their place just as well, and is taken for that.
    """
    touched = [name for name in names if name in applied.marks and not _is_as_left(applied, name, weights[name])]

    def added(name: str, changes: bool) -> torch.Tensor:
        weight = weights[name]
        return doubled(weight) - doubled((applied.sum(name, weight.device) if changes else applied.base[name]).to(weight))

    to_base, to_sum = (sum(float(added(name, on).square().sum()) for name in touched) for on in (False, True))
    for name in touched:
        weight, base = weights[name], applied.base[name]
        now = doubled(weight) if to_base < to_sum else doubled(base.to(weight)) + added(name, True)
        applied.base[name], applied.marks[name] = now.to(weight.device, weight.dtype), _mark(weight)


def _is_as_left(applied: _Applied, name: str, weight: torch.Tensor) -> bool:
    return torch.equal(applied.marks[name].to(weight), _mark(weight))


def _renew(
    applied: _Applied, weights: Mapping[str, torch.Tensor], names: Iterable[str], without: Identified | None = None
) -> None:
    """Set weights to their base and all changes but those of `without`."""
    for name in names:
        _set(weights[name], applied.sum(name, weights[name].device, without))
        applied.marks[name] = _mark(weights[name])


def _set(weight: torch.Tensor, value: torch.Tensor) -> None:
    """In place, also where the weight was made under `torch.inference_mode`, outside of which nobody may do that."""
    with torch.inference_mode() if weight.is_inference() else torch.no_grad():
        weight.copy_(value)


def _mark(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().flatten()[:: max(1, weight.numel() // _MARKS)].clone()


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


@contextmanager
def restored(weights: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Whatever happens to the weights inside, afterwards they are as they were, bit for bit: that is what it gives, by the
    same names.
    """
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield before
    finally:
        for name, own in before.items():
            _set(weights[name], own)


@contextmanager
def set_to(weights: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, the weights are the values of the same names; then they are as they were, bit for bit."""
    with restored(weights):
        for name, weight in weights.items():
            _set(weight, values[name])
        yield


@contextmanager
def learning(weights: Mapping[str, nn.Parameter]) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, the weights are ready to learn; then they learn no more and are as they were, as `restored` gives it."""
    with restored(weights) as before:
        try:
            for weight in weights.values():
                weight.requires_grad_().grad = None  # what somebody left there would be added to
            yield before
        finally:
            for weight in weights.values():
                weight.requires_grad_(False).grad = None


@contextmanager
def changed(module: nn.Module, deltas: Deltas) -> Iterator[None]:
    """Inside, the changes are on top of what the module's weights are; then those are as they were, bit for bit."""
    held, deltas = held_weights(module), {portable(name): change for name, change in deltas.items()}
    with restored({name: held[name] for name in deltas}):
        for name, change in deltas.items():
            _set(held[name], doubled(held[name].detach()) + dense(change).to(held[name].device))
        yield
