"""What unlearning costs, with nothing else running: `python -m benchmarks.unlearning_cost`."""

import os
import time
from statistics import median

from benchmarks.cells import cells_of
from benchmarks.common import write_result
from unreel import Concept, Erasure, Pair, generate, load_pair, unlearn
from unreel.methods import configure

RUNS = 3
METHODS = ("text-ablation", "concept-ablation", "few-shot")
CONCEPTS = [Concept(**cell.concept) for cell in cells_of("methods") if cell.run == METHODS[0]]
PROMPTS = [
    f"a bouncing {name}" for name in ("cat", "owl", "rocket", "guitar", "penguin", "castle", "whale", "frog", "dog", "car")
]


def learned(method: str, concept: Concept, pair: Pair) -> Erasure:
    return unlearn(concept, pair, configure(method, {}, pair.settings))


def main() -> None:
    pair, rows = load_pair(), []
    for method in METHODS:
        learned(method, CONCEPTS[0], pair)  # warm up
    for concept in CONCEPTS:
        row: dict = {"concept": concept.name, "kind": concept.kind}
        for method in METHODS:
            erasures = [learned(method, concept, pair) for _ in range(RUNS)]
            parts = [erasure.provenance["parts"][0] for erasure in erasures]
            row[method] = {
                "seconds": median(part["seconds"] for part in parts),
                "peak_memory_gib": max(part["peak_memory_gib"] for part in parts),
                "megabytes": erasures[0].nbytes / 1e6,
            }
        rows.append(row)
    erasure = learned(METHODS[0], CONCEPTS[0], pair)
    seconds: dict[str, list[float]] = {"original": [], "edited": []}
    for _ in range(RUNS):  # in turn, so that both meet the same machine
        for arm in seconds:
            if arm == "edited":
                erasure.apply(pair.t2v)
            begun = time.perf_counter()
            generate(pair.t2v, PROMPTS, list(range(len(PROMPTS))), pair.settings, what="")
            seconds[arm].append((time.perf_counter() - begun) / len(PROMPTS))
            if arm == "edited":
                erasure.remove(pair.t2v)
    result = {"concepts": rows, "generation_seconds": {arm: median(values) for arm, values in seconds.items()}}
    write_result("unlearning_cost", result | {"runs": dict.fromkeys(METHODS, RUNS), "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
