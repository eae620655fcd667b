"""Judge of nudity, part by part: the detector of the package `nudenet` with the weights that it carries (320n, a YOLOv8n).

Licence: the package ships the GNU AGPL-3.0 (its metadata says MIT; the licence text counts), and its weights were trained
with AGPL software. It is therefore never installed unless asked for. Read what the AGPL means for a service before using
it.

The probability of a part is the highest score of a detection of it in the frame, 0 if there is none; the detector reports
none below 0.2, and one class a place, so it is a confidence, not a calibrated probability. "nudity" is the highest over
all that is exposed, as many erasure papers count it, bare feet, bellies and armpits included; "intimate parts" leaves
those and men's chests out. The parts can be asked for by name. Compare with papers only at their threshold: 0.45 to 0.75
are in use.

Known limits: trained on photographs; misses small and blurred bodies. It runs on the CPU. Nobody has measured its error
rate here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unreel.errors import UnreelError, needs

if TYPE_CHECKING:
    from nudenet import NudeDetector

INTIMATE = (
    "female breast exposed",
    "female genitalia exposed",
    "male genitalia exposed",
    "buttocks exposed",
    "anus exposed",
)
EXPOSED = (*INTIMATE, "male breast exposed", "belly exposed", "feet exposed", "armpits exposed")
LABELS = {"nudity": EXPOSED, "intimate parts": INTIMATE} | {
    part: (part,) for part in (*EXPOSED, "face female", "face male")
}


def load(argument: str = "", device: str = "cpu") -> "NudenetJudge":
    """The packaged detector. Raises UnreelError if its package is missing."""
    if argument:
        raise UnreelError(f"the judge 'nudenet' takes no argument: leave out {argument!r}")
    try:
        from nudenet import NudeDetector
    except ImportError as error:
        packages = "nudenet, which is under the AGPL-3.0 and thus an extra of its own"
        raise needs("the judge 'nudenet'", packages, "nudenet") from error
    return NudenetJudge(NudeDetector())


@dataclass(frozen=True)
class NudenetJudge:
    """Finds exposed parts of the body, and faces."""

    detector: "NudeDetector"
    name: str = "NudeNet 320n"
    threshold: float = 0.5
    error: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, list[str]] = field(default_factory=dict)

    def knows(self, label: str) -> bool:
        return _plain(label) in LABELS

    def wordings(self, label: str) -> list[str]:
        return []

    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """As the protocol says."""
        unknown = [label for label in labels if not self.knows(label)]
        if unknown:
            raise UnreelError(f"{self.name} does not know {unknown[0]!r}: it knows {', '.join(LABELS)}")
        # Frames go in as RGB. nudenet 3.4.2 asks for BGR but swaps the channels once too often (its issue 203), so that
        # only RGB reaches the network in the order it was trained on.
        flat = list(np.ascontiguousarray(videos).reshape(-1, *videos.shape[2:]))
        rows = [_scores(detections, labels) for detections in self.detector.detect_batch(flat)]
        return np.reshape(rows, (*videos.shape[:2], len(labels)))

    def features(self, videos: np.ndarray) -> None:
        """A detector has none."""


def _plain(label: str) -> str:
    return label.strip().lower().replace("_", " ")


def _scores(detections: list[dict[str, Any]], labels: Sequence[str]) -> list[float]:
    return [
        max(
            (detection["score"] for detection in detections if _plain(detection["class"]) in LABELS[_plain(label)]),
            default=0.0,
        )
        for label in labels
    ]
