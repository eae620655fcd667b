"""What unlearning costs, with nothing else running: `python -m benchmarks.unlearning_cost`."""

import os
import time
from statistics import median

from benchmarks.common import write_result
from benchmarks.methods import CONCEPTS
from unreel import generate, load_pair, unlearn

RUNS = 3
PROMPTS = [
    f"a bouncing {name}" for name in ("cat", "owl", "rocket", "guitar", "penguin", "castle", "whale", "frog", "dog", "car")
]


def main() -> None:
    pair, rows = load_pair(), []
    unlearn(CONCEPTS[0], pair)  # warm up
    for concept in CONCEPTS:
        erasures = [unlearn(concept, pair) for _ in range(RUNS)]
        parts = [erasure.provenance["parts"][0] for erasure in erasures]
        rows.append(
            {
                "concept": concept.name,
                "kind": concept.kind,
                "seconds": median(part["seconds"] for part in parts),
                "peak_memory_gib": max(part["peak_memory_gib"] for part in parts),
                "megabytes": erasures[0].nbytes / 1e6,
            }
        )
    erasure = unlearn(CONCEPTS[0], pair)
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(RUNS):  # in turn, so that both meet the same machine
        for when in seconds:
            if when == "after":
                erasure.apply(pair.t2v)
            begun = time.perf_counter()
            generate(pair.t2v, PROMPTS, list(range(len(PROMPTS))), pair.settings, what="")
            seconds[when].append((time.perf_counter() - begun) / len(PROMPTS))
            if when == "after":
                erasure.remove(pair.t2v)
    generation = {when: median(values) for when, values in seconds.items()}
    write_result(
        "unlearning_cost",
        {"concepts": rows, "generation_seconds": generation, "runs": RUNS, "cores": os.cpu_count()},
    )


if __name__ == "__main__":
    main()
