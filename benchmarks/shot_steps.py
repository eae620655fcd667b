"""How few denoising steps will do for the images that few-shot unlearns: `python -m benchmarks.shot_steps`.

The embedded model's own scheduler (DDIM, 12 steps) against fewer and fewer of DPM-Solver++, as `--shot-steps` samples; all
else as the embedded pair's settings have it. Concepts, prompts and judge of `few_shot_scan`. The time is that of the four
images alone.
"""

from dataclasses import asdict, replace
from statistics import median

from benchmarks.common import write_result
from benchmarks.few_shot_scan import CONCEPTS, SEED, scanned
from unreel import load_pair
from unreel.cost import Cost
from unreel.methods import configure
from unreel.methods._shots import make_shots

NAME = "shot_steps"
STEPS = (0, 12, 8, 6, 4, 2)  # the first: the pipeline's own
RUNS = 5


def main() -> None:
    pair = load_pair()
    config = configure("few-shot", {}, pair.settings)
    configs = [replace(config, shot_steps=steps) for steps in STEPS]
    before, rows = scanned(configs)
    for row, each in zip(rows, configs, strict=True):
        seconds = []
        for _ in range(RUNS):
            with Cost() as cost:
                make_shots(pair, CONCEPTS[0], each)
            seconds.append(cost.seconds)
        row |= {"shot_steps": each.shot_steps, "seconds": median(seconds)}
    own = {"scheduler": type(pair.t2i.scheduler).__name__, "steps": pair.settings.steps}
    concepts = [asdict(concept) for concept in CONCEPTS]
    write_result(NAME, {"concepts": concepts, "own": own, "original": before, "rows": rows, "seed": SEED})


if __name__ == "__main__":
    main()
