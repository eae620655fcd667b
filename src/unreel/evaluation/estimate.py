"""Measured values with their uncertainty. Knows numbers only."""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, sqrt
from typing import Literal

import numpy as np

Z = 1.959964  # standard normal, 97.5 %
RESAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Estimate:
    """A value from `n` videos (or prompts) with its 95 % interval."""

    value: float
    ci: tuple[float, float]
    n: int

    def __str__(self) -> str:
        value, low, high = (f"{round(each, 12):.3g}" for each in (self.value, *self.ci))  # of zero, rounding leaves traces
        return f"{value} [{low}, {high}]"

    @classmethod
    def share(cls, flags: np.ndarray) -> "Estimate":
        """A share, from one yes or no per video, (n,). Wilson (1927) keeps its coverage near 0 and 1 and for small n."""
        n, share = _count(flags), float(np.mean(flags))
        return cls(share, _wilson(share, n), n)

    @classmethod
    def mean(cls, values: np.ndarray) -> "Estimate":
        """The mean of one number per video, (n,). Percentile bootstrap over videos (Efron, 1979), always the same draws."""
        n = _count(values)
        draws = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
        low, high = np.quantile(np.asarray(values, float)[draws].mean(1), (0.025, 0.975))
        return cls(float(np.mean(values)), (float(low), float(high)), n)

    @classmethod
    def mean_share(cls, shares: np.ndarray) -> "Estimate":
        """As `mean`, for one share per video. If all are 0 or all are 1, resampling shows no spread: then Wilson's
        interval.
        """
        shares = np.asarray(shares, float)
        return cls.share(shares > 0) if np.isin(shares, (0, 1)).all() and not np.ptp(shares) else cls.mean(shares)

    @classmethod
    def jackknife(cls, statistic: Callable[[np.ndarray], float], n: int, blocks: int = 10) -> "Estimate":
        """A statistic of a whole set of videos, given the indices (k,) of those to use.

        Delete-a-block jackknife (Kuensch, 1989): a bootstrap's repeated videos would bias a distance between distributions.
        """
        everything = np.arange(n)
        blocks = min(blocks, n)
        value = statistic(everything)
        without = np.array([statistic(everything[everything % blocks != block]) for block in range(blocks)])
        half = Z * sqrt((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum())
        return cls(value, (value - half, value + half), n)


@dataclass(frozen=True)
class Figure:
    """One value of the original and of the edited model, on the prompts of `group`, or on all ("").

    Without `original`, the value compares the two or is of the edited one alone; without `edited`, it is of the original
    alone. `unit` is "%" for shares, which are stored from 0 to 1.
    """

    metric: str
    title: str
    group: str
    original: Estimate | None
    edited: Estimate | None
    unit: Literal["%", "s", "GiB", "MB", ""] = ""
    better: Literal["lower", "higher", ""] = ""

    @property
    def estimates(self) -> dict[str, Estimate]:
        pairs = {"original": self.original, "edited": self.edited}
        return {arm: estimate for arm, estimate in pairs.items() if estimate}


def mcnemar(one: int, other: int) -> float:
    """The p-value of McNemar's exact two-sided test (1947): how likely two that are equally good disagree at least as
    unevenly, where the first does better on `one` videos and the second on `other`.
    """
    n, fewer = one + other, min(one, other)
    return min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n)


def _wilson(share: float, n: float) -> tuple[float, float]:
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    # At 0 and 1 it ends there; rounding would have it end a hair inside.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def in_video(frames: np.ndarray) -> np.ndarray:
    """(n, frames) yes or no -> (n,): a video shows something if at least half of its frames do."""
    return frames.mean(axis=1) >= 0.5


def _count(values: np.ndarray) -> int:
    if len(values) == 0:
        raise ValueError("no values to estimate from")
    return len(values)
