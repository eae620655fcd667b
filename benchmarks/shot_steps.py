"""What fewer denoising steps save on the images that few-shot unlearns: `python -m benchmarks.shot_steps`.

Four images of the embedded model, in as many steps as the experiment `shot-steps` compares; what those images are good for
is measured there.
"""

from statistics import median

from benchmarks.cells import cells_of
from benchmarks.common import write_result
from unreel import Concept, load_pair
from unreel.cost import Cost
from unreel.methods import configure
from unreel.models.sampling import made_images

RUNS = 5


def main() -> None:
    pair, seconds = load_pair(), {}
    shots = configure("few-shot", {}, pair.settings).shots
    prompts = Concept("castle").forget_prompts[:shots]
    for steps in dict.fromkeys(cell.settings["shot_steps"] for cell in cells_of("shot-steps")):
        taken = []
        for _ in range(RUNS):
            with Cost() as cost:
                made_images(pair, prompts, range(shots), steps)
            taken.append(cost.seconds)
        seconds[str(steps)] = median(taken)
    own = {"scheduler": type(pair.t2i.scheduler).__name__, "steps": pair.settings.steps}
    write_result("shot_steps", {"own": own, "seconds": seconds})


if __name__ == "__main__":
    main()
