"""What text ablation costs for a text encoder as large as Stable Diffusion 1's: `python -m benchmarks.encoder_cost`.

CLIP ViT-L/14's text encoder with random weights (nothing is downloaded), which cost what real ones do: a concept with the
default settings, its self-check included, and where the time goes. The embedded tokenizer takes everyday words to pieces
that CLIP's knows whole, so prompts are longer here. Run it with nothing else running; on a GPU, `--device cuda`. Every
device and precision is an entry of its own in the result.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import typer
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from benchmarks.common import machine, write_entry
from unreel import Concept, checking, unlearn
from unreel.cost import Cost
from unreel.methods import _task, text_ablation
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Pair
from unreel.models.shipped import EMBEDDED_FOLDER
from unreel.prompts.vocabulary import EVERYDAY

NAME = "encoder_cost"
CONCEPTS = (Concept("castle"), Concept("guitar"), Concept("origami", "style"))
# The text encoder of openai/clip-vit-large-patch14, which Stable Diffusion 1 and AnimateDiff condition on.
CLIP_L = CLIPTextConfig(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
)
# The parts of the work that are timed apart; none of them calls another.
PARTS = {
    "choosing what to make instead and what is near": ((_task, "anchored"), (_task, "near_to")),
    "reading what prompts are to aim at": ((text_ablation, "_lessons"), (text_ablation, "_initial_distances")),
    "least squares": ((text_ablation, "least_squares"),),
    "steps": ((text_ablation, "_backward"),),
    "self-check": ((checking, "check"),),
}


@contextmanager
def profiled(device: str) -> Iterator[Counter[str]]:
    """Seconds spent in each of PARTS while the block runs."""
    spent: Counter[str] = Counter()

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            out = work(*args, **kwargs)
            if device != "cpu":
                torch.cuda.synchronize()
            spent[part] += time.perf_counter() - begun
            return out

        return run

    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield spent


def figures(cost: Cost, spent: Counter[str]) -> dict[str, Any]:
    profile = {part: round(spent[part], 3) for part in PARTS}
    profile["all else"] = round(cost.seconds - sum(spent.values()), 3)
    return {"seconds": cost.seconds, "peak_memory_gib": cost.peak_memory_gib, "profile": profile}


def stand_in(device: str, dtype: torch.dtype) -> Pair:
    """A pair that has only a text encoder, which is all that learning from text uses."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "image" / "tokenizer")
    tokenizer.model_max_length = CLIP_L.max_position_embeddings
    torch.manual_seed(0)
    encoder = CLIPTextModel(CLIP_L).eval().requires_grad_(False).to(device, dtype)
    pipeline: Any = SimpleNamespace(tokenizer=tokenizer, text_encoder=encoder)
    return Pair(pipeline, pipeline, "CLIP ViT-L/14 with random weights", "", vocabulary=EVERYDAY)


def main(device: str = "cpu", dtype: str = "float32") -> None:
    pair = stand_in(device, getattr(torch, dtype))
    Conditioner.of(pair.t2i).encode(["warm up"])
    concepts = []
    for concept in CONCEPTS:
        with profiled(device) as spent, Cost(device) as cost:
            erasure = unlearn(concept, pair)
        anchor = erasure.provenance["parts"][0]["anchor"]
        concepts.append(
            {"concept": concept.name, "anchor": anchor, "megabytes": erasure.nbytes / 1e6} | figures(cost, spent)
        )
        print(concepts[-1], flush=True)
    entry = {
        "encoder": f"{pair.t2i_source}, {dtype}",
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # before anything else ran, about the number of threads if nothing else did
        "concepts": concepts,
        "seconds_a_concept": median(row["seconds"] for row in concepts),
    }
    write_entry(NAME, f"{device}, {dtype}", entry)


if __name__ == "__main__":
    typer.run(main)
