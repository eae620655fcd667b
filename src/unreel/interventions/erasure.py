"""Erasures: changes of weights with their provenance, which are put on models and taken off again.

Knows text encoders and denoising networks as named tensors; knows nothing about how the change was found.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError, summarise
from unreel.files import write_folder, write_json, write_text
from unreel.interventions.base import RECORD_FILE, WEIGHTS_FILE, Intervention, fetched
from unreel.interventions.card import CARD_FILE, card
from unreel.interventions.record import CHANGES, CHECK, ROUNDED_AWAY, require_record
from unreel.models.adapter import changeable, networks, text_encoders, undisturbed
from unreel.models.applied import TornError, clear, owners_on, put_on, stands_beside, take_off
from unreel.models.deltas import Delta, LowRank, rounded_away, total
from unreel.models.fingerprint import Fingerprint
from unreel.models.loading import shown
from unreel.models.weights import is_quantized, portable

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SAMPLES_KEY, _OTHERS_KEY, _COMPONENT_KEY = "fingerprint", "other_encoders", "component"
TEXT_ENCODER, NETWORK = "text encoder", "network"  # the components that a delta may change
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # that changes are stored in
MOST_ROUNDED_AWAY = 0.5  # of the changes' norm
_UP, _DOWN = ":up", ":down"
_SAVED = "unreel_erased"  # the concepts that were erased from a text encoder, in its configuration


def mostly_lost(concepts: Sequence[str], share: float) -> str:
    """The message for an erasure of which this share is rounded away."""
    return (
        f"{100 * share:.0f} % of what the erasure of {summarise(concepts, 5)} changes is rounded away in the precision of "
        "this model's weights"
    )


def _tensors(name: str, change: Delta) -> dict[str, torch.Tensor]:
    """The tensors that store a change, by the names to store them under."""
    return {name + _UP: change.up, name + _DOWN: change.down} if isinstance(change, LowRank) else {name: change}


@dataclass(frozen=True, eq=False)
class ComponentDelta:
    """The changes of one component: `of` says whether it is a text encoder or a network, which denoises. `deltas` maps
    portable names of weights (without what libraries put around them) to what is added to the weights.
    """

    deltas: dict[str, Delta]
    fingerprint: Fingerprint
    of: str = TEXT_ENCODER

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", {portable(name): change for name, change in self.deltas.items()})

    def rounded_away(self, module: nn.Module) -> float:
        """The share of its changes that is rounded away in the precision of the module's weights, computed once for each
        precision.
        """
        dtypes = str({weight.dtype for weight in module.parameters()})
        if dtypes not in self._lost:
            self._lost[dtypes] = rounded_away(module, self.deltas)
        return self._lost[dtypes]

    @cached_property
    def _lost(self) -> dict[str, float]:
        return {}

    def stored(self) -> dict[str, torch.Tensor]:
        return {key: tensor for name, change in self.deltas.items() for key, tensor in _tensors(name, change).items()}

    def __add__(self, other: "ComponentDelta") -> "ComponentDelta":
        deltas = dict(self.deltas)
        for name, change in other.deltas.items():
            deltas[name] = total(deltas[name], change) if name in deltas else change
        return ComponentDelta(deltas, self.fingerprint, self.of)


@dataclass(frozen=True, eq=False, repr=False)
class Erasure(Intervention):
    """A frozen set of weight changes: one delta for each of the components that it changes, mostly the text encoder.

    `provenance` holds the concepts, the method, its settings, the losses and the versions of everything that mattered.
    """

    components: tuple[ComponentDelta, ...]
    provenance: dict[str, Any]

    @property
    def edits_text_encoder(self) -> bool:
        return any(component.of == TEXT_ENCODER for component in self.components)

    @property
    def edits_network(self) -> bool:
        return any(component.of == NETWORK for component in self.components)

    @property
    def about(self) -> str:
        encoder, model = shown(self.provenance["encoder"]), shown(self.model)
        if self.edits_text_encoder and self.edits_network:
            what = f"the text encoder of `{encoder}` and for what denoises in `{model}`, to make that one model"
        elif self.edits_text_encoder:
            what = f"the text encoder of `{encoder}`, to make the models that share it"
        else:
            what = f"what denoises in `{model}`, to make that one model"
        return f"Weight changes for {what} forget the concept"

    @property
    def limits(self) -> str:
        if self.edits_text_encoder and self.edits_network:
            held, still = "weights", "The text encoder changes and how the denoiser reads text; the rest of it"
        else:
            held, kept = ("text encoder", "denoiser") if self.edits_text_encoder else ("denoiser", "text encoder")
            still = f"Only the {held} changes; the {kept}"
        return (
            f"{still} still knows the concept. This protects a service that hosts the model, "
            "or a release of the changed weights, against prompts that name the concept, as far as its figures go; "
            "`unreel attack` tries adversarial ones. It does not withstand "
            f"someone who holds all weights and puts the original {held} back, fine-tunes, or searches what text "
            "encoders can write"
        )

    @cached_property
    def identity(self) -> str:
        """A short name for exactly these changes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._stored().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _stored(self) -> dict[str, torch.Tensor]:
        """All tensors by name; those of components after the first have the component's number before it."""
        return {
            _numbered(i, key): tensor
            for i, component in enumerate(self.components)
            for key, tensor in component.stored().items()
        }

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._stored().values())

    def __add__(self, other: "Erasure") -> "Erasure":
        """One erasure that does what both do. Raises UnreelError if they are equal, or if both change text encoders, or
        both networks, and have no component in common.
        """
        if self == other:
            raise UnreelError(f"they are the same erasure of {', '.join(self.concepts)}: once is enough")
        components = list(self.components)
        for new in other.components:
            same = [i for i, component in enumerate(self.components) if component.fingerprint.matches(new.fingerprint)]
            if same:
                components[same[0]] += new
            else:
                components.append(new)
        of_one, of_other = ({component.of for component in each.components} for each in (self, other))
        if of_one & of_other and len(components) == len(self.components) + len(other.components):
            raise UnreelError(f"{self.concepts} and {other.concepts} were made for different models")
        parts = [part for each in (self, other) for part in each._parts(with_component=of_one != of_other)]
        # What the records say of each alone does not hold for both together.
        provenance = {name: value for name, value in self.provenance.items() if name not in (CHECK, ROUNDED_AWAY)}
        if lost := max(each.provenance.get(ROUNDED_AWAY, 0) for each in (self, other)):
            provenance[ROUNDED_AWAY] = lost
        # Text encoder and network may be of two models: each is named by the erasure that changes it.
        if not self.edits_text_encoder and other.edits_text_encoder:
            provenance["encoder"] = other.provenance["encoder"]
        if not self.edits_network and other.edits_network:
            provenance["model"] = other.model
        return Erasure(tuple(components), {**provenance, "parts": parts})

    def _parts(self, with_component: bool) -> list[dict[str, Any]]:
        """The record of each concept; `with_component`, it says which component is changed."""
        changes = {} if not with_component else {CHANGES: TEXT_ENCODER if self.edits_text_encoder else NETWORK}
        return [changes | part for part in self.provenance["parts"]]

    def apply(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        """Put the erasure on those of the pipeline's parts that it has deltas for, whatever the pipeline calls them, on top
        of any other; returns the pipeline.

        Warns if most of it is rounded away. Raises UnreelError if it has a delta for none of them, or is already on.
        """
        with undisturbed(pipeline):
            fitting = self.fitting(pipeline)
            if any(self in active_on(module) for module in fitting):
                raise UnreelError(f"the erasure of {', '.join(self.concepts)} is already on this pipeline")
            with _none_torn(pipeline), ExitStack() as undo:  # on all of them or on none
                for module, component in fitting.items():
                    self._put_on(module, component)
                    undo.callback(take_off, module, self)
                undo.pop_all()
            _note(pipeline, fitting)
            lost = max(component.rounded_away(module) for module, component in fitting.items())
        if lost > MOST_ROUNDED_AWAY:
            warnings.warn(f"{mostly_lost(self.concepts, lost)}: load the model in float32", stacklevel=2)
        return pipeline

    def require_felt(self, pipeline: "DiffusionPipeline", guidance: float) -> None:
        if (lost := self.rounded_away(pipeline)) > MOST_ROUNDED_AWAY:
            raise UnreelError(f"{mostly_lost(self.concepts, lost)}: load the model in float32")

    def rounded_away(self, pipeline: "DiffusionPipeline") -> float:
        """The share of its changes that is rounded away in the precision of the pipeline's weights, of the component where
        that is largest; 1 if none is left. Raises UnreelError if it does not match.
        """
        return max(component.rounded_away(module) for module, component in self.fitting(pipeline).items())

    def require_matching(self, pipeline: "DiffusionPipeline") -> None:
        self.fitting(pipeline)

    def fitting(self, pipeline: "DiffusionPipeline") -> dict[nn.Module, ComponentDelta]:
        """The pipeline's text encoders and networks that the erasure has deltas for, each with its delta.

        Raises UnreelError, saying what differs, if there is none.
        """
        matched: dict[nn.Module, ComponentDelta] = {}
        for of, parts_of in {TEXT_ENCODER: text_encoders, NETWORK: networks}.items():
            components = [component for component in self.components if component.of == of]
            if components:
                parts = parts_of(pipeline)
                if not parts:
                    raise UnreelError(f"this {type(pipeline).__name__} has no {of}: an erasure has nothing to change in it")
                matched |= self._fitting(parts, components, of)
        return matched

    def _fitting(
        self, parts: dict[str, nn.Module], components: list[ComponentDelta], of: str
    ) -> dict[nn.Module, ComponentDelta]:
        """The parts that `components` are for, each with its delta. Raises UnreelError if there is none, or if a part
        without a delta is built like one for which there is an unmatched delta.
        """
        matched: dict[nn.Module, ComponentDelta] = {}
        for part, component in product(parts.values(), components):
            if component.fingerprint.fits(part) or component.fingerprint.fits_quantized(part):
                matched[part] = component
        unmatched = [component for component in components if all(component is not other for other in matched.values())]
        for name, part in parts.items():
            candidates = [] if part in matched or _saved_with(part) else unmatched
            for component in (component for component in candidates if component.fingerprint.nearly_fits(part)):
                matched[part] = component
                warnings.warn(
                    f"matrices of this {name} are not quite those that the erasure of {', '.join(self.concepts)} was made "
                    "for, as after a fused LoRA: it goes on top, but nobody has measured what it does there",
                    stacklevel=4,
                )
        # A part that is built like that of an unmatched delta, and is another, would stay unchanged.
        missing = {
            name: part
            for name, part in parts.items()
            if part not in matched
            and (not matched or any(component.fingerprint.is_built_like(part) for component in unmatched))
        }
        if missing:
            why = "; ".join(f"{name} {_mismatch(part, components)}" for name, part in missing.items())
            raise UnreelError(
                f"the erasure of {', '.join(self.concepts)} was made for another {of} than this pipeline's: {why}; it "
                f"was made on {self.model if of == NETWORK else self.provenance['encoder']}"
            )
        return matched

    def put_on_encoder(self, encoder: nn.Module) -> None:
        """Put the deltas for text encoders on a text encoder without a pipeline, as attackers who study it have it."""
        components = [component for component in self.components if component.of == TEXT_ENCODER]
        for part, component in self._fitting({"text encoder": encoder}, components, TEXT_ENCODER).items():
            self._put_on(part, component)

    def _put_on(self, part: nn.Module, component: ComponentDelta) -> None:
        # Only text encoders can be exported.
        instead = ", or export it as a text encoder and quantize that" if component.of == TEXT_ENCODER else ""
        put_on(part, self, component.deltas, instead)

    def remove(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        """As the protocol says; without any left, the weights are the original ones bit for bit."""
        with undisturbed(pipeline):
            erased = [part for part in changeable(pipeline).values() if self in active_on(part)]
            if not erased:
                raise UnreelError(f"the erasure of {', '.join(self.concepts)} is not on this pipeline")
            with _none_torn(pipeline):
                for part in erased:
                    take_off(part, self)
            _note(pipeline, erased)
        return pipeline

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write weights, provenance and model card; the folder appears complete or not at all."""
        from safetensors.torch import save_file

        def fill(partial: Path) -> None:
            tensors = {name: tensor.contiguous() for name, tensor in self._stored().items()}
            tensors |= {
                _numbered(i, _SAMPLES_KEY): component.fingerprint.samples for i, component in enumerate(self.components)
            }
            save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
            prints = [component.fingerprint for component in self.components]
            first, *others = [
                {"encoder_identity": one.identity, "structure": one.structure}
                | ({} if component.of == TEXT_ENCODER else {_COMPONENT_KEY: component.of})
                for component, one in zip(self.components, prints, strict=True)
            ]
            document = {**first, **({_OTHERS_KEY: others} if others else {}), **self.provenance}
            write_json(partial / RECORD_FILE, document)
            write_text(partial / CARD_FILE, card(self))

        return write_folder(Path(folder), fill, RECORD_FILE, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Erasure":
        """Load an erasure from a folder or a hub id. Raises UnreelError if it cannot be fetched or is broken."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = fetched(folder)
        if not folder.is_dir():
            raise UnreelError(f"{folder} is no erasure: there is no such folder, and no hub id is spelled so")
        for file in (WEIGHTS_FILE, RECORD_FILE):
            if not (folder / file).is_file():
                raise UnreelError(f"{folder} is no erasure, which changes weights: it has no {file}")
        try:
            # Read and not mapped: what is written into the file meanwhile is not to change an erasure that is on.
            tensors = load((folder / WEIGHTS_FILE).read_bytes())
            provenance = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
            provenance.pop("encoder_identity")
            first = {name: provenance.pop(name) for name in ("structure", _COMPONENT_KEY) if name in provenance}
            others = provenance.pop(_OTHERS_KEY, [])
            require_record(provenance)
            return cls(_component_deltas(tensors, [first, *others]), provenance)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnreelError(f"the erasure in {folder} is broken ({error}): fetch or make it again") from error


def _saved_with(part: nn.Module) -> Sequence[str]:
    """The concepts whose erasures were on a text encoder when it was saved, as its configuration tells; none if an erasure
    is on it now.
    """
    return () if active_on(part) else getattr(getattr(part, "config", None), _SAVED, None) or ()


def _mismatch(part: nn.Module, components: list[ComponentDelta]) -> str:
    """Why none of `components` is for a part like this one, and what to do."""
    if saved := _saved_with(part):
        return f"was saved with an erasure of {', '.join(saved)} in it: load the original"
    if any(is_quantized(weight) for weight in part.parameters()):
        return "is quantized, and of another model in what is not: unlearn the concept again with the model it was made of"
    differing = min((component.fingerprint.differing(part) for component in components), key=len)
    if len(differing) <= sum(weight.ndim > 1 for weight in part.parameters()) / 2:
        return f"has other weights in {summarise(differing)}: unlearn the concept again with this model"
    return "is another model: give the one that it was made on, or unlearn the concept again with this one"


def take_all_off(pipeline: "DiffusionPipeline") -> None:
    """Take all erasures off the pipeline, also where memory is too short to take a single one off."""
    _clear(pipeline, _erased_parts(pipeline))


def _erased_parts(pipeline: "DiffusionPipeline") -> list[nn.Module]:
    return [part for part in changeable(pipeline).values() if active_on(part)]


def _clear(pipeline: "DiffusionPipeline", erased: Sequence[nn.Module]) -> None:
    """Take all erasures off the parts that they are on, and off `erased` what tells of them."""
    for part in changeable(pipeline).values():
        clear(part)
    _note(pipeline, erased)


@contextmanager
def _none_torn(pipeline: "DiffusionPipeline") -> Iterator[None]:
    """If changes of one part went neither on nor back inside, all come off all parts, and a warning says so: no erasure is
    left on some of the parts that it is for. What went wrong is raised.
    """
    erased = _erased_parts(pipeline)
    try:
        yield
    except TornError as error:
        _clear(pipeline, erased)
        warnings.warn(
            "an erasure went neither on nor off, and all erasures were taken off this pipeline, with what was fused into "
            "it since they went on: put them on again where there is more memory",
            stacklevel=4,
        )
        assert error.__cause__ is not None
        raise error.__cause__ from None


def _note(pipeline: "DiffusionPipeline", parts: Iterable[nn.Module]) -> None:
    """Note in the configuration of each text encoder among `parts` which concepts are erased from it, for `_saved_with` to
    tell once it was saved and loaded elsewhere.
    """
    for encoder in {*text_encoders(pipeline).values()} & {*parts}:
        concepts = [concept for erasure in active_on(encoder) for concept in erasure.concepts]
        if concepts and not stands_beside(encoder):  # changes beside weights are not saved with them
            setattr(encoder.config, _SAVED, concepts)
        elif hasattr(encoder.config, _SAVED):
            delattr(encoder.config, _SAVED)


def _numbered(i: int, name: str) -> str:
    """The name in the file of a tensor of component number `i`."""
    return f"{i}/{name}" if i else name


def _component_deltas(tensors: dict[str, torch.Tensor], built: list[dict[str, Any]]) -> tuple[ComponentDelta, ...]:
    """The component deltas that were stored as `tensors`; `built` is what the record says of each component. Raises
    ValueError if something is damaged.
    """
    components: list[ComponentDelta] = []
    for i, one in reversed(list(enumerate(built))):  # the first component's tensors are those that are left
        own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_numbered(i, ""))}
        own = {name.removeprefix(_numbered(i, "")): tensor for name, tensor in own.items()}
        fingerprint, of = _fingerprint(one["structure"], own.pop(_SAMPLES_KEY)), one.get(_COMPONENT_KEY, TEXT_ENCODER)
        if of not in (TEXT_ENCODER, NETWORK):
            raise ValueError(f"it changes a {of!r}")
        _require_sound(own)
        components.insert(0, ComponentDelta(_changes(own), fingerprint, of))
    return tuple(components)


def _fingerprint(structure: Any, samples: torch.Tensor) -> Fingerprint:
    """The stored fingerprint. Raises ValueError if it is none."""
    if not isinstance(structure, str) or not samples.is_floating_point() or samples.ndim != 1:
        raise ValueError("its fingerprint is not made of numbers")
    return Fingerprint(structure, samples)


def _require_sound(tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError unless these are the tensors of a change."""
    if not tensors:
        raise ValueError("it changes nothing")
    for name, tensor in tensors.items():
        if tensor.dtype not in PRECISIONS or not tensor.isfinite().all():
            raise ValueError(f"{name} is not made of numbers")
        base = name.removesuffix(_UP).removesuffix(_DOWN)
        if base != name:
            up, down = tensors.get(base + _UP), tensors.get(base + _DOWN)
            if up is None or down is None or up.ndim != 2 or down.ndim != 2 or up.shape[1] != len(down):
                raise ValueError(f"{base} is half a product")


def _changes(tensors: dict[str, torch.Tensor]) -> dict[str, Delta]:
    """The changes that were stored as `tensors`."""
    out: dict[str, Delta] = {name: tensor for name, tensor in tensors.items() if not name.endswith((_UP, _DOWN))}
    for name in tensors:
        if name.endswith(_UP):
            name = name.removesuffix(_UP)
            out[name] = LowRank(tensors[name + _UP], tensors[name + _DOWN])
    return out


def active_on(part: nn.Module) -> list[Erasure]:
    """The erasures that are on a text encoder or network, in the order in which they were put on."""
    return owners_on(part)
