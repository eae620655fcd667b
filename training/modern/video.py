"""The modern pair's video model: its autoencoder, which shares latents with the image model's, and its transformer, which
begins at the image model's weights and is then trained on clips, every weight of it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKLWan, SanaTransformer2DModel, SanaVideoTransformer3DModel
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.autoencoder import LATENT_CHANNELS, random_frames
from training.loop import Schedule, autocast, train
from training.modern import captions
from training.modern.autoencoder import error
from training.modern.diffusion import COMMON, Lessons
from training.scenes import Renderer
from training.world import Scene

AUTOENCODER_SCHEDULE = Schedule(steps=2000, batch=16, lr=1.5e-3, weight_decay=0.0, ema=0.995)
SCHEDULE = Schedule(steps=20_000, batch=4, muon=True)
CLIPS, PICTURES_A_CLIP = 6_000, 8
NOISE = 1.0  # less than in the image model, whose steps hold more captions


def build_autoencoder() -> AutoencoderKLWan:
    """The class that SanaVideo's pipeline decodes with: one latent a frame, and next to no encoder, since a text-to-video
    pipeline never encodes."""
    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=12,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False] * 3,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_temporal=1,
    )


def _frame_by_frame(model: AutoencoderKLWan) -> None:
    """Let convolutions over time use their weights for the frame itself alone, which are then the only ones that learn:
    single frames, which are all that it is trained on, teach nothing about earlier ones.
    """
    for conv in model.modules():
        if isinstance(conv, nn.Conv3d) and conv.kernel_size[0] > 1:
            conv.weight.data[:, :, :-1] = 0
            conv.forward = partial(_flat, conv)


def _flat(conv: nn.Conv3d, frames: torch.Tensor, _: torch.Tensor | None = None) -> torch.Tensor:
    """The causal convolution of a first frame: (batch, channels, 1, height, width)."""
    padded = nn.functional.pad(frames[:, :, 0], conv._padding[:4])
    return nn.functional.conv2d(padded, conv.weight[:, :, -1], conv.bias, conv.stride[1:])[:, :, None]


def train_autoencoder(folder: Path, renderer: Renderer, of_images: AutoencoderDC, device: str) -> AutoencoderKLWan:
    """Train an autoencoder to encode frames to the latents of the image model's autoencoder, and to decode those."""
    of_images.requires_grad_(False)

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        images = random_frames(renderer, rng, batch).to(device)
        with autocast(device):
            latents = of_images.encode(images).latent
            encoded = model.encode(images[:, :, None]).latent_dist.mode()[:, :, 0]
            noisy = latents + 0.08 * torch.randn_like(latents)
            decoded = model.decode(noisy[:, :, None]).sample[:, :, 0]
        return error(decoded.float(), images) + nn.functional.mse_loss(encoded.float(), latents.float())

    torch.manual_seed(AUTOENCODER_SCHEDULE.seed)
    model = build_autoencoder()
    _frame_by_frame(model)
    model.encoder.compile()
    model.decoder.compile()
    trained = train("video-autoencoder", folder, model, loss, AUTOENCODER_SCHEDULE, device=device)
    for conv in trained.modules():
        vars(conv).pop("forward", None)
    return trained


def build_transformer(still: SanaTransformer2DModel) -> SanaVideoTransformer3DModel:
    """The image model, applied frame by frame: layers over time change nothing until they are trained."""
    model = SanaVideoTransformer3DModel(**COMMON, patch_size=(1, 1, 1), rope_max_seq_len=32)
    state = model.state_dict()
    for name, weight in still.state_dict().items():
        if name.startswith("patch_embed.proj."):
            name = name.replace("patch_embed.proj", "patch_embedding")
        if name in state:
            state[name] = weight.reshape(state[name].shape)
    for name, weight in state.items():
        if name.endswith("ff.conv_temp.weight"):
            weight.zero_()
    model.load_state_dict(state)
    return model


def clip_latents(file: Path, scenes: list[Scene], vae: AutoencoderDC, renderer: Renderer, device: str) -> torch.Tensor:
    """(clips, frames, channels, 8, 8) in float16; equal frames of a clip are encoded once."""
    if not file.exists():
        parts, length = [], renderer.world["frames"]
        for at in tqdm(range(0, len(scenes), 32), desc="encoding clips", mininterval=10):
            frames = np.concatenate([renderer.clip(scene) for scene in scenes[at : at + 32]])
            unique, inverse = np.unique(frames.reshape(len(frames), -1), axis=0, return_inverse=True)
            latents = captions.encode(vae, unique.reshape(-1, *frames.shape[1:]), device)[inverse.reshape(-1)]
            parts.append(latents.reshape(-1, length, *latents.shape[1:]))
        partial = file.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(parts))
        partial.replace(file)
    return torch.from_numpy(np.load(file))


def moving(
    folder: Path,
    renderer: Renderer,
    vae: AutoencoderDC,
    tokenizer: PreTrainedTokenizerBase,
    reader: PreTrainedModel,
    device: str,
) -> Lessons:
    """Clips: latents (clips, channels, frames, 8, 8)."""
    scenes, texts = captions.described(renderer.world, captions.CLIP_SET, CLIPS, moving=0.75)
    readings = captions.read(folder / "clip-captions.npz", texts, tokenizer, reader, device)
    return Lessons(clip_latents(folder / "clips.npy", scenes, vae, renderer, device).transpose(1, 2), readings, CLIPS)


def train_video(
    folder: Path, still: SanaTransformer2DModel, clips: Lessons, pictures: Lessons, device: str
) -> SanaVideoTransformer3DModel:
    """Train on clips, and on pictures as clips of one frame: a batch of clips alone holds too few captions to learn what
    things look like.
    """
    single = replace(pictures, latents=pictures.latents[:, :, None])
    torch.manual_seed(SCHEDULE.seed)
    model = build_transformer(still)
    model.compile(dynamic=False)  # one for clips, one for pictures

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        of_clips = clips.loss(model, rng, batch, NOISE, device)
        return of_clips + single.loss(model, rng, PICTURES_A_CLIP * batch, NOISE, device)

    return train("video", folder, model, loss, SCHEDULE, device=device)
