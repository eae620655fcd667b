"""Erasure against specificity: `python -m benchmarks.pareto` draws docs/images/pareto.png.

The paper's method as its learning rate varies, from paper_ablations, and other methods on the same prompts and seeds, which
are measured here: six minutes on one core, resumable.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import torch
import typer

from benchmarks.common import FOLDER, PICTURES, RESULTS, resume, write_result
from benchmarks.methods import METHODS
from benchmarks.paper_ablations import CONCEPTS, SEED, VIDEOS, seen, summarise
from benchmarks.tables import MEASURED
from unreel import load_pair
from unreel.judges import load_judge
from unreel.models.pair import load_video_model

NAME = "pareto"
OTHERS = ("text_ablation", "concept-ablation", "uce", "negative_prompt")


def main(
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> None:
    pair, judge = load_pair(device=device), load_judge("embedded", device)
    model = load_video_model(device=device, dtype=getattr(torch, dtype))
    stored, same = resume(NAME, pair, judge, {"dtype": dtype, "seed": SEED, "videos": VIDEOS})
    methods = stored.get("methods", {})
    for method in OTHERS:
        if method not in methods:
            make = METHODS[method][0]
            looks = [seen(model, judge, make(concept, pair), concept, folder / "clips") for concept in CONCEPTS]
            methods[method] = {"figures": summarise(looks)}
            concepts = [concept.name for concept in CONCEPTS]
            write_result(NAME, same | {"concepts": concepts, "methods": methods, "device": device})
    draw({method: methods[method] for method in OTHERS})


def draw(methods: dict[str, Any]) -> None:
    result = json.loads((RESULTS / "paper_ablations.json").read_text())
    rows, chosen = result["rows"], result["pair"]["few_shot"]["learning_rate"]
    rates = [row for row in rows if row["changed"] == "learning_rate"] + [row for row in rows if row["changed"] == "none"]
    rates.sort(key=lambda row: row["value"] or chosen)
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    x, y, x_errors, y_errors = _points(rates)
    axes.errorbar(
        x, y, y_errors, x_errors, fmt="o-", color="tab:blue", ecolor="0.8", label="the paper's few-shot, learning rate"
    )
    for row, place in zip(rates, zip(x, y, strict=True), strict=True):
        rate = row["value"] or chosen
        axes.annotate(f"{rate:g}" + (" (used)" if rate == chosen else ""), place, (6, 6), textcoords="offset points")
    layers = [row for row in rows if row["changed"] == "trainable"]
    x, y, *_ = _points(layers)
    axes.plot(x, y, "s", color="tab:orange", label="the same, other layers")
    for place in dict.fromkeys(zip(x, y, strict=True)):
        names = [row["value"] for row, other in zip(layers, zip(x, y, strict=True), strict=True) if other == place]
        axes.annotate(", ".join(names), place, (6, -13), textcoords="offset points", color="tab:orange")
    for (method, row), mark in zip(methods.items(), "DP^X", strict=True):
        x, y, x_errors, y_errors = _points([row])
        axes.errorbar(x, y, y_errors, x_errors, fmt=mark, ecolor="0.8", markersize=9, alpha=0.8, label=MEASURED[method])
    unedited = rates[0]["figures"]
    kept, found = (100 * unedited[group]["original"]["value"] for group in ("neighbours", "explicit"))
    axes.plot([found], [kept], "*", color="black", markersize=12, label="unedited model")
    axes.plot([0], [100], "x", color="tab:green", markersize=10, label="the aim")
    axes.set(
        xlabel="concept found, % of videos (lower is better)", ylabel="neighbours kept, % of videos (higher is better)"
    )
    axes.set(xlim=(-4, 112), ylim=(-4, 106), title="Methods on the embedded pair, four concepts")
    axes.legend(loc="lower right")
    figure.savefig(PICTURES / "pareto.png", dpi=110)
    print(f"wrote {PICTURES / 'pareto.png'}")


def _points(rows: list[dict[str, Any]]) -> tuple[list[float], list[float], list[list[float]], list[list[float]]]:
    """Concept found and neighbours kept after unlearning, in percent, and how far their intervals reach down and up."""
    axes = []
    for group in ("explicit", "neighbours"):
        estimates = [row["figures"][group]["edited"] for row in rows]
        values = [100 * estimate["value"] for estimate in estimates]
        down = [value - 100 * estimate["ci"][0] for value, estimate in zip(values, estimates, strict=True)]
        up = [100 * estimate["ci"][1] - value for value, estimate in zip(values, estimates, strict=True)]
        axes.append((values, [[max(0.0, d) for d in down], [max(0.0, u) for u in up]]))
    (x, x_errors), (y, y_errors) = axes
    return x, y, x_errors, y_errors


if __name__ == "__main__":
    typer.run(main)
