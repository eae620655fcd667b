"""Erasure against specificity: `python -m benchmarks.pareto` draws docs/images/pareto.png and pareto-methods.png, and the
latter of the second pair.

The first: the paper's method as its learning rate varies, and other methods on the same prompts and seeds: the experiment
`ablations`. The others: every method of `methods`, and of `modern-methods`.
"""

from operator import sub
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.cells import cells_of, results_of
from benchmarks.common import PICTURES
from benchmarks.tables.methods import TITLES, of_groups
from unreel.models.shipped import EMBEDDED, preset_of

MARKS = "osD^v<>PXhd"  # as many as colours and one more, so that no two methods look alike


def measured() -> tuple[dict[float, Any], dict[str, Any], dict[str, Any]]:
    """Shares of the experiment: few-shot by learning rate and by trainable layers, and other methods, all over concepts."""
    results, own = results_of("ablations"), preset_of(EMBEDDED)["methods"]["few-shot"]["learning_rate"]
    shares = {run: of_groups(list(by_concept.values())) for run, by_concept in results.items()}
    runs = {
        cell.run: cell for cell in cells_of("ablations") if cell.run in shares and not cell.images and not cell.sequence
    }
    rates = {run: cell.settings.get("learning_rate", own) for run, cell in runs.items() if cell.method == "few-shot"}
    rates = {run: rate for run, rate in rates.items() if runs[run].settings.keys() <= {"learning_rate"}}
    return (
        dict(sorted((rate, shares[run]) for run, rate in rates.items())),
        {cell.settings["trainable"]: shares[run] for run, cell in runs.items() if "trainable" in cell.settings},
        {cell.method: shares[run] for run, cell in runs.items() if cell.method != "few-shot"},
    )


def draw_methods(of: str, title: str, name: str) -> None:
    """Every method of the experiment, on the concepts that all of them were measured on; filled are those that none is as
    good as in both, and better than in one.
    """
    everywhere = results_of(of)
    results = {method: everywhere[method] for method in TITLES if _near_too(everywhere.get(method, {}))}
    common = set.intersection(*(set(concepts) for concepts in results.values()))
    shares = {method: of_groups([concepts[concept] for concept in sorted(common)]) for method, concepts in results.items()}
    x, y, x_errors, y_errors = _points(list(shares.values()))
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    for i, method in enumerate(shares):
        beaten = any(x[j] <= x[i] and y[j] >= y[i] and (x[j], y[j]) != (x[i], y[i]) for j in range(len(x)))
        error = {"xerr": [[side[i]] for side in x_errors], "yerr": [[side[i]] for side in y_errors]}
        face = "none" if beaten else f"C{i % 10}"
        axes.errorbar(
            [x[i]], [y[i]], **error, fmt=MARKS[i % len(MARKS)], color=f"C{i % 10}", ecolor="0.85", mfc=face,
            label=TITLES[method],
        )  # fmt: skip
    original = next(iter(shares.values()))
    neighbours_kept, concept_found = (100 * original[group]["original"]["value"] for group in ("neighbours", "explicit"))
    axes.plot([concept_found], [neighbours_kept], "*", color="black", markersize=12, label="original model")
    axes.set(
        xlabel="concept found, % of videos (lower is better)", ylabel="neighbours kept, % of videos (higher is better)"
    )
    axes.set(xlim=(-4, 104), ylim=(max(0, min(map(sub, y, y_errors[0])) - 2), 102))
    axes.set_title(f"{title}, {len(common)} concepts; filled: none is as good in both and better in one", fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(PICTURES / f"{name}.png", dpi=110)
    print(f"wrote {PICTURES / name}.png")


def _near_too(concepts: dict[str, Any]) -> bool:
    """Whether a method was measured, and on neighbours too."""
    return bool(concepts) and all("neighbours" in result["figures"] for result in concepts.values())


def main() -> None:
    draw_rates()
    draw_methods("methods", "The embedded pair", "pareto-methods")
    draw_methods("modern-methods", "The second pair", "pareto-methods-modern")


def draw_rates() -> None:
    rates, layers, methods = measured()
    own = preset_of(EMBEDDED)["methods"]["few-shot"]["learning_rate"]
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    x, y, x_errors, y_errors = _points(list(rates.values()))
    axes.errorbar(
        x, y, y_errors, x_errors, fmt="o-", color="tab:blue", ecolor="0.8", label="the paper's few-shot, learning rate"
    )
    for rate, place in zip(rates, zip(x, y, strict=True), strict=True):
        axes.annotate(f"{rate:g}" + (" (used)" if rate == own else ""), place, (6, 6), textcoords="offset points")
    x, y, *_ = _points(list(layers.values()))
    axes.plot(x, y, "s", color="tab:orange", label="the same, other layers")
    for place in dict.fromkeys(zip(x, y, strict=True)):
        names = [name for name, other in zip(layers, zip(x, y, strict=True), strict=True) if other == place]
        axes.annotate(", ".join(names), place, (6, -13), textcoords="offset points", color="tab:orange")
    for (method, shares), mark in zip(methods.items(), "DP^X", strict=True):
        x, y, x_errors, y_errors = _points([shares])
        axes.errorbar(x, y, y_errors, x_errors, fmt=mark, ecolor="0.8", markersize=9, alpha=0.8, label=TITLES[method])
    original = next(iter(rates.values()))
    neighbours_kept, concept_found = (100 * original[group]["original"]["value"] for group in ("neighbours", "explicit"))
    axes.plot([concept_found], [neighbours_kept], "*", color="black", markersize=12, label="original model")
    axes.plot([0], [100], "x", color="tab:green", markersize=10, label="the aim")
    axes.set(
        xlabel="concept found, % of videos (lower is better)", ylabel="neighbours kept, % of videos (higher is better)"
    )
    axes.set(xlim=(-4, 112), ylim=(-4, 106), title="Methods on the embedded pair, four concepts")
    axes.legend(loc="lower right")
    figure.savefig(PICTURES / "pareto.png", dpi=110)
    print(f"wrote {PICTURES / 'pareto.png'}")


def _points(rows: list[dict[str, Any]]) -> tuple[list[float], list[float], list[list[float]], list[list[float]]]:
    """Concept found and neighbours kept after unlearning, in percent, and how far their intervals reach down and up."""
    axes = []
    for group in ("explicit", "neighbours"):
        estimates = [row[group]["edited"] for row in rows]
        values = [100 * estimate["value"] for estimate in estimates]
        down = [value - 100 * estimate["ci"][0] for value, estimate in zip(values, estimates, strict=True)]
        up = [100 * estimate["ci"][1] - value for value, estimate in zip(values, estimates, strict=True)]
        axes.append((values, [[max(0.0, d) for d in down], [max(0.0, u) for u in up]]))
    (x, x_errors), (y, y_errors) = axes
    return x, y, x_errors, y_errors


if __name__ == "__main__":
    main()
