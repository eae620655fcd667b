"""Solve, descend, or both? Ways to learn the same change from the same text: `python -m benchmarks.text_solvers`.

On SmolLM2:

- `closed form`: the default before, least squares on what the MLPs of the last four layers write; it left the code for what
  it does here, and its cells, measured at commit 2e87456, are kept
- `least squares`: where text ablation begins, but on all layers that it changes, and nothing after it
- `gradients`: text ablation that begins at zero
- `gradients from least squares`: text ablation, the default (of `benchmarks.real_encoders`, not made again)

The twelve concepts of `benchmarks.real_encoders`, with its figures and anchors. MiniLM has no column: its norms come after
its sums, which neither solve takes. A killed run goes on where it was.
"""

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from benchmarks.common import RESULTS, write_result
from benchmarks.encoders import encoder, everyday_prompts
from benchmarks.real_encoders import SEEN_IN_TUNING, SENTENCES, Measure
from unreel import Concept, Pair, TextAblationConfig, load_pair, unlearn
from unreel.methods._least_squares import least_squares
from unreel.methods.text_ablation import NEAR, first_layers
from unreel.models.anchors import near_to, prompts_for
from unreel.models.deltas import Delta, changed

ENCODER, DEFAULT = "smollm2", "gradients from least squares"
WAYS = ("least squares", "gradients")


def learned(way: str, concept: Concept, pair: Pair) -> Mapping[str, Delta]:
    """The changes that are learned one way; `concept` has its anchor."""
    if way == "gradients":
        return unlearn(concept, pair, TextAblationConfig(solve_weight=0.0)).components[0].deltas
    config = TextAblationConfig()
    conditioner = next(iter(pair.conditioners().values()))
    prompts = prompts_for([concept], pair, conditioner, config.seed)
    neighbours = prompts.neighbours(near_to([concept], conditioner, pair.vocabulary), config.retain)
    kept = {1.0: prompts.everyday(config.solve_retain), NEAR: neighbours}
    layers = conditioner.layers[: first_layers(conditioner, config)]
    return least_squares(
        conditioner, layers, prompts.pairs(config.forget), kept, config.solve_weight, config.rank, config.seed
    )


def main(
    concept: Annotated[list[str] | None, typer.Option(help="only these, which writes nothing")] = None,
) -> None:
    sentences_of = json.loads(SENTENCES.read_text())["final"]
    everyday = [prompt for i, prompt in enumerate(everyday_prompts()) if i % SEEN_IN_TUNING]
    reference = json.loads((RESULTS / "real_encoders.json").read_text())
    file = RESULTS / "text_solvers.json"
    stored = json.loads(file.read_text()) if file.is_file() else {}
    cells = stored.get("cells", {}) if stored.get("settings") == reference["settings"] else {}
    pair = load_pair(t2v=str(encoder(ENCODER)), text_only=True)
    conditioner = next(iter(pair.conditioners().values()))
    for name in concept or sentences_of:
        default = reference["cells"][ENCODER][name]
        cells.setdefault(name, {})[DEFAULT] = default
        about = Concept(name, sentences_of[name]["kind"], anchor=default["anchor"])
        if cells[name].keys() >= set(WAYS):
            continue
        measure = Measure(conditioner, about, default["anchor"], sentences_of[name], everyday)
        for way in [way for way in WAYS if way not in cells[name]]:
            with changed(conditioner.text_encoder, learned(way, about, pair)):
                cells[name][way] = measure.figures()
            print(name, way, json.dumps(cells[name][way]), flush=True)
            if not concept:
                write_result("text_solvers", {"settings": reference["settings"], "cells": cells})


if __name__ == "__main__":
    typer.run(main)
