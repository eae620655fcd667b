"""Do the videos still look like the model's own? Frechet distance on what the judge sees in each frame.

d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) between two sets of frames (Heusel et al., 2017), in units of the judge's
features: comparable only under one judge and one number of videos. The second half of a group has the prompts of the
first with other seeds. The edited model's videos of one half are held against the original model's videos of the other,
and the other way round; "original" is the original model against itself in the same way, which is what seeds alone do.
Noise and mush raise it.
"""

from collections.abc import Iterator

import numpy as np

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation

BLOCKS = 10  # blocks of prompts, each of which is left out in turn


def measure(run: Evaluation) -> Iterator[Figure]:
    for group in run.groups.values():
        original, edited, half = group.features("original"), group.features("edited"), group.repeated
        if original is None or edited is None or half < 2 or original.shape[1] * (half - -(-half // BLOCKS)) < 2:
            continue  # there is no spread of one frame
        figures = [
            Estimate.jackknife(
                lambda at, shown=shown, of=original, half=half: _crosswise(shown, of, half, at),  # type: ignore[misc]
                half,
                BLOCKS,
            )
            for shown in (original, edited)
        ]
        yield Figure("frechet", "Frechet distance", group.name, figures[0], figures[1], "", "lower")


def _crosswise(shown: np.ndarray, original: np.ndarray, half: int, chosen: np.ndarray) -> float:
    """The mean distance of `shown` from `original`, features (n, frames, width), under other seeds, for the `chosen` ones
    of the first `half` prompts, which the last `half` repeat.
    """
    halves = [(features[:half][chosen], features[-half:][chosen]) for features in (shown, original)]
    (first, second), (original_first, original_second) = halves
    return float(np.mean([frechet(first, original_second), frechet(second, original_first)]))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Two sets of features (n, frames, width) -> squared Frechet distance of their frames."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (_frames(a), _frames(b)))
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _frames(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1]).astype(np.float64)
