"""What makes a model forget, as things that go on pipelines and come off again, are saved, loaded and shipped.

A kind of another package is announced under its KIND, which stands in the record that it saves (`KIND` of
`unreel.interventions.base`): a frozen dataclass that is an Intervention, and is made anew of that record, `Kind(record)`.
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
from unreel.models.adapter import networks, text_encoders
from unreel.plugins import Registry

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ON_PROMPTS: dict[str, type[PromptIntervention]] = {
    kind.KIND: kind for kind in (NegativePrompt, PromptRewrite, Safree, VideoEraser)
}


def _unsound(kind: Any) -> str:
    """What is wrong with a kind of another package."""
    sound = isinstance(kind, type) and issubclass(kind, Intervention) and is_dataclass(kind)
    return "" if sound else "it is no dataclass that is an Intervention"


_REGISTRY = Registry("interventions", (), "intervention", ("KIND",), unsound=_unsound)


def load_intervention(folder: str | Path) -> Intervention:
    """What was saved in a folder, or under a hub id: an erasure, or what else makes models forget.

    Raises UnreelError for what cannot be fetched, is broken, or is of no kind that unreel knows.
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
        made_of = ON_PROMPTS.get(kind) or _REGISTRY.load(kind)
        if made_of is PromptRewrite and any("anchor" not in part for part in record["parts"]):
            raise ValueError("it does not say what to ask for instead")
        intervention = made_of(record)
        intervention.identity  # noqa: B018  (which reads all its settings)
        return intervention
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreelError(f"{file} is broken ({error}): fetch or make it again") from error


def active_interventions(pipeline: "DiffusionPipeline") -> list[Intervention]:
    """What is on the pipeline, in the order in which it was put on; what changes prompts comes last."""
    parts = [*text_encoders(pipeline).values(), *networks(pipeline).values()]
    return [*dict.fromkeys(on for part in parts for on in active_on(part)), *on_prompts(pipeline)]
