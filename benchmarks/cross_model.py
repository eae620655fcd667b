"""Where an erasure is learned, and where it is read off: `python -m benchmarks.cross_model [--pair embedded:modern]`.

The paper learns in the image model and looks at the video model. Here its method learns in either and both are looked at.
And what the default learned is put on text encoders that are not quite the one that it was learned on: in lower precision,
and in revisions whose weights are a little different. Concepts, prompts and seeds are of no tuning.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from benchmarks.common import shows, write_entry
from benchmarks.over_concepts import share_over
from unreel import Concept, Pair, UnreelError, load_pair, unlearn
from unreel.evaluation.estimate import in_video
from unreel.evaluation.evaluate import build_suite
from unreel.interventions.erasure import Erasure
from unreel.judges import Judge, load_judge
from unreel.methods import configure
from unreel.models.adapter import text_encoders
from unreel.models.conditioner import Conditioner
from unreel.models.fingerprint import Fingerprint
from unreel.models.sampling import generate, generate_images
from unreel.models.shipped import EMBEDDED, preset_of
from unreel.prompts.suite import Prompt

NAME = "cross_model"
CONCEPTS = (Concept("tokyo tower"), Concept("pizza"), Concept("santa claus", "character"), Concept("clown", "face"))
PROMPTS, SEED, GROUPS = 15, 7_500_000, ("explicit", "neighbours")
Change = Callable[[torch.Tensor], torch.Tensor]


def _rounded(bits: int) -> Change:
    """Rounding to so many bits a weight, in steps that the largest weight of a row decides."""

    def change(matrix: torch.Tensor) -> torch.Tensor:
        step = matrix.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
        return (matrix / step).round() * step

    return change


def _noised(share: float) -> Change:
    def change(matrix: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(matrix.numel())
        return matrix + share * matrix.std() * torch.randn(matrix.shape, generator=generator)

    return change


CHANGES: dict[str, Change] = {
    "the same": lambda matrix: matrix,
    "bfloat16": lambda matrix: matrix.bfloat16().float(),
    "8 bits a weight": _rounded(8),
    "6 bits a weight": _rounded(6),
    "other weights: noise of 1 %": _noised(0.01),
    "other weights: noise of 5 %": _noised(0.05),
    "other weights: noise of 20 %": _noised(0.2),
}


@contextmanager
def revised(pair: Pair, change: Change) -> Iterator[None]:
    """Inside, the matrices of both models' text encoders are changed by `change`."""
    encoders = [encoder for model in (pair.t2i, pair.t2v) for encoder in text_encoders(model).values()]
    matrices = [w for encoder in encoders for w in encoder.parameters() if w.ndim == 2]
    originals = [matrix.detach().clone() for matrix in matrices]
    with torch.no_grad():
        for matrix in matrices:
            matrix.copy_(change(matrix))
    try:
        yield
    finally:
        with torch.no_grad():
            for matrix, original in zip(matrices, originals, strict=True):
                matrix.copy_(original)


def shares(pair: Pair, judge: Judge, prompts: Sequence[Prompt], models: Sequence[str]) -> dict[str, Any]:
    """For each model and group, whether each image or video that it makes shows what the prompt asks for."""
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    make = {
        "images": lambda: generate_images(pair.t2i, texts, seeds, pair.settings, what="")[:, None],
        "videos": lambda: generate(pair.t2v, texts, seeds, pair.settings, what=""),
    }
    out: dict[str, Any] = {}
    for model in models:
        shown = in_video(shows(judge, make[model](), [prompt.label for prompt in prompts]))
        for group in GROUPS:
            rows = np.array([prompt.group == group for prompt in prompts])
            out.setdefault(model, {})[group] = [bool(flag) for flag in shown[rows]]
    return out


@contextmanager
def on_both(erasure: Erasure, pair: Pair) -> Iterator[None]:
    with erasure.on(pair.t2i), erasure.on(pair.t2v):
        yield


def as_for(erasure: Erasure, encoder: nn.Module) -> Erasure:
    """The erasure with the fingerprint of that encoder in place of its own."""
    return Erasure(
        tuple(replace(part, fingerprint=Fingerprint.of(encoder)) for part in erasure.components), erasure.provenance
    )


def taken(erasure: Erasure, pair: Pair) -> str:
    """Whether unreel takes the erasure for this pair's encoder: "yes", "with a warning" or "refused"."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            erasure.require_matching(pair.t2v)
        except UnreelError:
            return "refused"
    return "with a warning" if warned else "yes"


def measure(concept: Concept, pair: Pair, judge: Judge) -> dict[str, Any]:
    """What is found of one concept and its neighbours, by the model that the erasure was learned in and the encoder that it
    is on.
    """
    reader = Conditioner.of(pair.t2i)
    prompts = build_suite(reader, concept, judge, videos=PROMPTS, seed=SEED, groups=GROUPS)
    both = ("images", "videos")
    out: dict[str, Any] = {"original": shares(pair, judge, prompts, both)}
    alone = Pair(pair.t2v, pair.t2v, pair.t2v_source, pair.t2v_source, pair.settings, pair.vocabulary)
    for where, learner in (("images", pair), ("videos", alone)):
        erasure = unlearn(concept, learner, configure("few-shot", {}, pair.settings))
        with on_both(erasure, pair):
            out[f"few-shot, learned in {where}"] = shares(pair, judge, prompts, both)
    erasure = unlearn(concept, pair)
    for title, change in CHANGES.items():
        with revised(pair, change):
            entry = {"taken": taken(erasure, pair), "original": shares(pair, judge, prompts, ["images"])}
            with on_both(as_for(erasure, pair.t2v.text_encoder), pair):
                entry["edited"] = shares(pair, judge, prompts, ["images"])
        out.setdefault("revisions", {})[title] = entry
    return out


def pooled(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares with intervals, over the concepts that `measure` was called for."""
    first = entries[0]
    if isinstance(first, list):
        return asdict(share_over([np.array(entry) for entry in entries]))
    if isinstance(first, str):
        return first if len(set(entries)) == 1 else ", ".join(sorted(set(entries)))  # type: ignore[type-var]
    return {key: pooled([entry[key] for entry in entries]) for key in first}


def main(pair: Annotated[str, typer.Option(help="the pair to look at")] = EMBEDDED) -> None:
    loaded, judge = load_pair(t2v=pair), load_judge(preset_of(pair)["judge"])
    entries = [measure(concept, loaded, judge) for concept in CONCEPTS]
    names = [concept.name for concept in CONCEPTS]
    write_entry(NAME, pair, {**pooled(entries), "concepts": names, "prompts": PROMPTS, "seed": SEED})


if __name__ == "__main__":
    typer.run(main)
