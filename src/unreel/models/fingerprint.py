"""Fingerprints that tell one module from another, whatever precision it is loaded in.

Knows weights, and leaves out the changes that are on them.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from unreel.models.applied import original_weights
from unreel.models.weights import (
    is_quantized,
    linear_layers,
    token_table,
    token_table_copies,
    unquantized_shapes,
)

_SAMPLES = 4096  # samples of a module
FUSED = 0.5  # the share of a matrix's norm that a fused LoRA may have changed
_TELLING = 16  # different numbers in a weight from which on they tell its precision
_NEARLY_ALL = 0.9  # of the samples; fewer may be ones and zeros that training never touched


@dataclass(frozen=True)
class Fingerprint:
    """Tells one module from another, whatever precision it is loaded in.

    `structure` hashes names and shapes of all weights; `samples` are numbers at even distances through all of them, in
    the coarsest of their precisions. Of the token table only the first rows count, as many as the largest power of two
    that it has, because tokens may be appended.

    Two modules are the same if structures are equal and samples agree to the coarser precision they are loaded in, or
    exactly in the coarser they are stored in.
    """

    structure: str
    samples: torch.Tensor

    @classmethod
    def of(cls, module: nn.Module) -> "Fingerprint":
        """The fingerprint of the module's own weights, whatever is on it; quantized weights give no samples."""
        weights = _originals(module)
        shapes = json.dumps([(name, list(shape)) for name, shape in unquantized_shapes(module, weights).items()])
        samples = list(_samples(weights).values())
        common = coarsest({some.dtype for some in samples})
        samples = [some.to("cpu", common) for some in samples]
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
        """Whether this is the module's fingerprint."""
        return self.matches(Fingerprint.of(module))

    def fits_quantized(self, module: nn.Module) -> bool:
        """Whether this is the module's fingerprint from before some of its weights were quantized: the other weights
        decide.
        """
        weights, other = _originals(module), Fingerprint.of(module)
        counts = {
            name: _count(math.prod(shape), len(weights)) for name, shape in unquantized_shapes(module, weights).items()
        }
        if self.structure != other.structure or sum(counts.values()) != len(self.samples):
            return False
        parts = zip(weights.values(), self.samples.split(list(counts.values())), strict=True)
        own = [part for weight, part in parts if not is_quantized(weight)]
        return 0 < len(own) < len(weights) and bool(Fingerprint(self.structure, torch.cat(own))._alike(other).all())

    def differing(self, module: nn.Module) -> dict[str, float]:
        """The weights in which the module differs from this fingerprint, each with the size of the difference as a share
        of its norm; all weights, with infinity, if the module has another structure.
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
        """Whether this is the module's fingerprint except for linear layers that differ a little, as after a LoRA was
        fused into them.
        """
        linear = linear_layers(module)
        return all(name in linear and share < FUSED for name, share in self.differing(module).items())

    @property
    def stored_precision(self) -> torch.dtype:
        """The coarsest precision that holds nearly all of the samples exactly: weights are often stored in less than
        they are loaded in, and some may have been changed since.
        """
        return _exact_in(self.samples)

    def _alike(self, other: "Fingerprint") -> torch.Tensor:
        """Which samples agree; both fingerprints have the same structure."""
        loaded, coarse = (
            coarsest((self.samples.dtype, other.samples.dtype)),
            coarsest((self.stored_precision, other.stored_precision)),
        )
        a, b = self.samples.to(coarse).float(), other.samples.to(coarse).float()
        info = torch.finfo(coarse)
        rounded_once = coarse != loaded  # then one is the other, but for numbers that are too small for float16
        return torch.isclose(a, b, rtol=0 if rounded_once else info.eps, atol=1e-7 + info.eps * info.smallest_normal)


def stored_precision_of(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The precision that weights were stored in, as `Fingerprint.stored_precision` tells it of a module's."""
    return _exact_in(torch.cat([some.cpu() for some in _samples(weights).values()]))


def exact_in(weight: torch.Tensor, usual: torch.dtype) -> torch.dtype:
    """The precision that one weight was stored in; `usual` if it holds too few different numbers to tell, such as only
    ones.
    """
    some = weight.flatten()[:: max(1, weight.numel() // _SAMPLES)]
    return _exact_in(some) if len(some.unique()) >= _TELLING else usual


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The coarsest of several precisions; float32 if there are none."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def _exact_in(numbers: torch.Tensor) -> torch.dtype:
    for dtype in (torch.bfloat16, torch.float16):
        exact = numbers.to(dtype).float() == numbers.float()
        if len(exact) and exact.float().mean() > _NEARLY_ALL:
            return dtype
    return numbers.dtype


def _originals(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's original weights, without tokens that were appended and without copies of the token table."""
    weights, table = original_weights(module), token_table(module)
    if table is not None:
        for name in token_table_copies(weights, table):
            del weights[name]
        rows = len(weights[table])
        weights[table] = weights[table][: 1 << (rows.bit_length() - 1)]
    return weights


def _samples(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    each = -(-_SAMPLES // len(weights))
    plain = {name: weight for name, weight in weights.items() if not is_quantized(weight)}
    return {name: weight.flatten()[:: max(1, weight.numel() // each)][:each] for name, weight in plain.items()}


def _count(numbers: int, weights: int) -> int:
    """How many samples a weight of `numbers` numbers gives, as one of `weights` weights."""
    each = -(-_SAMPLES // weights)
    return min(each, -(-numbers // max(1, numbers // each)))
