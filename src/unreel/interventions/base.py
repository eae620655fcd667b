"""What evaluation, attacks and reports know of whatever makes a model forget: it goes on a pipeline and comes off again.

Knows pipelines as things to be on; knows nothing about what is changed in them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unreel.errors import UnreelError
from unreel.models.adapter import undisturbed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

RECORD_FILE = "erasure.json"  # in the folder of every intervention
KIND = "intervention"  # in the record of those that change no weights, what they are


class Intervention(ABC):
    """Something frozen that makes pipelines forget concepts while it is on them.

    `provenance` is its record: the concepts with the method and the settings of each, and the versions of everything that
    mattered. What has the same `identity` is the same, wherever it was loaded from.
    """

    provenance: dict[str, Any]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.identity}: {', '.join(self.concepts)}, {self.nbytes / 1e6:.2f} MB>"

    @property
    @abstractmethod
    def identity(self) -> str:
        """A short name for exactly what it does."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of what it changes weights by, which is what the saved file weighs."""

    @abstractmethod
    def require_matching(self, pipeline: "DiffusionPipeline") -> None:
        """Raises UnreelError, saying what differs, unless it can go on the pipeline."""

    @abstractmethod
    def apply(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        """Put it on, on top of what is on already; returns the pipeline. Raises UnreelError, and changes nothing, if it
        does not match, or is on.
        """

    @abstractmethod
    def remove(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        """Take it off again; without any left, the pipeline is the original one. Raises UnreelError if it is not on."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write it with its record and a model card; the folder appears complete or not at all."""

    @property
    @abstractmethod
    def about(self) -> str:
        """What it is, for a model card, without a full stop."""

    @property
    @abstractmethod
    def limits(self) -> str:
        """What it protects and what it does not withstand, for cards and pages."""

    @property
    def concepts(self) -> list[str]:
        """Each once, by whatever number of methods it is erased."""
        named: dict[str, str] = {}
        for part in self.provenance["parts"]:
            named.setdefault(part["concept"].casefold(), part["concept"])
        return list(named.values())

    @property
    def model(self) -> str:
        """The video model that it was learned with; files of version 0.1 name its text encoder's alone."""
        return self.provenance.get("model", self.provenance["encoder"])

    @property
    def edits_text_encoder(self) -> bool:
        """Whether a text encoder itself is changed, so that who holds its weights can study it."""
        return False

    def matches(self, pipeline: "DiffusionPipeline") -> bool:
        """Whether it can go on the pipeline."""
        try:
            self.require_matching(pipeline)
        except UnreelError:
            return False
        return True

    @contextmanager
    def on(self, pipeline: "DiffusionPipeline") -> Iterator["DiffusionPipeline"]:
        """Inside, it is on the pipeline, and no other thread puts any on or off: for the requests of a service, each of
        which may want others.
        """
        with undisturbed(pipeline):
            self.apply(pipeline)
            try:
                yield pipeline
            finally:
                self.remove(pipeline)

    def __eq__(self, other: object) -> bool:
        """What does the same is the same, wherever it was loaded from."""
        return isinstance(other, Intervention) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)
