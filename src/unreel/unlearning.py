"""Unlearn concepts in a pair: run a method, measure what it cost, and check how far it went.

Knows methods by their protocol only.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from unreel.checking import checked
from unreel.cost import Cost
from unreel.errors import UnreelError
from unreel.interventions.base import Intervention
from unreel.interventions.erasure import MOST_ROUNDED_AWAY, Erasure
from unreel.interventions.record import CHECK, DIGEST, ROUNDED_AWAY
from unreel.methods import DEFAULT, Task, configure, method_of, name_of
from unreel.models.anchors import anchor_for
from unreel.models.conditioner import Conditioner
from unreel.models.loading import recorded
from unreel.models.memory import enough_memory
from unreel.models.pair import Pair
from unreel.models.reading import Meanings
from unreel.models.sampling import image_files
from unreel.prompts.concept import Concept

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


Concepts = Concept | str | Sequence[Concept | str]


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
    enough = enough_memory("unlearning", first.device, _ways_to_save(config, first))
    with pair.gradients_as_found(), Cost(first.device) as cost, enough:
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
    with enough_memory("checking", first.device, ["--dtype bfloat16"] if first.text_encoder.dtype == torch.float32 else []):
        return checked(learned, pair, seed=getattr(config, "seed", 0), near=near)


def with_rounding(erasure: Erasure, pair: Pair) -> Erasure:
    """The erasure; its record says which share of it is rounded away in the precision of the pair's weights, if most is."""
    lost = erasure.rounded_away(pair.t2v if erasure.edits_network else pair.t2i)
    return erasure.with_record(**{ROUNDED_AWAY: round(lost, 3)}) if lost > MOST_ROUNDED_AWAY else erasure


def as_concepts(concepts: Concepts) -> list[Concept]:
    """A list of Concepts, from one or several, or their names. Raises UnreelError for none, and for the same one twice."""
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
    """Raises UnreelError if the method, which may be another package's, made something to whose record nothing can be
    added.
    """
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
    """A digest of the pictures in a folder, in their order; their names do not count otherwise."""
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
    """Whether `learned` is what `unlearn` makes of the same arguments, with its self-check. For several `configs`, that is
    the sum of what is learned with each, of which the first learned from `images`.
    """
    parts, conditioners = learned.provenance["parts"], list(pair.conditioners().values())
    meanings: Meanings = {}
    digest = None if images is None else digest_of(Path(images))
    made_on = (recorded(pair.t2i_source), str(conditioners[0].text_encoder.dtype).removeprefix("torch."))

    # A method's name is looked up among all that are installed, so this is done once.
    named = [(config, name_of(config), method_of(config).__name__.startswith("unreel.")) for config in configs]

    def same(part: dict[str, Any], method: tuple[Any, str, bool], concept: Concept) -> bool:
        config, name, ours = method
        wanted = json.loads(json.dumps(asdict(config) | ({"keep": list(keep)} if keep else {})))
        images_digest = digest if config is configs[0] else None
        if images_digest is not None and "shots" in wanted:
            wanted["shots"] = part["settings"].get("shots")  # as many as there were images
        asked = (part["concept"], part["kind"], tuple(part["synonyms"]), part["method"], part["settings"])
        if asked != (concept.name, concept.kind, concept.synonyms, name, wanted):
            return False
        if part.get(DIGEST) != images_digest:
            return False
        if "anchor" not in part:
            return concept.anchor is None
        if concept.anchor is None and not ours:
            return True  # what another package's method makes instead is its own affair
        return part["anchor"] == anchor_for(concept, concepts, conditioners[0], pair.vocabulary, meanings)

    return (
        (CHECK in learned.provenance or not learned.edits_text_encoder)
        and made_on == (learned.provenance.get("encoder"), learned.provenance.get("dtype"))
        and len(parts) == len(configs) * len(concepts)
        and all(same(part, *each) for part, each in zip(parts, product(named, concepts), strict=True))
    )
