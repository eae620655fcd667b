"""Figures over several concepts, with 95 % intervals that hold for others of their sort: videos of one concept go together,
so that fifty of each of twelve say less about a thirteenth than six hundred of different ones would. Knows numbers only.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from scipy.special import betaln
from scipy.stats import t as student

from unreel.evaluation.estimate import Estimate

# What a mean share may be, each as likely beforehand (Jeffreys), and how alike videos of one concept may be, from not at
# all to all the same: its square root, each as likely, so that intervals hold what they say (tests/test_over_concepts.py).
SHARE = np.sin((np.arange(400) + 0.5) / 400 * np.pi / 2)[:, None] ** 2
ALIKE = ((np.arange(40) + 0.5) / 40) ** 2


def share_over(concepts: Sequence[np.ndarray]) -> Estimate:
    """A share of all videos of several concepts, one yes or no per video, (n,) each; or one share of its frames per video.
    Of one concept the interval is that over its videos (Wilson's).
    """
    if len(concepts) == 1:
        return Estimate.share(concepts[0])
    counts, hits = (np.array([measure(flags) for flags in concepts], float).round(9) for measure in (len, np.sum))
    value = float(hits.sum() / counts.sum())
    low, high = _beta_binomial(hits, counts)
    return Estimate(value, (min(value, low), max(value, high)), int(counts.sum()))


def shares_over(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As `share_over`, of stored estimates of each concept, by arm."""

    def flags(share: dict[str, Any]) -> np.ndarray:
        return np.full(share["n"], share["value"])

    return {arm: asdict(share_over([flags(figure[arm]) for figure in figures])) for arm in figures[0]}


def mean_over(values: Sequence[float], counts: Sequence[int]) -> Estimate:
    """The mean over all videos of several concepts of a figure between 0 and 1, given each concept's mean and number of
    videos, with Student's interval over the means of concepts.
    """
    means, weights = np.array(values, float), np.array(counts) / sum(counts)
    value = float(weights @ means)
    # The variance of a ratio of totals (Cochran, 1977).
    variance = (weights**2 * (means - value) ** 2).sum() * len(means) / (len(means) - 1)
    half = float(student.ppf(0.975, len(means) - 1) * variance**0.5)
    return Estimate(value, (max(0.0, value - half), min(1.0, value + half)), sum(counts))


@cache
def _likelihood(hits: float, n: float) -> np.ndarray:
    """The log-likelihood of so many hits in n videos of one concept, for all values of `SHARE` and `ALIKE`."""
    spread = (1 - ALIKE) / ALIKE
    yes, no = SHARE * spread, (1 - SHARE) * spread
    return betaln(hits + yes, n - hits + no) - betaln(yes, no)


def _beta_binomial(hits: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of what a beta-binomial model says of the mean of shares that differ from concept to concept, given
    in how many of each concept's videos something is shown: `hits` and `counts`, (concepts,) both.

    If all or none show it, nothing tells whether further concepts would: then the number of concepts, not that of videos,
    decides how wide the interval is.
    """
    likelihood = sum(_likelihood(float(hit), float(n)) for hit, n in zip(hits, counts, strict=True))
    weight = np.exp(likelihood - np.max(likelihood)).sum(1)
    below = (np.cumsum(weight) - weight / 2) / weight.sum()
    low, high = np.interp((0.025, 0.975), below, SHARE[:, 0])
    return float(low), float(high)
