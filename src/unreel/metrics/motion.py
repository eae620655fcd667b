"""Does it hold together over time, and does it still move? The two stand together, since a frozen video is consistent.

`consistency` is the mean cosine similarity of the judge's features of consecutive frames (as VBench's subject consistency,
Huang et al., 2024, with the judge in DINO's place). `motion` is the mean length of the optical flow between consecutive
frames, in percent of the frame's width (iterative Lucas-Kanade, Le Besnerais & Champagnat, 2005; scikit-image).
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation

WIDTH = 64  # pixels; flow is read from frames reduced to about this width, which bounds its cost
RADIUS, WARPS = 7, 3


def measure(run: Evaluation) -> Iterator[Figure]:
    for group in run.groups.values():
        shown = [group.features(arm) for arm in ("original", "edited")]
        steady = [Estimate.mean(consistency(x)) for x in shown if x is not None and x.shape[1] > 1]
        if len(steady) == 2:
            yield Figure("consistency", "similarity of consecutive frames", group.name, steady[0], steady[1])
        original, edited = (
            Estimate.mean(np.array([motion(video) for video in group.videos(arm)])) for arm in ("original", "edited")
        )
        yield Figure("motion", "amount of motion", group.name, original, edited, "%")


def consistency(features: np.ndarray) -> np.ndarray:
    """(n, frames, width) -> (n,)."""
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True).clip(1e-12)
    return (unit[:, :-1] * unit[:, 1:]).sum(-1).mean(1)


def motion(video: np.ndarray) -> float:
    """(frames, height, width, 3) uint8 -> mean length of the flow as a share of the width; 0 for a single frame."""
    from skimage.registration import optical_flow_ilk

    step = max(1, video.shape[2] // WIDTH)
    height, width = (side // step * step for side in video.shape[1:3])
    grey = video[:, :height, :width].mean(-1, dtype=np.float32) / 255
    grey = grey.reshape(len(grey), height // step, step, width // step, step).mean((2, 4))
    flows = [np.hypot(*optical_flow_ilk(a, b, radius=RADIUS, num_warp=WARPS)).mean() for a, b in pairwise(grey)]
    return float(np.mean(flows)) / grey.shape[2] if flows else 0.0
