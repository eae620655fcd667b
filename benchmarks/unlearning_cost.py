"""What every method costs, with nothing else running: `python -m benchmarks.unlearning_cost`.

Seconds and memory of unlearning one concept of each kind, and seconds of a video with the first of them on.
"""

import os
import time
from statistics import median

from benchmarks.cells import cells_of
from benchmarks.common import write_result
from benchmarks.tables.methods import METHODS
from unreel import Concept, Pair, generate, load_pair, unlearn
from unreel.interventions.base import Intervention
from unreel.methods import configure

RUNS = 3  # of a video
CONCEPTS = list({cell.concept["kind"]: Concept(**cell.concept) for cell in reversed(cells_of("methods"))}.values())
PROMPTS = [
    f"a bouncing {name}" for name in ("cat", "owl", "rocket", "guitar", "penguin", "castle", "whale", "frog", "dog", "car")
]


def learned(method: str, concept: Concept, pair: Pair) -> Intervention:
    return unlearn(concept, pair, configure(method, {}, pair.settings))


def seconds_a_video(pair: Pair) -> float:
    begun = time.perf_counter()
    generate(pair.t2v, PROMPTS, list(range(len(PROMPTS))), pair.settings, what="")
    return (time.perf_counter() - begun) / len(PROMPTS)


def main() -> None:
    pair, rows, first = load_pair(), [], {}
    for concept in CONCEPTS:
        row: dict = {"concept": concept.name, "kind": concept.kind}
        for method in METHODS:
            if method not in first:  # warm up
                first[method] = learned(method, concept, pair)
            erasure = learned(method, concept, pair)
            part = erasure.provenance["parts"][0]
            row[method] = {name: part[name] for name in ("seconds", "peak_memory_gib")}
            row[method]["megabytes"] = erasure.nbytes / 1e6
            print(concept.name, method, row[method], flush=True)
        rows.append(row)
    seconds: dict[str, list[float]] = {}
    for _ in range(RUNS):  # in turn, so that all meet the same machine
        seconds.setdefault("original", []).append(seconds_a_video(pair))
        for method, erasure in first.items():
            with erasure.on(pair.t2v):
                seconds.setdefault(method, []).append(seconds_a_video(pair))
    generation = {name: median(values) for name, values in seconds.items()}
    result = {"concepts": rows, "generation_seconds": generation, "runs": RUNS, "cores": os.cpu_count()}
    write_result("unlearning_cost", result)


if __name__ == "__main__":
    main()
