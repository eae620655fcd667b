"""Judges say what a video shows.

A judge turns frames into a yes or no per frame for a label, and knows its own measured error rate.
"""

from typing import Any, Protocol

import numpy as np


class Judge(Protocol):
    """What every judge offers. `error` holds its own measured rates, to print beside every figure."""

    name: str
    error: dict[str, Any]

    def knows(self, label: str) -> bool:
        """Whether it can tell if a video shows `label`."""
        ...

    def neighbours(self, label: str) -> list[str]:
        """Other things it can find and that erasing `label` should leave alone."""
        ...

    def found(self, videos: np.ndarray, label: str) -> np.ndarray:
        """Videos (n, frames, height, width, 3) uint8 -> (n, frames) bool."""
        ...
