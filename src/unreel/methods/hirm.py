"""High-level representation misdirection: the first layer changes, the last one is led elsewhere (HiRM, arXiv 2602.19631).

With h_t(p) what the last layer's self-attention writes at token t of the concept's name p, before anything is added to it,

    theta* = argmin_theta  (1/T) sum_t || h_t(p) - c a_t ||^2

over every token, the start and the padding included, theta being the matrices and biases of the first layer. Towards
"random", a_t is a random unit vector of every token's own, and c = 500; towards "anchor" (there: a super-category), a_t is
what the encoder as found writes at the same place of the anchor's name, and c = 1. AdamW and its settings are the authors'
(Coffeeloveman/HiRM, which has the first alone). There is no term for what is to stay.

Their sources disagree about the steps: 25 and 15 for things, 40 and 30 for styles are taken here; a README of theirs says
15 for things, 20 for styles and 50 for unsafe content. Which of them the paper's figures are of is not known here.

Unsafe content is learned there at 1e-4 in 50 and 25 steps, towards what is left of its name without a vector for it.

Ours: nothing of the last, for which steps are those of things; the anchor is chosen as text ablation chooses it; wordings
of a concept, and several concepts, are learned together; their code scales the random vectors of all tokens together, to
about the same length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import mse_loss, normalize

from unreel.interventions.erasure import Erasure
from unreel.methods import Task, descended, option, require
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import Delta, differences
from unreel.models.reading import at_places

STEPS = {"random": (25, 40), "anchor": (15, 30)}  # for things, and for styles


@dataclass(frozen=True)
class HiRMConfig:
    """Settings, as the authors have them; `steps` 0 stands for those of the concept's kind, of which they tell several."""

    towards: Literal["anchor", "random"] = option("anchor", "anchor or random: what the concept is to be read as")
    scale: float = 500.0
    steps: int = 0
    learning_rate: float = option(5e-5, "AdamW's learning rate")
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, positive=["scale", "learning_rate"], or_zero=["steps", "seed"])


Config, NEEDS, AS_PUBLISHED = HiRMConfig, "text", True


def learn(task: Task, config: HiRMConfig) -> Erasure:
    """Raises UnreelError for images, and for what is to be kept by name."""
    task.refuse("images", "keep")
    task.require_learning()
    names = [wording for concept in task.concepts for wording in concept.wordings]
    anchors = task.anchors if config.towards == "anchor" else {}
    goals = [anchors.get(concept.name, "") for concept in task.concepts for _ in concept.wordings]
    steps = config.steps or STEPS[config.towards][all(concept.kind == "style" for concept in task.concepts)]
    learned = [misdirected(conditioner, names, goals, steps, config) for conditioner in task.conditioners]
    losses = [curve for _, curve in learned]
    record = task.record(config, anchors or None, losses=losses if len(losses) > 1 else losses[0])
    return task.erasure([deltas for deltas, _ in learned], record)


def misdirected(
    conditioner: Conditioner, names: Sequence[str], goals: Sequence[str], steps: int, config: HiRMConfig
) -> tuple[dict[str, Delta], list[float]]:
    """The changes of the first layer's weights, by name, with which `names` are led towards `goals` or at random, and the
    loss at every step. The weights are left as they were found. Raises UnreelError if the loss, or a weight, stops
    being a number.
    """
    writer = conditioner.attention_output(conditioner.layers[-1])
    tokens = conditioner.tokenize(list(names))
    written: list[torch.Tensor] = []
    noting = writer.register_forward_hook(lambda _, __, output: written.append(output))
    with noting, conditioner.learning("first-layer") as (weights, before):
        with torch.no_grad():
            goal_tokens = conditioner.tokenize(list(goals))
            conditioner.encode_tokens(goal_tokens if config.towards == "anchor" else tokens)
            goal = written.pop().float()
        if config.towards == "random":
            draw = torch.randn(goal.shape, generator=torch.Generator("cpu").manual_seed(config.seed))
            goal = config.scale * normalize(draw, dim=-1).to(goal)
        else:  # where padding does not count, the last token of a short anchor stands for all that follow
            last = (goal_tokens.mask * torch.arange(goal.shape[1], device=goal.device)).argmax(1, keepdim=True)
            places = torch.arange(tokens.ids.shape[1], device=goal.device).minimum(last)
            goal = at_places(goal, places)
        counted = tokens.mask[..., None]
        optimizer = torch.optim.AdamW(weights.values(), config.learning_rate, config.betas, config.eps, config.weight_decay)

        def loss(_: int) -> torch.Tensor:
            conditioner.encode_tokens(tokens)
            return mse_loss(written.pop().float() * counted, goal * counted)

        losses = descended(optimizer, loss, steps)
        return differences(weights, before), losses
