"""What a method is given to learn from: concepts, the pair, what is made instead, what is near and what is to be kept.

Knows words and text encoders; knows no method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from unreel.errors import UnreelError
from unreel.interventions.erasure import NETWORK, ComponentDelta, Erasure
from unreel.interventions.prompt import on_prompts
from unreel.models.adapter import only_network_of
from unreel.models.anchors import anchored, near_to, prompts_for
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import Delta
from unreel.models.fingerprint import Fingerprint
from unreel.models.loading import recorded
from unreel.models.pair import Pair
from unreel.models.reading import Meanings
from unreel.models.tokenizer import require_known
from unreel.models.weights import held_weights, is_quantized
from unreel.prompts.concept import Concept, naming
from unreel.prompts.pairs import PromptPair, Prompts
from unreel.versions import versions

REFUSED = {
    "images": "takes no images: give them to --method few-shot",
    "keep": "keeps nothing by name: leave --keep out, or take the default method",
    "replace": "makes nothing in particular instead: leave --replace out, or take the default method",
}


@dataclass(frozen=True)
class Task:
    """Concepts to unlearn in a pair. `keep` names what is to be protected besides everything else, `images` is a folder of
    pictures to use in place of generated ones, `method` the name of what is to do it.

    Raises UnreelError unless every text encoder reads all that names the concepts.
    """

    concepts: Sequence[Concept]
    pair: Pair
    keep: Sequence[str] = ()
    images: Path | None = None
    method: str = "this method"
    _near: dict[int, list[str]] = field(default_factory=dict, repr=False)
    _meanings: dict[int, Meanings] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if on := [*on_prompts(self.pair.t2i), *on_prompts(self.pair.t2v)]:
            raise UnreelError(f"a {on[0].KIND} is on, and prompts are read as others: take it off first")
        if not self.conditioners:
            raise UnreelError(f"{self.pair.t2v_source} has no text encoder that reads prompts")
        for concept, reader in product(self.concepts, self.conditioners):
            require_known(reader.tokenizer, [*concept.wordings, concept.anchor or ""])
            reader.require_read(concept.wordings)
            reader.require_room_for(concept.forget_prompts)

    @cached_property
    def conditioners(self) -> list[Conditioner]:
        """The shared text encoders, each as its pipeline uses it."""
        return list(self.pair.conditioners().values())

    @cached_property
    def anchored(self) -> list[Concept]:
        """The concepts with what is made instead of each; the first text encoder chooses, so that all say the same.

        Raises UnreelError if that is to be forgotten too, or too long.
        """
        first = self.conditioners[0]
        out = anchored(self.concepts, first, self.pair.vocabulary, self._known(first))
        forgotten = naming(self.concepts)
        for concept in out:
            anchor = concept.anchor or ""
            if forgotten(anchor):
                raise UnreelError(f"{anchor!r} is to be forgotten too: make something else instead of {concept.name!r}")
            if anchor.strip():
                first.require_room_for(Concept(anchor, concept.kind).forget_prompts)
        return out

    @property
    def anchors(self) -> dict[str, str]:
        """What is made instead of each concept, by the concept's name."""
        return {concept.name: concept.anchor or "" for concept in self.anchored}

    @property
    def renamed(self) -> list[tuple[str, str]]:
        """All wordings of the concepts, and what is made instead of each; empty for nothing."""
        return [(wording, concept.anchor or "") for concept in self.anchored for wording in concept.wordings]

    def near(self, conditioner: Conditioner) -> list[str]:
        """What a text encoder takes to be most like the concepts, found once."""
        if id(conditioner) not in self._near:
            known = self._known(conditioner)
            self._near[id(conditioner)] = near_to(self.concepts, conditioner, self.pair.vocabulary, known)
        return self._near[id(conditioner)]

    def _known(self, conditioner: Conditioner) -> Meanings:
        """What is known of what words mean to a text encoder as it is before anything is learned."""
        return self._meanings.setdefault(id(conditioner), {})

    def prompts(self, conditioner: Conditioner, seed: int) -> Prompts:
        """What to forget the concepts by, and what to keep."""
        return prompts_for(self.anchored, self.pair, conditioner, seed)

    def pairs(self, prompts: Prompts, count: int) -> list[PromptPair]:
        """So many prompts that name the concepts, each with its anchor prompt. Raises UnreelError for a concept that none
        names, since all are too long.
        """
        pairs = prompts.pairs(count)
        about = {pair.concept for pair in pairs}
        if silent := [concept.name for concept in self.concepts if concept.name not in about]:
            raise UnreelError(f"no prompt that names {silent[0]!r} fits into this text encoder: name it in fewer words")
        return pairs

    def only_concept(self) -> Concept:
        """Raises UnreelError for several, and for what is to be kept by name."""
        if len(self.concepts) > 1 or self.keep:
            raise UnreelError(
                "methods that learn from images unlearn one concept and keep nothing by name: use the default method"
            )
        return self.concepts[0]

    @property
    def images_from(self) -> str:
        """As records say it."""
        return "generated" if self.images is None else "given"

    def refuse(self, *given: Literal["images", "keep", "replace"]) -> None:
        """Raises UnreelError if it was given one of these, for which a method has no use."""
        was_given = {
            "images": self.images is not None,
            "keep": bool(self.keep),
            "replace": any(concept.anchor is not None for concept in self.concepts),
        }
        for each in given:
            if was_given[each]:
                raise UnreelError(f"{self.method} {REFUSED[each]}")

    def require_learning(self, *parts: torch.nn.Module) -> None:
        """Raises UnreelError if weights of these parts, by default of all text encoders, cannot learn."""
        for part in parts or [conditioner.text_encoder for conditioner in self.conditioners]:
            weights = held_weights(part).values()
            if any(map(is_quantized, weights)):
                raise UnreelError(
                    f"the {type(part).__name__} is quantized, and learns nothing exactly: unlearn with the original, "
                    "export or save that, and quantize it then"
                )
            if any(weight.is_inference() for weight in weights):
                raise UnreelError(
                    f"the {type(part).__name__} was loaded, or moved, under torch.inference_mode, where nothing learns: "
                    "load it outside"
                )

    def require_nothing_kept_is_forgotten(self) -> None:
        forgotten = naming(self.concepts)
        for name in self.keep:
            if forgotten(name):
                raise UnreelError(f"{name!r} is both to be forgotten and to be kept")

    def record(self, config: Any, anchors: Mapping[str, str | None] | None = None, **more: Any) -> dict[str, Any]:
        """The record of an intervention: a part for each concept, with the settings, its anchor if it has one, and whatever
        `more` there is to say; the `losses` of all together in the first part alone, since there may be thousands of both.
        """
        settings = asdict(config) | ({"keep": list(self.keep)} if self.keep else {})
        parts = [
            {
                "concept": concept.name,
                "kind": concept.kind,
                "synonyms": list(concept.synonyms),
                "method": self.method,
                **({"anchor": anchors[concept.name]} if anchors and anchors[concept.name] is not None else {}),
                "settings": settings,
                **more,
            }
            for concept in self.concepts
        ]
        for part in parts[1:]:
            part.pop("losses", None)
        first = self.conditioners[0]
        return {
            "encoder": recorded(self.pair.t2i_source),
            "model": recorded(self.pair.t2v_source),
            "device": str(first.device),
            "dtype": str(first.text_encoder.dtype).removeprefix("torch."),
            "versions": versions(),
            "parts": parts,
        }

    def erasure(self, deltas: Sequence[Mapping[str, Delta]], record: dict[str, Any]) -> Erasure:
        """An erasure that makes `deltas` to the text encoders, by weight name, in their order."""
        components = [
            ComponentDelta({name: change.cpu() for name, change in of.items()}, Fingerprint.of(reader.text_encoder))
            for of, reader in zip(deltas, self.conditioners, strict=True)
        ]
        return Erasure(tuple(components), record)

    def network_erasure(self, deltas: Mapping[str, Delta], record: dict[str, Any]) -> Erasure:
        """An erasure that makes `deltas` to what denoises in the video model, by weight name."""
        return Erasure((ComponentDelta(dict(deltas), Fingerprint.of(only_network_of(self.pair.t2v)), NETWORK),), record)
