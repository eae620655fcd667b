"""Figures as documents show them: with intervals, in percent, as tables. Knows no experiment."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks import common
from unreel.evaluation.estimate import Estimate


def load(name: str) -> dict[str, Any]:
    """A result file. Raises FileNotFoundError without it."""
    return json.loads((common.RESULTS / f"{name}.json").read_text())


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(share: dict[str, Any], digits: int = 0) -> str:
    value, low, high = (f"{100 * x:.{digits}f}" for x in (share["value"], *share["ci"]))
    return f"{value} % [{low}, {high}]"


def where(entry: dict[str, Any]) -> str:
    """The GPU, or the CPU with the number of threads, that figures were measured on."""
    gpu, threads = entry["machine"], entry["threads"]
    return gpu if "NVIDIA" in gpu else f"CPU, {threads} thread{'s' * (threads > 1)}"


def change(figure: dict[str, Any] | None, scale: float = 100, digits: int = 0) -> str:
    """`original -> edited [interval of the latter]`, shares in percent; one value where there is only one."""
    if not figure:
        return ""
    values = " → ".join(f"{scale * estimate['value']:.{digits}f}" for estimate in figure.values())
    low, high = (round(scale * x, digits) + 0.0 for x in list(figure.values())[-1]["ci"])  # never -0
    return f"{values} [{low:.{digits}f}, {high:.{digits}f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pooled_shares(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of several concepts as one share of all their videos, of each arm."""

    def flags(share: dict[str, Any]) -> np.ndarray:
        return np.arange(share["n"]) < round(share["value"] * share["n"])

    return {arm: asdict(Estimate.share_over([flags(figure[arm]) for figure in figures])) for arm in figures[0]}


def pooled(figures: list[dict[str, Any] | None]) -> str:
    known = [figure for figure in figures if figure]
    return change(pooled_shares(known)) if known else ""


def averaged(figures: list[dict[str, Any] | None], digits: int = 0) -> str:
    """Means of several concepts as one mean over all their videos; half widths of intervals add up as their squares, and
    intervals reach as far as those over concepts, of which a percentile bootstrap is never beyond what can be.
    """
    known = [figure for figure in figures if figure]
    if not known:
        return ""
    means = {}
    for arm in known[0]:
        counts = np.array([figure[arm]["n"] for figure in known])
        values, shares = np.array([figure[arm]["value"] for figure in known]), counts / counts.sum()
        value = float(shares @ values)
        within = float(np.hypot.reduce(shares * [np.ptp(figure[arm]["ci"]) / 2 for figure in known]))
        between = Estimate.mean(values).ci
        means[arm] = {"value": value, "ci": (min(value - within, between[0]), max(value + within, between[1]))}
    return change(means, digits=digits)


def count_of_videos(count: int) -> str:
    return f"{count} video{'s' if count > 1 else ''}"
