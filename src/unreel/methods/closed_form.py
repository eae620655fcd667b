"""Text-only unlearning in closed form: least squares on the matrices through which MLPs write; no image, no denoiser.

Of the family of ROME and MEMIT (Meng et al., arXiv 2202.05262 and 2210.07229) and UCE (Gandikota et al., arXiv 2308.14761),
in the text encoder, where DiffQuickFix (Basu et al., arXiv 2310.13730) found that concepts can be edited. With k(p) what
enters the output matrix W of a layer's MLP and h(p) what leaves that layer, at every token of a sentence p that names the
concept, p' its twin that names the anchor, q what must keep its meaning, and h0 of the encoder as found:

    dW = argmin_D  mean_p || D k(p) - (h0(p') - h(p)) ||^2  +  lambda mean_q || D k(q) ||^2  +  ridge || D ||^2

for one layer after the other, from below, so that each mends what those below could not. Works for causal and other
encoders alike, since every token counts.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unreel.conditioner import Conditioner, Tokens
from unreel.erasure import LowRank, doubled
from unreel.errors import UnreelError
from unreel.reading import align, at_places

BATCH = 64  # sentences at once

Twin = tuple[str, str]  # a sentence that names the concept, and the same one naming the anchor


@dataclass(frozen=True)
class ClosedFormConfig:
    """Settings of the solve; where each comes from stands in docs/method.md.

    The last `layers` layers change, or all if there are fewer. `retain_weight` is lambda, `ridge` a share of the mean
    square of k. `forget` and `retain` are numbers of sentences about one concept and about all the rest. `tolerance` is the
    share of the change's effect, squared, that may be lost to keep its rank low. Raises UnreelError for values that make no
    sense.
    """

    layers: int = 4
    retain_weight: float = 3.0
    ridge: float = 0.01
    forget: int = 240
    retain: int = 900
    tolerance: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "ridge", "forget", "retain"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UnreelError(f"{name.replace('_', ' ')} must be greater than zero, not {value}")
        if not (math.isfinite(self.retain_weight) and self.retain_weight >= 0):
            raise UnreelError(f"the retain weight must be zero or more, not {self.retain_weight}")
        if not 0 <= self.tolerance < 1:
            raise UnreelError(f"the tolerance is a share from 0 to below 1, not {self.tolerance}")
        if self.seed < 0:
            raise UnreelError(f"the seed must be zero or more, not {self.seed}")


@dataclass(frozen=True)
class Moments:
    """Sums of k k' over all tokens of some sentences, for every edited matrix by name: (in, in) float32 each."""

    sums: dict[str, torch.Tensor]
    tokens: int

    def __add__(self, other: "Moments") -> "Moments":
        return Moments({name: total + other.sums[name] for name, total in self.sums.items()}, self.tokens + other.tokens)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments({name: total - other.sums[name] for name, total in self.sums.items()}, self.tokens - other.tokens)


def edited(conditioner: Conditioner, layers: int) -> list[tuple[str, nn.Linear]]:
    """The matrices to solve for in the last `layers` layers, or all, by the names of their weights, first layer first."""
    names = {id(module): name for name, module in conditioner.text_encoder.named_modules()}
    matrices = [conditioner.mlp_output(layer) for layer in conditioner.layers[-layers:]]
    return [(f"{names[id(matrix)]}.weight", matrix) for matrix in matrices]


def moments(conditioner: Conditioner, sentences: Sequence[str], config: ClosedFormConfig) -> Moments:
    """What the solve needs to know about `sentences`, all that must keep their meaning."""
    matrices = edited(conditioner, config.layers)
    sums = {name: torch.zeros(2 * (matrix.in_features,), device=conditioner.device) for name, matrix in matrices}
    tokens = 0
    for start in range(0, len(sentences), BATCH):
        said = conditioner.tokenize(list(sentences[start : start + BATCH]))
        seen = said.seen
        tokens += int(seen.sum())
        with torch.no_grad(), _passing([matrix for _, matrix in matrices]) as passing:
            conditioner.encode_tokens(said)
        for (name, matrix), layer in zip(matrices, conditioner.layers[-config.layers :], strict=True):
            k, _ = passing[matrix]
            k = k[seen] / _loudness(layer, passing[matrix][1][seen])
            sums[name] += _product(k, k)
    return Moments(sums, tokens)


@torch.no_grad()
def closed_form(
    conditioner: Conditioner,
    twins: Sequence[Twin],
    retained: Moments,
    config: ClosedFormConfig,
    *,
    concepts: int = 1,
) -> tuple[dict[str, LowRank], dict[str, Any]]:
    """Make the encoder write, for the first sentence of every pair of `twins`, what it writes for the second.

    `retained` are the moments of the sentences that must keep their meaning. If the twins are about several `concepts`,
    each weighs as much against what is retained as it would alone. The weights are left as they were found. Returns the
    changes by weight name, and as `left` how much of the way to the anchor remains at the last layer, as a share of its
    square.
    Raises UnreelError if the equations have no finite solution.
    """
    matrices, layers = edited(conditioner, config.layers), conditioner.layers[-config.layers :]
    passes = [Pass.of(conditioner, twins[start : start + BATCH], layers) for start in range(0, len(twins), BATCH)]
    way = sum(batch.way for batch in passes)
    if not way:
        raise UnreelError(
            "the concept and what is to be made instead say the same to this text encoder: choose another anchor"
        )
    changes: dict[str, LowRank] = {}
    for index, (layer, (name, matrix)) in enumerate(zip(layers, matrices, strict=True)):
        kk = torch.zeros(2 * (matrix.in_features,), device=conditioner.device)
        kd = torch.zeros(matrix.in_features, matrix.out_features, device=conditioner.device)
        for batch in passes:
            with _passing([matrix]) as passing:
                leaving = batch.through(index, layer)
            k, written = (part[batch.seen] for part in passing[matrix])
            k = k / _loudness(layer, written)
            kk += _product(k, k)
            kd += _product(k, (batch.goals[index] - leaving)[batch.seen] / _gain(layer, matrix))
        tokens = sum(batch.tokens for batch in passes) / concepts
        changes[name] = _solve(kk / tokens, kd / tokens, retained.sums[name] / retained.tokens, config)
        change = changes[name].dense().to(matrix.weight)
        before = matrix.weight.detach().clone()
        try:
            matrix.weight += change
            for batch in passes:
                batch.hidden = batch.through(index, layer)
        finally:
            matrix.weight.copy_(before)
        # In the last batch, as `leaving`, `k` and `batch` are.
        meant = (k.to(change) @ change.T) * _gain(layer, matrix)
        # Along what was meant only: in half precision, rounding of what passes by may be larger than the change.
        arrived = float((doubled((batch.hidden - leaving)[batch.seen]) * doubled(meant)).sum())
        if not 0.1 * _square(meant) <= arrived <= 2 * _square(meant):
            raise UnreelError(
                f"{type(layer).__name__} does not pass on what its MLP writes as it is: the closed form cannot edit it"
            )
    left = sum(batch.distance() for batch in passes) / way
    return changes, {"left": left, "sentences": len(twins), "ranks": [change.up.shape[1] for change in changes.values()]}


class Pass:
    """Some sentences on their way up through the layers to edit, and where their twins were on each layer.

    `hidden` (n, tokens, width) enters the next layer; `goals` are what left each layer for the twins, at the places that
    correspond; `seen` (n, tokens) says which tokens count; `way` is the squared distance from the sentences to their twins
    after the last layer, before any change.
    """

    def __init__(self, calls: list[tuple[tuple, dict]], goals: list[torch.Tensor], seen: torch.Tensor, way: float):
        self.calls, self.goals, self.seen, self.way = calls, goals, seen, way
        self.hidden = hidden_states(*calls[0])

    @classmethod
    def of(cls, conditioner: Conditioner, twins: Sequence[Twin], layers: Sequence[nn.Module]) -> "Pass":
        said, wanted, places = tokenize(conditioner, twins)
        calls, leaving = watch(conditioner, said, layers)
        goals = [at_places(h, places) for h in watch(conditioner, wanted, layers)[1]]
        seen = said.seen
        return cls(calls, goals, seen, _square((goals[-1] - leaving[-1])[seen]))

    @property
    def tokens(self) -> int:
        return int(self.seen.sum())

    def through(self, index: int, layer: nn.Module) -> torch.Tensor:
        """What leaves layer number `index` now for `hidden`; all else it is called with does not depend on what changes."""
        args, kwargs = self.calls[index]
        if args:
            return first(layer(self.hidden, *args[1:], **kwargs))
        return first(layer(**{**kwargs, "hidden_states": self.hidden}))

    def distance(self) -> float:
        return _square((self.goals[-1] - self.hidden)[self.seen])


def tokenize(conditioner: Conditioner, twins: Sequence[Twin]) -> tuple[Tokens, Tokens, torch.Tensor]:
    """The sentences and their twins as tokens, and the places in the twins that correspond to the sentences' tokens,
    (n, tokens).
    """
    said, wanted = (conditioner.tokenize([pair[side] for pair in twins]) for side in (0, 1))
    places = [align(a, b) for a, b in zip(said.ids.tolist(), wanted.ids.tolist(), strict=True)]
    return said, wanted, torch.tensor(places, device=said.ids.device)


def watch(
    conditioner: Conditioner, tokens: Tokens, layers: Sequence[nn.Module]
) -> tuple[list[tuple[tuple, dict]], list[torch.Tensor]]:
    """What each of `layers` is called with, and what leaves it."""
    calls: list[tuple[tuple, dict]] = []
    leaving: list[torch.Tensor] = []

    def note(_: nn.Module, args: tuple, kwargs: dict) -> None:
        # Without a decoder's cache, which would grow by these very tokens with every further call.
        calls.append((args, {name: value for name, value in kwargs.items() if name != "past_key_values"}))

    hooks = []
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(note, with_kwargs=True))
        hooks.append(layer.register_forward_hook(lambda _, __, output: leaving.append(first(output))))
    try:
        conditioner.encode_tokens(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, leaving


@contextmanager
def _passing(matrices: Sequence[nn.Linear]) -> Iterator[dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]]:
    """Notes what enters and leaves each of `matrices` while the block runs: (n, tokens, in) and (n, tokens, out)."""
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
    hooks = [m.register_forward_hook(lambda module, args, out: seen.__setitem__(module, (args[0], out))) for m in matrices]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _norm(layer: nn.Module) -> nn.Module | None:
    """What Gemma's layers put between the MLP and their output: it divides by the root mean square, then multiplies."""
    return getattr(layer, "post_feedforward_layernorm", None)


def _loudness(layer: nn.Module, written: torch.Tensor) -> torch.Tensor | float:
    """What the layer divides by what its MLP writes: (n, out) -> (n, 1), or 1."""
    return 1.0 if _norm(layer) is None else written.float().square().mean(-1, keepdim=True).sqrt()


def _gain(layer: nn.Module, matrix: nn.Linear) -> torch.Tensor | float:
    """What the layer multiplies with then: (out,), or 1."""
    norm = _norm(layer)
    return 1.0 if norm is None else norm(torch.ones(matrix.out_features).to(matrix.weight)).float()


def hidden_states(args: tuple, kwargs: dict) -> torch.Tensor:
    """What a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


def first(output: Any) -> torch.Tensor:
    """What a layer passes on, whatever it returns beside it."""
    return output[0] if isinstance(output, tuple) else output


def _solve(kk: torch.Tensor, kd: torch.Tensor, retained: torch.Tensor, config: ClosedFormConfig) -> LowRank:
    """dW of one matrix as a product, from means over tokens: kk (in, in) of the sentences to forget, kd (in, out)."""
    a = doubled(kk + config.retain_weight * retained)
    a.diagonal().add_(config.ridge * doubled(kk.diagonal()).mean())
    factor, failed = torch.linalg.cholesky_ex(a)
    if failed or not kd.isfinite().all():
        raise UnreelError("the least squares have no finite solution: use --dtype float32, or a larger ridge")
    d = torch.cholesky_solve(doubled(kd), factor).T
    # What matters of dW is what it does to the inputs it meets, whose second moments are a = factor factor': the left
    # singular vectors of d factor, which are the eigenvectors of a matrix no wider than what the MLP writes.
    squares, vectors = torch.linalg.eigh(d @ a @ d.T)
    squares, u = squares.flip(0), vectors.flip(1)
    lost = 1 - squares.cumsum(0) / squares.sum()
    rank = int((lost > config.tolerance).sum()) + 1
    return LowRank(u[:, :rank].float().contiguous(), (u[:, :rank].T @ d).float().contiguous())


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(n, x) and (n, y) -> their product summed over n, (x, y) float32."""
    return a.float().T @ b.float()


def _square(difference: torch.Tensor) -> float:
    return float(doubled(difference).square().sum())
