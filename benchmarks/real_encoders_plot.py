"""Way left against what else moved, concept by concept: `python -m benchmarks.real_encoders_plot`.

Draws docs/images/real-encoders.png from what `python -m benchmarks.real_encoders` measured.
"""

import json
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.common import PICTURES, RESULTS
from benchmarks.tables.real_encoders import NEAR, REAL_BARS, REAL_NAMES, figures_called

KINDS = {"object": "o", "character": "^", "style": "s", "face": "D", "motion": "P"}
NEAREST = "shared words and nearest things moved, %"
MOVED = {"everyday": ("everyday prompts moved, %", ("everyday",)), "near": (NEAREST, NEAR)}

LABEL = (0.2, 0.037)  # width and height of a name, as shares of a panel


def main() -> None:
    cells = json.loads((RESULTS / "real_encoders.json").read_text())["cells"]
    figure, grid = plt.subplots(len(cells), 2, figsize=(11, 4.6 * len(cells)), layout="constrained", squeeze=False)
    for line, (encoder, concepts) in zip(grid, cells.items(), strict=True):
        for axes, (bar, (label, names)) in zip(line, MOVED.items(), strict=True):
            _draw(axes, concepts, names, REAL_BARS[bar])
            axes.set(xlabel=label, ylabel="way to the anchor left, %", title=REAL_NAMES[encoder])
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(PICTURES / "real-encoders.png", dpi=100)
    print(f"wrote {PICTURES / 'real-encoders.png'}")


def _draw(axes: Any, concepts: dict[str, Any], names: tuple[str, ...], bar: float) -> None:
    """A point for each concept, and a cross at the medians; lines say what medians, and the worst way left, are held to."""
    points = {
        name: (100 * median(figures_called({name: cell}, names)), 100 * cell["left"]) for name, cell in concepts.items()
    }
    for kind, mark in KINDS.items():
        some = [point for name, point in points.items() if concepts[name]["kind"] == kind]
        if some:
            axes.plot(*zip(*some, strict=True), mark, label=kind)
    right, top = (max(values) for values in zip(*points.values(), strict=True))
    right, top = 1.35 * max(right, 100 * bar), 1.1 * max(top, 100 * REAL_BARS["worst"])
    taken: list[tuple[float, float]] = []  # where names stand, from below, each above those that it would run into
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        place = y + 0.01 * top
        for other, height in taken:
            if abs(other - x) < LABEL[0] * right and abs(height - place) < LABEL[1] * top:
                place = height + LABEL[1] * top
        taken = sorted([*taken, (x, place)], key=lambda spot: spot[1])
        line = {"arrowstyle": "-", "color": "0.7", "linewidth": 0.6}
        axes.annotate(name, (x, y), (x + 0.02 * right, place), fontsize=8, arrowprops=line)
    middle = (100 * median(figures_called(concepts, names)), median(left for _, left in points.values()))
    axes.plot(*middle, "x", color="black", markersize=11, markeredgewidth=2, label="median")
    axes.axvline(100 * bar, color="0.5", linestyle="--", label="bar for the median")
    axes.axhline(100 * REAL_BARS["left"], color="0.5", linestyle="--")
    axes.axhline(100 * REAL_BARS["worst"], color="tab:red", linestyle=":", label="bar for the worst concept")
    axes.set(xlim=(0, right), ylim=(0, top))


if __name__ == "__main__":
    main()
