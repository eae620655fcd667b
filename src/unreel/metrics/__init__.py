"""Metrics say what an erasure did: one module a metric, each a single function.

    def measure(run: Evaluation) -> Iterator[Figure]

Every evaluation measures by each module of this package, and by those that other packages announce; their figures stand in
every `metrics.json` and report.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unreel.evaluation.estimate import Figure
from unreel.plugins import Registry
from unreel.progress import track

if TYPE_CHECKING:
    from unreel.evaluation.run import Evaluation

_REGISTRY = Registry("metrics", __path__, "metric", ("measure",))


def names() -> list[str]:
    return _REGISTRY.names()


def measure(run: "Evaluation") -> Iterator[Figure]:
    """Every figure of every metric, with a progress bar: a judge may look at thousands of frames."""
    for module in track(_REGISTRY.usable().values(), "measuring", "metric"):
        yield from module.measure(run)
