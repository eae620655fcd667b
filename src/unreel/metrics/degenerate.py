"""Is there a picture at all? The share of degenerate clips, by their pixels alone.

A frame is degenerate if it is blank (standard deviation of its grey values below 2 % of the range) or noise (correlation of
neighbouring pixels below one half; pictures are far above); a clip is if at least half of its frames are. Our definition.
"""

from collections.abc import Iterator

import numpy as np

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation

BLANK = 0.02
NOISE = 0.5


def measure(run: Evaluation) -> Iterator[Figure]:
    for group in run.groups.values():
        original, edited = (
            Estimate.share(np.array([degenerate(video) for video in group.videos(arm)])) for arm in ("original", "edited")
        )
        yield Figure("degenerate", "blank or noise", group.name, original, edited, "%", "lower")


def degenerate(video: np.ndarray) -> bool:
    """Whether a video (frames, height, width, 3) uint8 is degenerate."""
    grey = video.mean(-1) / 255
    return bool(np.mean([frame.std() < BLANK or _smoothness(frame) < NOISE for frame in grey]) >= 0.5)


def _smoothness(frame: np.ndarray) -> float:
    """Correlation of neighbouring pixels, the lower of the two directions."""
    shifted = ((frame[:, :-1], frame[:, 1:]), (frame[:-1], frame[1:]))
    return min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in shifted)
