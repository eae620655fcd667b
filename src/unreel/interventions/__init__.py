"""Interventions make a model forget: they go on pipelines and come off again, and are saved, loaded and shipped.

Another package announces a kind of its own under its KIND: a frozen dataclass that is an Intervention. The record that it
saves holds KIND under the key `KIND` of `unreel.interventions.record`; `Kind(record)` makes it anew of the rest.
"""

import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unreel.errors import UnreelError
from unreel.interventions.base import RECORD_FILE, Intervention, fetched
from unreel.interventions.erasure import Erasure, active_on
from unreel.interventions.prompt import NegativePrompt, PromptIntervention, PromptRewrite, on_prompts
from unreel.interventions.record import KIND, require_record
from unreel.interventions.safree import Safree, VideoEraser
from unreel.models.adapter import changeable
from unreel.plugins import Registry

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ON_PROMPTS: dict[str, type[PromptIntervention]] = {
    kind.KIND: kind for kind in (NegativePrompt, PromptRewrite, Safree, VideoEraser)
}


def _unsound(kind: Any) -> str:
    """What is wrong with a kind of another package; empty if nothing is."""
    sound = isinstance(kind, type) and issubclass(kind, Intervention) and is_dataclass(kind)
    return "" if sound else "it is no dataclass that is an Intervention"


_REGISTRY = Registry("interventions", (), "intervention", ("KIND",), unsound=_unsound)


def load_intervention(folder: str | Path) -> Intervention:
    """The intervention that was saved in a folder, or under a hub id.

    Raises UnreelError if it cannot be fetched, is broken, or is of a kind that neither unreel nor an installed package
    knows.
    """
    folder = fetched(folder)
    file = folder / RECORD_FILE
    if not file.is_file():
        return Erasure.from_pretrained(folder)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        kind = record.pop(KIND, None)
        if kind is None:
            return Erasure.from_pretrained(folder)
        if kind not in (*ON_PROMPTS, *_REGISTRY.names()):
            raise UnreelError(
                f"{folder} holds a {kind!r}, which neither this version of unreel nor an installed package knows"
            )
        require_record(record)
        kind_class = ON_PROMPTS.get(kind) or _REGISTRY.load(kind)
        if kind_class is PromptRewrite and any("anchor" not in part for part in record["parts"]):
            raise ValueError("it does not say what to ask for instead")
        intervention = kind_class(record)
        intervention.identity  # noqa: B018  (which reads all its settings)
        return intervention
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreelError(f"{file} is broken ({error}): fetch or make it again") from error


def active_interventions(pipeline: "DiffusionPipeline") -> list[Intervention]:
    """The interventions on the pipeline: first those that change weights, of text encoders before networks, then those that
    change prompts. On each part, they are in the order in which they were put on.
    """
    weights = dict.fromkeys(on for part in changeable(pipeline).values() for on in active_on(part))
    return [*weights, *on_prompts(pipeline)]


def require_original(pipeline: "DiffusionPipeline") -> None:
    """Raises UnreelError if anything is on the pipeline: what it makes is to be compared with the original's."""
    if on := active_interventions(pipeline):
        what = f"what forgets {', '.join(on[0].concepts)}"
        raise UnreelError(f"{what} is on this {type(pipeline).__name__}: take it off first")
