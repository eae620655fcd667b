"""How much of an erasure's effect fits into files of low rank: `python -m benchmarks.exports`.

Erasures of the embedded pair by several methods, exported as PEFT adapters at several tolerances (the other formats of low
rank hold the same matrices): their size, what they keep of the erasure's effect on prompts that name the concept, and by
how much unrelated prompts move.
"""

import tempfile
from pathlib import Path
from typing import Any

import typer

from benchmarks.common import write_result
from unreel import load_pair, unlearn
from unreel.interventions.export import export
from unreel.methods import configure

NAME = "exports"
CONCEPTS = ("Tokyo Tower", "elephant", "pizza")
METHODS = ("text-ablation", "concept-ablation", "few-shot")
TOLERANCES = (0.0, 0.01, 0.05, 0.2)


def main() -> None:
    pair, rows = load_pair(), []
    with tempfile.TemporaryDirectory() as home:
        for method in METHODS:
            for concept in CONCEPTS:
                erasure = unlearn(concept, pair, configure(method, {}, pair.settings))
                # Changes of low rank are written as they are, whatever the tolerance.
                for tolerance in TOLERANCES[:1] if method == "text-ablation" else TOLERANCES:
                    folder = Path(home) / f"{method}-{concept}-{tolerance}"
                    exported = export(erasure, pair.t2v, folder, format="peft", tolerance=tolerance)
                    row: dict[str, Any] = {"method": method, "concept": concept, "tolerance": tolerance}
                    row |= {
                        "erasure_megabytes": erasure.nbytes / 1e6,
                        "megabytes": exported.megabytes,
                        "kept": exported.kept,
                    }
                    rows.append(
                        row | {"ranks": exported.ranks, "moved": exported.moved, "left_out": len(exported.left_out)}
                    )
                    print(row, exported.moved, flush=True)
    write_result(NAME, {"exports": rows})


if __name__ == "__main__":
    typer.run(main)
