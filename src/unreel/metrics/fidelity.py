"""Does the edited model make of a prompt what the original model makes of its anchor prompt, from the same seed?

The anchor prompt is the same sentence with the anchor, which the encoder should read instead, in the concept's place. For
every group of prompts that name the concept, if it has an anchor:

- `anchor_found` is the share of videos in which the judge finds the anchor, in at least half of the frames;
  `anchor_ceiling` the same of the original model's videos of all anchor prompts: no erasure can be expected to do better.
- `fidelity_ssim` is the mean SSIM of frames between a video and the original model's of the anchor prompt.
- `fidelity_features` is the mean cosine similarity of what the judge sees in the two, averaged over frames. Features are
  centred and scaled by the mean and the spread over all videos that the original model made for this evaluation, anchor
  prompts included, so that any two have about 0 on average. Comparable only under one judge and one suite.

Both similarities are 1 for the very video of the anchor prompt; "original" is the original model's video of the prompt
itself. `fidelity_ssim_seeds` and `fidelity_features_seeds` say how alike two seeds of one anchor prompt are. If the edited
model's figure is above both, its videos are nearer to those of the anchor prompt than the original model's videos are, and
than those of the anchor prompt from another seed.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from unreel.evaluation.estimate import Estimate, Figure, in_video
from unreel.evaluation.run import Evaluation, Group
from unreel.metrics.ssim import similarity

Comparison = Callable[[Group, str, int], np.ndarray]


def measure(run: Evaluation) -> Iterator[Figure]:
    groups = [group for group in run.groups.values() if group.has_anchor]
    comparisons: dict[str, tuple[str, Comparison]] = {"fidelity_ssim": ("", _ssim)}
    if groups and groups[0].features("anchor") is not None:
        comparisons["fidelity_features"] = (", by what the judge sees", _cosines(run))
    for group in groups:
        if group.knows_anchor:
            original, edited = (Estimate.share(in_video(group.anchor_found(arm))) for arm in ("original", "edited"))
            yield Figure("anchor_found", "anchor found in its place", group.name, original, edited, "%", "higher")
        for metric, (how, compare) in comparisons.items():
            original, edited = (Estimate.mean(compare(group, arm, 0)) for arm in ("original", "edited"))
            title = f"similarity to the anchor prompt's video{how}"
            yield Figure(metric, title, group.name, original, edited, "", "higher")
            if half := group.repeated:
                seeds = Estimate.mean(compare(group, "anchor", len(group.anchors) - half))
                title = f"similarity of two seeds of the anchor prompt{how}"
                yield Figure(f"{metric}_seeds", title, group.name, seeds, None)
    frames = [group.anchor_found("anchor") for group in groups if group.knows_anchor]
    if frames:
        ceiling = Estimate.share(in_video(np.concatenate(frames)))
        yield Figure("anchor_ceiling", "anchor found where the original was asked for it", "", ceiling, None, "%")


def _ssim(group: Group, arm: str, shift: int) -> np.ndarray:
    """The SSIM of each video of `arm` with the anchor prompt's video that comes `shift` later: (n - shift,)."""
    pairs = zip(group.videos(arm), islice(group.videos("anchor"), shift, None), strict=False)
    return np.array([similarity(shown, aim) for shown, aim in pairs])


def _cosines(run: Evaluation) -> Comparison:
    """The comparison by the cosine similarity of the judge's features."""

    def features(group: Group, arm: str) -> np.ndarray:
        features = group.features(arm)
        assert features is not None
        return features.mean(1, dtype=np.float64)

    by_original = [(group, arm) for group in run.groups.values() for arm in ("original", "anchor") if arm in group.batches]
    every = np.concatenate([features(group, arm) for group, arm in by_original])
    centre, spread = every.mean(0), every.std(0).clip(1e-6)

    def compare(group: Group, arm: str, shift: int) -> np.ndarray:
        scaled = [(features(group, which) - centre) / spread for which in (arm, "anchor")]
        shown, aim = (each / np.linalg.norm(each, axis=1, keepdims=True).clip(1e-12) for each in scaled)
        return (shown[: len(aim) - shift] * aim[shift:]).sum(1)

    return compare
