"""Metrics say what an erasure did: one module a metric, each a single function.

    def measure(run: Evaluation) -> Iterator[Figure]

A module put into this package is measured by every evaluation, and stands in every `metrics.json` and report.
"""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from unreel.evaluation.estimate import Figure

if TYPE_CHECKING:
    from unreel.evaluation.run import Evaluation


def measure(run: "Evaluation") -> Iterator[Figure]:
    """Every figure of every metric, with a progress bar: a judge may look at thousands of frames."""
    from tqdm.auto import tqdm

    for module in tqdm(list(iter_modules(__path__)), desc="measuring", unit="metric"):
        yield from import_module(f"{__name__}.{module.name}").measure(run)
