"""How often the judge finds a concept where there is none: `python -m benchmarks.judge_floor`.

Needs the sprites (`python -m training sprites`) for the pictures that are made by destroying renders.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch.nn import functional as F

from benchmarks.common import write_result
from training.scenes import Renderer
from training.world import sample_scene
from unreel.evaluation.estimate import Estimate
from unreel.judges.embedded import load as load_judge
from unreel.models.sampling import to_tensor

SEED = 9_000_000
PICTURES = 500


def shuffled(images: torch.Tensor, rng: np.random.Generator, patch: int = 8) -> torch.Tensor:
    """Every image with its patches in random order: (n, 3, 64, 64)."""
    columns = F.unfold(images, patch, stride=patch)
    columns = torch.stack([column[:, torch.from_numpy(rng.permutation(column.shape[1]))] for column in columns])
    return F.fold(columns, images.shape[-2:], patch, stride=patch)


def main(folder: Annotated[Path, typer.Option(help="where training keeps its sprites")] = Path("training/runs")) -> None:
    judge, rng = load_judge(), np.random.default_rng(SEED)
    renderer = Renderer(folder / "sprites.npz", judge.world)
    renders = to_tensor(
        np.stack([renderer.frame(sample_scene(judge.world, rng, motion=False), 0) for _ in range(PICTURES)])
    )
    noise = torch.from_numpy(rng.standard_normal(renders.shape)).float()
    flat = torch.from_numpy(rng.uniform(-1, 1, (PICTURES, 3, 1, 1))).float().expand_as(renders)
    pictures = {
        "render with its 8x8 patches shuffled": shuffled(renders, rng),
        "mean of five renders": torch.stack([renders.roll(i, 0) for i in range(5)]).mean(0),
        "render of five pixels a side, enlarged": F.interpolate(
            F.interpolate(renders, (5, 5), mode="area"), (64, 64), mode="bilinear"
        ),
        "flat colour, any": flat,
        "noise of standard deviation 20 around grey": (noise * 20 / 127.5).clamp(-1, 1),
        "noise, uniform over the full range": torch.from_numpy(rng.uniform(-1, 1, renders.shape)).float(),
    }
    with torch.inference_mode():
        floor = {
            name: asdict(
                Estimate.share((judge.network.frame_logits(images)[0].sigmoid() >= judge.threshold).any(1).numpy())
            )
            for name, images in pictures.items()
        }
    write_result("judge_floor", {"any_concept_found": floor, "seed": SEED})


if __name__ == "__main__":
    typer.run(main)
