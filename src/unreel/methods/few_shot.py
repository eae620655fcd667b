"""The paper's method: few-shot unlearning by gradient ascent on the denoising loss.

Liu & Tan, "Unlearning Concepts from Text-to-Video Diffusion Models" (arXiv 2407.14209), on the recipe of Fuchi & Takagi,
"Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning" (arXiv 2405.07288):

    theta* = argmin_theta  -E_{z, t, e} || target(z, t, e) - eps_phi(z_t, t, T_theta(prompt)) ||^2

with theta the MLPs and the final self-attention of the text encoder T, and the denoiser phi frozen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from unreel.concept import Concept
from unreel.conditioner import Conditioner, Trainable
from unreel.denoiser import Denoiser
from unreel.errors import UnreelError


@dataclass(frozen=True)
class FewShotConfig:
    """Hyperparameters; every default is the paper's (see docs/method.md for the source of each).

    Raises UnreelError for values that make no sense.
    """

    shots: int = 4
    epochs: int = 5
    batch_size: int = 2
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-8
    trainable: Trainable = "mlp-final-attn"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("shots", "epochs", "batch_size", "learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UnreelError(f"{name.replace('_', ' ')} must be greater than zero, not {value}")
        if self.seed < 0:
            raise UnreelError(f"the seed must be zero or more, not {self.seed}")


def few_shot(
    conditioners: Sequence[Conditioner],
    denoiser: Denoiser,
    concept: Concept,
    config: FewShotConfig,
    latents: torch.Tensor,
) -> tuple[list[dict[str, torch.Tensor]], list[float]]:
    """Unlearn `concept` from a few latents that show it.

    `latents` is (shots, 2, channels, height, width), or any layout of a latent in place of the last three: each image and
    its mirror image. The text encoders, all that the denoiser reads, learn together; their weights are left as they were
    found. Returns the changes of each one's trained weights, by name, and the denoising loss at every step, which ascent
    drives up. Raises UnreelError if the loss stops being a number.
    """
    generator = torch.Generator("cpu").manual_seed(config.seed)  # CPU: the same draws on every device

    def draw(high: int, count: int) -> torch.Tensor:
        return torch.randint(high, (count,), generator=generator)

    prompts, encoders = concept.forget_prompts, [conditioner.text_encoder for conditioner in conditioners]
    dtypes = [next(encoder.parameters()).dtype for encoder in encoders]
    for encoder, dtype in zip(encoders, dtypes, strict=True):
        # Half precision would lose the small steps.
        encoder.requires_grad_(False).to(torch.promote_types(dtype, torch.float32))
    weights = [conditioner.trainable(config.trainable) for conditioner in conditioners]
    before = [{name: weight.detach().clone() for name, weight in of.items()} for of in weights]
    optimizer = torch.optim.Adam(
        [weight.requires_grad_() for of in weights for weight in of.values()],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    losses: list[float] = []
    try:
        for _ in tqdm(range(config.epochs), desc="unlearning", unit="epoch"):
            for shots in torch.randperm(len(latents), generator=generator).split(config.batch_size):
                count = len(shots)
                z = latents[shots, draw(2, count)]
                embeddings = denoiser.conditioning([prompts[i] for i in draw(len(prompts), count).tolist()])
                t = draw(denoiser.timesteps, count).to(z.device)
                noise = torch.randn(z.shape, generator=generator, dtype=torch.float32).to(z.device)
                loss = denoiser.loss(z, noise, t, embeddings)
                (-loss).backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise UnreelError(
                        f"the loss became {losses[-1]} at step {len(losses)}: nothing was kept; lower the learning rate "
                        f"(it was {config.learning_rate:g}) or use --dtype float32"
                    )
        changes = [
            {name: weight.detach() - old[name] for name, weight in of.items()}
            for of, old in zip(weights, before, strict=True)
        ]
        broken = [name for of in changes for name, change in of.items() if not change.isfinite().all()]
        if broken:
            raise UnreelError(f"{broken[0]} stopped being a number: nothing was kept; lower the learning rate")
        return changes, losses
    finally:
        with torch.no_grad():
            for of, old in zip(weights, before, strict=True):
                for name, weight in of.items():
                    weight.copy_(old[name])
        for encoder, dtype in zip(encoders, dtypes, strict=True):
            encoder.requires_grad_(False).to(dtype)
