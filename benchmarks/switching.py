"""What it costs to switch erasures from one request to the next: `python -m benchmarks.switching`.

On the embedded video model and on a text encoder of CLIP ViT-L/14's size with random weights (nothing is downloaded):
milliseconds to put an erasure on, take it off, and put another in its place, for erasures of low rank, as text ablation
makes them, and of whole matrices, as the few-shot method does. Then the seconds a video takes with an erasure on and
without, in turns. Run it with nothing else running; on a GPU, `--device cuda`, which is an entry of its own in the result.
"""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import typer

from benchmarks.common import machine, write_entry
from benchmarks.encoder_cost import stand_in
from unreel import Erasure, TextAblationConfig, generate, load_pair, unlearn
from unreel.interventions.erasure import ComponentDelta
from unreel.methods import configure
from unreel.methods.text_ablation import first_layers
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import Delta, LowRank
from unreel.models.fingerprint import Fingerprint

NAME = "switching"
CONCEPTS = ("castle", "guitar")


def seconds(work: Callable[[], Any], device: str) -> float:
    begun = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def switching(pipeline: Any, first: Erasure, second: Erasure, repeats: int, device: str) -> dict[str, Any]:
    """Medians in milliseconds."""
    spent: dict[str, list[float]] = {"apply": [], "switch": [], "remove": []}

    def switch() -> None:
        first.remove(pipeline)
        second.apply(pipeline)

    for _ in range(repeats):
        spent["apply"].append(seconds(lambda: first.apply(pipeline), device))
        spent["switch"].append(seconds(switch, device))
        spent["remove"].append(seconds(lambda: second.remove(pipeline), device))
    return {what: round(1000 * median(times), 2) for what, times in spent.items()} | {"megabytes": first.nbytes / 1e6}


def random_erasures(pipeline: Any, method: str) -> list[Erasure]:
    """Two erasures that change the weights that the method changes, by random numbers: they cost what learned ones do."""
    conditioner = Conditioner.of(pipeline)
    encoder, draw = conditioner.text_encoder, torch.Generator().manual_seed(0)
    config = TextAblationConfig()
    matrices = conditioner.first_matrices(first_layers(conditioner, config))

    def deltas() -> dict[str, Delta]:
        if method == "few-shot":
            return {
                name: 1e-3 * torch.randn(weight.shape, generator=draw) for name, weight in conditioner.trainable().items()
            }
        return {
            name: LowRank(
                torch.randn(matrix.out_features, config.rank, generator=draw),
                1e-4 * torch.randn(config.rank, matrix.in_features, generator=draw),
            )
            for name, matrix in matrices.items()
        }

    fingerprint = Fingerprint.of(encoder)
    return [Erasure((ComponentDelta(deltas(), fingerprint),), {"parts": [{"concept": name}]}) for name in CONCEPTS]


def main(device: str = "cpu", repeats: int = 20, videos: int = 10) -> None:
    load = os.getloadavg()[0]
    pair, rows = load_pair(device=device), []
    for method in ("text-ablation", "few-shot"):
        erasures = [unlearn(name, pair, configure(method, {}, pair.settings)) for name in CONCEPTS]
        figures = switching(pair.t2v, erasures[0], erasures[1], repeats, device)
        rows.append({"encoder": "embedded", "method": method} | figures)
        print(rows[-1], flush=True)
        if method == "text-ablation":
            applied = erasures[0]
    large = stand_in(device, torch.float32).t2v
    for method in ("text-ablation", "few-shot"):
        figures = switching(large, *random_erasures(large, method), max(3, repeats // 4), device)
        rows.append({"encoder": "CLIP ViT-L/14, random weights", "method": method} | figures)
        print(rows[-1], flush=True)

    def make(number: int) -> None:
        generate(pair.t2v, [f"a photo of a {CONCEPTS[0]}"], [number], pair.settings, what="")

    make(0)  # warm up
    spent: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(videos):
        for arm in ("without", "with") if number % 2 else ("with", "without"):
            if arm == "with":
                applied.apply(pair.t2v)
            spent[arm].append(seconds(lambda number=number: make(number), device))  # type: ignore[misc]
            if arm == "with":
                applied.remove(pair.t2v)
    result = {
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "load": load,
        "switching": rows,
        "generation": {
            "videos": videos,
            **{f"seconds_{arm}": round(median(times), 3) for arm, times in spent.items()},
            "ratio": round(median(a / b for a, b in zip(spent["with"], spent["without"], strict=True)), 3),
        },
    }
    write_entry(NAME, device, result)


if __name__ == "__main__":
    typer.run(main)
