"""Whether a seed means the same video on a GPU as on the CPU: `python -m benchmarks.same_seed --device cuda`.

Videos of the embedded model on both, as it is and with an erasure that each device learned by itself, and how far the two
erasures are from each other.
"""

import numpy as np
import torch
import typer

from benchmarks.common import machine, write_entry
from unreel import generate, load_pair, unlearn

NAME = "same_seed"
CONCEPT = "castle"
PROMPTS = (
    "a photo of a castle",
    "a castle at night",
    "a castle and a guitar",
    "a photo of a red castle",
    "a castle spinning",
    "a photo of a tiger",
    "a guitar bouncing",
    "a pizza and a tree",
    "a mosaic of a rabbit",
    "a photo of a clown",
)


def made_on(device: str) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """Videos without and with an erasure, integers from 0 to 255, and all that the erasure changes, as one vector."""
    pair, seeds = load_pair(device=device), list(range(len(PROMPTS)))
    videos = {"as it is": np.asarray(generate(pair.t2v, list(PROMPTS), seeds, pair.settings))}
    erasure = unlearn(CONCEPT, pair)
    with erasure.on(pair.t2v):
        videos["with the erasure learned there"] = np.asarray(generate(pair.t2v, list(PROMPTS), seeds, pair.settings))
    changes = torch.cat([change.dense().flatten() for _, change in sorted(erasure.components[0].deltas.items())])
    return {what: frames.astype(int) for what, frames in videos.items()}, changes


def main(device: str = "cuda") -> None:
    (here, deltas), (there, others) = made_on("cpu"), made_on(device)
    apart = {what: abs(here[what] - there[what]) for what in here}
    entry = {
        "machine": machine(device),
        "prompts": len(PROMPTS),
        "videos": {what: {"pixels": float((by > 0).mean()), "most": int(by.max())} for what, by in apart.items()},
        "changes": float((others - deltas).norm() / deltas.norm()),
    }
    print(entry)
    write_entry(NAME, device, entry)


if __name__ == "__main__":
    typer.run(main)
