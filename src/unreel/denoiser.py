"""The frozen image model as one differentiable loss.

Hides the parameterisation (epsilon or velocity), the scheduler and the autoencoder; works on latents of any rank. Knows
nothing about prompts or methods.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from unreel.errors import UnreelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Denoiser:
    """A frozen U-Net with its scheduler and autoencoder."""

    unet: Any
    scheduler: Any
    vae: Any

    @classmethod
    def of(cls, pipeline: "DiffusionPipeline") -> "Denoiser":
        """Raises UnreelError for a pipeline without U-Net and autoencoder."""
        if getattr(pipeline, "unet", None) is None or getattr(pipeline, "vae", None) is None:
            raise UnreelError(
                f"{type(pipeline).__name__} has no U-Net to learn from images with: use the closed form, or give a "
                "Stable Diffusion pipeline that shares the text encoder with --t2i"
            )
        for part in (pipeline.unet, pipeline.vae):
            part.requires_grad_(False)
        return cls(pipeline.unet, pipeline.scheduler, pipeline.vae)

    @property
    def timesteps(self) -> int:
        """How many training timesteps there are."""
        return self.scheduler.config.num_train_timesteps

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) in [-1, 1] -> latents (batch, channels, height/f, width/f)."""
        latents = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        return latents * self.vae.config.scaling_factor

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """z_t = sqrt(a_t) z + sqrt(1 - a_t) e, in at least float32: half precision is for the network only."""
        latents, noise = _precise(latents), _precise(noise)
        signal, sigma = self._scales(latents, timesteps)
        return signal * latents + sigma * noise

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """What the network makes of z_t, whichever it was trained to predict, in the shape and type of `noisy`;
        differentiable in `embeddings`.
        """
        dtype = self.unet.dtype
        return self.unet(noisy.to(dtype), timesteps, encoder_hidden_states=embeddings.to(dtype)).sample.to(noisy.dtype)

    def loss(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of the denoiser's prediction, a scalar, differentiable in `embeddings`.

        The target is e for epsilon models and sqrt(a_t) e - sqrt(1 - a_t) z for velocity models (Salimans & Ho,
        arXiv 2202.00512).
        """
        latents, noise = _precise(latents), _precise(noise)
        signal, sigma = self._scales(latents, timesteps)
        match self.scheduler.config.prediction_type:
            case "epsilon":
                target = noise
            case "v_prediction":
                target = signal * noise - sigma * latents
            case other:
                raise UnreelError(f"the image model predicts {other!r}: only epsilon and v_prediction are supported")
        predicted = self.predict(self.noisy(latents, noise, timesteps), timesteps, embeddings)
        return torch.nn.functional.mse_loss(predicted, target)

    def _scales(self, latents: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), to be multiplied with latents of any rank."""
        alpha = self.scheduler.alphas_cumprod.to(latents)[timesteps].view(-1, *[1] * (latents.ndim - 1))
        return alpha.sqrt(), (1 - alpha).sqrt()


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
