"""Methods side by side: `python -m benchmarks.method_pictures [--pair embedded:modern]`.

The same prompts and seeds for all, in styles that the pair draws clearly: the concept, the concept beside a companion, a
neighbour. One sheet has a row for every method that was measured on the pair, with the settings of that cell; of the first
pair, every method's page has a picture of its own too.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from benchmarks.cells import bench_of, cells_of, learned_in
from benchmarks.common import FOLDER, contact_sheet, slug
from benchmarks.tables.methods import METHODS, TITLES
from unreel import generate
from unreel.models.shipped import EMBEDDED

CONCEPT = "Santa Claus"
EXPERIMENTS = {EMBEDDED: "methods", "embedded:modern": "modern-methods"}
PROMPTS = (
    "a santa claus sliding in noto style on a blue background",
    "a guitar next to santa claus in fluent style on a green background",
    "a wizard bouncing in noto style on a yellow background",
)
SEED = 60
FRAMES, SHORT = 6, 4  # frames of a video on a method's own picture, and on the sheet of all


def some(video: np.ndarray, count: int) -> np.ndarray:
    """`count` frames of the video, the first and the last among them."""
    return video[[round(i * (len(video) - 1) / (count - 1)) for i in range(count)]]


def row(videos: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([some(video, SHORT) for video in videos])


def main(
    method: Annotated[
        list[str] | None, typer.Option(help="only this method's own picture, no sheet of all; may be repeated")
    ] = None,
    pair: Annotated[str, typer.Option(help="the pair to make them with")] = EMBEDDED,
) -> None:
    bench, seeds = bench_of(pair, "float32", "cpu"), [SEED + i for i in range(len(PROMPTS))]
    pipeline, settings = bench.pair.t2v, bench.pair.settings
    original = generate(pipeline, list(PROMPTS), seeds, settings)
    sheet = [("the original model", row(original))]
    cells = {cell.run: cell for cell in cells_of(EXPERIMENTS[pair]) if cell.concept["name"] == CONCEPT and cell.stored()}
    if unknown := set(method or ()) - cells.keys():
        raise SystemExit(f"error: {unknown.pop()} was not measured on {pair}: {', '.join(cells)} were")
    for name in (name for name in method or TITLES if name in cells):
        with learned_in(cells[name], bench, FOLDER).on(pipeline):
            edited = generate(pipeline, list(PROMPTS), seeds, settings)
        sheet.append((TITLES[name], row(edited)))
        if pair == EMBEDDED and name in METHODS:
            own_picture(name, original, edited)
    if not method:
        contact_sheet(slug(pair).replace("embedded", "methods"), sheet, label=290)


def own_picture(method: str, original: Sequence[np.ndarray], edited: Sequence[np.ndarray]) -> None:
    """The picture of a method's page."""
    rows = []
    for prompt, first, second in zip(PROMPTS, original, edited, strict=True):
        text = prompt.replace(" in ", "\nin ")
        rows += [(f"{text}\nwithout", some(first, FRAMES)), ("with", some(second, FRAMES))]
    contact_sheet(f"method-{method}", rows, label=230)


if __name__ == "__main__":
    typer.run(main)
