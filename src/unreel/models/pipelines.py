"""One pipeline, or a text encoder alone: loaded safely, from safetensors only, and put where it is to compute.

Knows files and pipeline classes; knows nothing about pairs, concepts or methods.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError, summarise
from unreel.models.adapter import USUAL_CALL, call_with, modules_of, text_encoders, words_of
from unreel.models.compare import HALVED, INDEX_FILE, components, read_json, stored, tokenizer_folder, variant_of
from unreel.models.families import FAMILIES, known
from unreel.models.loading import NO_SAFETENSORS, loading, only_our_bars, repository, require_place, require_source
from unreel.models.memory import device_of, enough_memory
from unreel.models.tokenizer import load_tokenizer, read_as_stored

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FULL_PRECISION = (
    "AutoencoderKLWan",
    "AutoencoderKLAllegro",
)  # as diffusers runs them, whatever precision the rest of the pipeline has
LARGE = 4.0  # GiB of weights that take long enough to load for a bar to be read
# What a configuration calls a model -> the class of transformers that is its encoder, without a head that writes.
TEXT_ENCODERS = {
    "CLIPTextModel": "CLIPTextModel",
    "CLIPTextModelWithProjection": "CLIPTextModelWithProjection",
    "T5EncoderModel": "T5EncoderModel",
    "UMT5EncoderModel": "UMT5EncoderModel",
    "LlamaModel": "LlamaModel",
    "LlamaForCausalLM": "LlamaModel",
    "Gemma2Model": "Gemma2Model",
    "Gemma2ForCausalLM": "Gemma2Model",
    "Qwen2Model": "Qwen2Model",
    "Qwen2ForCausalLM": "Qwen2Model",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2_5_VLForConditionalGeneration",
    "Qwen2_5_VLTextModel": "Qwen2_5_VLTextModel",
    "BertModel": "BertModel",
    "BertForMaskedLM": "BertModel",
}


@dataclass(frozen=True)
class TextModel:
    """A text encoder with its tokenizer and nothing else: what methods that need no images can work on."""

    tokenizer: Any
    text_encoder: nn.Module


def load_pipeline(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    text_only: bool = False,
    given: Mapping[str, Any] | None = None,
) -> "DiffusionPipeline":
    """Load one pipeline from a folder or a hub id, from safetensors only, without running downloaded code.

    Without a `dtype`, text encoders have the precision that they are stored in. `text_only` leaves out everything but
    tokenizers and text encoders; parts that are `given`, by name, are used in place of the pipeline's own ones.
    Raises UnreelError for anything that is no pipeline of a known family, has missing or broken weights, or pickled weights
    only, and if it cannot be fetched or does not fit into memory.
    """
    import diffusers

    source, folder = str(source), Path(source)
    require_source(source)
    precision = dtype or torch.float32
    require_place(device, precision)
    with loading(source):
        name, version = repository(source)
        load_config = diffusers.DiffusionPipeline.load_config
        index = index_of(folder) if folder.exists() else load_config(name, revision=version)
        options = dict(given or {}) | _left_out(source, index, text_only)
        if not folder.exists():
            folder = _downloaded(name, version, options)
    parts = {name: library for name, (library, _) in components(index).items() if name not in options}
    # Weights by the plain name are loaded, unless a part has nothing but a variant: then that of all that have it.
    variants = [variant for variant in _variants(source, folder, parts) if variant]
    options |= {"variant": variants[0]} if variants else {}
    size = _size(folder, parts, precision)
    in_full = {name: torch.float32 for name, (_, kind) in components(index).items() if kind in FULL_PRECISION}
    dtypes = {"default": dtype} | in_full if dtype and in_full else dtype
    with loading(source, device, precision, size), only_our_bars(bars=size > LARGE):
        kind = getattr(diffusers, index["_class_name"])
        try:
            pipeline = kind.from_pretrained(folder, dtype=dtypes, use_safetensors=True, **options)
        except AttributeError:
            if not text_only:
                raise
            # Some pipelines ask their autoencoder when they are built: HunyuanVideo 1.5.
            built = load_pipeline(source, dtype=dtype, given={**(given or {}), "transformer": None})
            built.register_modules(vae=None)
            return move(built, source, device)
    for name, library in parts.items():
        if library == "transformers" and name.startswith("tokenizer"):
            read_as_stored(words_of(getattr(pipeline, name)), folder / name)
    pipeline.set_progress_bar_config(disable=True)
    call_with(pipeline, index.get(USUAL_CALL))
    return move(pipeline, source, device)


def _downloaded(name: str, version: str, options: Mapping[str, Any]) -> Path:
    """The folder of a pipeline on the hub; where some part has no safetensors by the plain name, of the first of HALVED."""
    import diffusers

    download = partial(diffusers.DiffusionPipeline.download, name, revision=version, use_safetensors=True, **options)
    for variant in (None, *HALVED[:-1]):
        try:
            return Path(download(variant=variant))
        except OSError as error:
            if NO_SAFETENSORS not in str(error):
                raise
    return Path(download(variant=HALVED[-1]))


def move(model: Any, source: str, device: str, *, offload: bool = False, text_only: bool = False) -> Any:
    """The model, on that device; with `offload` its parts wait in main memory and take turns there; with `text_only` only
    its text encoders go. Raises UnreelError if they do not fit.
    """
    text_only = text_only or isinstance(model, TextModel)
    parts = [getattr(model, name) for name in text_encoders(model)] if text_only else list(modules_of(model).values())
    weights = [weight for part in parts for weight in part.parameters()]
    ways = {
        "--dtype bfloat16": 2 * sum(weight.nbytes for weight in weights if weight.dtype == torch.float32)
        > sum(weight.nbytes for weight in weights),  # some parts are in full precision whatever is asked for
        "--offload": not (text_only or offload or device == "cpu"),
        "--device cpu": device != "cpu",
    }
    what = f"{source}, {sum(weight.nbytes for weight in weights) / 2**30:.1f} GiB of weights,"
    with enough_memory(what, torch.device(device), [hint for hint, helps in ways.items() if helps]):
        if text_only:
            for part in parts:
                part.to(device)
        elif offload:
            model.enable_model_cpu_offload(device=device)
        else:
            model.remove_all_hooks()  # of offloading
            model.to(device, silence_dtype_warnings=True)  # models may wait on the CPU in half precision
    return model


@contextmanager
def moved(model: Any, source: str, device: str, *, offload: bool = False) -> Iterator[None]:
    """Inside, the whole pipeline is on that device, as `move` puts it there; then its parts are where they were. Raises
    UnreelError if they do not fit.
    """
    before = {part: device_of(part) for part in modules_of(model).values()}
    offloaded_to = model._offload_device if getattr(model, "_all_hooks", None) else None
    try:
        move(model, source, device, offload=offload)
        yield
    finally:
        model.remove_all_hooks()  # of offloading
        if offloaded_to is not None:
            model.enable_model_cpu_offload(device=offloaded_to)
        else:
            for part, place in before.items():
                if device_of(part) != place:  # what is quantized may refuse to be moved at all
                    part.to(place)


def index_of(folder: Path) -> dict[str, Any]:
    """The list of a pipeline's parts."""
    if not (folder / INDEX_FILE).is_file():
        raise UnreelError(f"{folder} is no pipeline: it has no {INDEX_FILE}")
    return read_json(folder / INDEX_FILE)


def _left_out(source: str, index: dict[str, Any], text_only: bool) -> dict[str, Any]:
    """Which parts not to load. Raises UnreelError for a pipeline of no known family or with code of its own."""
    kind = index.get("_class_name")
    if isinstance(kind, (list, tuple)):
        raise UnreelError(f"{source} asks to run code of its own ({'.'.join(map(str, kind))}): refused")
    if not known(str(kind)):
        names = sorted({name for family in FAMILIES for name in (*family.t2v, *family.t2i)})
        raise UnreelError(f"{source} is a {kind}, which unreel does not know: it knows {', '.join(names)}")
    for name, (library, class_name) in components(index).items():
        if library not in ("diffusers", "transformers", "stable_diffusion"):
            raise UnreelError(f"{source} asks to run code of its own ({library}.{class_name} as its {name}): refused")
    # A safety checker is always left out: it would blank the very images that unlearning needs.
    out = {"safety_checker": None} if "safety_checker" in index else {}
    if text_only:
        out |= {name: None for name in components(index) if not name.startswith(("text_encoder", "tokenizer"))}
    return out


def _weightless(part: str) -> bool:
    return part.startswith(("tokenizer", "scheduler", "feature_extractor", "processor")) or part.endswith("guider")


def _stem(library: str) -> str:
    return "diffusion_pytorch_model" if library == "diffusers" else "model"


def _variants(source: str, folder: Path, parts: dict[str, str]) -> list[str | None]:
    """The variant of every part that has weights. Raises UnreelError if a part is missing or has no weights that can be
    loaded safely.
    """
    for name in parts:
        if not (folder / name).is_dir():
            raise UnreelError(f"{source} is incomplete: its {name} folder is missing; fetch it again")
    return [variant_of(folder / name, _stem(library)) for name, library in parts.items() if not _weightless(name)]


def _size(folder: Path, parts: dict[str, str], dtype: torch.dtype) -> float:
    """GiB of all weights in that precision."""
    tensors = [
        file for name, library in parts.items() if not _weightless(name) for file in stored(folder / name, _stem(library))
    ]
    return sum(prod(tensor.shape) for tensor in tensors) * dtype.itemsize / 2**30


def load_text_model(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32) -> TextModel:
    """Load a text encoder alone, from a folder such as a pipeline's `text_encoder`; its tokenizer may lie in the same
    folder or in the one beside it that pipelines put it in.

    Raises UnreelError for anything that is no text encoder of a known kind, lacks weights or has no tokenizer.
    """
    import transformers

    folder, precision = Path(folder), dtype or torch.float32
    require_place(device, precision)
    config = read_json(folder / "config.json")
    names = [name for name in config.get("architectures") or [] if name in TEXT_ENCODERS]
    if "auto_map" in config or not names:
        known_ones = ", ".join(TEXT_ENCODERS)
        raise UnreelError(f"{folder} holds no text encoder that unreel knows: it knows {known_ones}, without own code")
    which = {"variant": variant_of(folder), "use_safetensors": True}
    words = tokenizer_folder(folder)
    size = _size(folder.parent, {folder.name: "transformers"}, precision)
    with loading(str(folder), device, precision, size), only_our_bars(bars=size > LARGE):
        kind = getattr(transformers, TEXT_ENCODERS[names[0]])
        encoder, info = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, **which)
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if missing:  # they would be random
            raise UnreelError(f"{folder} is incomplete: it has no weights for {summarise(missing)}; fetch it again")
        if info["missing_keys"]:
            encoder.pooler = None  # BERT's, which nothing reads
        return TextModel(load_tokenizer(words), encoder.to(device).eval())
