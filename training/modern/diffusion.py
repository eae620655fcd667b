"""The modern pair's transformers: rectified flow on latents, conditioned on hidden states of a frozen language model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.autoencoder import LATENT_CHANNELS
from training.loop import Schedule, autocast, train
from training.modern import captions
from training.scenes import Renderer

HEADS, HEAD_WIDTH, LAYERS = 6, 32, 6
READER_WIDTH = 576
TIMESTEPS = 1000
SCENES, PICTURES = 20_000, 3
NOISE = 1.8  # on the hidden states, in standard deviations
IMAGE_SCHEDULE = Schedule(steps=13_000, batch=64, lr=1.5e-3, muon=True)
COMMON = {
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_attention_heads": HEADS,
    "attention_head_dim": HEAD_WIDTH,
    "num_layers": LAYERS,
    "num_cross_attention_heads": HEADS,
    "cross_attention_head_dim": HEAD_WIDTH,
    "cross_attention_dim": HEADS * HEAD_WIDTH,
    "caption_channels": READER_WIDTH,
    "mlp_ratio": 2.5,
    "sample_size": 8,
    "qk_norm": "rms_norm_across_heads",
}


def build_image_transformer() -> SanaTransformer2DModel:
    return SanaTransformer2DModel(**COMMON, patch_size=1, interpolation_scale=1.0)


@dataclass(frozen=True)
class Lessons:
    """The training data of a transformer: `scenes`, their captions as read, and latents, as many of each scene."""

    latents: torch.Tensor  # (scenes * n, ...), the n of a scene one after the other
    readings: captions.Readings
    scenes: int

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, noise: float, device: str) -> torch.Tensor:
        """The mean squared error of the flow that `model` predicts for a batch; hidden states carry `noise` at most."""
        chosen = rng.integers(len(self.latents), size=batch)
        drawn = captions.draw_captions(rng, chosen // (len(self.latents) // self.scenes), self.scenes)
        states, mask = self.readings.batch(drawn, rng, noise)
        noisy, timesteps, target = flow_batch(self.latents[chosen].to(device).float())
        return nn.functional.mse_loss(predicted_flow(model, noisy, states, mask, timesteps, device), target)


def predicted_flow(
    model: nn.Module, noisy: torch.Tensor, states: torch.Tensor, mask: torch.Tensor, timesteps: torch.Tensor, device: str
) -> torch.Tensor:
    """The flow that `model` predicts for noisy latents of any rank, conditioned on hidden states and their mask."""
    with autocast(device), sdpa_kernel(SDPBackend.MATH):  # the fused kernel's backward is several times slower on CPU
        return model(
            noisy,
            encoder_hidden_states=states.to(device),
            encoder_attention_mask=mask.to(device),
            timestep=timesteps,
        ).sample.float()


def flow_batch(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, timesteps and the flow from picture to noise, for clean latents of any rank.

    Noise levels are logit-normal, most of them in the middle, where the most is decided (Esser et al., arXiv 2403.03206).
    """
    level = torch.randn(len(latents), device=latents.device).mul(1.1).add(0.2).sigmoid()
    noise = torch.randn_like(latents)
    share = level.view(-1, *[1] * (latents.ndim - 1))
    return (1 - share) * latents + share * noise, level * TIMESTEPS, noise - latents


def stills(
    folder: Path,
    renderer: Renderer,
    vae: AutoencoderDC,
    tokenizer: PreTrainedTokenizerBase,
    reader: PreTrainedModel,
    device: str,
) -> Lessons:
    """Pictures, some of them frames of clips: latents (pictures, channels, 8, 8)."""
    scenes, texts = captions.described(renderer.world, captions.IMAGE_SET, SCENES, moving=0.25)
    readings = captions.read(folder / "image-captions.npz", texts, tokenizer, reader, device)
    latents = captions.image_latents(folder / "images.npy", scenes, PICTURES, vae, renderer, device)
    return Lessons(latents.contiguous(memory_format=torch.channels_last), readings, SCENES)


def train_image(folder: Path, lessons: Lessons, device: str) -> SanaTransformer2DModel:
    torch.manual_seed(IMAGE_SCHEDULE.seed)
    model = build_image_transformer().to(memory_format=torch.channels_last)
    model.compile()  # steps are bound by memory bandwidth, of which fused operations need less

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        return lessons.loss(model, rng, batch, NOISE, device)

    return train("image", folder, model, loss, IMAGE_SCHEDULE, device=device)
