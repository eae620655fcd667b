"""Unlearn concepts in a pair: run a method, measure what it cost, and check how far it went.

Knows methods by their protocol only.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch

from unreel.cost import Cost
from unreel.errors import UnreelError, summarise
from unreel.evaluation.selfcheck import BATCH, Exam, Question, SelfCheck
from unreel.interventions.base import Intervention
from unreel.interventions.erasure import MOST_ROUNDED_AWAY, TEXT_ENCODER, Erasure, mostly_lost
from unreel.interventions.record import CHANGES, CHECK, DIGEST, ROUNDED_AWAY
from unreel.methods import DEFAULT, Task, configure, method_of, name_of
from unreel.models.anchors import anchor_for, near_to, prompts_for
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import is_felt
from unreel.models.loading import recorded
from unreel.models.memory import enough_memory
from unreel.models.pair import Pair, VideoModel
from unreel.models.reading import Meanings
from unreel.models.sampling import image_files
from unreel.prompts.concept import Concept

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


Concepts = Concept | str | Sequence[Concept | str]
Learned = TypeVar("Learned", bound=Intervention)


class WeakError(UnreelError):
    """An erasure does less than it should."""


@overload
def unlearn(
    concepts: Concepts,
    pair: "Pair | DiffusionPipeline",
    config: None = None,
    *,
    images: str | Path | None = None,
    keep: Sequence[str] = (),
) -> Erasure: ...


@overload
def unlearn(
    concepts: Concepts,
    pair: "Pair | DiffusionPipeline",
    config: Any,
    *,
    images: str | Path | None = None,
    keep: Sequence[str] = (),
) -> Intervention: ...


def unlearn(
    concepts: Concepts,
    pair: "Pair | DiffusionPipeline",
    config: Any = None,
    *,
    images: str | Path | None = None,
    keep: Sequence[str] = (),
) -> Intervention:
    """Unlearn one concept, or several together, with the method whose settings `config` holds; by default text ablation,
    which returns an Erasure, as most methods do. A text-to-video pipeline is a pair with itself.

    The pair's weights are left as they were. Erasures already on the image model stay on while learning; the result is to
    be added to them. `images` is a folder of pictures for the few-shot method to use in place of generated ones. `keep`
    names what methods that learn from text are to protect besides everything else.
    An erasure of text encoders is checked on held-out prompts; what the check found stands in its provenance.
    Raises UnreelError if a concept cannot be spelled or does not fit into the prompt, the method cannot do what is asked,
    the images cannot be read or the numbers break down.
    """
    pair = pair if isinstance(pair, Pair) else Pair.of(pair)
    if isinstance(keep, str):
        raise UnreelError("what to keep is a list of names")
    these = as_concepts(concepts)
    config = config or configure(DEFAULT, {}, pair.settings)
    folder = None if images is None else Path(images)
    task = Task(these, pair, keep, folder, name_of(config))
    first = task.conditioners[0]
    with Cost(first.device) as cost, enough_memory("unlearning", first.device, _ways_to_save(config, first)):
        learned = method_of(config).learn(task, config)
    _require_record(learned, config)
    spent = {
        "seconds": round(cost.seconds / len(these), 3),  # an equal share of the time all took together
        "peak_memory_gib": round(cost.peak_memory_gib, 3),
        **({} if folder is None else {DIGEST: digest_of(folder)}),
    }
    learned = learned.with_record(parts=[{**part, **spent} for part in learned.provenance["parts"]])
    if isinstance(learned, Erasure):
        learned = with_rounding(learned, pair)
    near = [task.near(conditioner) for conditioner in task.conditioners] if learned.edits_text_encoder else []
    return checked(learned, pair, seed=getattr(config, "seed", 0), near=near)


def with_rounding(erasure: Erasure, pair: Pair) -> Erasure:
    """The erasure, whose record says how much of it the precision of the pair's weights has no room for, if much."""
    lost = erasure.rounded_away(pair.t2i if erasure.edits_text_encoder else pair.t2v)
    return erasure.with_record(**{ROUNDED_AWAY: round(lost, 3)}) if lost > MOST_ROUNDED_AWAY else erasure


def checked(learned: Learned, pair: Pair, *, seed: int = 0, near: Sequence[Sequence[str] | None] = ()) -> Learned:
    """An intervention with its self-check in its record, as `check` makes it, if it changes a text encoder."""
    if not learned.edits_text_encoder:
        return learned
    return learned.with_record(**{CHECK: check(learned, pair, seed=seed, near=near).document()})  # type: ignore[arg-type]


def as_concepts(concepts: Concepts) -> list[Concept]:
    """What is meant by one or several, by name or as they are. Raises UnreelError for none, and for the same one twice."""
    if not isinstance(concepts, (Concept, str, Sequence)):
        raise UnreelError("concepts are names or Concepts")
    wanted = [concepts] if isinstance(concepts, (Concept, str)) else list(concepts)
    these = [Concept(concept) if isinstance(concept, str) else concept for concept in wanted]
    if not these:
        raise UnreelError("name at least one concept to forget")
    if len({concept.name.casefold() for concept in these}) < len(these):
        raise UnreelError("the same concept is named twice")
    return these


def _require_record(learned: Any, config: Any) -> None:
    """Raises UnreelError for what a method of another package makes, if nothing can be added to its record."""
    named = {each.name for each in fields(learned)} if is_dataclass(learned) else set()
    if not isinstance(learned, Intervention) or "provenance" not in named:
        raise UnreelError(
            f"the method {name_of(config)} made a {type(learned).__name__}, which is no Intervention that is a frozen "
            "dataclass with the field provenance"
        )


def _ways_to_save(config: Any, conditioner: Conditioner) -> list[str]:
    """Options that make unlearning need less memory, those that cost least first."""
    settings = asdict(config)
    ways = {
        "--dtype bfloat16": conditioner.text_encoder.dtype == torch.float32,
        "--batch-size 1": settings.get("batch_size", 1) > 1,
        "--gradient-checkpointing": settings.get("gradient_checkpointing") is False,
        "fewer --layers": "layers" in settings,
        "--rank 16": settings.get("rank") == 0,
        "--offload": "shots" in settings and settings.get("rank", 0) > 0 and conditioner.device.type != "cpu",
    }
    return [hint for hint, helps in ways.items() if helps]


def digest_of(images: Path) -> str:
    """Tells the pictures in a folder from others, whatever they are called but for their order."""
    each = [hashlib.sha256(file.read_bytes()).digest() for file in image_files(images)]
    return hashlib.sha256(b"".join(each)).hexdigest()[:16]


def was_asked_for(
    learned: Intervention,
    concepts: Sequence[Concept],
    pair: Pair,
    configs: Sequence[Any],
    images: str | Path | None = None,
    keep: Sequence[str] = (),
) -> bool:
    """Whether it is the erasure that `unlearn` makes of the same arguments, with its self-check; of several `configs`, the
    sum of theirs, of which the first learned from the given `images`.
    """
    parts, conditioners = learned.provenance["parts"], list(pair.conditioners().values())
    meanings: Meanings = {}
    made_on = (recorded(pair.t2i_source), str(conditioners[0].text_encoder.dtype).removeprefix("torch."))

    def same(part: dict[str, Any], config: Any, concept: Concept) -> bool:
        wanted = json.loads(json.dumps(asdict(config) | ({"keep": list(keep)} if keep else {})))
        given = images if config is configs[0] else None
        if given is not None and "shots" in wanted:
            wanted["shots"] = part["settings"].get("shots")  # as many as there were images
        asked = (part["concept"], part["kind"], tuple(part["synonyms"]), part["method"], part["settings"])
        if asked != (concept.name, concept.kind, concept.synonyms, name_of(config), wanted):
            return False
        if part.get(DIGEST) != (given and digest_of(Path(given))):
            return False
        if "anchor" not in part:
            return concept.anchor is None
        if concept.anchor is None and not method_of(config).__name__.startswith("unreel."):
            return True  # what another package's method makes instead is its own affair
        return part["anchor"] == anchor_for(concept, concepts, conditioners[0], pair.vocabulary, meanings)

    return (
        (CHECK in learned.provenance or not learned.edits_text_encoder)
        and made_on == (learned.provenance.get("encoder"), learned.provenance.get("dtype"))
        and len(parts) == len(configs) * len(concepts)
        and all(same(part, *each) for part, each in zip(parts, product(configs, concepts), strict=True))
    )


def check(erasure: Erasure, pair: Pair, *, seed: int = 0, near: Sequence[Sequence[str] | None] = ()) -> SelfCheck:
    """How far the erasure goes and what else it moves in the pair's text encoders, on held-out prompts; of several
    encoders, and of several ways in which the pipelines read with one, the worst.

    Distances are to the anchors that the erasure records; if it records none for some concept, nothing is said about them.
    `near` is what `near_to` says for each text encoder, as far as that is known; it is found out otherwise.
    Raises UnreelError if it has a delta for none of the encoders.
    """
    conditioners = list(pair.conditioners().values())
    parts = [part for part in erasure.provenance["parts"] if part.get(CHANGES, TEXT_ENCODER) == TEXT_ENCODER]
    concepts = [Concept.recorded(part) for part in parts]
    # As recorded, even where a sum of erasures forgets one's anchor too.
    meanings: Meanings = {}
    concepts = [
        concept
        if concept.anchor is not None
        else replace(concept, anchor=anchor_for(concept, concepts, conditioners[0], pair.vocabulary, meanings))
        for concept in concepts
    ]
    anchored, grades = all("anchor" in part for part in parts), []
    keep = list(dict.fromkeys(name for part in parts for name in part["settings"].get("keep", ())))
    with pair.readings() as readers:
        known = dict(enumerate(near))
        for (i, reader), component in product(enumerate(readers), erasure.components):
            if component.fingerprint.fits(reader.text_encoder):
                prompts = prompts_for(concepts, pair, reader, seed, held_out=True)
                about = known.get(i)
                about = near_to(concepts, reader, pair.vocabulary) if about is None else about
                grades.append(Exam(reader, prompts, about, keep, anchored=anchored).grade(component.deltas))
    if not grades:
        raise UnreelError(
            f"the erasure of {', '.join(erasure.concepts)} was made for another text encoder than this model's"
        )
    return SelfCheck.worst_of(grades)


class Everyday:
    """Everyday prompts, as a video model's text encoders read them with nothing on yet. Erasures that were made apart add
    up, and so does what each moves by the way.
    """

    def __init__(self, model: VideoModel) -> None:
        pair = model.alone
        self._asked = [
            Question.about(reader, prompts_for((), pair, reader, 0, held_out=True).everyday(BATCH))
            for reader in pair.conditioners().values()
        ]

    def moved(self) -> float:
        """How far what is on now moves them: the median over prompts, of the worst encoder."""
        return float(np.max([0.0, *(np.median(asked.moved(asked.given())) for asked in self._asked)]))


def require_some_change(erasure: Intervention) -> None:
    """Raises WeakError if an erasure leaves every weight as it is, of the text encoders or of what denoises that it is
    for, or if most of what it changes is rounded away in the precision that it was learned in.
    """
    if lost := erasure.provenance.get(ROUNDED_AWAY):
        raise WeakError(
            f"{mostly_lost(erasure.concepts, lost)}: learn it and load the model in float32, or learn it at a larger rate"
        )
    components = getattr(erasure, "components", ())
    for of in dict.fromkeys(component.of for component in components):
        deltas = [component.deltas for component in components if component.of == of]
        if any(is_felt(change) for changes in deltas for change in changes.values()):
            continue
        what = "nothing" if of == TEXT_ENCODER else "nothing of what denoises"
        why = "".join(f" ({part['stopped']})" for part in erasure.provenance["parts"][:1] if "stopped" in part)
        raise WeakError(f"the erasure of {', '.join(erasure.concepts)} changes {what}{why}")


def require_strong(erasure: Intervention) -> None:
    """Raises WeakError if the erasure's self-check falls short of the stated bars, or it has none."""
    if CHECK not in erasure.provenance:
        raise WeakError(f"the erasure of {', '.join(erasure.concepts)} has no self-check")
    shortfalls = erasure.provenance[CHECK]["shortfalls"]
    if shortfalls:
        named = summarise(erasure.concepts, 5)
        raise WeakError(f"the erasure of {named} falls short on held-out prompts: {'; '.join(shortfalls)}")
