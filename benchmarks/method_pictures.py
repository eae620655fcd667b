"""The picture of every method's page: `python -m benchmarks.method_pictures`.

The same prompts and seeds for all, in styles that the pair draws clearly: the concept, the concept beside a companion, a
neighbour.
"""

from typing import Annotated

import typer

from benchmarks.common import contact_sheet
from unreel import generate, load_pair, unlearn
from unreel.methods import configure, names

CONCEPT = "Santa Claus"
PROMPTS = (
    "a santa claus sliding in noto style on a blue background",
    "a guitar next to santa claus in fluent style on a green background",
    "a wizard bouncing in noto style on a yellow background",
)
SEED = 60
FRAMES = 6


def main(
    method: Annotated[list[str] | None, typer.Option(help="only this method's; may be repeated")] = None,
) -> None:
    pair = load_pair()
    seeds = [SEED + i for i in range(len(PROMPTS))]
    before = generate(pair.t2v, list(PROMPTS), seeds, pair.settings)
    for name in method or names():
        edited = unlearn(CONCEPT, pair, configure(name, {}, pair.settings))
        with edited.on(pair.t2v) as pipeline:
            after = generate(pipeline, list(PROMPTS), seeds, pair.settings)
        rows = []
        for prompt, first, second in zip(PROMPTS, before, after, strict=True):
            shown = [round(i * (len(first) - 1) / (FRAMES - 1)) for i in range(FRAMES)]
            rows += [(f"{prompt.replace(' in ', chr(10) + 'in ')}\nwithout", first[shown]), ("with", second[shown])]
        contact_sheet(f"method-{name}", rows, label=230)


if __name__ == "__main__":
    typer.run(main)
