"""Judges say what a video shows: one module a judge, loaded by name.

A judge turns frames into probabilities for labels and knows its own measured error rate. Any object that keeps to `Judge`
will do; a module in this package, or announced by another, that offers `load(argument, device)` can also be named on the
command line, as `NAME` or `NAME:ARGUMENT`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from unreel.plugins import Registry

_REGISTRY = Registry("judges", __path__, "judge", ("load",))


class Judge(Protocol):
    """What every judge offers.

    `name` is what people read; a judge of which there may be several under one name also has an `identity`, a text that
    tells them apart. `error` holds its own measured rates, to print beside every figure; empty if nobody has measured
    them. `vocabulary` lists labels it can tell apart and that a model can be asked for, by kind ("concept", "style",
    "motion"); empty where everyday words do as well.
    """

    name: str
    error: dict[str, Any]
    threshold: float
    vocabulary: dict[str, list[str]]

    def knows(self, label: str) -> bool:
        """Whether it can tell if a video shows `label`."""
        ...

    def wordings(self, label: str) -> list[str]:
        """Other words for `label` that it knows of, without `label` itself."""
        ...

    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Videos (n, frames, height, width, 3) uint8 -> (n, frames, labels) from 0 to 1.

        A label counts as found in a frame from `threshold` upwards. Raises UnreelError for a label it does not know.
        """
        ...

    def features(self, videos: np.ndarray) -> np.ndarray | None:
        """Videos -> features of each frame, (n, frames, width); None if it has none."""
        ...


def judge_identity(judge: Judge) -> str:
    """A text that tells a judge from others, even of the same name, with other weights or pictures: its `identity`, or
    its name if it has none.
    """
    return getattr(judge, "identity", judge.name)


def require_judge(name: str) -> None:
    """Raises UnreelError if there is no judge for `NAME` or `NAME:ARGUMENT`; loads no weights."""
    _REGISTRY.load(name.partition(":")[0])


def load_judge(name: str, device: str = "cpu") -> Judge:
    """The judge called `NAME` or `NAME:ARGUMENT`, for example `clip:openai/clip-vit-large-patch14`.

    Raises UnreelError for an unknown name and for a judge whose packages or weights are missing.
    """
    name, _, argument = name.partition(":")
    return _REGISTRY.load(name).load(argument, device)
