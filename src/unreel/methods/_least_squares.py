"""Where low-rank changes begin: least squares on the matrices through which layers write, one after the other, while
all prompts are read once: layer by layer, where they are too many to be read at once.

Of the family of ROME and MEMIT (Meng et al., arXiv 2202.05262 and 2210.07229). With k(p) what enters a matrix at a token of
a prompt p that names the concept, s(p) the sum that it writes to, p' its anchor prompt, q a prompt to be kept, and s_0 of
the encoder as found,

    dW = argmin_D  mean_p || D k(p) - (s_0(p') - s(p)) ||^2  +  lambda mean_q || D k(q) ||^2  +  ridge || D ||^2

first for what attention writes, then for what the MLP writes, of one layer after the other from below, so that each mends
what those below it could not. Only of layers that add what their matrices write to what enters them, as those of CLIP, T5
and Llama do: where a norm comes after (BERT, Gemma 2) nothing is changed.

Knows layers and prompts; knows nothing about what the changes are for.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from unreel.errors import UnreelError
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import LowRank
from unreel.models.reading import at_places, side_by_side, tokens_of
from unreel.models.standins import hiding
from unreel.models.tokens import Tokens
from unreel.models.weights import doubled, portable
from unreel.progress import track
from unreel.prompts.pairs import PromptPair

ROUNDS, BESIDES = 3, 8  # rounds of subspace iteration, and how many more directions it follows than are wanted
BATCH = 64  # prompts at once
TOKENS = 2**13  # at once, padding included, unless a single prompt has more
RIDGE = 0.01  # as a share of the mean square of what enters a matrix
SUMS = 4 * torch.finfo(torch.float32).eps  # what sums of float32 may be off by, as a share of their largest eigenvalue
ADDED = 0.05  # how far, as a share of what a layer adds, that may be from the sum of its matrices' outputs


@dataclass
class Layer:
    """A layer that adds the outputs of two matrices to its input: attention's, then the MLP's. `goals` holds, for every
    batch, what the sum is to be after each, at tokens that count: (tokens, width). `total` is the sum while the layer
    runs.
    """

    module: nn.Module
    writers: tuple[nn.Linear, nn.Linear]
    goals: list[tuple[torch.Tensor, torch.Tensor]]
    total: torch.Tensor = field(default_factory=lambda: torch.zeros(()))


class _Covariances:
    """The key covariance of a matrix, and the covariance of its inputs with what is missing from the sum after it, both
    over the tokens that count and without subtracting means. They are kept as sums: the rows themselves would take
    gigabytes beside a large encoder.
    """

    def __init__(self) -> None:
        self.batches = self.tokens = 0
        self.sums: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, entering: torch.Tensor, missing: torch.Tensor) -> None:
        """Add a batch of inputs (tokens, in) and of what is missing after them (tokens, out)."""
        more = (entering.T @ entering, entering.T @ missing)
        self.sums = more if self.sums is None else (self.sums[0].add_(more[0]), self.sums[1].add_(more[1]))
        self.batches, self.tokens = self.batches + 1, self.tokens + len(entering)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The means over tokens: of inputs with inputs (in, in), and of inputs with what is missing (in, out). Then the
        sums begin anew.
        """
        assert self.sums is not None
        own, towards = (total.div_(self.tokens) for total in self.sums)
        self.batches, self.tokens, self.sums = 0, 0, None
        return own, towards


@torch.no_grad()
def least_squares(
    conditioner: Conditioner,
    layers: Sequence[nn.Module],
    pairs: Sequence[PromptPair],
    kept: Mapping[float, Sequence[str]],
    retain_weight: float,
    rank: int,
    seed: int,
) -> dict[str, LowRank]:
    """Changes, by weight name, of the output matrices of `layers`. With them, the prompts of `pairs` are read more and
    more like their anchor prompts, layer by layer, and the `kept` ones as before; `kept` maps what a token weighs to
    prompts. `retain_weight` is lambda.

    The weights are left as they were found. Raises UnreelError if the equations have no finite solution.
    """
    tokens, anchors, aligned, naming = side_by_side(conditioner, pairs, short=True)
    batches = _batches(len(pairs), max(tokens.ids.shape[1], anchors.ids.shape[1]))
    plain = _plain(conditioner, layers, [(anchors.rows(some), aligned[some], naming[some]) for some in batches])
    if not plain:
        return {}
    names = {module: portable(f"{name}.weight") for name, module in conditioner.text_encoder.named_modules()}
    matrices = {names[matrix]: matrix for layer in plain for matrix in layer.writers}
    key_covariance = {name: torch.zeros(2 * (m.in_features,), device=conditioner.device) for name, m in matrices.items()}
    for weight, prompts in kept.items():
        _add_key_covariance(key_covariance, weight * retain_weight, conditioner, matrices, prompts, layers[-1])
    generator = torch.Generator("cpu").manual_seed(seed)
    deltas: dict[str, LowRank] = {}
    covariances = _Covariances()  # of the next matrix

    def enter(layer: Layer, _: nn.Module, args: tuple, kwargs: dict) -> None:
        layer.total = hidden_states(args, kwargs)

    def solve(name: str, layer: Layer, matrix: nn.Linear, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """Find the change of a matrix, and return the matrix's output with the change."""
        entering, total = args[0].float(), layer.total + output
        if name not in deltas:
            which = covariances.batches
            counted, goal = naming[batches[which]], layer.goals[which][layer.writers.index(matrix)]
            covariances.add(entering[counted], goal.to(total).float() - total[counted].float())
            if covariances.batches == len(batches):
                own = min(rank, *matrix.weight.shape)
                deltas[name] = _solution(*covariances.means(), key_covariance.pop(name), own, generator)
            if len(batches) > 1:  # matrices after this one need the other batches, read with the change
                raise _EnoughError
        change = deltas[name]
        more = (entering @ change.down.T @ change.up.T).to(output)
        layer.total = total + more
        return output + more

    with ExitStack() as hooks:
        for layer in plain:
            hook = layer.module.register_forward_pre_hook(partial(enter, layer), with_kwargs=True)
            hooks.enter_context(hook)
            for matrix in layer.writers:
                hooks.enter_context(matrix.register_forward_hook(partial(solve, names[matrix], layer)))
        # With several batches, each run of all of them finds one change.
        _read_again(conditioner, [tokens.rows(some) for some in batches], layers, 1 if len(batches) == 1 else len(matrices))
    return deltas


def _read_again(conditioner: Conditioner, batches: Sequence[Tokens], layers: Sequence[nn.Module], times: int) -> None:
    """Run all batches `times` times, each until a hook stops it. Layers that a batch has passed to their end do not run
    again: their output is replayed, as it would be the same.
    """
    written: list[tuple[int, Any]] = [(0, None)] * len(batches)  # by how many layers, and what by the last of them
    for turn in track(range(times * len(batches)), "least squares", brief=True):
        which = turn % len(batches)
        done, last = written[which]
        with ExitStack() as afterwards:
            for layer in layers[:done]:
                afterwards.enter_context(hiding(layer, "forward", lambda *_, own=last, **__: own))
            for count, layer in enumerate(layers[done:-1], start=done + 1):
                afterwards.enter_context(layer.register_forward_hook(partial(_note, written, which, count)))
            _read(conditioner, batches[which], layers[-1])


def _note(written: list[tuple[int, Any]], which: int, count: int, _: nn.Module, __: tuple, output: Any) -> None:
    """Keep a layer's output for a batch, with how many layers the batch has passed."""
    written[which] = (count, output)


def _batches(prompts: int, width: int) -> list[slice]:
    """How many prompts, each of `width` tokens, are read at once, as slices: all of them if they are short and few."""
    most = max(1, TOKENS // width)
    return [slice(start, start + most) for start in range(0, prompts, most)]


def _add_key_covariance(
    key_covariance: Mapping[str, torch.Tensor],
    weight: float,
    conditioner: Conditioner,
    matrices: Mapping[str, nn.Linear],
    prompts: Sequence[str],
    last: nn.Module,
) -> None:
    """Add to `key_covariance` (in, in), by name, `weight` times the mean outer product of what enters `matrices`, of
    layers up to `last`, at a token of `prompts`. The first token of each does not count: that of a causal language model
    drowns all others and never depends on the prompt (arXiv 2309.17453).
    """
    ordered = sorted(prompts, key=conditioner.length)
    read = [tokens_of(conditioner, ordered[start : start + BATCH], short=True) for start in range(0, len(ordered), BATCH)]
    batches = [tokens.rows(some) for tokens in read for some in _batches(*tokens.ids.shape)]
    masks = [tokens.mask & (torch.arange(tokens.ids.shape[1], device=tokens.ids.device) > 0) for tokens in batches]
    share = weight / max(1, sum(int(counted.sum()) for counted in masks))
    for tokens, counted in track(list(zip(batches, masks, strict=True)), "least squares", brief=True):

        def add(name: str, _: nn.Module, args: tuple, __: torch.Tensor, counted: torch.Tensor = counted) -> None:
            rows = args[0][counted].float()
            key_covariance[name].addmm_(rows.T, rows, alpha=share)

        with ExitStack() as hooks:
            for name, matrix in matrices.items():
                hooks.enter_context(matrix.register_forward_hook(partial(add, name)))
            _read(conditioner, tokens, last)


def _solution(
    own: torch.Tensor, towards: torch.Tensor, kept: torch.Tensor, rank: int, generator: torch.Generator
) -> LowRank:
    """The least-squares solution, cut to the wanted rank: what is left out has the least effect on what enters the
    matrix. `own` and `towards` are means over tokens (`_Covariances`). `kept` is overwritten: for large encoders,
    matrices of its size are most of the memory.
    """
    ridge = RIDGE * doubled(own.diagonal()).mean()
    both = doubled(kept.add_(own))
    both.diagonal().add_(ridge)
    root, failed = torch.linalg.cholesky_ex(both)
    if failed:  # beside one very large eigenvalue, float32 sums may leave small ones below zero
        both.diagonal().add_(SUMS * both.trace())
        root, failed = torch.linalg.cholesky_ex(both)
    del both
    if failed or not towards.isfinite().all():
        raise UnreelError("where to begin has no finite solution: use --dtype float32")
    # Of D = (both^-1 towards)^T, with both = root root^T, what D root is.
    felt = torch.linalg.solve_triangular(root, doubled(towards), upper=False).T.to(own)
    root = root.to(own)
    right = _leading(felt, rank, generator)
    down = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    return LowRank(felt @ right.T * down.norm(dim=1), normalize(down, dim=1))


def _plain(
    conditioner: Conditioner,
    layers: Sequence[nn.Module],
    batches: Sequence[tuple[Tokens, torch.Tensor, torch.Tensor]],
) -> list[Layer]:
    """Those of `layers` that add the outputs of two matrices to their input. Each of `batches` holds anchor prompts and,
    for every token of the prompts that name the concept, the anchor's token whose sum it is to take on, and whether it
    counts.
    """
    width = conditioner.token_table.weight.shape[1]
    outputs: dict[nn.Linear, torch.Tensor] = {}
    entered: dict[nn.Module, torch.Tensor] = {}
    summing: dict[nn.Module, Layer] = {}

    def leave(module: nn.Module, _: tuple, output: Any) -> None:
        before, after = entered.pop(module), first(output)
        places, counted = batch[1:]
        last = conditioner.mlp_output(module)
        for matrix in [matrix for matrix in outputs if matrix is not last]:
            total = before + outputs[matrix]
            if (total + outputs[last] - after).norm() <= ADDED * (after - before).norm():
                # In main memory: the goals of all batches and layers take gigabytes beside a large encoder.
                goals = (at_places(total, places)[counted].cpu(), at_places(after, places)[counted].cpu())
                summing.setdefault(module, Layer(module, (matrix, last), [])).goals.append(goals)
                break
        outputs.clear()

    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.register_forward_pre_hook(
                lambda module, args, kwargs: entered.__setitem__(module, hidden_states(args, kwargs)), with_kwargs=True
            )
            hooks.enter_context(hook)
            for matrix in layer.modules():
                if isinstance(matrix, nn.Linear) and matrix.out_features == width:
                    hook = matrix.register_forward_hook(lambda module, _, output: outputs.__setitem__(module, output))
                    hooks.enter_context(hook)
            hooks.enter_context(layer.register_forward_hook(leave))
        for batch in batches:
            _read(conditioner, batch[0], layers[-1])
    return [layer for layer in summing.values() if len(layer.goals) == len(batches)]


def hidden_states(args: tuple, kwargs: dict) -> torch.Tensor:
    """The hidden states that a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


def first(output: Any) -> torch.Tensor:
    """The hidden states that a layer returns, whatever it returns beside them."""
    return output[0] if isinstance(output, tuple) else output


class _EnoughError(Exception):
    """Ends a run once all layers of interest have run."""


def _read(conditioner: Conditioner, tokens: Tokens, last: nn.Module) -> None:
    """Encode tokens up to the layer `last`."""

    def stop(*_: Any) -> None:
        raise _EnoughError

    with last.register_forward_hook(stop), suppress(_EnoughError):
        conditioner.encode_tokens(tokens)


def _leading(matrix: torch.Tensor, rank: int, generator: torch.Generator) -> torch.Tensor:
    """The leading right singular vectors of `matrix`, by subspace iteration (Halko et al., arXiv 0909.4061): (rank, in),
    or fewer if it has no more.
    """
    guess = torch.randn(matrix.shape[1], min(rank + BESIDES, *matrix.shape), generator=generator).to(matrix)
    for _ in range(ROUNDS):
        basis, _ = torch.linalg.qr(matrix @ guess)
        guess = matrix.T @ basis
    _, _, vectors = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return vectors[:rank]
