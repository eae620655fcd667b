"""What a LoRA in a file adds to a pipeline's weights, as diffusers loads it there.

Knows files of diffusers' LoRA, and how peft holds them; leaves the pipeline as it was.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unreel.errors import UnreelError, needs, reason_of, summarise
from unreel.models.compare import Stored
from unreel.models.deltas import Delta, LowRank, is_felt
from unreel.models.weights import gradients_as_found, portable

LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers calls it
_ALPHA = ".alpha"
_ADAPTER = "unreel"
_UP = re.compile(r"(\.lora_B(\.\w+)?|lora_up|_lora\.up|\.lora(_linear_layer)?\.up)\.weight$")  # one for each matrix
_BEYOND = re.compile(r"dora_scale|magnitude|lokr_|hada_|lora_mid|\.diff(_b)?$")  # what is no product of two factors
_REBUILDING = {"init_lora_weights": (True, False, "gaussian"), "layer_replication": ()}  # what of its settings is harmless


def is_lora(tensors: Sequence[Stored]) -> bool:
    """Whether a file is one, by the names in it."""
    return any("lora" in tensor.key for tensor in tensors)


def lora_deltas(
    file: Path, tensors: Sequence[Stored], pipeline: Any, parts: Mapping[str, nn.Module]
) -> dict[str, dict[str, Delta]]:
    """The changes, by part and weight, of the LoRA in `file`, whose tensors these are.

    Warns where nothing says how they are scaled. Raises UnreelError for what diffusers cannot load into this pipeline, or
    would load in part; for what is more than a product for each matrix, as DoRA is; and if a LoRA is on the pipeline.
    """
    told = _settings_in(file)
    _require_plain(file, tensors, told)
    _require_loadable(pipeline, parts)
    if hasattr(pipeline, "unet"):
        _require_one_scale(file, tensors)
    if not told and not any(tensor.key.endswith(_ALPHA) for tensor in tensors):
        warnings.warn(
            f"{file.name} does not say how its changes are scaled, so they are taken as they stand: give --scale, alpha "
            "over rank, where whoever made it says so",
            stacklevel=2,
        )
    with _loaded(file, pipeline, parts):
        deltas = {name: _added(part) for name, part in parts.items()}
        layers = sum(1 for part in parts.values() for _ in _adapted(part))
    wanted = [tensor.key for tensor in tensors if _UP.search(tensor.key)]
    if not wanted or layers < len(wanted):
        raise UnreelError(
            f"{file}: diffusers finds {layers} of its {len(wanted)} matrices in a {type(pipeline).__name__} "
            f"({summarise(wanted)}): give one that is for this model, as diffusers' save_lora_weights writes it"
        )
    return deltas


def _settings_in(file: Path) -> list[tuple[str, Any]]:
    """What a file says of its LoRA, by name, of each part that it is for."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        told = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        return [(name.rpartition(".")[2], value) for name, value in json.loads(told).items()]
    except (ValueError, AttributeError) as error:
        raise UnreelError(f"{file} is broken: what it says of itself is no JSON object") from error


def _require_plain(file: Path, tensors: Sequence[Stored], told: Sequence[tuple[str, Any]]) -> None:
    beyond = [tensor.key for tensor in tensors if _BEYOND.search(tensor.key)]
    beyond += [name for name, value in told if value and value not in _REBUILDING.get(name, (value,))]
    if beyond:
        raise UnreelError(f"{file} is more than a plain LoRA ({summarise(beyond)}): merge it, and give whole weights")


def _require_one_scale(file: Path, tensors: Sequence[Stored]) -> None:
    """Of what kohya's tools call lora_unet_... and lora_te_..., diffusers loses which alpha belongs to which matrix when it
    renames them.
    """
    alphas: dict[str, set[float]] = {}
    for tensor in tensors:
        if tensor.key.startswith("lora_") and tensor.key.endswith(_ALPHA):
            alphas.setdefault(tensor.key.split("_")[1], set()).update(tensor.read().flatten().tolist())
    if any(len(scales) > 1 for scales in alphas.values()):
        raise UnreelError(
            f"{file} scales its matrices differently, and diffusers would scale all alike: merge it, and give weights"
        )


def _require_loadable(pipeline: Any, parts: Mapping[str, nn.Module]) -> None:
    if not find_spec("peft"):
        raise needs("a LoRA", "the package peft", "export")
    networks = [part for name, part in parts.items() if not name.startswith("text_encoder")]
    if not hasattr(pipeline, "load_lora_weights") or not all(hasattr(part, "load_lora_adapter") for part in networks):
        raise UnreelError(f"diffusers loads no LoRA into a {type(pipeline).__name__}: merge it, and give whole weights")
    if len(networks) > 1:
        raise UnreelError(
            f"a {type(pipeline).__name__} denoises with several networks, and a LoRA does not say which it is for: merge "
            "it, and give whole weights"
        )
    if any(hasattr(module, "base_layer") for part in parts.values() for module in part.modules()):
        raise UnreelError("a LoRA is on this pipeline already: unload it first")


@contextmanager
def _loaded(file: Path, pipeline: Any, parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside, it is on the pipeline. Raises UnreelError if it cannot be, whatever diffusers stumbles over."""
    with gradients_as_found(parts.values()), ExitStack() as afterwards:
        afterwards.callback(_unload, pipeline)
        try:
            given = pipeline.lora_state_dict(str(file.parent), weight_name=file.name, use_safetensors=True)
            unread = [key for key in (given[0] if isinstance(given, tuple) else given) if key.endswith(_ALPHA)]
            if unread:
                raise ValueError(f"it would pass over {summarise(unread)}")
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=_ADAPTER, use_safetensors=True)
        except Exception as error:  # converters of LoRA raise whatever a name that they do not know leads to
            raise UnreelError(
                f"diffusers cannot load {file} into a {type(pipeline).__name__}: {reason_of(error)}"
            ) from error
        yield


def _unload(pipeline: Any) -> None:
    with suppress(ValueError):  # of some that were never whole
        pipeline.unload_lora_weights()


def _adapted(part: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((name, module) for name, module in part.named_modules() if isinstance(module, BaseTunerLayer))


@torch.no_grad()
def _added(part: nn.Module) -> dict[str, Delta]:
    """What a LoRA that is on a part adds to its weights."""
    from peft.tuners.lora import Linear, LoraLayer

    deltas: dict[str, Delta] = {}
    for name, module in _adapted(part):
        if not isinstance(module, LoraLayer) or _ADAPTER in module.lora_variant:
            raise UnreelError(f"{name} has more than a plain LoRA: merge it, and give whole weights")
        scale = module.scaling[_ADAPTER]
        if isinstance(module, Linear):
            up, down = module.lora_B[_ADAPTER], module.lora_A[_ADAPTER]
            deltas[f"{name}.weight"] = LowRank(scale * up.weight.float(), down.weight.float().clone())
            if up.bias is not None and up.bias.device.type != "meta":  # as of layers for which the file has none
                if module.get_base_layer().bias is None:
                    raise UnreelError(f"this LoRA adds a bias to {name}, which has none: nothing here can hold that")
                deltas[f"{name}.bias"] = scale * up.bias.float()
        else:
            deltas[f"{name}.weight"] = module.get_delta_weight(_ADAPTER).float()
    return {portable(name): change for name, change in deltas.items() if is_felt(change)}
