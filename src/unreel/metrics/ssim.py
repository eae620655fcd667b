"""How much do pictures change that nobody wanted changed? Structural similarity of same-seed videos.

Mean over frames of SSIM (Wang et al., 2004; scikit-image) between the original and the edited model's videos: 1 where
nothing changed at all. On prompts for the concept it says nothing good or bad. Frames are averaged down first until no side
has more than `LONGEST` pixels, much as the authors' own code does; what is smaller stays as it is.
"""

from collections.abc import Iterator

import numpy as np

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation
from unreel.models.sampling import shrunk

LONGEST = 256  # pixels of a frame's longer side, which bounds its cost


def measure(run: Evaluation) -> Iterator[Figure]:
    for group in run.groups.values():
        values = [similarity(*pair) for pair in zip(group.videos("original"), group.videos("edited"), strict=True)]
        yield Figure("ssim", "similarity to the original video", group.name, None, Estimate.mean(np.array(values)))


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Two videos (frames, height, width, 3) uint8 -> mean SSIM of their frames."""
    from skimage.metrics import structural_similarity

    first, second = shrunk(first, LONGEST), shrunk(second, LONGEST)
    window = min(7, *(side - 1 + side % 2 for side in first.shape[1:3]))
    pairs = zip(first, second, strict=True)
    return float(np.mean([structural_similarity(a, b, channel_axis=-1, win_size=window) for a, b in pairs]))
