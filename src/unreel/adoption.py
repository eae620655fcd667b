"""Weights that other code changed, as an erasure: to be evaluated, attacked, combined and served like any other.

Knows files of weights and what they are of; knows nothing about how the changes were found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError, needs, summarise
from unreel.interventions import active_interventions
from unreel.interventions.card import CHECK
from unreel.interventions.erasure import NETWORK, TEXT_ENCODER, ComponentDelta, Erasure
from unreel.methods import Task
from unreel.models.adapter import networks, text_encoders
from unreel.models.compare import INDEX_FILE, Stored, stored, tensors_in, weight_name
from unreel.models.deltas import Delta, LowRank
from unreel.models.fingerprint import Fingerprint, stored_in
from unreel.models.loading import loading, require_source, shown
from unreel.models.pair import Pair, load_pipeline
from unreel.models.weights import doubled, held_weights, is_quantized, portable
from unreel.progress import track
from unreel.unlearning import Concepts, as_concepts, check

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ADOPTED = "adopted"  # the method of which nobody says what it is called
LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers calls it
_DENOISER = "diffusion_pytorch_model"  # what files of weights of diffusers' own modules are called
_ADAPTER = "adopted"
SAME = (
    1e-7  # by how much what is the same may differ where one of the two was stored in float16, which has no smaller steps
)

Parts = Mapping[str, nn.Module]


@dataclass(frozen=True)
class AdoptedConfig:
    """Where the weights were."""

    weights: str


def adopt(weights: str | Path, concepts: Concepts, pair: "Pair | DiffusionPipeline", *, method: str = ADOPTED) -> Erasure:
    """What other code changed in the pair's video model to make it forget, as an erasure, with the self-check of those.

    `weights` are a pipeline's folder or hub id, the folder of a text encoder or of what denoises, or a safetensors file:
    of weights by their names, all of them or those that changed, or of a LoRA. They are compared with the pair's, in the
    coarser of the precisions that the two are stored in: what is rounding alone is no change. `method` is what to call
    what made them. The way left to an anchor is known if each concept has one.
    Raises UnreelError if they cannot be read, are of another model, or are the same; and if something is on the pipeline.
    """
    pair = pair if isinstance(pair, Pair) else Pair.of(pair)
    if active_interventions(pair.t2v):
        raise UnreelError("an erasure is on this pipeline, and would be taken for its own weights: take it off first")
    task = Task(as_concepts(concepts), pair, method=method)
    components = changed_components(weights, pair.t2v)
    anchors = {concept.name: concept.anchor for concept in task.concepts}
    known = anchors if None not in anchors.values() else None
    record = task.record(method, AdoptedConfig(shown(str(weights))), known)
    erasure = Erasure(components, record)
    if not erasure.edits_text_encoder:
        return erasure
    return replace(erasure, provenance={**record, CHECK: check(erasure, pair).document()})


def changed_components(weights: str | Path, pipeline: "DiffusionPipeline") -> tuple[ComponentDelta, ...]:
    """What `weights` have otherwise than the pipeline, of each of its text encoders and of what denoises that they are of.

    Raises UnreelError as `adopt` does.
    """
    parts = {**text_encoders(pipeline), **networks(pipeline)}
    if any(map(is_quantized, (weight for part in parts.values() for weight in held_weights(part).values()))):
        raise UnreelError("this model is quantized, and changes of its weights cannot be told: load the original")
    deltas = _deltas(weights, pipeline, parts)
    of = dict.fromkeys(text_encoders(pipeline), TEXT_ENCODER)
    changed = {name: changes for name, changes in deltas.items() if changes}
    if not changed:
        raise UnreelError(f"{weights} has the same weights as this model: nothing was changed in it")
    return tuple(
        ComponentDelta(changes, Fingerprint.of(parts[name]), of.get(name, NETWORK)) for name, changes in changed.items()
    )


def _deltas(weights: str | Path, pipeline: "DiffusionPipeline", parts: Parts) -> dict[str, dict[str, Delta]]:
    """By part of the pipeline."""
    folder = Path(weights)
    file = folder / LORA_FILE if (folder / LORA_FILE).is_file() else folder
    if file.is_file() and file.suffix == ".safetensors":
        tensors = tensors_in(file)
        if any("lora" in tensor.key for tensor in tensors):
            return _of_lora(file, pipeline, parts)
        name, read = _placed(tensors, parts, str(weights))
        return {name: _difference(parts[name], read)}
    if folder.is_dir() and not (folder / INDEX_FILE).is_file():
        denoises = any(folder.glob(f"{_DENOISER}.*"))
        name, read = _placed(stored(folder, _DENOISER) if denoises else stored(folder), parts, str(weights))
        return {name: _difference(parts[name], read)}
    require_source(str(weights))
    return _of_pipeline(load_pipeline(weights, dtype=_dtype(parts)), parts, str(weights))


def _dtype(parts: Parts) -> torch.dtype:
    return next(weight.dtype for part in parts.values() for weight in part.parameters())


def _of_pipeline(other: "DiffusionPipeline", parts: Parts, source: str) -> dict[str, dict[str, Delta]]:
    """Of parts of the same names whose weights this model has too: an image model's network may be all of a video model's
    but for what is made of motion, or another one.
    """
    theirs = {name: held_weights(part) for name, part in {**text_encoders(other), **networks(other)}.items()}
    alike = [
        name
        for name in parts.keys() & theirs.keys()
        if _shapes(theirs[name]).items() <= _shapes(held_weights(parts[name])).items()
    ]
    if not alike:
        raise UnreelError(
            f"{source} is another model: neither its text encoders nor what denoises are built like this one's"
        )
    return {name: _difference(parts[name], theirs[name]) for name in sorted(alike)}


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _placed(tensors: Sequence[Stored], parts: Parts, source: str) -> tuple[str, dict[str, torch.Tensor]]:
    """Which part the tensors of a file are of, and they, by the names of its weights.

    Raises UnreelError unless all of them are of one, and of no other.
    """
    by_name = {name: placed for name, part in parts.items() if (placed := _names_in(tensors, part))}
    if len(by_name) > 1:
        raise UnreelError(f"{source} fits {' and '.join(by_name)} alike: give the folder of a pipeline that has it")
    if not by_name:
        names = summarise([tensor.key for tensor in tensors])
        raise UnreelError(f"{source} is of another model: no part of this one has all of its weights ({names})")
    ((name, placed),) = by_name.items()
    return name, {weight: tensor.read() for weight, tensor in placed.items()}


def _names_in(tensors: Sequence[Stored], part: nn.Module) -> dict[str, Stored]:
    """The tensors by the names of the part's weights, whatever they all have before these; empty if some are none of it.
    What a part computes and saves, such as the places of tokens, is no weight.
    """
    own = held_weights(part)
    shapes = _shapes({portable(name): buffer for name, buffer in part.named_buffers()} | own)
    keys = {portable(name): tensor for tensor in tensors if (name := weight_name(tensor.key)) is not None}
    words = next(iter(keys), "").split(".")
    for i in range(len(words)):
        before = "".join(f"{word}." for word in words[:i])
        named = {key.removeprefix(before): tensor for key, tensor in keys.items() if key.startswith(before)}
        if len(named) == len(keys) and all(shapes.get(name) == tensor.shape for name, tensor in named.items()):
            return {name: tensor for name, tensor in named.items() if name in own}
    return {}


@torch.no_grad()
def _difference(part: nn.Module, theirs: Mapping[str, torch.Tensor]) -> dict[str, Delta]:
    """By weight, theirs less the part's own as that is in the coarser of the two precisions; without what is zero."""
    own = {name: weight.detach().cpu() for name, weight in held_weights(part).items() if name in theirs}
    coarse = max(map(stored_in, (own, theirs)), key=lambda dtype: torch.finfo(dtype).eps)
    deltas: dict[str, Delta] = {}
    for name, weight in track(own.items(), "comparing", "weight", brief=True):
        before, after = weight.to(coarse), theirs[name].detach().cpu()
        if not torch.allclose(before, after.to(coarse), rtol=0, atol=SAME):
            deltas[name] = (doubled(after) - doubled(before)).float()
    return deltas


def _of_lora(file: Path, pipeline: Any, parts: Parts) -> dict[str, dict[str, Delta]]:
    """As diffusers loads it into the pipeline; it is off again afterwards."""
    if not find_spec("peft"):
        raise needs("a LoRA", "the package peft", "export")
    if not hasattr(pipeline, "load_lora_weights"):
        raise UnreelError(f"diffusers loads no LoRA into a {type(pipeline).__name__}: give whole weights")
    if any(hasattr(module, "base_layer") for part in parts.values() for module in part.modules()):
        raise UnreelError("a LoRA is on this pipeline already: unload it first")
    with loading(str(file)):
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=_ADAPTER)
    try:
        return {name: _low_rank(part) for name, part in parts.items()}
    finally:
        pipeline.unload_lora_weights()


@torch.no_grad()
def _low_rank(part: nn.Module) -> dict[str, Delta]:
    """What a LoRA that is on a part adds to its weights."""
    from peft.tuners.lora import Linear, LoraLayer

    deltas: dict[str, Delta] = {}
    for name, module in part.named_modules():
        if isinstance(module, LoraLayer) and _ADAPTER in module.scaling:
            if _ADAPTER in module.lora_magnitude_vector:
                raise UnreelError(f"this LoRA scales whole matrices ({name}), as DoRA does: give whole weights")
            if isinstance(module, Linear):
                up, down = module.lora_B[_ADAPTER].weight, module.lora_A[_ADAPTER].weight
                change: Delta = LowRank(up.detach().float() * module.scaling[_ADAPTER], down.detach().float().clone())
            else:
                change = module.get_delta_weight(_ADAPTER).detach().float()
            deltas[portable(f"{name}.weight")] = change
    return deltas
