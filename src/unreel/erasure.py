"""The artifact: what unlearning changed in a text encoder, with its provenance, and how to put it on and take it off.

Knows text encoders as named tensors; knows nothing about how the change was found.
"""

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError, summarise
from unreel.files import write_folder
from unreel.models.adapter import text_encoders
from unreel.models.loading import loading
from unreel.models.weights import (
    Change,
    Fingerprint,
    LowRank,
    is_quantized,
    locked,
    owners_on,
    portable,
    put_on,
    stands_beside,
    take_off,
    total,
)
from unreel.record import require_record

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

WEIGHTS_FILE, PROVENANCE_FILE, CARD_FILE = "erasure.safetensors", "erasure.json", "README.md"
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
CHECK = "check"  # what a self-check said, in an erasure's provenance
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAMPLES_KEY, _OTHERS_KEY = "fingerprint", "other_encoders"
_UP, _DOWN = ":up", ":down"
_SAVED = "unreel_erased"  # in the configuration of a text encoder, what was erased from it


def _tensors(name: str, change: Change) -> dict[str, torch.Tensor]:
    """What to store of a change, by the names to store it under."""
    return {name + _UP: change.up, name + _DOWN: change.down} if isinstance(change, LowRank) else {name: change}


@dataclass(frozen=True, eq=False)
class Edit:
    """What changes in one text encoder: `changes` maps the names of weights, without what libraries put around them, to
    what is added to them.
    """

    changes: dict[str, Change]
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", {portable(name): change for name, change in self.changes.items()})

    def stored(self) -> dict[str, torch.Tensor]:
        return {key: tensor for name, change in self.changes.items() for key, tensor in _tensors(name, change).items()}

    def __add__(self, other: "Edit") -> "Edit":
        changes = dict(self.changes)
        for name, change in other.changes.items():
            changes[name] = total(changes[name], change) if name in changes else change
        return Edit(changes, self.fingerprint)


@dataclass(frozen=True, eq=False)
class Erasure:
    """A frozen set of weight changes: one edit for each of the text encoders that a model reads prompts with, often one.

    `provenance` holds the concepts, the method, its settings, the losses and the versions of everything that mattered.
    """

    edits: tuple[Edit, ...]
    provenance: dict[str, Any]

    @property
    def changes(self) -> dict[str, Change]:
        """Of the first text encoder."""
        return self.edits[0].changes

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the first text encoder."""
        return self.edits[0].fingerprint

    @property
    def concepts(self) -> list[str]:
        return [part["concept"] for part in self.provenance["parts"]]

    @cached_property
    def identity(self) -> str:
        """A short name for exactly these changes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._stored().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _stored(self) -> dict[str, torch.Tensor]:
        """The first text encoder's tensors by name, those of others with their number before it."""
        return {_numbered(i, key): tensor for i, edit in enumerate(self.edits) for key, tensor in edit.stored().items()}

    def __eq__(self, other: object) -> bool:
        """What makes the same changes is the same erasure, wherever it was loaded from."""
        return isinstance(other, Erasure) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    @property
    def nbytes(self) -> int:
        """Bytes of the changed weights, which is what the saved file weighs."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._stored().values())

    def __add__(self, other: "Erasure") -> "Erasure":
        """One erasure that does what both do. Raises UnreelError if they are the same, or share no text encoder."""
        if self == other:
            raise UnreelError(f"they are the same erasure of {', '.join(self.concepts)}: once is enough")
        edits = list(self.edits)
        for new in other.edits:
            same = [i for i, edit in enumerate(self.edits) if edit.fingerprint.matches(new.fingerprint)]
            if same:
                edits[same[0]] += new
            else:
                edits.append(new)
        if len(edits) == len(self.edits) + len(other.edits):
            raise UnreelError(f"{self.concepts} and {other.concepts} were made for different text encoders")
        parts = self.provenance["parts"] + other.provenance["parts"]
        # What was said of each does not hold for both together.
        provenance = {name: value for name, value in self.provenance.items() if name != CHECK}
        return Erasure(tuple(edits), {**provenance, "parts": parts})

    def apply(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        """Put the erasure on those of the pipeline's text encoders that it has edits for, whatever the pipeline calls them,
        on top of any other; returns the pipeline.

        Raises UnreelError if it has an edit for none of them, and for an erasure that is already on.
        """
        with undisturbed(pipeline):
            fitting = self.fitting(pipeline)
            if any(self in worn_on(encoder) for encoder in fitting):
                raise UnreelError(f"the erasure of {', '.join(self.concepts)} is already on this pipeline")
            with ExitStack() as undo:  # on all of them or on none
                for encoder, edit in fitting.items():
                    put_on(encoder, self, edit.changes)
                    undo.callback(take_off, encoder, self)
                undo.pop_all()
            for encoder in fitting:
                _note(encoder)
        return pipeline

    def fitting(self, pipeline: "DiffusionPipeline") -> dict[nn.Module, Edit]:
        """Those of the pipeline's text encoders that the erasure has an edit for, with it.

        Raises UnreelError, saying what differs, if there is none.
        """
        encoders = text_encoders(pipeline)
        if not encoders:
            raise UnreelError(f"this {type(pipeline).__name__} has no text encoder: an erasure has nothing to change in it")
        found: dict[nn.Module, Edit] = {}
        for encoder, edit in product(encoders.values(), self.edits):
            if edit.fingerprint.fits(encoder) or edit.fingerprint.fits_quantized(encoder):
                found[encoder] = edit
        left = [edit for edit in self.edits if all(edit is not other for other in found.values())]
        for name, encoder in encoders.items():
            for edit in (edit for edit in left if encoder not in found and edit.fingerprint.nearly_fits(encoder)):
                found[encoder] = edit
                warnings.warn(
                    f"matrices of this {name} are not quite those that the erasure of {', '.join(self.concepts)} was made "
                    "for, as after a fused LoRA: it goes on top, but nobody has measured what it does there",
                    stacklevel=3,
                )
        # One that is built like one that an edit is for, and is another, would go without it.
        missing = {
            name: encoder
            for name, encoder in encoders.items()
            if encoder not in found and (not found or any(edit.fingerprint.is_built_like(encoder) for edit in left))
        }
        if missing:
            why = "; ".join(f"{name} {self._mismatch(encoder)}" for name, encoder in missing.items())
            raise UnreelError(
                f"the erasure of {', '.join(self.concepts)} was made for another text encoder than this pipeline's: {why}"
            )
        return found

    def _mismatch(self, encoder: nn.Module) -> str:
        """Why it fits no text encoder like this one, and what to do."""
        saved = getattr(encoder.config, _SAVED, None)
        if saved and not worn_on(encoder):
            return f"was saved with an erasure of {', '.join(saved)} in it: load the original"
        if any(is_quantized(weight) for weight in encoder.parameters()):
            return (
                "is quantized, and of another model in what is not: unlearn the concept again with the model it was made of"
            )
        differing = min((edit.fingerprint.differing(encoder) for edit in self.edits), key=len)
        if len(differing) <= sum(weight.ndim > 1 for weight in encoder.parameters()) / 2:
            return f"has other weights in {summarise(differing)}: unlearn the concept again with this model"
        return "is another model: unlearn the concept again with it"

    def remove(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        """Take the erasure off again; without any left, the weights are the original ones bit for bit.

        Raises UnreelError if it is not on.
        """
        with undisturbed(pipeline):
            wearing = [encoder for encoder in text_encoders(pipeline).values() if self in worn_on(encoder)]
            if not wearing:
                raise UnreelError(f"the erasure of {', '.join(self.concepts)} is not on this pipeline")
            for encoder in wearing:
                take_off(encoder, self)
                _note(encoder)
        return pipeline

    @contextmanager
    def on(self, pipeline: "DiffusionPipeline") -> Iterator["DiffusionPipeline"]:
        """Inside, the erasure is on the pipeline, and no other thread puts any on or off: for the requests of a service,
        each of which may want others.
        """
        with undisturbed(pipeline):
            self.apply(pipeline)
            try:
                yield pipeline
            finally:
                self.remove(pipeline)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write weights, provenance and model card; the folder appears complete or not at all."""
        from safetensors.torch import save_file

        def fill(partial: Path) -> None:
            tensors = {name: tensor.contiguous() for name, tensor in self._stored().items()}
            tensors |= {_numbered(i, _SAMPLES_KEY): edit.fingerprint.samples for i, edit in enumerate(self.edits)}
            save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
            prints = [edit.fingerprint for edit in self.edits]
            first, *others = [{"encoder_identity": one.identity, "structure": one.structure} for one in prints]
            document = {**first, **({_OTHERS_KEY: others} if others else {}), **self.provenance}
            (partial / PROVENANCE_FILE).write_text(json.dumps(document, indent=2) + "\n")
            (partial / CARD_FILE).write_text(_card(self))

        return write_folder(Path(folder), fill, PROVENANCE_FILE, overwrite=overwrite)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, folder: str | Path | None = None
    ) -> str:
        """Upload weights, provenance and model card to the hub, to be loaded with `from_pretrained(repo_id)`; returns where
        they are.

        `folder` is where the erasure was saved: the figures and the report that lie there, if it was evaluated, go with it.
        Raises UnreelError if the hub cannot be reached or refuses.
        """
        from huggingface_hub import create_repo, upload_folder

        with tempfile.TemporaryDirectory() as parent, loading(repo_id):
            made = self.save_pretrained(Path(parent) / "erasure")
            for name in (METRICS_FILE, REPORT_FILE):
                if folder and (Path(folder) / name).is_file():
                    shutil.copy(Path(folder) / name, made)
            (made / CARD_FILE).write_text(_card(self, repo_id, _figures(made / METRICS_FILE)))
            create_repo(repo_id, private=private, token=token, exist_ok=True)
            message = f"Erasure of {', '.join(self.concepts)}"
            upload_folder(repo_id=repo_id, folder_path=made, commit_message=message, token=token)
        return f"https://huggingface.co/{repo_id}"

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Erasure":
        """Load an erasure from a folder or a hub id. Raises UnreelError for what cannot be fetched or is broken."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if _HUB_ID.fullmatch(str(folder)) and not Path(folder).exists():
            from huggingface_hub import snapshot_download

            with loading(str(folder)):
                folder = snapshot_download(str(folder), allow_patterns=[WEIGHTS_FILE, PROVENANCE_FILE, CARD_FILE])
        folder = Path(folder)
        for file in (WEIGHTS_FILE, PROVENANCE_FILE):
            if not (folder / file).is_file():
                raise UnreelError(f"{folder} is no erasure: it has no {file}")
        try:
            tensors = load_file(folder / WEIGHTS_FILE)
            provenance = json.loads((folder / PROVENANCE_FILE).read_text())
            provenance.pop("encoder_identity")
            structures = [provenance.pop("structure"), *(it["structure"] for it in provenance.pop(_OTHERS_KEY, []))]
            require_record(provenance)
            edits = []
            for i, structure in reversed(list(enumerate(structures))):  # the first one's tensors are those that are left
                own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_numbered(i, ""))}
                own = {name.removeprefix(_numbered(i, "")): tensor for name, tensor in own.items()}
                fingerprint = Fingerprint(structure, own.pop(_SAMPLES_KEY))
                _require_sound(own)
                edits.append(Edit(_changes(own), fingerprint))
            return cls(tuple(reversed(edits)), provenance)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnreelError(f"the erasure in {folder} is broken ({error}): fetch or make it again") from error


def _note(encoder: nn.Module) -> None:
    """Let the encoder's configuration say what is on it, so that whoever saves it and loads it elsewhere can be told."""
    concepts = [concept for erasure in worn_on(encoder) for concept in erasure.concepts]
    if concepts and not stands_beside(encoder):  # which no file would hold
        setattr(encoder.config, _SAVED, concepts)
    elif hasattr(encoder.config, _SAVED):
        delattr(encoder.config, _SAVED)


def _numbered(i: int, name: str) -> str:
    """How a tensor of the text encoder number `i` is called in the file."""
    return f"{i}/{name}" if i else name


def _require_sound(tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError unless these are the tensors of a change."""
    if not tensors:
        raise ValueError("it changes nothing")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{name} is not made of numbers")
        base = name.removesuffix(_UP).removesuffix(_DOWN)
        if base != name:
            up, down = tensors.get(base + _UP), tensors.get(base + _DOWN)
            if up is None or down is None or up.ndim != 2 or down.ndim != 2 or up.shape[1] != len(down):
                raise ValueError(f"{base} is half a product")


def _changes(tensors: dict[str, torch.Tensor]) -> dict[str, Change]:
    """The changes that were stored as `tensors`."""
    out: dict[str, Change] = {name: tensor for name, tensor in tensors.items() if not name.endswith((_UP, _DOWN))}
    for name in tensors:
        if name.endswith(_UP):
            name = name.removesuffix(_UP)
            out[name] = LowRank(tensors[name + _UP], tensors[name + _DOWN])
    return out


@contextmanager
def undisturbed(pipeline: "DiffusionPipeline") -> Iterator["DiffusionPipeline"]:
    """Inside, no other thread puts erasures on the pipeline or off: for requests that want what is on, or nothing."""
    with locked(text_encoders(pipeline).values()):
        yield pipeline


def worn_by(pipeline: "DiffusionPipeline") -> list[Erasure]:
    """The erasures that are on the pipeline, in the order in which they were put on."""
    return list(dict.fromkeys(on for encoder in text_encoders(pipeline).values() for on in worn_on(encoder)))


def worn_on(text_encoder: nn.Module) -> list[Erasure]:
    """The erasures that are on a text encoder, in the order in which they were put on."""
    return owners_on(text_encoder)


def _card(erasure: Erasure, source: str = "path/to/this/folder", figures: str = "") -> str:
    concepts = ", ".join(erasure.concepts)
    rows = "\n".join(
        f"- **{part['concept']}** ({part['kind']}): {part['method']}, {_instead(part)}"
        + ", ".join(f"{key} {value}" for key, value in part["settings"].items())
        for part in erasure.provenance["parts"]
    )
    encoder = erasure.provenance["encoder"]
    on_hub = _HUB_ID.fullmatch(encoder) and not Path(encoder).exists()
    return f"""---
library_name: unreel
tags: [concept-erasure, unlearning, text-to-video, text-to-image]{f"{chr(10)}base_model: {encoder}" if on_hub else ""}
---
# Erasure: {concepts}

Weight changes for the text encoder of `{encoder}`, to make the models that share it forget the
concept. Made with unreel {erasure.provenance["versions"]["unreel"]}. What that did to videos stands in `metrics.json` and
`report.html` beside this card, and in full in `evaluation/`, if the erasure was evaluated; without them, nobody looked at
any video.

{rows}

{_checked(erasure)}
{figures}
## Use

```python
from unreel import Erasure

erasure = Erasure.from_pretrained("{source}")
erasure.apply(pipeline)   # any diffusers pipeline with this text encoder
erasure.remove(pipeline)  # bit for bit the original again
```

## Limits

Only the text encoder changes; the denoiser still knows the concept. This protects a service that hosts the model, or a
release of the changed weights, against prompts that name the concept, as far as its figures go; `unreel attack` tries
adversarial ones, with results in `attacks/` if it was run. It does not withstand someone who holds all weights and puts the
original text encoder back, fine-tunes, or searches the encoder's output space.
"""


def _checked(erasure: Erasure) -> str:
    """What a card says of the self-check."""
    check = erasure.provenance.get(CHECK)
    if not check:
        return "**No self-check was made of this erasure.**"
    weak = "".join(f"\n- **Falls short:** {shortfall}" for shortfall in check["shortfalls"])
    return f"Self-check on prompts that nothing was learned from: {check['summary']}.{weak}"


def _figures(file: Path) -> str:
    """What a card says of an evaluation's figures; nothing without them."""
    if not file.is_file():
        return ""
    document = json.loads(file.read_text())

    def cell(estimates: dict[str, dict[str, Any]] | None) -> str:
        if not estimates:
            return ""
        low, high = list(estimates.values())[-1]["ci"]
        return " → ".join(f"{100 * it['value']:.0f}" for it in estimates.values()) + f" [{100 * low:.0f}, {100 * high:.0f}]"

    found = {group: (it.get("concept_found"), it.get("label_found")) for group, it in document["figures"].items()}
    rows = [f"| {group} | {cell(concept)} | {cell(other)} |" for group, (concept, other) in found.items() if concept]
    if not rows:
        return ""
    head = [
        "| prompts | concept found, % | what else was asked for found, % |",
        "| --- | --- | --- |",
    ]
    note = f"Without → with the erasure [95 % interval], judged by the {document['judge']['name']}, on {document['model']}."
    return "\n".join(["", "## Figures", "", *head, *rows, "", note, ""])


def _instead(part: dict[str, Any]) -> str:
    """What a card says of the anchor."""
    if "anchor" not in part:
        return ""
    return f"{part['anchor']!r} in its place, " if part["anchor"] else "nothing in its place, "
