"""The protocol of interventions, which is all that evaluation, attacks and reports know of them: an intervention goes on a
pipeline and comes off again.

Knows pipelines as what interventions go on; knows nothing about what they change there.
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
EVALUATION_FOLDER, ATTACKS_FOLDER = "evaluation", "attacks"  # in its folder, once it was evaluated or attacked
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"  # in the folder of an evaluation or of a first look


def without_paths(document: dict[str, Any]) -> dict[str, Any]:
    """The record with models named as on cards, without the paths of folders, which are private."""
    return document | {name: shown(document[name]) for name in ("encoder", "model", "image_model") if name in document}


class Intervention(ABC):
    """A frozen change that makes pipelines forget concepts while it is on them.

    `provenance` is its record: the concepts with the method and the settings of each, and the versions of everything that
    mattered. Interventions with the same `identity` are equal, wherever they were loaded from.
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
        """The bytes of its changes of weights, as in the saved file."""

    @abstractmethod
    def require_matching(self, pipeline: "DiffusionPipeline") -> None:
        """Raises UnreelError, saying what differs, unless it can go on the pipeline."""

    def require_felt(self, pipeline: "DiffusionPipeline", guidance: float) -> None:  # noqa: B027  (most are)
        """Raises UnreelError if it can go on, but would do nothing, or hardly anything, to videos made at this guidance."""

    @abstractmethod
    def apply(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        """Put it on, on top of what is on already; returns the pipeline. Raises UnreelError, and changes nothing, if it
        does not match or is on already.
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
        """Upload what `save_pretrained` writes to the hub, to be loaded with `load_intervention(repo_id)`; returns its
        address.

        `folder` is where it was saved: if it was evaluated or looked at, the figures and reports there are uploaded too.
        Those of an earlier upload are deleted. Models are named as on its card, without the paths of their folders.
        Raises UnreelError if the hub cannot be reached or refuses.
        """
        from huggingface_hub import create_repo, upload_folder

        looks = self._looks(Path(folder)) if folder else {}
        figures = self.figures(folder) if folder else ""
        with tempfile.TemporaryDirectory() as parent, loading(repo_id):
            saved = self.save_pretrained(Path(parent) / "erasure")
            for name, look in looks.items():
                (saved / name).mkdir(exist_ok=True)
                for file in filter(Path.is_file, (look / METRICS_FILE, look / REPORT_FILE)):
                    shutil.copy(file, saved / name)
            for file in saved.rglob("*.json"):
                write_json(file, without_paths(json.loads(file.read_text(encoding="utf-8"))))
            write_text(saved / CARD_FILE, card(self, repo_id, figures))
            create_repo(repo_id, private=private, token=token, exist_ok=True)
            message = f"Erasure of {', '.join(self.concepts)}"
            former = [WEIGHTS_FILE, *(f"{home}{file}" for home in ("", "*/") for file in (METRICS_FILE, REPORT_FILE))]
            upload_folder(repo_id=repo_id, folder_path=saved, commit_message=message, token=token, delete_patterns=former)
        return f"https://huggingface.co/{repo_id}"

    def figures(self, folder: str | Path) -> str:
        """The card's text about the figures in its folder; empty if it was neither evaluated nor looked at. Raises
        UnreelError if they cannot be read.
        """
        looks = self._looks(Path(folder)).values()
        return "".join(figures_of(look / METRICS_FILE, several=len(self.concepts) > 1) for look in looks)

    def _looks(self, folder: Path) -> dict[str, Path]:
        """The folders within its folder that hold figures, by their names on the hub: that of an evaluation, or else of
        the first look, is "" there; for several concepts, each may have one under its own name.
        """
        homes, names = (folder / EVALUATION_FOLDER, folder), map(self.file_name_of, self.concepts)
        places = [*(("", home) for home in homes), *((name, home / name) for name in names for home in homes)]
        looks: dict[str, Path] = {}
        for name, look in places:
            for file in (look / METRICS_FILE, look / REPORT_FILE):
                if not file.resolve().is_relative_to(folder.resolve()):
                    raise UnreelError(f"{file} is a link to what may not be for everybody: put the file itself there")
            if (look / METRICS_FILE).is_file() and look not in looks.values():
                looks.setdefault(name, look)
        return looks

    def with_record(self, **more: Any) -> Self:
        """A copy with more in its record: every kind of intervention is a frozen dataclass."""
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
        """The names of its concepts, each once, even if several methods erase it."""
        named: dict[str, str] = {}
        for part in self.provenance["parts"]:
            named.setdefault(part["concept"].casefold(), part["concept"])
        return list(named.values())

    def file_name_of(self, concept: str) -> str:
        """The name of a folder about one of its concepts; no two concepts share one."""
        return {name.casefold(): called for name, called in file_names(self.concepts).items()}[concept.casefold()]

    @property
    def model(self) -> str:
        """The video model that it was learned with; files of version 0.1 name only the model of its text encoder."""
        return self.provenance.get("model", self.provenance["encoder"])

    @property
    def edits_text_encoder(self) -> bool:
        """Whether it changes the weights of a text encoder, which whoever holds them can study."""
        return False

    @property
    def projects(self) -> bool:
        """Whether it changes the text encoders' output for every prompt before that is used, and none of their weights."""
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
        """Inside, it is on the pipeline, and no other thread puts interventions on or takes them off, so that each request
        of a service may want others.
        """
        with undisturbed(pipeline):
            self.apply(pipeline)
            try:
                yield pipeline
            finally:
                self.remove(pipeline)

    def __eq__(self, other: object) -> bool:
        """Whether the other has the same identity, wherever either was loaded from."""
        return isinstance(other, Intervention) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


def fetched(folder: str | Path) -> Path:
    """The folder of an intervention, which is fetched if `folder` is a hub id. Raises UnreelError if it cannot be, and for
    an owner who is called like a folder of erasures here: that is a path with a slip in it, not to be asked for at the hub.
    """
    name, version = repository(str(folder))
    if Path(folder).exists() or not is_hub_id(str(folder)):
        return Path(folder)
    if any(Path(name).parent.glob(f"*/{RECORD_FILE}")):
        raise UnreelError(
            f"there is no {folder}, and it is not looked for at the hub: {Path(name).parent} is a folder of erasures here"
        )
    from huggingface_hub import snapshot_download

    with loading(str(folder)):
        files = [WEIGHTS_FILE, RECORD_FILE, CARD_FILE]
        return Path(snapshot_download(name, revision=version, allow_patterns=files))
