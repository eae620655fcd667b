"""What evaluation, attacks and reports know of whatever makes a model forget: it goes on a pipeline and comes off again.

Knows pipelines as things to be on; knows nothing about what is changed in them.
"""

import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from unreel.errors import UnreelError
from unreel.files import file_names, write_json, write_text
from unreel.interventions.card import CARD_FILE, card, figures_of
from unreel.models.adapter import undisturbed
from unreel.models.loading import is_hub_id, loading, repository, shown

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

RECORD_FILE = "erasure.json"  # in the folder of every intervention
WEIGHTS_FILE = "erasure.safetensors"  # in the folders of those that change weights
EVALUATION_FOLDER, ATTACKS_FOLDER = "evaluation", "attacks"  # in the folder of one that was evaluated, or attacked
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"  # where one was evaluated, or looked at


def without_paths(document: dict[str, Any]) -> dict[str, Any]:
    """A record that calls models as cards do: where they lay on somebody's disk is nobody else's affair."""
    return document | {name: shown(document[name]) for name in ("encoder", "model", "image_model") if name in document}


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

    def require_felt(self, pipeline: "DiffusionPipeline", guidance: float) -> None:  # noqa: B027  (most are)
        """Raises UnreelError where it can go on, but would do nothing to what is made with so much guidance."""

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

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, folder: str | Path | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the hub, to be loaded with `load_intervention(repo_id)`; returns where it
        is.

        `folder` is where it was saved: the figures and reports that lie there, if it was evaluated or looked at, go with
        it, and those of an earlier upload go. Models are called as on its card, without the folders that they lie in.
        Raises UnreelError if the hub cannot be reached or refuses.
        """
        from huggingface_hub import create_repo, upload_folder

        looks = self._looks(Path(folder)) if folder else {}
        figures = self.figures(folder) if folder else ""
        with tempfile.TemporaryDirectory() as parent, loading(repo_id):
            made = self.save_pretrained(Path(parent) / "erasure")
            for name, look in looks.items():
                (made / name).mkdir(exist_ok=True)
                for file in filter(Path.is_file, (look / METRICS_FILE, look / REPORT_FILE)):
                    shutil.copy(file, made / name)
            for file in made.rglob("*.json"):
                write_json(file, without_paths(json.loads(file.read_text(encoding="utf-8"))))
            write_text(made / CARD_FILE, card(self, repo_id, figures))
            create_repo(repo_id, private=private, token=token, exist_ok=True)
            message = f"Erasure of {', '.join(self.concepts)}"
            former = [WEIGHTS_FILE, *(f"{home}{file}" for home in ("", "*/") for file in (METRICS_FILE, REPORT_FILE))]
            upload_folder(repo_id=repo_id, folder_path=made, commit_message=message, token=token, delete_patterns=former)
        return f"https://huggingface.co/{repo_id}"

    def figures(self, folder: str | Path) -> str:
        """What cards say of the figures that lie in its folder, if it was evaluated or looked at; else nothing. Raises
        UnreelError if they cannot be read.
        """
        looks = self._looks(Path(folder)).values()
        return "".join(figures_of(look / METRICS_FILE, several=len(self.concepts) > 1) for look in looks)

    def _looks(self, folder: Path) -> dict[str, Path]:
        """Where figures lie in its folder, by where they go on the hub: those of an evaluation or else of the first look;
        and of several concepts, the same of each.
        """
        homes, names = (folder / EVALUATION_FOLDER, folder), map(self.file_name_of, self.concepts)
        places = [*(("", home) for home in homes), *((name, home / name) for name in names for home in homes)]
        found: dict[str, Path] = {}
        for name, look in places:
            if (look / METRICS_FILE).is_file() and look not in found.values():
                found.setdefault(name, look)
        return found

    def with_record(self, **more: Any) -> Self:
        """The same, with more in its record. What makes interventions makes frozen dataclasses."""
        return replace(self, provenance={**self.provenance, **more})  # type: ignore[type-var]

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

    def file_name_of(self, concept: str) -> str:
        """What a folder about one of its concepts is called, each of them otherwise."""
        return {name.casefold(): called for name, called in file_names(self.concepts).items()}[concept.casefold()]

    @property
    def model(self) -> str:
        """The video model that it was learned with; files of version 0.1 name its text encoder's alone."""
        return self.provenance.get("model", self.provenance["encoder"])

    @property
    def edits_text_encoder(self) -> bool:
        """Whether a text encoder itself is changed, so that who holds its weights can study it."""
        return False

    @property
    def projects(self) -> bool:
        """Whether what text encoders write for every prompt is changed before it is read, and no weight of theirs."""
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


def fetched(folder: str | Path) -> Path:
    """Where an intervention lies that is in a folder, or on the hub under an id. Raises UnreelError if that has none."""
    name, version = repository(str(folder))
    if Path(folder).exists() or not is_hub_id(str(folder)):
        return Path(folder)
    from huggingface_hub import snapshot_download

    with loading(str(folder)):
        files = [WEIGHTS_FILE, RECORD_FILE, CARD_FILE]
        return Path(snapshot_download(name, revision=version, allow_patterns=files))
