"""Figures as documents show them: with intervals, in percent, as tables. Knows no experiment."""

import json
from dataclasses import asdict
from typing import Any

from benchmarks import common
from benchmarks.over_concepts import mean_over, shares_over


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


def pooled(figures: list[dict[str, Any] | None]) -> str:
    """Shares of several concepts as one share of all their videos."""
    known = [figure for figure in figures if figure]
    return change(shares_over(known)) if known else ""


def averaged(figures: list[dict[str, Any] | None], digits: int = 0) -> str:
    """Means of several concepts as one mean over all their videos."""
    known = [figure for figure in figures if figure]
    if len(known) < 2:
        return change(known[0], digits=digits) if known else ""
    arms = {arm: [figure[arm] for figure in known] for arm in known[0]}
    means = {arm: mean_over([each["value"] for each in of], [each["n"] for each in of]) for arm, of in arms.items()}
    return change({arm: asdict(mean) for arm, mean in means.items()}, digits=digits)


def count_of_videos(count: int) -> str:
    return f"{count} video{'s' if count > 1 else ''}"
