"""The autoencoder of the embedded pair: 64x64 RGB <-> 8x8x16 latents with zero mean and unit variance."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from training.loop import Schedule, autocast, train
from training.scenes import Renderer
from training.world import sample_scene
from unreel.models.sampling import to_tensor

LATENT_CHANNELS = 16
SCHEDULE = Schedule(steps=3200, batch=16, lr=1.5e-3, weight_decay=0.0, ema=0.995)


def build(world: dict) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=world["image_size"],
        scaling_factor=1.0,
    )


def random_frames(renderer: Renderer, rng: np.random.Generator, count: int) -> torch.Tensor:
    """Frames of still and moving scenes in [-1, 1]: (count, 3, 64, 64)."""
    frames = []
    for _ in range(count):
        scene = sample_scene(renderer.world, rng, motion=bool(rng.random() < 0.3))
        frames.append(renderer.frame(scene, int(rng.integers(renderer.world["frames"]))))
    return to_tensor(np.stack(frames))


def run(folder: Path, renderer: Renderer, device: str) -> AutoencoderKL:

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        images = random_frames(renderer, rng, batch).to(device)
        with autocast(device):
            posterior = model.encode(images).latent_dist
            # Extra noise on the latents teaches the decoder to forgive the diffusion models' small errors.
            latents = posterior.sample()
            decoded = model.decode(latents + 0.1 * latents.detach().std() * torch.randn_like(latents)).sample
        error = decoded.float() - images
        return error.abs().mean() + error.square().mean() + 1e-5 * posterior.kl().mean() / LATENT_CHANNELS

    torch.manual_seed(SCHEDULE.seed)
    model = train("autoencoder", folder, build(renderer.world), loss, SCHEDULE, device=device)
    whiten(model, random_frames(renderer, np.random.default_rng(1), 2048).to(device))
    return model


@torch.no_grad()
def whiten(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold a per-channel standardisation of the latents into the 1x1 convolutions around them."""
    latents = torch.cat([model.encode(batch).latent_dist.mode() for batch in images.split(256)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    quant, post = model.quant_conv, model.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.weight[:LATENT_CHANNELS] /= std[:, None, None, None]
    quant.bias[:LATENT_CHANNELS] = (quant.bias[:LATENT_CHANNELS] - mean) / std
    quant.bias[LATENT_CHANNELS:] -= 2 * std.log()
