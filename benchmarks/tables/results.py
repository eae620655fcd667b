"""Tables of docs/results.md."""

from dataclasses import asdict
from functools import partial

import numpy as np
from scipy.stats import t as student

from benchmarks.cells import cells_of, results_of
from benchmarks.over_concepts import share_over
from benchmarks.tables._format import change, interval, table
from benchmarks.tables.attacks import attacks, attacks_by_concept
from benchmarks.tables.methods import (
    TITLES,
    erasure,
    frechet,
    motion,
    of_groups,
    quality_of_videos,
    similarity,
    specificity,
)
from unreel.attacks.embedding_inversion import STEPS as ADAM_STEPS

DOCUMENTS = ("docs/results.md",)
SHOWN = (erasure, specificity, similarity, frechet, quality_of_videos, motion, attacks, attacks_by_concept)


def ablations() -> str:
    """What one change at a time does to few-shot."""
    measured, rows = results_of("ablations"), []
    changed = [run for run in measured if run.startswith("few-shot") and not run.endswith("in turn")]
    for run in changed:
        by_concept = measured[run]
        shares = of_groups(list(by_concept.values()))
        shares_alone = [of_groups([each])["explicit"]["edited"]["value"] for each in by_concept.values()]
        alone = " / ".join(f"{100 * share:.0f}" for share in shares_alone)
        what = run.removeprefix("few-shot").removeprefix(", ") or "as it is"
        rows.append([what, *(change(shares[group]) for group in ("explicit", "neighbours")), alone])
    names = " / ".join(measured["few-shot"])
    return table(["changed", "concept found", "neighbours kept", f"found after: {names}"], rows)


def one_after_another() -> str:
    rows = []
    for run, by_concept in results_of("ablations").items():
        if run.endswith("in turn"):
            shares = of_groups(list(by_concept.values()))
            cells = [change(shares[group]) for group in ("explicit", "neighbours")]
            rows.append([str(len(by_concept)), list(by_concept)[-1], *cells])
    return table(["concepts", "the last one", "concepts found", "neighbours kept"], rows)


def inversion_steps() -> str:
    """What a more patient attacker finds of what the paper's method erased."""
    rows, names = [], ""
    for by_concept in results_of("inversion").values():
        flags_of = {
            arm: [
                np.array([case[0]["found"] for case in result["attacks"]["embedding_inversion"][f"{arm}_attempts"]])
                for result in by_concept.values()
            ]
            for arm in ("edited", "original")
        }
        edited, original = (interval(asdict(share_over(flags))) for flags in flags_of.values())
        steps = ADAM_STEPS * next(iter(by_concept.values()))["search_steps"]
        alone, names = [f"{100 * flags.mean():.0f}" for flags in flags_of["edited"]], " / ".join(by_concept)
        rows.append([str(steps), edited, " / ".join(alone), original])
    return table(["steps of Adam", "edited", f"edited: {names}", "original"], rows)


def _over_seeds() -> dict[str, dict[str, list[dict[str, float]]]]:
    """Of every method that was run with all training seeds on all concepts, the shares of videos by concept and seed."""
    cells, shares = cells_of("training-seeds"), {}
    for cell in cells:
        if stored := cell.stored():
            groups = of_groups([stored["result"]])
            looks = shares.setdefault(cell.method, {}).setdefault(cell.concept["name"], [])
            looks.append({group: arms["edited"]["value"] for group, arms in groups.items()})
    if not shares:
        raise FileNotFoundError("training-seeds was not measured")
    whole = {method: sum(cell.method == method for cell in cells) for method in shares}
    return {TITLES[method]: by for method, by in shares.items() if sum(map(len, by.values())) == whole[method]}


def training_seeds() -> str:
    """Means over concepts, a value for each training seed, with an interval over seeds (Student's t)."""
    rows = []
    for method, runs in _over_seeds().items():
        cells = []
        for group in ("explicit", "neighbours"):
            values = 100 * np.array([[look[group] for look in looks] for looks in runs.values()]).mean(0)
            half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
            low, high = max(0.0, values.mean() - half), min(100.0, values.mean() + half)
            cells.append(f"{values.mean():.1f} [{low:.1f}, {high:.1f}], {values.min():.1f} to {values.max():.1f}")
        rows.append([method, str(len(values)), *cells])
    head = [
        "method",
        "training seeds",
        "concept found, % [95 % over seeds], lowest to highest",
        "neighbours kept, the same",
    ]
    return table(head, rows)


def training_seeds_by_concept() -> str:
    """What every training seed made of every concept: the share of videos in which it is still found, in percent."""
    methods = _over_seeds()
    rows = []
    for name in next(iter(methods.values())):
        shares = [", ".join(f"{100 * look['explicit']:.0f}" for look in runs[name]) for runs in methods.values()]
        rows.append([name, *shares])
    return table(["concept", *(f"{method}: found, %, by training seed" for method in methods)], rows)


TABLES = {
    "ablations": ablations,
    "inversion_steps": inversion_steps,
    "one_after_another": one_after_another,
    "training_seeds": training_seeds,
    "training_seeds_by_concept": training_seeds_by_concept,
}
TABLES |= {f"few_shot_{each.__name__}": partial(each, "few-shot") for each in SHOWN}
