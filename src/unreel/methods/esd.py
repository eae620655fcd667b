"""Erased Stable Diffusion, on the video model: negative guidance as a teacher (Gandikota et al., arXiv 2303.07345).

With c a prompt that names the concept, phi_0 the denoiser as found and phi the same with other weights theta,

    theta* = argmin_theta  E_t || phi(x_t, t, c) - [ phi_0(x_t, t, "") - eta ( phi_0(x_t, t, c) - phi_0(x_t, t, "") ) ] ||^2

so that the concept's own prompts lead where guidance away from it would. x_t is what the model as found makes of c, guided
at 3, after so many of its steps, their number drawn anew every time; theta are all matrices of the attention to the text
(ESD-x, in the paper for styles) or all other matrices and convolutions (ESD-u, in the paper for objects and nudity, which
show where no prompt names them). That guidance, Adam, its learning rate, 200 iterations and eta = 1 are those of the
authors' newest code (rohitgandikota/erasing, where it says 2). There is no term for what is to stay.

Ours: c are the sentences that few-shot learns from, not the bare name; several concepts take turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import mse_loss

from unreel.errors import UnreelError
from unreel.interventions.erasure import Erasure
from unreel.methods import Task, descended, option, require
from unreel.models.adapter import cross_attention, only_network_of, outside_cross_attention
from unreel.models.deltas import Delta
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Settings
from unreel.models.weights import learning, set_to


@dataclass(frozen=True)
class ESDConfig:
    """Settings, as the authors have them; `eta` is how far beyond the empty prompt the concept is led."""

    steps: int = 200
    learning_rate: float = option(5e-5, "Adam's learning rate")
    eta: float = 1.0
    weights: Literal["x", "u"] = option("x", "x or u: those of attention to the text learn, or those of all else")
    start_guidance: float = option(3.0, "guidance of the half-made videos that it learns on")
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, positive=["steps", "learning_rate", "eta", "start_guidance"], or_zero=["seed"])


Config, NEEDS, AS_PUBLISHED = ESDConfig, "video", True


def learn(task: Task, config: ESDConfig) -> Erasure:
    """Raises UnreelError for images, for what is to be kept, for something to make instead, and for a model whose denoiser
    has nothing of what is to learn, or is not in float32.
    """
    task.refuse("images", "keep", "replace")
    network = only_network_of(task.pair.t2v)
    layers: Mapping[str, nn.Module] = {}
    if network is not None:
        layers = cross_attention(network) if config.weights == "x" else outside_cross_attention(network)
    if not layers:
        raise UnreelError(
            f"ESD-x edits attention to the text, which a {type(task.pair.t2v).__name__} has not: choose another method, "
            "such as text-ablation; ESD-u, the weights u, needs none, but guidance in one call of the network"
        )
    task.require_learning(network)
    if network.dtype != torch.float32:
        raise UnreelError("ESD learns in float32: leave --dtype out")
    denoiser = Denoiser.of(task.pair.t2v, task.pair.settings.size, task.pair.settings.frames)
    prompts = [prompt for concept in task.concepts for prompt in concept.forget_prompts]
    settings = replace(task.pair.settings, guidance=config.start_guidance)
    deltas, losses = negatively_guided(denoiser, layers, prompts, settings, config)
    return task.network_erasure(deltas, task.record(config, losses=losses))


def negatively_guided(
    denoiser: Denoiser, layers: Mapping[str, nn.Module], prompts: list[str], settings: Settings, config: ESDConfig
) -> tuple[dict[str, Delta], list[float]]:
    """The changes of the layers' weights and biases, by name, and the loss at every step; they are left as found.

    Raises UnreelError if the loss, or a weight, stops being a number.
    """
    generator = torch.Generator("cpu").manual_seed(config.seed)  # CPU: the same draws on every device
    weights = {f"{name}.{own}": weight for name, layer in layers.items() for own, weight in layer.named_parameters()}

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    with learning(weights) as found:
        optimizer = torch.optim.Adam(weights.values(), lr=config.learning_rate)
        with torch.no_grad():
            nothing, asked_for = denoiser.conditioning([""]), [denoiser.conditioning([prompt]) for prompt in prompts]

        def loss(_: int) -> torch.Tensor:
            which, seed, at = draw(len(prompts)), draw(2**31), draw(settings.steps)
            named = asked_for[which]
            with torch.no_grad(), set_to(weights, found):
                x_t, t = denoiser.on_the_way(prompts[which], seed, at, settings)
                empty, asked = (denoiser.predict(x_t, t, words) for words in (nothing, named))
            return mse_loss(denoiser.predict(x_t, t, named), empty - config.eta * (asked - empty))

        losses = descended(optimizer, loss, config.steps)
        return {name: weight.detach().cpu() - found[name].cpu() for name, weight in weights.items()}, losses
