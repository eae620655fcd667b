"""Plots of figures as SVG, drawn by hand: shares with intervals, and how often something is found in each frame.

Knows numbers; knows neither pages nor videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unreel.evaluation.estimate import Estimate

WIDTH, HEIGHT, SIDE = 600, 120, 300


@dataclass(frozen=True)
class Row:
    """One row of a plot of shares: the original's and the edited's, in pixels of a line `WIDTH` wide; and it read aloud."""

    title: str
    wanted: str  # "low" or "high"
    original: float | None
    edited: float
    low: float
    high: float
    spoken: str


def row(title: str, wanted: str, original: Estimate | None, edited: Estimate) -> Row:
    shares = [f"{100 * share:.0f} %" for share in (edited.value, *edited.ci)]
    before = f", {100 * original.value:.0f} % in the original model" if original else ""
    spoken = f"{title}: {shares[0]}, between {shares[1]} and {shares[2]}{before}"
    value, low, high = (WIDTH * share for share in (edited.value, *edited.ci))
    return Row(title, wanted, WIDTH * original.value if original else None, value, low, high, spoken)


def line(values: Sequence[float]) -> str:
    """Shares, one after the other, as points of a polyline whose top is 1."""
    last = max(1, len(values) - 1)
    return " ".join(f"{i * WIDTH / last:.1f},{HEIGHT - value * HEIGHT:.1f}" for i, value in enumerate(values))


def losses(values: Sequence[float]) -> str:
    """A loss curve as points of a polyline, from its lowest to its highest."""
    low, high = min(values), max(values)
    return line([(value - low) / ((high - low) or 1.0) for value in values])


def curves(by_arm: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Of each arm, the share of videos that show something in each frame; videos of one frame have no curve."""
    return {arm: line(shares) for arm, shares in by_arm.items() if len(shares) > 1}


@dataclass(frozen=True)
class Point:
    """One run in the plane of what is forgotten (to the right) and what is kept (up), in pixels of a square `SIDE` wide,
    with its 95 % intervals.
    """

    title: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    spoken: str


def point(title: str, found: Estimate, kept: Estimate) -> Point:
    spoken = f"{title}: forgotten in {100 - 100 * found.value:.0f} % of videos, others kept in {100 * kept.value:.0f} %"
    across = [SIDE * (1 - share) for share in (found.value, found.ci[1], found.ci[0])]
    down = [SIDE * (1 - share) for share in (kept.value, kept.ci[1], kept.ci[0])]
    return Point(title, across[0], down[0], across[1], across[2], down[1], down[2], spoken)
