"""How bright are videos, without and with the intervention?"""

from collections.abc import Iterator

import numpy as np

from unreel import Estimate, Evaluation, Figure


def measure(run: Evaluation) -> Iterator[Figure]:
    for group in run.groups.values():
        before, after = (
            Estimate.mean(np.array([video.mean() / 255 for video in group.videos(arm)])) for arm in ("original", "edited")
        )
        yield Figure("brightness", "brightness", group.name, before, after, "%")
