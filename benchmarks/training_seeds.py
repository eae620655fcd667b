"""What a method's draws decide: `python -m benchmarks.training_seeds`.

The same concepts unlearned with several training seeds, judged on the same prompts and video seeds. Every method draws:
few-shot its images, timesteps and noise, text ablation its prompts and their order. Resumable like methods; 50 minutes on
one core.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.common import FOLDER, resume, write_result
from benchmarks.methods import CONCEPTS
from benchmarks.paper_ablations import GROUPS, SEED, VIDEOS, seen
from unreel import load_pair, unlearn
from unreel.judges import load_judge
from unreel.methods import configure
from unreel.models.pair import load_video_model

NAME = "training_seeds"
METHODS = ("few-shot", "text-ablation", "concept-ablation")
TRAINING_SEEDS = 6


def main(
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> None:
    pair, judge = load_pair(device=device), load_judge("embedded", device)
    model = load_video_model(device=device, dtype=getattr(torch, dtype))
    options = {"dtype": dtype, "seed": SEED, "videos": VIDEOS, "training_seeds": TRAINING_SEEDS}
    stored, same = resume(NAME, pair, judge, options)
    methods = stored.get("methods", {})
    for method in METHODS:
        runs = methods.setdefault(method, {})
        for concept in CONCEPTS:
            looks = runs.setdefault(concept.name, [])
            for seed in range(len(looks), TRAINING_SEEDS):
                erasure = unlearn(concept, pair, configure(method, {"seed": seed}, pair.settings))
                flags = seen(model, judge, erasure, concept, folder / "clips")
                looks.append({group: {arm: sum(shown) / VIDEOS for arm, shown in flags[group].items()} for group in GROUPS})
                write_result(NAME, same | {"methods": methods, "device": device})
            print(method, concept.name, [look["explicit"]["edited"] for look in looks], flush=True)


if __name__ == "__main__":
    typer.run(main)
