"""Shares with their uncertainty. Knows numbers only."""

from dataclasses import dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class Share:
    """A share of videos, from 0 to 1, with its Wilson 95 % interval."""

    found: float
    n: int
    ci: tuple[float, float]

    @classmethod
    def of(cls, flags: np.ndarray) -> "Share":
        """From one yes or no per video. Wilson (1927), which keeps its coverage near 0 and 1 and for small n."""
        n = len(flags)
        if n == 0:
            raise ValueError("no videos to take a share of")
        share, z = float(np.mean(flags)), 1.959964
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return cls(share, n, (max(0.0, centre - half), min(1.0, centre + half)))

    def __str__(self) -> str:
        return f"{self.found:.0%} [{self.ci[0]:.0%}, {self.ci[1]:.0%}]"


def found_in_video(frames_found: np.ndarray) -> np.ndarray:
    """(n, frames) yes or no -> (n,): a video shows the concept if at least half of its frames do."""
    return frames_found.mean(axis=1) >= 0.5
