"""Which method works on which video pipeline: `python -m benchmarks.reach`.

Every pipeline class of `unreel families` as a tiny random model of its real classes, those of the tests, and every method
with as few steps as there can be: what it refuses is refused whatever the size. Whether it forgets anything is not asked.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_result
from unreel import UnreelError, generate, unlearn
from unreel.methods import configure, names
from unreel.models.families import FAMILIES

NAME = "reach"
FEW: dict[str, dict[str, Any]] = {  # all settings but these are as they are
    "text-ablation": {"steps": 2, "forget": 12, "retain": 12, "solve_retain": 20},
    "few-shot": {"shots": 1, "epochs": 1},
    "concept-ablation": {"shots": 1, "steps": 1, "batch_size": 1, "retain_batch": 1, "forget": 4, "retain": 4},
    "esd": {"steps": 1},
    "esd --weights u": {"steps": 1, "weights": "u"},
    "refusal-vector": {"pairs": 2, "neutral": 2, "rank": 2},
    "t2v-unlearning": {"steps": 1, "rank": 2},
    "hirm": {"steps": 1},
    "adv-unlearn": {"shots": 1, "steps": 1, "warm_up": 1, "retain_batch": 1, "attack_steps": 1},
}


def tried(run: str, pair: Any) -> str:
    """Why the run's method, its first word, cannot unlearn, or no video can be made with the result on; empty if both can
    be done.
    """
    try:
        learned = unlearn("cat", pair, configure(run.split()[0], FEW.get(run, {})))
        with learned.on(pair.t2v):
            generate(pair.t2v, ["a cat"], [0], pair.settings, what="")
    except UnreelError as error:
        return str(error)
    return ""


def main() -> None:
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from pipelines import FRAMES, alone, build

    torch.set_num_threads(1)
    reasons: dict[str, dict[str, str]] = {}
    for name in [name for family in FAMILIES for name in family.t2v]:
        reasons[name] = {}
        for run in [*names(), *(run for run in FEW if run not in names())]:
            pair = alone(build(name))
            pair = replace(pair, settings=replace(pair.settings, frames=FRAMES.get(name, 5), guidance=3.0))
            reasons[name][run] = tried(run, pair)
        print(name, {run: why[:80] for run, why in reasons[name].items() if why}, flush=True)
        write_result(NAME, reasons)


if __name__ == "__main__":
    main()
