"""The judge: trained on rendered scenes only, never on anything a model has generated."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from training.loop import Schedule, autocast, train
from training.scenes import Renderer
from training.world import STILL, Scene, sample_scene
from unreel.judges._network import JudgeNetwork
from unreel.models.sampling import to_tensor

SCHEDULE = Schedule(steps=3000, batch=64, lr=2e-3, ema=0.998)
CLIP_SHARE = 8  # one clip for every 8 images


def motion_names(world: dict) -> list[str]:
    return [STILL, *world["motions"]]


def build(world: dict) -> JudgeNetwork:
    return JudgeNetwork(len(world["concepts"]), len(world["styles"]), len(motion_names(world)), world["frames"])


def scene_labels(world: dict, scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Concepts (n, concepts) of 0/1, style index (n,), motion index (n,)."""
    names, styles, motions = list(world["concepts"]), list(world["styles"]), motion_names(world)
    concepts = torch.zeros(len(scenes), len(names))
    for row, scene in zip(concepts, scenes, strict=True):
        row[[names.index(name) for name in scene.concepts]] = 1
    return (
        concepts,
        torch.tensor([styles.index(scene.style) for scene in scenes]),
        torch.tensor([motions.index(scene.motion) for scene in scenes]),
    )


def damage(images: torch.Tensor) -> torch.Tensor:
    """Softness, noise, tint and shift, so that a judge of clean renders also reads a model's softer pictures."""
    count = len(images)
    small = F.interpolate(images, scale_factor=float(torch.empty(1).uniform_(0.35, 0.9)), mode="bilinear", antialias=True)
    soft = F.interpolate(small, size=images.shape[-2:], mode="bilinear")
    mix = torch.rand(count, 1, 1, 1).clamp(max=0.7) * (torch.rand(count, 1, 1, 1) < 0.7)
    images = images + mix * (soft - images)
    gain, tint = 1 + 0.1 * torch.randn(count, 1, 1, 1), 0.06 * torch.randn(count, 3, 1, 1)
    noise = 0.08 * torch.rand(count, 1, 1, 1) * torch.randn_like(images)
    patchy = 0.15 * torch.rand(count, 1, 1, 1) * F.interpolate(torch.randn(count, 3, 8, 8), size=images.shape[-2:])
    return (images * gain + tint + noise + patchy).clamp(-1, 1)


def nothing(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pictures that show no concept: shuffled patches, mush of several scenes, far too few pixels, plain colours, noise."""
    count, _, size, _ = images.shape
    out = images.clone()
    for i in range(count):
        match int(rng.integers(7)):
            case 0:
                patch = int(rng.choice([8, 16]))
                tiles = images[i].unfold(1, patch, patch).unfold(2, patch, patch).reshape(3, -1, patch, patch)
                tiles = tiles[:, torch.from_numpy(rng.permutation(tiles.shape[1]))]
                side = size // patch
                out[i] = tiles.reshape(3, side, side, patch, patch).permute(0, 1, 3, 2, 4).reshape(3, size, size)
            case 1:
                others = torch.from_numpy(rng.choice(count, 5, replace=False))
                out[i] = images[others].mean(0)
            case 2:
                tiny = F.interpolate(images[i : i + 1], size=(5, 5), mode="area")
                out[i] = F.interpolate(tiny, size=(size, size), mode="bilinear")[0]
            case 3:
                out[i] = images[i, :, :1, :1].expand(3, size, size)
            case 4:
                corners = 2 * torch.rand(3, *((1, 1) if rng.random() < 0.5 else (2, 2))) - 1
                out[i] = F.interpolate(corners[None], size=(size, size), mode="bilinear")[0]
            case 5:  # noise of any grain and contrast, over any colour
                grain = int(rng.choice([1, 2, 4, 8]))
                noise = torch.randn(1, int(rng.choice([1, 3])), size // grain, size // grain)
                noise = F.interpolate(noise, size=(size, size)) * float(rng.uniform(0.1, 1.5))
                out[i] = (2 * torch.rand(3, 1, 1) - 1 + noise[0]).clamp(-1, 1)
            case 6:
                out[i] = 2 * torch.rand(3, size, size) - 1
    return out


def run(folder: Path, renderer: Renderer, device: str) -> JudgeNetwork:
    world, frames = renderer.world, renderer.world["frames"]

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        scenes, images = [], []
        for _ in range(batch):
            scene = sample_scene(world, rng, motion=bool(rng.random() < 0.25))
            scenes.append(scene)
            images.append(renderer.frame(scene, int(rng.integers(frames))))
        concepts, styles, _ = scene_labels(world, scenes)
        drawn_in = F.one_hot(styles, len(world["styles"])).float()
        shown, blank = to_tensor(np.stack(images)), batch // 6
        shown[:blank] = nothing(shown, rng)[:blank]
        concepts[:blank] = drawn_in[:blank] = 0
        shown = damage(shown).to(device)

        clips = [sample_scene(world, rng, motion=bool(rng.random() < 0.85)) for _ in range(batch // CLIP_SHARE)]
        moving = to_tensor(np.stack([renderer.clip(scene) for scene in clips]))
        moving = torch.stack([damage(clip) for clip in moving]).to(device)
        with autocast(device):
            concept, style = model.frame_logits(shown)
            motion = model.motion_logits(moving)
        of_concepts = F.binary_cross_entropy_with_logits(concept.float(), concepts.to(device), reduction="none")
        of_styles = F.binary_cross_entropy_with_logits(style.float(), drawn_in.to(device), reduction="none")
        of_motions = F.cross_entropy(motion.float(), scene_labels(world, clips)[2].to(device))
        return of_concepts.sum(1).mean() + of_styles.sum(1).mean() + of_motions

    torch.manual_seed(SCHEDULE.seed)
    return train("judge", folder, build(world), loss, SCHEDULE, device=device)
