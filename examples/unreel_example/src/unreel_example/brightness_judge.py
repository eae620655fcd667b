"""A judge that finds everything in bright frames and nothing in dark ones."""

from collections.abc import Sequence

import numpy as np


class BrightnessJudge:
    name, error, threshold, vocabulary = "brightness judge", {}, 0.5, {}

    def knows(self, label: str) -> bool:
        return True

    def wordings(self, label: str) -> list[str]:
        return []

    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        return np.repeat(videos.mean((2, 3, 4))[..., None] / 255, len(labels), axis=-1)

    def features(self, videos: np.ndarray) -> None:
        return None


def load(argument: str, device: str) -> BrightnessJudge:
    return BrightnessJudge()
