"""What unlearning costs, with nothing else running: `python -m benchmarks.unlearning_cost`."""

import os
import time
from statistics import median

from benchmarks.common import write_result
from benchmarks.methods import CONCEPTS, METHODS, text_ablation
from unreel import generate, load_pair

RUNS = 3
LEARNING = {"text_ablation": RUNS, "concept-ablation": RUNS, "paper": RUNS}  # runs of each
PROMPTS = [
    f"a bouncing {name}" for name in ("cat", "owl", "rocket", "guitar", "penguin", "castle", "whale", "frog", "dog", "car")
]


def main() -> None:
    pair, rows = load_pair(), []
    for method in LEARNING:
        METHODS[method][0](CONCEPTS[0], pair)  # warm up
    for concept in CONCEPTS:
        row: dict = {"concept": concept.name, "kind": concept.kind}
        for method, runs in LEARNING.items():
            erasures = [METHODS[method][0](concept, pair) for _ in range(runs)]
            parts = [erasure.provenance["parts"][0] for erasure in erasures]
            row[method] = {
                "seconds": median(part["seconds"] for part in parts),
                "peak_memory_gib": max(part["peak_memory_gib"] for part in parts),
                "megabytes": erasures[0].nbytes / 1e6,
            }
        rows.append(row)
    erasure = text_ablation(CONCEPTS[0], pair)
    seconds: dict[str, list[float]] = {"original": [], "edited": []}
    for _ in range(RUNS):  # in turn, so that both meet the same machine
        for when in seconds:
            if when == "edited":
                erasure.apply(pair.t2v)
            begun = time.perf_counter()
            generate(pair.t2v, PROMPTS, list(range(len(PROMPTS))), pair.settings, what="")
            seconds[when].append((time.perf_counter() - begun) / len(PROMPTS))
            if when == "edited":
                erasure.remove(pair.t2v)
    result = {"concepts": rows, "generation_seconds": {when: median(values) for when, values in seconds.items()}}
    write_result("unlearning_cost", result | {"runs": LEARNING, "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
