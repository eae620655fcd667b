"""Metrics say what an erasure did: one module a metric, each a single function.

    def measure(run: Evaluation) -> Iterator[Figure]

A module put into this package is measured by every evaluation, and stands in every `metrics.json` and report.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal

from unreel.evaluation.estimate import Estimate

if TYPE_CHECKING:
    from unreel.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Figure:
    """One value of the original ("before") and of the edited model ("after"), on the prompts of `group`, or on all ("").

    Where there is no "before", the value compares the two or is of the edited one alone; where there is no "after", it is
    of the original alone. `unit` is "%" for shares, which are stored from 0 to 1.
    """

    metric: str
    title: str
    group: str
    before: Estimate | None
    after: Estimate | None
    unit: Literal["%", "s", "GiB", "MB", ""] = ""
    better: Literal["lower", "higher", ""] = ""

    @property
    def estimates(self) -> dict[str, Estimate]:
        pairs = {"before": self.before, "after": self.after}
        return {when: estimate for when, estimate in pairs.items() if estimate}


def measure(run: "Evaluation") -> Iterator[Figure]:
    """Every figure of every metric, with a progress bar: a judge may look at thousands of frames."""
    from tqdm.auto import tqdm

    for module in tqdm(list(iter_modules(__path__)), desc="measuring", unit="metric"):
        yield from import_module(f"{__name__}.{module.name}").measure(run)
