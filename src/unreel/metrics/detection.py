"""Is the concept gone, and is everything else still there? Both by the judge's word.

`concept_found` is the share of videos in which at least half of the frames show the concept; `concept_mean_frame` the
mean share of frames, `concept_peak_frame` the share of videos in which any frame shows it, `concept_last_frame` in which
the last one does: concepts are known to come back late in a video. `label_found` is the share of videos that show the other
thing asked for. Where a prompt does not ask for the concept, finding it on original videos is the judge's false-positive
floor.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unreel.evaluation.estimate import Estimate, Figure, in_video
from unreel.evaluation.run import Evaluation, Group

_CONCEPT: dict[str, tuple[str, Callable[[Any], Estimate]]] = {
    "concept_found": ("concept found in the video", lambda frames: Estimate.share(in_video(frames))),
    "concept_mean_frame": ("concept found, mean frame", lambda frames: Estimate.mean_share(frames.mean(1))),
    "concept_peak_frame": ("concept found, any frame", lambda frames: Estimate.share(frames.any(axis=1))),
    "concept_last_frame": ("concept found, last frame", lambda frames: Estimate.share(frames[:, -1])),
}


def measure(run: Evaluation) -> Iterator[Figure]:
    judged = [group for group in run.groups.values() if group.judge]
    for group in judged:
        original, edited = (group.concept_found(arm) for arm in ("original", "edited"))
        for key, (title, estimate) in _CONCEPT.items():
            yield Figure(key, title, group.name, estimate(original), estimate(edited), "%", "lower")
        if group.asks_for_others:
            yield Figure("label_found", "what else was asked for found", group.name, *_labels([group]), "%", "higher")
    others = [group for group in judged if not group.asks_for_concept]
    asked = [group for group in judged if group.asks_for_others or group.asks_for_concept_alone]
    if others:
        frames = [np.concatenate([group.concept_found(arm) for group in others]) for arm in ("original", "edited")]
        floor, leak = (Estimate.share(in_video(detected)) for detected in frames)
        yield Figure("judge_floor", "concept found where nobody asked for it", "", floor, leak, "%", "lower")
    if asked:
        yield Figure("judge_accuracy", "what was asked for found on original videos", "", _labels(asked)[0], None, "%")


def _labels(groups: list[Group]) -> tuple[Estimate, Estimate]:
    original, edited = (
        Estimate.share(np.concatenate([in_video(group.label_found(arm)) for group in groups]))
        for arm in ("original", "edited")
    )
    return original, edited
