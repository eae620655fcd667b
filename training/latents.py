"""Scenes encoded once: latents of still frames and of clips, cached on disk.

Scene i of a set is drawn from a generator seeded with (set, i), so captions can be drawn afresh in every epoch while
the pixels are encoded only once.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from training.loop import autocast
from training.scenes import Renderer
from training.world import Scene, sample_scene
from unreel.models.sampling import to_tensor


def image_scenes(world: dict, count: int) -> list[tuple[Scene, int]]:
    """Scenes and the frame to show: a quarter are frames of moving clips, so that motion words mean something."""
    out = []
    for i in range(count):
        rng = np.random.default_rng((11, i))
        moving = bool(rng.random() < 0.25)
        out.append((sample_scene(world, rng, motion=moving), int(rng.integers(world["frames"])) if moving else 0))
    return out


def clip_scenes(world: dict, count: int) -> list[Scene]:
    """Scenes of clips: one in three stands still."""
    out = []
    for i in range(count):
        rng = np.random.default_rng((12, i))
        out.append(sample_scene(world, rng, motion=bool(rng.random() < 0.67)))
    return out


@torch.no_grad()
def _encode(vae: AutoencoderKL, frames: np.ndarray, device: str) -> torch.Tensor:
    images = to_tensor(frames).to(device)
    with autocast(device):
        return vae.encode(images).latent_dist.mode().half().cpu()


def image_latents(file: Path, vae: AutoencoderKL, renderer: Renderer, count: int, device: str) -> torch.Tensor:
    """(count, channels, 8, 8) float16."""
    if not file.exists():
        scenes, parts = image_scenes(renderer.world, count), []
        for start in tqdm(range(0, count, 128), desc="encoding images"):
            frames = np.stack([renderer.frame(scene, index) for scene, index in scenes[start : start + 128]])
            parts.append(_encode(vae, frames, device).numpy())
        _save(file, np.concatenate(parts))
    return torch.from_numpy(np.load(file))


def clip_latents(file: Path, vae: AutoencoderKL, renderer: Renderer, count: int, device: str) -> torch.Tensor:
    """(count, frames, channels, 8, 8) float16; equal frames of a clip are encoded once."""
    if not file.exists():
        scenes, parts, length = clip_scenes(renderer.world, count), [], renderer.world["frames"]
        for start in tqdm(range(0, count, 32), desc="encoding clips"):
            frames = np.concatenate([renderer.clip(scene) for scene in scenes[start : start + 32]])
            unique, inverse = np.unique(frames.reshape(len(frames), -1), axis=0, return_inverse=True)
            latents = _encode(vae, unique.reshape(-1, *frames.shape[1:]), device).numpy()[inverse.reshape(-1)]
            parts.append(latents.reshape(-1, length, *latents.shape[1:]))
        _save(file, np.concatenate(parts))
    return torch.from_numpy(np.load(file))


def _save(file: Path, array: np.ndarray) -> None:
    partial = file.with_name(file.stem + ".partial.npy")
    np.save(partial, array)
    partial.replace(file)
