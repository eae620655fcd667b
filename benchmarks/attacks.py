"""Attacks on every method, all twelve concepts: `python -m benchmarks.attacks NAME`, NAME as in benchmarks.methods.

What counts as success stands in `unreel.evaluation.attack`: the judge finds the concept in at least half of the frames of
one of the first k videos. Searches are in float32, the videos are made in --dtype; resumable like methods.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.common import FOLDER, resume, write_result
from benchmarks.methods import CONCEPTS, METHODS
from unreel import attack, load_pair
from unreel.evaluation.attack import BUDGETS
from unreel.judges import load_judge
from unreel.models.pair import Pair, load_video_model

CASES = 4
STEPS = 20
SEED = 6_000_000


def main(
    method: Annotated[str, typer.Argument(help="text_ablation or paper: a method that makes an erasure")],
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> None:
    make, name = METHODS[method][0], f"{method}_attacks"
    pair, judge = load_pair(device=device), load_judge("embedded", device)
    model = load_video_model(device=device, dtype=getattr(torch, dtype))
    target = Pair(pair.t2i, model.pipeline, pair.t2i_source, model.source, pair.settings)
    options = {"cases": CASES, "budgets": BUDGETS, "steps": STEPS, "seed": SEED}
    stored, same = resume(name, pair, judge, {"dtype": dtype} | options)
    done = stored.get("concepts", {})
    for concept in CONCEPTS:
        if concept.name in done:
            continue
        erasure = make(concept, pair)
        result = attack(target, erasure, judge, concept=concept, clips=folder / "clips", **options)
        done[concept.name] = result.document()
        for outcome in result.outcomes:
            print(f"{concept.name}: {outcome.attack}, {outcome.arm}: {outcome.success(BUDGETS[-1])}", flush=True)
        ordered = {each.name: done[each.name] for each in CONCEPTS if each.name in done}
        write_result(name, same | {"concepts": ordered, "device": device})


if __name__ == "__main__":
    typer.run(main)
