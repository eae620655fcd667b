"""The paper's method: few-shot unlearning by gradient ascent on the denoising loss.

Liu & Tan, "Unlearning Concepts from Text-to-Video Diffusion Models" (arXiv 2407.14209), on the recipe of Fuchi & Takagi,
"Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning" (arXiv 2405.07288):

    theta* = argmin_theta  -E_{z, t, e} || target(z, t, e) - eps_phi(z_t, t, T_theta(prompt)) ||^2

with theta the MLPs and the final self-attention of the text encoder T, and the denoiser phi frozen. For encoders whose
weights, gradients and Adam's moments do not fit together, theta can be a low-rank change of each matrix instead (LoRA, Hu
et al., arXiv 2106.09685).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from unreel.interventions.erasure import Erasure
from unreel.methods import Task, option, require
from unreel.methods._descent import finite, require_finite
from unreel.methods._low_rank import Factors
from unreel.methods._shots import latents_of
from unreel.models.conditioner import Conditioner, Trainable
from unreel.models.deltas import Delta, differences
from unreel.models.denoiser import Denoiser
from unreel.models.memory import checkpointing
from unreel.progress import track
from unreel.prompts.concept import Concept


@dataclass(frozen=True)
class FewShotConfig:
    """Hyperparameters; every default is the paper's (see docs/methods/few-shot.md for the source of each).

    `shot_steps` above zero is how many denoising steps an image takes instead of the pipeline's own number, with
    DPM-Solver++ where the pipeline is an image model with a U-Net. `rank` above zero trains a change of that rank of every
    matrix, in float32, while the encoder stays as it is, in any precision; vectors (biases, norms) do not learn then.
    `gradient_checkpointing` computes activations twice instead of keeping them, to the same result. Raises UnreelError for
    values that make no sense.
    """

    shots: int = option(4, "images to generate")
    shot_steps: int = option(0, "denoising steps an image, with DPM-Solver++; 0: the pipeline's own")
    epochs: int = option(5, "passes over the images")
    batch_size: int = option(2, "images in each training step")
    learning_rate: float = option(1e-5, "Adam's learning rate")
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-8
    trainable: Trainable = option(
        "mlp-final-attn", "which weights learn: mlp-final-attn, mlp, attn, mlp-attn, first-layer or all"
    )
    rank: int = option(0, "learn weight changes of this rank, for large text encoders; 0: whole weights")
    gradient_checkpointing: bool = option(False, "less memory, more time, the same result")
    seed: int = 0

    @property
    def refuses_offloading(self) -> str:
        return "" if self.rank else "weights that learn cannot be offloaded: train low-rank changes, with --rank 16"

    def __post_init__(self) -> None:
        require(self, positive=("shots", "epochs", "batch_size", "learning_rate"), or_zero=("shot_steps", "rank", "seed"))


Config, NEEDS, AS_PUBLISHED = FewShotConfig, "images", True


def learn(task: Task, config: FewShotConfig) -> Erasure:
    """Raises UnreelError for several concepts, anything to keep, and something to make instead."""
    concept = task.only_concept()
    task.refuse("replace")
    task.require_learning()
    config, denoiser, latents = latents_of(task, config)
    with denoiser.channels_last():
        deltas, losses = few_shot(task.conditioners, denoiser, concept, config, latents)
    return task.erasure(deltas, task.record(config, losses=losses, images=task.images_from))


def few_shot(
    conditioners: Sequence[Conditioner],
    denoiser: Denoiser,
    concept: Concept,
    config: FewShotConfig,
    latents: torch.Tensor,
) -> tuple[list[dict[str, Delta]], list[float]]:
    """Unlearn `concept` from a few latents that show it.

    `latents` is (shots, 2, channels, height, width), or any layout of a latent in place of the last three: each image and
    its mirror image. The text encoders, all that the denoiser reads, learn together; their weights are left as they were
    found. Returns the changes of each one's trained weights, by name, and the denoising loss at every step, which ascent
    drives up. Raises UnreelError if the loss stops being a number.
    """
    generator = torch.Generator("cpu").manual_seed(config.seed)  # CPU: the same draws on every device

    def draw(high: int, count: int) -> torch.Tensor:
        return torch.randint(high, (count,), generator=generator)

    prompts = concept.forget_prompts
    losses: list[float] = []
    with ExitStack() as afterwards:
        learners = [_learner(conditioner, config, afterwards) for conditioner in conditioners]
        optimizer = torch.optim.Adam(
            [parameter for learner in learners for parameter in learner.parameters()],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
        if config.gradient_checkpointing:
            layers = [layer for conditioner in conditioners for layer in conditioner.layers]
            afterwards.enter_context(checkpointing(layers, denoiser.network))
        for _ in track(range(config.epochs), "unlearning", "epoch"):
            for shots in torch.randperm(len(latents), generator=generator).split(config.batch_size):
                count = len(shots)
                z = latents[shots, draw(2, count)]
                texts = [prompts[i] for i in draw(len(prompts), count).tolist()]
                first = denoiser.first_timestep
                t = (first + draw(denoiser.timesteps - first, count)).to(z.device)
                noise = torch.randn(z.shape, generator=generator, dtype=torch.float32).to(z.device)
                loss = _backward(denoiser, texts, z, noise, t)
                losses.append(finite(loss, len(losses) + 1, config.learning_rate))
                optimizer.step()
                optimizer.zero_grad()
        require_finite(parameter for learner in learners for parameter in learner.parameters())
        return [dict(learner.deltas()) for learner in learners], losses


def _backward(denoiser: Denoiser, prompts: Sequence[str], z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> float:
    """Add the gradients of the negative loss to what learns; returns the loss."""
    conditioning = denoiser.conditioning(prompts)
    if not denoiser.offloaded:
        loss = denoiser.loss(z, noise, t, conditioning)
        (-loss).backward()
        return loss.item()
    # In turns: what the graph of the text encoders holds would stay on the device while the network works.
    conditioning = conditioning.detached()
    denoiser.pipeline.maybe_free_model_hooks()
    loss = denoiser.loss(z, noise, t, conditioning)
    (-loss).backward()
    denoiser.pipeline.maybe_free_model_hooks()
    both = zip(denoiser.conditioning(prompts).learnable(), conditioning.learnable(), strict=True)
    read = [(again, written.grad) for again, written in both if written.grad is not None]
    torch.autograd.backward([again for again, _ in read], [gradient for _, gradient in read])
    return loss.item()


def _learner(conditioner: Conditioner, config: FewShotConfig, afterwards: ExitStack) -> "Factors | _Weights":
    if not config.rank:
        return _Weights(conditioner, config.trainable, afterwards)
    conditioner.text_encoder.requires_grad_(False)
    wanted = conditioner.trainable(config.trainable)
    matrices = {
        f"{name}.weight": module
        for name, module in conditioner.text_encoder.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in wanted
    }
    return Factors(matrices, config.rank, config.seed, conditioner.device, afterwards)


class _Weights:
    """The weights of a text encoder themselves, which learn; `afterwards` they are as found."""

    def __init__(self, conditioner: Conditioner, which: Trainable, afterwards: ExitStack):
        self.weights, self.before = afterwards.enter_context(conditioner.learning(which))

    def parameters(self) -> list[torch.Tensor]:
        return list(self.weights.values())

    def deltas(self) -> dict[str, Delta]:
        return differences(self.weights, self.before)
