"""An erasure as files that load elsewhere: whole text encoders, PEFT adapters, LoRA files of diffusers and of ComfyUI.

Knows what other tools call the weights of a text encoder; knows nothing about how the change was found.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError, needs, summarise
from unreel.files import require_new, write_folder, write_json, write_text
from unreel.interventions import active_interventions
from unreel.interventions.card import CARD_FILE, export_card
from unreel.interventions.erasure import ComponentDelta, Erasure
from unreel.models.adapter import encode_prompt, takes_lora, tensors_in, text_encoders
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import Delta, LowRank
from unreel.models.weights import doubled, held_weights, is_quantized, portable
from unreel.prompts.concept import Concept
from unreel.prompts.vocabulary import EVERYDAY

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FORMATS = ("text-encoder", "peft", "lora", "comfyui")
EXPORT_FILE = "export.json"
TOLERANCE = 0.05
LEAST_KEPT = 0.9  # the share of an erasure's effect below which an export is refused
PROMPTS, BATCH = 32, 16  # prompts of each sort to measure on; prompts encoded at once

CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
# The matrices that LoRA files for CLIP hold: diffusers and ComfyUI look for no others.
CLIP_MATRICES = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# By class of other encoders: where comfy/text_encoders keeps their weights.
COMFYUI = {
    "T5EncoderModel": "t5xxl.transformer.",
    "UMT5EncoderModel": "umt5xxl.transformer.",
    "LlamaModel": "llama.transformer.model.",
    "Gemma2Model": "gemma2_2b.transformer.model.",
    "Qwen2_5_VLForConditionalGeneration": "qwen25_7b.transformer.model.",
    "Qwen2_5_VLTextModel": "qwen25_7b.transformer.model.",
}

# For cards, by format: the library that loads it, as the hub calls that, and how to load it.
USES = {
    "text-encoder": (
        "transformers",
        "Put the folder `text_encoder` (and others beside it) in the place of the model's own, or give the pipeline what "
        "`from_pretrained` makes of it: `DiffusionPipeline.from_pretrained(MODEL, text_encoder=...)`.",
    ),
    "peft": (
        "peft",
        "`pipeline.text_encoder.load_adapter(FOLDER)`; `pipeline.text_encoder.disable_adapters()` takes it off.",
    ),
    "lora": ("diffusers", "`pipeline.load_lora_weights(FOLDER)`; `pipeline.unload_lora_weights()` takes it off."),
    "comfyui": (
        "comfyui",
        "Put `lora.safetensors` among ComfyUI's or A1111's LoRA files under a name of your own, and load it at strength 1 "
        "for the text encoder. **Not run there**: its names and shapes are checked, not its use.",
    ),
}

# By low-rank format: the endings of the names of the two factors.
ENDS = {
    "peft": (".lora_B.weight", ".lora_A.weight"),
    "lora": (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    "comfyui": (".lora_up.weight", ".lora_down.weight"),
}

Layers = dict[str, dict[str, LowRank]]  # the changes of matrices, by text encoder and module


@dataclass(frozen=True)
class Export:
    """What an export holds of the erasure.

    `ranks` are those of the matrices in the file, by text encoder and module. `left_out` names the parameters whose changes
    the format cannot hold. `kept` is 1 - |x - e|^2 / |e - o|^2, where o, e and x are the embeddings of prompts that name
    the concepts by the original model, with the erasure and with the export. `moved` is how far unrelated prompts move, as
    a share of their norm, by the erasure itself and by the export.
    """

    format: str
    concepts: list[str]
    megabytes: float
    ranks: dict[str, dict[str, int]]
    left_out: list[str]
    kept: float
    moved: tuple[float, float]


def require_format(format: str, tolerance: float) -> None:
    """Raises UnreelError for an unknown format, for one whose package is missing, and for a tolerance that is no share."""
    if format not in FORMATS:
        raise UnreelError(f"unknown format {format!r}: choose from {', '.join(FORMATS)}")
    if format == "peft" and not find_spec("peft"):
        raise needs("the format peft", "the package peft", "export")
    if not 0 <= tolerance < 1:
        raise UnreelError(f"the tolerance is a share from 0 to below 1, not {tolerance}")


def export(
    erasure: Erasure,
    model: "DiffusionPipeline",
    folder: str | Path,
    *,
    format: str = "text-encoder",
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    least: float = LEAST_KEPT,
    evaluated: str | Path | None = None,
) -> Export:
    """Write the erasure for `model`, a pipeline or a text encoder with its tokenizer; the folder appears complete or not at
    all.

    `text-encoder` writes the text encoders with the erasure in them, in their own precision. The other formats hold
    matrices of low rank: changes of low rank are written as they are, others lose up to `tolerance` of their squared norm.
    `evaluated` is the folder of the erasure: its figures, if it was evaluated or looked at, go onto the model card.
    Raises UnreelError if the erasure is not for this model, the format cannot hold it, the export would keep less than the
    share `least` of the erasure's effect, its figures cannot be read, or the folder exists.
    """
    folder = Path(folder)
    require_format(format, tolerance)
    require_new(folder, overwrite, EXPORT_FILE)
    _require_exportable(erasure, model, format)
    figures = erasure.figures(evaluated) if evaluated else ""
    fitting = erasure.fitting(model)
    components = {name: fitting[encoder] for name, encoder in text_encoders(model).items() if encoder in fitting}
    layers: Layers = {}
    if format != "text-encoder":
        layers = {name: _matrices(format, model, name, delta, tolerance) for name, delta in components.items()}
        _require_some(format, model, components, layers)
    kept, moved = _measured(erasure, _held(erasure, components, layers) if layers else None, model)
    if not kept >= least:
        raise UnreelError(
            f"the format {format} would keep {100 * kept:.0f} % of what this erasure does (bar: {100 * least:.0f} %). "
            "Nothing was written: lower --tolerance, choose text-encoder, or write it all the same with --accept-weak"
        )
    left_out = [
        f"{name}.{weight}"
        for name, delta in components.items()
        for weight in delta.deltas
        if layers and weight not in {portable(f"{module}.weight") for module in layers[name]}
    ]
    ranks = {name: {module: low.up.shape[1] for module, low in of.items()} for name, of in layers.items() if of}
    made: list[Export] = []

    def fill(partial: Path) -> None:
        if format == "text-encoder":
            _write_encoders(partial, erasure, model, list(components))
        else:
            _WRITERS[format](partial, model, {name: of for name, of in layers.items() if of})
        size = sum(file.stat().st_size for file in partial.rglob("*.safetensors"))
        made.append(Export(format, erasure.concepts, size / 1e6, ranks, left_out, kept, moved))
        write_json(partial / EXPORT_FILE, asdict(made[0]))
        write_text(partial / CARD_FILE, _card(erasure, made[0], figures))

    write_folder(folder, fill, EXPORT_FILE, overwrite=overwrite)
    return made[0]


def _require_exportable(erasure: Erasure, model: Any, format: str) -> None:
    """Raises UnreelError if no format holds the erasure, if an erasure or a LoRA is on the model, or if the model cannot be
    saved with an erasure in it.
    """
    if erasure.edits_network:
        raise UnreelError(
            "exports hold text encoders, and this erasure changes what denoises: put it on with unreel, or put it on a "
            "pipeline and save that, whole"
        )
    if active_interventions(model):
        raise UnreelError("an erasure is on this model: take it off first, or combine the two and export that")
    encoders = text_encoders(model).values()
    if any(hasattr(module, "base_layer") for encoder in encoders for module in encoder.modules()):
        raise UnreelError("a LoRA is on this model, and would be saved in place of the erasure: unload it first")
    held = (weight for encoder in encoders for weight in held_weights(encoder).values())
    if format == "text-encoder" and any(map(is_quantized, held)):
        raise UnreelError(
            "a quantized text encoder holds no erasure when it is saved: export from the model as it was before, or with "
            "--format peft"
        )


def _card(erasure: Erasure, made: Export, figures: str) -> str:
    library, use = USES[made.format]
    before, now = (f"{100 * share:.1f} %" for share in made.moved)
    left = f" It leaves out {summarise(made.left_out)}, which the format cannot hold." if made.left_out else ""
    about = (
        f"It keeps {100 * made.kept:.1f} % of the erasure's effect on prompts that name what is forgotten, and moves "
        f"unrelated ones by {now} (the erasure itself: {before}).{left}"
    )
    return export_card(erasure, library, about, use, figures)


def _held(erasure: Erasure, components: dict[str, ComponentDelta], layers: Layers) -> Erasure:
    """The part of the erasure that `layers` hold."""
    held = [
        ComponentDelta({f"{module}.weight": low for module, low in of.items()}, components[name].fingerprint)
        for name, of in layers.items()
    ]
    return Erasure(tuple(held), erasure.provenance)


def _matrices(format: str, model: Any, component: str, delta: ComponentDelta, tolerance: float) -> dict[str, LowRank]:
    """The changes of a component delta that the format holds, as products, by module."""
    named = text_encoders(model)[component].named_modules()
    linear = {portable(f"{name}.weight"): name for name, module in named if isinstance(module, nn.Linear)}
    return {
        linear[weight]: low_rank(change, tolerance)
        for weight, change in delta.deltas.items()
        if weight in linear and stored_name(format, model, component, linear[weight])
    }


def low_rank(change: Delta, tolerance: float) -> LowRank:
    """The change of a matrix as a product: as it is if it is one, else of the least rank that loses no more than
    `tolerance` of its squares.
    """
    if isinstance(change, LowRank):
        return change
    u, s, v = torch.linalg.svd(change.double(), full_matrices=False)
    lost = 1 - s.square().cumsum(0) / s.square().sum()
    rank = min(int((lost > tolerance).sum()) + 1, len(s))
    root = s[:rank].sqrt()  # factors of the same size suit coarse precisions
    return LowRank((u[:, :rank] * root).float().contiguous(), (root[:, None] * v[:rank]).float().contiguous())


def stored_name(format: str, model: Any, component: str, module: str) -> str | None:
    """The name in a low-rank format of the matrix of `module` in the model's text encoder `component`; None if the format
    does not hold it.
    """
    if format == "peft":
        whole, reading = getattr(model, component), text_encoders(model)[component]
        within = next((f"{name}." for name, part in whole.named_modules() if part is reading and name), "")
        return f"base_model.model.{within}{module}"
    kind = type(getattr(model, component)).__name__
    if kind in CLIP:
        # Some versions of transformers have no such module, but all files call it so.
        name = f"text_model.{module.removeprefix('text_model.')}"
        if not name.endswith(CLIP_MATRICES) or (format == "lora" and not takes_lora(model, component)):
            return None
        return name if format == "lora" else f"{_kohya(model, component)}_{name.replace('.', '_')}"
    return f"text_encoders.{COMFYUI[kind]}{module}" if format == "comfyui" and kind in COMFYUI else None


def _kohya(model: Any, component: str) -> str:
    """The name of the text encoder in kohya's files: numbered if the pipeline has several CLIPs."""
    clips = [name for name, encoder in text_encoders(model).items() if type(encoder).__name__ in CLIP]
    return "lora_te" if len(clips) == 1 else f"lora_te{clips.index(component) + 1}"


def _require_some(format: str, model: Any, components: dict[str, ComponentDelta], layers: Layers) -> None:
    """Raises UnreelError, naming formats that work, if this one holds nothing of the erasure."""
    if any(layers.values()):
        return
    kinds = ", ".join(type(getattr(model, name)).__name__ for name in components)
    others = [
        other
        for other in FORMATS
        if other == "text-encoder" or any(_matrices(other, model, name, delta, 0.5) for name, delta in components.items())
    ]
    raise UnreelError(
        f"a {type(model).__name__} with this erasure of its {kinds} has no {format} files: choose --format "
        f"{' or '.join(others)}"
    )


@torch.no_grad()
def _measured(erasure: Erasure, held: Erasure | None, model: Any) -> tuple[float, tuple[float, float]]:
    """`kept` and `moved` of an Export that holds the part `held` of the erasure; None stands for all of it."""
    concepts = [Concept.recorded(part) for part in erasure.provenance["parts"]]
    prompts = [prompt for concept in concepts for prompt in concept.forget_prompts]
    words = [word for word in EVERYDAY["concept"] if not any(concept.is_named_in(word) for concept in concepts)]
    out = []
    for some in (prompts, [f"a photo of a {word}" for word in words]):
        some = some[:: -(-len(some) // PROMPTS)]
        before, after = (_embeddings(model, some, intervention) for intervention in (None, erasure))
        now = _embeddings(model, some, held) if held else after
        norm = sum(float(part.square().sum()) for part in before)
        out.append((_distance(before, after), _distance(before, now), _distance(after, now), norm))
    (done, _, lost, _), (moved, moved_now, _, norm) = out
    return 1 - lost / done if done else 1.0, ((moved / norm) ** 0.5, (moved_now / norm) ** 0.5)


def _embeddings(model: Any, prompts: list[str], intervention: Erasure | None) -> list[torch.Tensor]:
    """The embeddings of the prompts that the denoiser gets, with the intervention on, if there is one."""
    out = []
    with intervention.on(model) if intervention else nullcontext():
        for start in range(0, len(prompts), BATCH):
            some = prompts[start : start + BATCH]
            embeddings = (
                encode_prompt(model, some) if hasattr(model, "encode_prompt") else Conditioner.of(model).encode(some)
            )
            parts = tensors_in(embeddings)
            out += [doubled(part) for part in parts if part.is_floating_point() and len(part) == len(some)]
    return out


def _distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return sum(float((x - y).square().sum()) for x, y in zip(a, b, strict=True))


def _write_encoders(folder: Path, erasure: Erasure, model: Any, components: list[str]) -> None:
    with erasure.on(model):
        for name in components:
            encoder, tokenizer = getattr(model, name), name.replace("text_encoder", "tokenizer")
            # Made from a configuration, a CLIP would be saved without the prefix that other tools know it by.
            bare = type(encoder).__name__ == "CLIPTextModel" and not hasattr(encoder, "text_model")
            state = {f"text_model.{key}": tensor for key, tensor in encoder.state_dict().items()} if bare else None
            encoder.save_pretrained(folder / name, state_dict=state)
            getattr(model, tokenizer).save_pretrained(folder / tokenizer)


def _write_peft(folder: Path, model: Any, layers: Layers) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    for component, matrices in layers.items():
        home = folder if len(text_encoders(model)) == 1 else folder / component
        home.mkdir(exist_ok=True)
        LoraConfig(**_lora_config(matrices), inference_mode=True).save_pretrained(str(home))
        config = json.loads((home / "adapter_config.json").read_text(encoding="utf-8"))
        # It is a set in peft, which would write it in another order every time.
        write_json(home / "adapter_config.json", config | {"target_modules": sorted(config["target_modules"])})
        save_file(
            _factors("peft", model, component, matrices), home / "adapter_model.safetensors", metadata={"format": "pt"}
        )


def _write_lora(folder: Path, model: Any, layers: Layers) -> None:
    options: dict[str, Any] = {}
    for component, matrices in layers.items():
        options[f"{component}_lora_layers"] = _factors("lora", model, component, matrices)
        bare = {module.removeprefix("text_model."): low for module, low in matrices.items()}  # fits with and without it
        options[f"{component}_lora_adapter_metadata"] = _lora_config(bare)
    model.save_lora_weights(folder, **options)


def _write_comfyui(folder: Path, model: Any, layers: Layers) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for component, matrices in layers.items():
        tensors |= _factors("comfyui", model, component, matrices)
        for module, low in matrices.items():
            tensors[f"{stored_name('comfyui', model, component, module)}.alpha"] = torch.tensor(float(low.up.shape[1]))
    save_file(tensors, folder / "lora.safetensors", metadata={"format": "pt"})


_WRITERS: dict[str, Callable[[Path, Any, Layers], None]] = {
    "peft": _write_peft,
    "lora": _write_lora,
    "comfyui": _write_comfyui,
}


def _factors(format: str, model: Any, component: str, matrices: dict[str, LowRank]) -> dict[str, torch.Tensor]:
    """The factors of a text encoder's matrices as the format names them."""
    out: dict[str, torch.Tensor] = {}
    for module, low in matrices.items():
        name = stored_name(format, model, component, module)
        out |= {f"{name}{end}": factor.contiguous() for end, factor in zip(ENDS[format], (low.up, low.down), strict=True)}
    return out


def _lora_config(matrices: dict[str, LowRank]) -> dict[str, Any]:
    """The settings of peft's LoraConfig for these matrices. Every alpha is its rank, so that nothing is scaled."""
    ranks = {module: low.up.shape[1] for module, low in matrices.items()}
    most = max(ranks.values())
    same = {"r": most, "lora_alpha": most, "rank_pattern": ranks, "alpha_pattern": ranks}
    return {**same, "target_modules": list(ranks)}
