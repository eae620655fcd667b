"""Weights that other code changed, as an erasure: to be evaluated, attacked, combined and served like any other.

Knows files of weights and what they are of; knows nothing about how the changes were found.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from unreel.checking import checked
from unreel.errors import UnreelError, summarise
from unreel.interventions import active_interventions
from unreel.interventions.erasure import NETWORK, TEXT_ENCODER, ComponentDelta, Erasure
from unreel.methods import Task
from unreel.models.adapter import changeable, networks, text_encoders
from unreel.models.compare import FLOATS, INDEX_FILE, Stored, fetch_parts, stored, tensors_in, weight_name
from unreel.models.deltas import Delta, dense, scaled
from unreel.models.fingerprint import Fingerprint, coarsest, exact_in, stored_precision_of
from unreel.models.loading import PICKLES, recorded, require_source, shown
from unreel.models.lora import LORA_FILE, is_lora, lora_deltas
from unreel.models.pair import Pair
from unreel.models.weights import doubled, held_weights, is_quantized
from unreel.progress import track
from unreel.unlearning import Concepts, as_concepts, with_rounding

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ADOPTED = "adopted"  # in the name of the method
ANOTHER = 0.5  # a larger change, as a share of the norm of what is compared, is another model's
_LEAST = 1e-3  # a norm counts as at least this share of its part's: a bias of zeros may well change
SAME = 1e-7  # smaller differences may be float16's rounding
_PARTS = ("text_encoder", "transformer", "unet")  # names of the component folders that may change, with a number or not
_DENOISER = "diffusion_pytorch_model"  # names of weight files of diffusers' own modules
_ADAPTER = "eraser_config.json"  # a file of Receler's and T2VUnlearning's code, beside a pickle
# Tensors in some text encoder files that are no weights of it: those of all of CLIP, and a vocabulary.
_BESIDE = ("logit_scale", "text_projection.weight", "spiece_model")

Parts = Mapping[str, nn.Module]
Tensors = Mapping[str, Stored]  # by the names of weights
Found = tuple[dict[str, Delta], float]  # the changes in a part, and the norm of all that was compared


@dataclass(frozen=True)
class AdoptedConfig:
    """Where the weights were, what they were compared with, how much of the change was taken, and what that changes, in
    words.
    """

    weights: str
    base: str
    scale: float
    changes: str


def adopt(
    weights: str | Path,
    concepts: Concepts,
    pair: "Pair | DiffusionPipeline",
    *,
    method: str = "",
    base: str | Path | None = None,
    scale: float = 1.0,
) -> Erasure:
    """What other code changed to make a model forget, as an erasure for the pair's video model, with its self-check.

    `weights` are a pipeline's folder or hub id, the folder of a text encoder or of what denoises, or a safetensors file:
    of weights by their names, all of them or those that changed, or of a LoRA. They are compared with those of `base`, the
    same of the model that they were changed from, or with the video model's own: in the coarser of the precisions that the
    two are stored in, so that what is rounding alone is no change. `scale` is how much of the change is taken. `method` is
    what to call what made it. The way left to an anchor is known if each concept has one.
    Warns of what could not be compared. Raises UnreelError if they cannot be read, are of another model, or are the same;
    and if something is on the pipeline.
    """
    pair = pair if isinstance(pair, Pair) else Pair.of(pair)
    require_adoptable(weights, base, scale)
    if active_interventions(pair.t2v):
        raise UnreelError("an erasure is on this pipeline, and would be taken for its own weights: take it off first")
    name = f"{method} ({ADOPTED})" if method else ADOPTED
    task = Task(as_concepts(concepts), pair, method=name)
    anchors = task.anchors if all(concept.anchor is not None for concept in task.concepts) else None
    components, changes = changed_components(weights, pair.t2v, base=base, scale=scale)
    config = AdoptedConfig(_shown(weights), _shown(base) if base else "the video model", scale, changes)
    return checked(with_rounding(Erasure(components, task.record(config, anchors)), pair), pair)


def require_adoptable(weights: str | Path, base: str | Path | None = None, scale: float = 1.0) -> None:
    """Raises UnreelError for what is known to be wrong before a model is loaded."""
    if not isfinite(scale) or not scale:
        raise UnreelError(f"the scale is how much of the change to take, a number other than 0, not {scale:g}")
    for source in [weights] if base is None else [weights, base]:
        if Path(source).exists():
            lora = _lora_in(source)
            if lora and base is not None:
                raise UnreelError(f"{lora} is a LoRA, which is a change by itself: there is nothing to compare it with")
            if not lora:
                _read(source)
        elif Path(source).suffix == ".safetensors":
            raise UnreelError(f"{source} does not exist")
        else:
            require_source(str(source))


def _lora_in(weights: str | Path) -> Path | None:
    """The LoRA file that `weights` is or holds; None if it is no LoRA."""
    path = Path(weights)
    file = path / LORA_FILE if (path / LORA_FILE).is_file() and not (path / INDEX_FILE).is_file() else path
    return file if file.suffix == ".safetensors" and file.is_file() and is_lora(tensors_in(file)) else None


def _shown(source: str | Path) -> str:
    """The source's name without the folders around it, which are nobody else's affair."""
    return shown(recorded(str(source)))


def changed_components(
    weights: str | Path, pipeline: "DiffusionPipeline", *, base: str | Path | None = None, scale: float = 1.0
) -> tuple[tuple[ComponentDelta, ...], str]:
    """The differences of `weights` from `base`, or from the pipeline, for each of its text encoders and denoisers that
    they are of; and, in words, how large these are. Warns and raises UnreelError as `adopt` does.
    """
    of_what = dict.fromkeys(text_encoders(pipeline), TEXT_ENCODER) | dict.fromkeys(networks(pipeline), NETWORK)
    parts = changeable(pipeline)
    own = {name: held_weights(part) for name, part in parts.items()}
    if any(map(is_quantized, (weight for held in own.values() for weight in held.values()))):
        raise UnreelError("this model is quantized, and changes of its weights cannot be told: load the original")
    prints = {name: Fingerprint.of(part) for name, part in parts.items()}  # while nothing else is on it
    file = _lora_in(weights)
    found = _of_lora(file, pipeline, parts) if file else _compared(weights, base, parts)
    of = "the base" if base else "this model"
    if not any(changes for changes, _ in found.values()):
        raise UnreelError(f"{weights} changes nothing of {of} in {', '.join(found)}")
    components, told = [], []
    for name, (changes, norm) in found.items():
        if changes:
            share = _norm(changes) / max(norm, _LEAST * _norm(own[name]))
            if not share <= ANOTHER:
                less = "" if file or base else ": it was changed from another model, which you can name as the base"
                raise UnreelError(f"the {name} of {weights} differs from {of} by {_percent(share)}{less}")
            # Of the names, some are of copies: some of transformers' releases copy a table of tokens.
            if not file and len(changes) == len(set(map(weight_name, own[name]))) > 1:
                other = "another model than the base" if base else "another model, which you can name as the base"
                warnings.warn(
                    f"every weight of the {name} differs, those of its norms and biases too: unless all of them were "
                    f"trained, {weights} was changed from {other}",
                    stacklevel=2,
                )
            changes = {at: scaled(change, scale).cpu() for at, change in changes.items()}
            components.append(ComponentDelta(changes, prints[name], of_what[name]))
            told.append(f"{len(changes)} of {len(own[name])} weights of the {name}, by {_percent(abs(scale) * share)}")
    return tuple(components), " and ".join(told)


@torch.no_grad()
def _norm(weights: Mapping[str, Delta]) -> float:
    """The norm of weights, or of changes of them."""
    return sum(float(dense(weight).square().sum()) for weight in weights.values()) ** 0.5


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _of_lora(file: Path, pipeline: "DiffusionPipeline", parts: Parts) -> dict[str, Found]:
    found = {}
    for name, changes in lora_deltas(file, tensors_in(file), pipeline, parts).items():
        own = held_weights(parts[name])
        found[name] = changes, _norm({at: own[at] for at in changes})
    return found


def _compared(weights: str | Path, base: str | Path | None, parts: Parts) -> dict[str, Found]:
    """The differences of `weights` from `base`, or from the parts themselves."""
    theirs = _placed(_read(weights), parts, str(weights))
    before = _placed(_read(base), {name: parts[name] for name in theirs}, "") if base is not None else {}
    found = {}
    for name, tensors in theirs.items():
        own: Mapping[str, torch.Tensor] = held_weights(parts[name])
        if base is not None:
            if missing := sorted(tensors.keys() - before.get(name, {}).keys()):
                raise UnreelError(f"{base} is not what {weights} was changed from: it has no {summarise(missing)}")
            own = {at: before[name][at].read() for at in tensors}
        found[name] = _difference(own, tensors, name), _norm({at: own[at] for at in tensors})
    return found


def _read(source: str | Path) -> dict[str, list[Stored]]:
    """The tensors that are stored, known from the headers of files: by component of a pipeline, or under the name of a
    component alone.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix in PICKLES:
            raise UnreelError(
                f"{path} is a pickle, which can run code when loaded: refused. Make a safetensors file of it where you "
                "trust it, as docs/guide/researcher.md shows"
            )
        if path.suffix != ".safetensors":
            raise UnreelError(f"{path} is no safetensors file: give one, or a folder")
        return {"": tensors_in(path)}
    if (path / _ADAPTER).is_file():
        raise UnreelError(
            f"{path} holds adapters with a function between their matrices, which are no change of weights: nothing here "
            "can hold them (--method t2v-unlearning learns linear ones)"
        )
    if path.is_dir() and not (path / INDEX_FILE).is_file():
        return {path.name: _of_component(path)}
    folder = fetch_parts(str(source), [f"{name}*" for name in _PARTS])
    return {home.name: _of_component(home) for name in _PARTS for home in sorted(folder.glob(f"{name}*")) if home.is_dir()}


def _of_component(folder: Path) -> list[Stored]:
    return stored(folder, _DENOISER) if any(folder.glob(f"{_DENOISER}*")) else stored(folder)


def _placed(components: Mapping[str, Sequence[Stored]], parts: Parts, source: str) -> dict[str, Tensors]:
    """By part of the pipeline, the tensors that are its weights, by weight name. A component goes to the part it is
    named like, else to the only one it fits.

    Warns of components that fit none, if `source` is given. Raises UnreelError if none fits, or one fits several.
    """
    placed: dict[str, Tensors] = {}
    left: list[str] = []
    for name, tensors in sorted(components.items(), key=lambda component: component[0] not in parts):
        fitting = {part: named for part, module in parts.items() if (named := _named(tensors, module))}
        fitting = {name: fitting[name]} if name in fitting else fitting
        fitting = {part: named for part, named in fitting.items() if part not in placed}
        if len(fitting) > 1:
            raise UnreelError(
                f"{source} fits {' and '.join(fitting)} alike: give a folder that is called like the one it is"
            )
        placed |= fitting
        left += [] if fitting else [name or source]
    if source and not placed:
        keys = [tensor.key for tensors in components.values() for tensor in tensors]
        compvis = any("input_blocks." in key for key in keys)
        way = "; these are CompVis' names: give the file that its code writes for diffusers" if compvis else ""
        raise UnreelError(
            f"{source} is of another model, or its names are not those of diffusers and transformers: no part of this "
            f"model has all of its weights ({summarise(keys)}){way}"
        )
    if source and left:
        warnings.warn(f"{', '.join(left)} of {source} is built otherwise than in this model, and left out", stacklevel=2)
    for of_part in placed.values():
        if odd := sorted({tensor.dtype for tensor in of_part.values()} - FLOATS.keys()):
            raise UnreelError(f"{source or 'the base'} holds weights as {', '.join(odd)}: give them in float32 or 16 bits")
    return placed


def _named(tensors: Sequence[Stored], part: nn.Module) -> dict[str, Stored]:
    """The tensors by the part's weight names, whatever common prefix they have; {} if one is no weight of it. Saved
    buffers, such as position ids, are skipped.
    """
    own = {weight_name(name): (name, tuple(weight.shape)) for name, weight in held_weights(part).items()}
    buffers = {weight_name(name) for name, _ in part.named_buffers()}
    beside = buffers | {name for name in _BESIDE if name not in own}
    tensors = [tensor for tensor in tensors if tensor.key not in beside]
    words = tensors[0].key.split(".") if tensors else []
    for i in range(len(words)):
        before = "".join(f"{word}." for word in words[:i])
        keys = [weight_name(tensor.key.removeprefix(before)) if tensor.key.startswith(before) else "" for tensor in tensors]
        named = {key: tensor for key, tensor in zip(keys, tensors, strict=True) if key is not None and key not in beside}
        if named and all(key in own and own[key][1] == tensor.shape for key, tensor in named.items()):
            return {own[key][0]: tensor for key, tensor in named.items()}
    return {}


@torch.no_grad()
def _difference(own: Mapping[str, torch.Tensor], theirs: Tensors, part: str) -> dict[str, Delta]:
    """By weight, their tensor minus the pipeline's own in their precision; weights that do not differ are left out.

    The precision that a weight is stored in is told from the weight itself, unless it holds too few numbers to tell.
    """
    usual = stored_precision_of({name: weight.detach() for name, weight in own.items() if name in theirs})
    deltas: dict[str, Delta] = {}
    for name, tensor in track(theirs.items(), f"comparing the {part}", "weight", brief=True):
        before, after = own[name].detach().cpu(), tensor.read()
        if not after.isfinite().all():
            raise UnreelError(f"{tensor.key} in {tensor.file} is not made of numbers")
        precisions = exact_in(before, usual), exact_in(after, after.dtype)
        coarse = coarsest(precisions)
        twice = torch.finfo(torch.bfloat16).eps if set(precisions) == {torch.bfloat16, torch.float16} else 0.0
        if not torch.allclose(before.to(coarse).float(), after.to(coarse).float(), rtol=twice, atol=SAME):
            deltas[name] = (doubled(after) - doubled(before.to(precisions[1]))).float()
    return deltas
