"""A low-rank refusal vector in the video model, in closed form, from few pairs of prompts.

Facchiano et al., "Video Unlearning via Low-Rank Refusal Vector" (arXiv 2506.07891).

With x what enters a matrix W while a video is made, u_i and s_i that of two prompts that differ in the concept alone, from
the same noise, r their mean difference, C_r the covariance of u - s and C_e that of x for prompts about other things,

    W' = W (I - lambda p p' / |p|^2),    p = U_k U_k' r

with U_k the k leading eigenvectors of C_r - alpha C_e, so that what other prompts need is left out of the direction that is
removed. Five pairs and lambda = 1 are the paper's; where a model takes pictures too, its pairs have some. Which matrices it
means ("cross-attention FFN" in two of 19 layers), and at which steps, its code would have to say, which is not public.

Ours: W is what attention to the text writes through, in all layers unless told otherwise; differences are of every place in
the video at every step; s_i asks for the concept's anchor where one is given, as the paper's do not; there are ten other
prompts, and k = 100 is at most half of what there is.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.interventions.erasure import Erasure
from unreel.methods import Task, option, require
from unreel.models.adapter import cross_attention_outputs, guides_in_one_call, only_network_of
from unreel.models.deltas import Delta, LowRank
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Pair
from unreel.models.weights import doubled


@dataclass(frozen=True)
class RefusalVectorConfig:
    """Settings; `neutral` is how many prompts about other things there are, `last` how many layers change, from the last;
    0 stands for all. `rank` is k.
    """

    pairs: int = option(5, "pairs of prompts that the vector is computed from")
    neutral: int = 10
    rank: int = option(100, "dimensions of the space that the vector may lie in")
    alpha: float = option(1.0, "how much of what other prompts need is left out of the vector")
    lamb: float = option(1.0, "how much of the vector is removed")
    last: int = option(0, "how many of the last layers change; 0: all (paper: 2 of 19)")
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, positive=["pairs", "neutral", "rank", "lamb"], or_zero=["alpha", "last", "seed"])


Config, NEEDS, AS_PUBLISHED = RefusalVectorConfig, "video", True


@dataclass
class _InputSums:
    """Sums over what enters a matrix: of differences within pairs (in,), and of their outer products (in, in); the same
    of inputs for other prompts. `counts` says how many there were of both.
    """

    difference: torch.Tensor | float = 0.0
    products: torch.Tensor | float = 0.0
    other: torch.Tensor | float = 0.0
    other_products: torch.Tensor | float = 0.0
    counts: list[int] = field(default_factory=lambda: [0, 0])


def learn(task: Task, config: RefusalVectorConfig) -> Erasure:
    """Raises UnreelError for images, for what is to be kept by name, and for a model whose denoiser has no attention to the
    text, or is called twice to guide.
    """
    task.refuse("images", "keep")
    network = only_network_of(task.pair.t2v)
    writers = {} if network is None else _writers(network, config.last)
    if not writers or not guides_in_one_call(task.pair.t2v):
        raise UnreelError(
            "a refusal vector is found in attention to the text, guided in one call of the network, which a "
            f"{type(task.pair.t2v).__name__} has not: choose another method, such as text-ablation"
        )
    task.require_learning(network)
    if task.pair.settings.guidance <= 1:
        raise UnreelError("a refusal vector is read off videos that are made with guidance: give --guidance above 1")
    anchors = {concept.name: concept.anchor for concept in task.concepts}
    without = replace(task, concepts=[replace(concept, anchor=concept.anchor or "") for concept in task.concepts])
    prompts = without.prompts(task.conditioners[0], config.seed)
    pairs, neutral = task.pairs(prompts, config.pairs), prompts.everyday(config.neutral)
    seen = _seen(task.pair, writers, [(pair.prompt, pair.anchor) for pair in pairs], neutral, config.seed)
    deltas: dict[str, Delta] = {f"{name}.weight": _removed(matrix, seen[name], config) for name, matrix in writers.items()}
    return task.network_erasure(deltas, task.record(config, anchors, losses=[]))


def _writers(network: nn.Module, last: int) -> dict[str, nn.Linear]:
    """The output matrices of cross-attention of the `last` layers, or of all if `last` is 0."""
    # Networks name their layers in order, but for U-Nets, which name what comes up again before their middle.
    in_order = sorted(cross_attention_outputs(network).items(), key=lambda named: named[0].startswith("up_blocks."))
    return dict(in_order[-last:])


def _seen(
    pair: Pair, writers: dict[str, nn.Linear], pairs: Sequence[tuple[str, str]], neutral: Sequence[str], seed: int
) -> dict[str, _InputSums]:
    """Sums of the matrices' inputs while videos are made: of both prompts of each pair from the same noise, and of
    neutral prompts.
    """
    seen = {name: _InputSums() for name in writers}

    def note(name: str, of_pair: bool, _: nn.Module, args: tuple) -> None:
        # What is not asked for comes first, twice, then what is asked for.
        _, asked = args[0].chunk(2)
        own = seen[name]
        if of_pair:
            concept, anchor = asked.chunk(2)
            rows = (concept - anchor).flatten(0, -2).float()
            own.difference += rows.sum(0)
            own.products += rows.T @ rows
        else:
            rows = asked.flatten(0, -2).float()
            own.other += rows.sum(0)
            own.other_products += rows.T @ rows
        own.counts[not of_pair] += len(rows)

    denoiser = Denoiser.of(pair.t2v)
    made = [(texts, True) for texts in pairs] + [((text, text), False) for text in neutral]
    for index, (texts, of_pair) in enumerate(made):
        with ExitStack() as hooks:
            for name, matrix in writers.items():
                hooks.enter_context(matrix.register_forward_pre_hook(partial(note, name, of_pair)))
            denoiser.finished(texts, seed + index, pair.settings)
    return seen


@torch.no_grad()
def _removed(matrix: nn.Linear, seen: _InputSums, config: RefusalVectorConfig) -> LowRank:
    """The change of a matrix that removes the refusal vector from its inputs."""
    sums = (seen.difference, seen.products, seen.other, seen.other_products)
    vector, products, other, other_products = (
        doubled(torch.as_tensor(each)) / seen.counts[i // 2] for i, each in enumerate(sums)
    )
    contrast = products - vector.outer(vector) - config.alpha * (other_products - other.outer(other))
    rank = min(config.rank, matrix.in_features // 2)
    leading = torch.linalg.eigh(contrast).eigenvectors[:, -rank:]
    direction = nn.functional.normalize(leading @ (leading.T @ vector), dim=0)
    weight = doubled(matrix.weight)
    up = -config.lamb * weight @ direction.to(weight.device)  # where it waits, if it is offloaded
    return LowRank(up[:, None].float().cpu(), direction[None].float().cpu())
