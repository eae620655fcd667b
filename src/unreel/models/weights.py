"""A module's own weights: under names that no library changes, wherever they are held and in whatever form; set for a
while, and put back.

Knows tensors, and how adapters, compilers and offloading hold them; knows nothing about changes that stay.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.files import short_digest
from unreel.models.memory import has_room

# What is put around a weight's own name: by torch.compile, by peft, and by transformers before 5.6 around CLIP's.
_AROUND = re.compile(r"(?<![^.])(?:_orig_mod|base_layer|original_module|text_model)\.")
_MARKS = 512  # samples of a weight that show whether other code has changed it


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on its own device, or on the CPU if that device has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def portable(name: str) -> str:
    """The name of a weight without what libraries put around it."""
    return _AROUND.sub("", name)


def held_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's own weights, as they are now, by their portable names and in the order of these. Adapters on the
    module are left out; a weight that accelerate offloads is the one that waits in memory.

    Raises UnreelError if some are nowhere.
    """
    parts = dict(module.named_modules())
    weights_by_name = {}
    for name, weight in module.named_parameters():
        if not _of_adapter(name, parts):
            owner, _, leaf = name.rpartition(".")
            weights_by_name[portable(name)] = _waiting(parts[owner], leaf) if weight.device.type == "meta" else weight
    return dict(sorted(weights_by_name.items()))


def own_modules(module: nn.Module) -> dict[str, nn.Module]:
    """The module's own submodules by their portable names, in its order. Adapters are left out; in their place stands
    the layer that they wrap.
    """
    parts = dict(module.named_modules())
    return {portable(f"{name}.").removesuffix("."): part for name, part in parts.items() if not _of_adapter(name, parts)}


def _of_adapter(name: str, parts: Mapping[str, nn.Module]) -> bool:
    """Whether a weight or module, by its name among `parts`, belongs to an adapter and not to the layer that this wraps."""
    owners = (name[:dot] for dot, letter in enumerate(name) if letter == ".")
    return any(
        isinstance(getattr(parts.get(owner), "base_layer", None), nn.Module)
        and not f"{name}.".startswith(f"{owner}.base_layer.")
        for owner in owners
    )


def _waiting(owner: nn.Module, leaf: str) -> torch.Tensor:
    hook = getattr(owner, "_hf_hook", None)  # accelerate's
    for one in getattr(hook, "hooks", [hook]):
        if getattr(one, "weights_map", None) is not None:
            return one.weights_map[leaf]
    raise UnreelError("the module's weights are not in memory: load them first")


def token_table_copies(weights: Mapping[str, torch.Tensor], table: str) -> list[str]:
    """The names of weights that are copies of the token table: some releases of transformers tie T5's and UMT5's two,
    others copy.
    """
    own = weights[table]
    alike = [name for name, weight in weights.items() if name != table and weight.shape == own.shape]
    return [name for name in alike if "embed" in name and torch.equal(sampled(weights[name]).to(own), sampled(own))]


def token_table(module: nn.Module) -> str | None:
    """The name of the weight with a row for every token; None for a module that reads no tokens."""
    try:
        table = module.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    table = getattr(table, "base_layer", table)
    if not isinstance(table, nn.Embedding):
        return None
    return next((portable(name) for name, weight in module.named_parameters() if weight is table.weight), None)


def unquantized_shapes(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of the module's weights as they would be without quantization, which packs some into other shapes."""
    linear = linear_layers(module)
    return {
        name: (linear[name].out_features, linear[name].in_features)
        if is_quantized(weight) and name in linear
        else tuple(weight.shape)
        for name, weight in weights.items()
    }


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The module's linear layers by the names of their weights."""
    linear = {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    return {portable(name): part for name, part in linear.items()}


def is_quantized(weight: torch.Tensor) -> bool:
    """Whether a weight is held in too few bits, or in a form of its own, for a change to be added to it exactly."""
    own_form = type(weight.data).dequantize is not torch.Tensor.dequantize  # as the tensors of quanto and torchao
    return own_form or not weight.is_floating_point() or weight.element_size() < 2


def quantization(module: nn.Module) -> str:
    """A digest that tells one way of quantizing the module's weights from another; empty if none is quantized."""
    held = {name: weight for name, weight in held_weights(module).items() if is_quantized(weight)}
    described = [
        (name, type(part).__name__, str(part.dtype), list(part.shape), str(getattr(part, "quant_type", "")))
        for name, part in held.items()
    ]
    return short_digest(described) if described else ""


def set_weight(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Set a weight in place, also if it was made under `torch.inference_mode`, outside of which torch forbids that."""
    with torch.inference_mode() if weight.is_inference() else torch.no_grad():
        weight.copy_(value)


def sampled(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().flatten()[:: max(1, weight.numel() // _MARKS)].clone()


def adapters_in(module: nn.Module) -> str:
    """A text that identifies the adapters (LoRA and others of peft) that stand beside weights of the module: which, how
    strongly, and samples of their weights; "" without any.
    """
    found: list[Any] = []
    for name, layer in module.named_modules():
        if hasattr(layer, "base_layer"):
            on = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")  # the last of LoRA alone
            found.append([name, *(str(getattr(layer, each, None)) for each in on)])
            for key, weight in layer.named_parameters():
                if not key.startswith("base_layer."):
                    owner, _, leaf = key.rpartition(".")
                    there = _waiting(layer.get_submodule(owner), leaf) if weight.device.type == "meta" else weight
                    found.append([key, sampled(there).float().tolist()])
    return short_digest(found) if found else ""


def set_aside(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of weights to go back to: on the weights' own device if there is room for all, else in main memory."""
    sizes = Counter[torch.device]()
    for weight in weights.values():
        sizes[weight.device] += weight.nbytes
    room = {device: has_room(device, size) for device, size in sizes.items()}
    return {
        name: weight.detach().clone() if room[weight.device] else weight.detach().to("cpu", copy=True)
        for name, weight in weights.items()
    }


def require_lasting(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises UnreelError if what is written to `weights`, held by the module, would be lost."""
    groups = (getattr(part, "_diffusers_hook", None) for part in module.modules())
    hooks = (group.get_hook("group_offloading") for group in groups if group is not None)
    on_disk = any(hook is not None and hook.config.offload_to_disk_path is not None for hook in hooks)
    if on_disk or any(weight is not weights[name] for name, weight in held_weights(module).items() if name in weights):
        raise UnreelError(
            "some of the model's weights are read from disk whenever they are used, and a change would be lost: load it "
            "into main memory"
        )


@contextmanager
def restored(weights: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Gives copies of the weights, by the same names. Afterwards the weights are as they were, bit for bit, whatever
    happened to them inside.
    """
    before = set_aside(weights)
    try:
        yield before
    finally:
        for name, own in before.items():
            set_weight(weights[name], own)


@contextmanager
def set_to(weights: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, the weights have the values of the same names; afterwards they are as they were, bit for bit."""
    with restored(weights):
        for name, weight in weights.items():
            set_weight(weight, values[name])
        yield


@contextmanager
def gradients_as_found(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards each weight of `parts` takes gradients if it did before."""
    weights = [weight for part in parts for weight in part.parameters() if not weight.is_inference()]  # which never do
    original = [weight.requires_grad for weight in weights]
    try:
        yield
    finally:
        for weight, learns in zip(weights, original, strict=True):
            weight.requires_grad_(learns)


@contextmanager
def learning(weights: Mapping[str, nn.Parameter]) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, the weights take gradients; it gives their original values, by the same names. Afterwards they take none
    and are as they were.
    """
    with restored(weights) as before:
        try:
            for weight in weights.values():
                weight.requires_grad_().grad = None  # what somebody left there would be added to
            yield before
        finally:
            for weight in weights.values():
                weight.requires_grad_(False).grad = None
