"""The picture at the top of the README: `python -m benchmarks.readme_picture`."""

from benchmarks.common import contact_sheet
from unreel import generate, load_pair, unlearn

PROMPTS = (
    "a bouncing tokyo tower on a blue background",
    "a cat next to tokyo tower",
    "a spinning guitar",
    "a robot sliding",
)
SEED = 42


def main() -> None:
    pair = load_pair()
    seeds = [SEED + i for i in range(len(PROMPTS))]
    before = generate(pair.t2v, list(PROMPTS), seeds, pair.settings)
    erasure = unlearn("Tokyo Tower", pair)
    after = generate(erasure.apply(pair.t2v), list(PROMPTS), seeds, pair.settings)
    rows = []
    for prompt, first, second in zip(PROMPTS, before, after, strict=True):
        rows += [(f"{prompt}\nbefore", first), ("edited", second)]
    contact_sheet("readme", rows, label=270)


if __name__ == "__main__":
    main()
