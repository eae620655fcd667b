"""Concept ablation in text space: low-rank changes of a text encoder's first layers, learned from text alone.

Concept ablation (Kumari et al., arXiv 2303.13516) asks that a model make of a prompt what it made of its anchor prompt;
that is asked here of the text encoder's last hidden states, so that neither image nor denoiser is needed. With p a prompt
that names the concept, p' its anchor prompt, q a prompt that does not, T_0 the encoder as found, and T_theta the same with
a low-rank change (LoRA, arXiv 2106.09685) of every matrix of its first layers,

    theta* = argmin_theta  E_p || T_theta(p) - T_0(p') ||^2 / E_p || T_0(p) - T_0(p') ||^2
                           + lambda  E_q || T_theta(q) - T_0(q) ||^2 / E_q || T_0(q) ||^2

over the tokens that count (see reading.py); the last term twice, for everyday prompts q and with its own weight for those
about what is near. What a name means is put together in the first layers (Basu et al.,
arXiv 2310.13730); that those change while the last one is supervised is HiRM's idea (arXiv 2602.19631).

Knows sentences; where they come from is the caller's business.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from tqdm.auto import tqdm

from unreel.conditioner import Conditioner
from unreel.erasure import LowRank
from unreel.errors import UnreelError
from unreel.methods.low_rank import Factors
from unreel.prompt_pairs import PromptPair
from unreel.reading import Aim, as_anchors, as_read


@dataclass(frozen=True)
class TextAblationConfig:
    """Settings; where each comes from stands in docs/method.md.

    The first `layers` layers change; 0 stands for a third of them, at least four. `rank` is that of every change. A step
    takes `forget_batch` prompts that name the concept, `retain_batch` everyday ones and half as many about what is near;
    `retain_weight` is lambda for everyday prompts, `near_weight` for those about what is near. `forget` and `retain` are
    numbers of prompts to learn from. The learning rate rises for a tenth of the steps and then falls along a cosine.
    Raises UnreelError for values that make no sense.
    """

    layers: int = 0
    rank: int = 8
    steps: int = 80
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    forget_batch: int = 10
    retain_batch: int = 10
    retain_weight: float = 50.0
    near_weight: float = 25.0
    forget: int = 300
    retain: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "learning_rate", "forget_batch", "retain_batch", "forget", "retain"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UnreelError(f"{name.replace('_', ' ')} must be greater than zero, not {value}")
        for name in ("retain_weight", "near_weight", "layers", "seed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UnreelError(f"the {name.replace('_', ' ')} must be zero or more, not {value}")


def text_ablation(
    conditioner: Conditioner,
    pairs: Sequence[PromptPair],
    everyday: Sequence[str],
    neighbours: Sequence[str],
    config: TextAblationConfig,
) -> tuple[dict[str, LowRank], dict[str, Any]]:
    """Make the encoder read the prompts of `pairs` as their anchor prompts, and `everyday` and `neighbours` as before.

    The weights are left as they were found. Returns the changes by weight name and, as plain data, the share of the way to
    the anchor that was left at every step ("losses").
    Raises UnreelError if there is nothing to learn from, concept and anchor say the same, or what is learned is no number.
    """
    if not pairs:
        raise UnreelError("no prompt that names the concept fits into this text encoder: name it in fewer words")
    layers = config.layers or max(4, -(-len(conditioner.layers) // 3))
    generator = torch.Generator("cpu").manual_seed(config.seed)  # CPU: the same order on every device
    losses: list[float] = []
    conditioner.text_encoder.requires_grad_(False)
    with ExitStack() as afterwards:
        matrices = conditioner.first_matrices(layers)
        factors = Factors(matrices, config.rank, config.seed, conditioner.device, afterwards)
        with factors.off():
            forget = _aims(conditioner, pairs, config.forget_batch, as_anchors, generator)
            retain = _aims(conditioner, everyday, config.retain_batch, as_read, generator)
            near = _aims(conditioner, neighbours, -(-config.retain_batch // 2), as_read, generator)
            way = _way(conditioner, forget)
        optimizer = torch.optim.Adam(factors.parameters(), lr=config.learning_rate, betas=config.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
        lessons = zip(*(cycle(part) for part in (forget, retain, near) if part), strict=False)
        for batches in tqdm(islice(lessons, config.steps), total=config.steps, desc="unlearning", unit="step"):
            losses.append(_backward(conditioner, batches, way, (config.retain_weight, config.near_weight)))
            if not math.isfinite(losses[-1]):
                raise UnreelError(
                    f"the loss became {losses[-1]} at step {len(losses)}: nothing was kept; lower the learning rate "
                    f"(it was {config.learning_rate:g}) or use --dtype float32"
                )
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if not all(factor.isfinite().all() for factor in factors.parameters()):
            raise UnreelError("a change stopped being a number: nothing was kept; lower the learning rate")
        return factors.changes(), {"losses": losses}


def _rate(step: int, steps: int) -> float:
    """The learning rate of a step from 0, as a share of the highest."""
    return min(1.0, (step + 1) / max(1, steps // 10)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _aims(
    conditioner: Conditioner,
    sentences: Sequence[Any],
    size: int,
    aim: Callable[..., Aim],
    generator: torch.Generator,
) -> list[Aim]:
    """Batches in random order, each of sentences of about the same length, so that little of them is padding."""
    ordered = sorted(sentences, key=lambda one: len(one.prompt if isinstance(one, PromptPair) else one))
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    order = torch.randperm(len(batches), generator=generator).tolist()
    return [aim(conditioner, batches[i], short=True) for i in order]


@torch.no_grad()
def _way(conditioner: Conditioner, forget: Sequence[Aim], batches: int = 8) -> float:
    """The mean squared distance of a token that counts from its aim, before anything has changed."""
    some = forget[:batches]
    total = sum(float(aim.distances(conditioner.encode_tokens(aim.tokens)).sum()) for aim in some)
    if not total:
        raise UnreelError(
            "the concept and what is to be made instead say the same to this text encoder: choose another anchor"
        )
    return total / sum(int(aim.counted.sum()) for aim in some)


def _backward(conditioner: Conditioner, batches: Sequence[Aim], way: float, weights: tuple[float, float]) -> float:
    """Add the gradients of the loss on one batch to forget and some to retain; returns how much of the way is left."""
    forget, *kept = batches
    left = forget.distances(conditioner.encode_tokens(forget.tokens)).sum() / (way * int(forget.counted.sum()))
    left.backward()
    for weight, aim in zip(weights, kept, strict=False):
        moved = aim.distances(conditioner.encode_tokens(aim.tokens)).sum() / aim.squares.sum()
        (weight * moved).backward()
    return float(left.detach())
