"""What did it cost? Seconds and peak memory of unlearning, size of the artifact, seconds a video without and with it."""

from collections.abc import Iterator
from typing import Literal

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation


def measure(run: Evaluation) -> Iterator[Figure]:
    parts = run.erasure.provenance["parts"]
    if all("seconds" in part and "peak_memory_gib" in part for part in parts):
        yield _exact("unlearning_seconds", "time to unlearn", sum(part["seconds"] for part in parts), "s")
        yield _exact("peak_memory", "peak memory while unlearning", max(part["peak_memory_gib"] for part in parts), "GiB")
    yield _exact("artifact_size", "size of the erasure", run.erasure.nbytes / 1e6, "MB")
    if len(run.devices) < 2:  # seconds on several devices, of a run that went on elsewhere, say nothing
        original, edited = (Estimate.mean(run.seconds(arm)) for arm in ("original", "edited"))
        yield Figure("generation_seconds", "time to generate a video", "", original, edited, "s", "lower")


def _exact(metric: str, title: str, value: float, unit: Literal["s", "GiB", "MB"]) -> Figure:
    return Figure(metric, title, "", None, Estimate(value, (value, value), 1), unit, "lower")
