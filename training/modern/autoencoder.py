"""The modern pair's autoencoder: 64x64 RGB <-> 8x8x16 latents that come out standardised."""

from pathlib import Path

import torch
from diffusers import AutoencoderDC
from torch import nn

from training.autoencoder import LATENT_CHANNELS, random_frames
from training.loop import Schedule, autocast, train
from training.scenes import Renderer

SCHEDULE = Schedule(steps=3500, batch=16, lr=1.5e-3, weight_decay=0.0, ema=0.995)
CHANNELS = (24, 48, 96, 96)


def build() -> AutoencoderDC:
    return AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=CHANNELS,
        decoder_block_out_channels=CHANNELS,
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 2),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        scaling_factor=1.0,
    )


def error(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The error of pictures, plus that of their edges: without the latter, what is drawn in lines comes out soft."""
    off = decoded - images
    edges = (off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()) / 2
    return off.abs().mean() + off.square().mean() + edges


def run(folder: Path, renderer: Renderer, device: str) -> AutoencoderDC:
    def loss(model: nn.Module, rng, batch: int) -> torch.Tensor:
        images = random_frames(renderer, rng, batch).to(device, memory_format=torch.channels_last)
        with autocast(device):
            latents = model.encode(images).latent
            # Extra noise on the latents teaches the decoder to forgive the diffusion models' small errors.
            decoded = model.decode(latents + 0.08 * torch.randn_like(latents)).sample
        latents = latents.float()
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        return error(decoded.float(), images) + 0.1 * (mean.square().mean() + (std - 1).square().mean())

    torch.manual_seed(SCHEDULE.seed)
    model = build().to(memory_format=torch.channels_last)
    model.encoder.compile()  # steps are bound by memory bandwidth, of which fused operations need less
    model.decoder.compile()
    return train("autoencoder", folder, model, loss, SCHEDULE, device=device)
