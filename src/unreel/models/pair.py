"""A text-to-image and a text-to-video pipeline, loaded safely, and the proof that they share a text encoder.

Knows files and pipeline classes; knows nothing about concepts or methods.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.errors import UnreelError, summarise
from unreel.models.adapter import (
    USUAL_CALL,
    call_with,
    modules_of,
    own_sampling,
    text_encoders,
    tokenizer_of,
    video_size,
    words_of,
)
from unreel.models.compare import (
    HALVED,
    INDEX_FILE,
    VOCABULARY,
    components,
    differing,
    fetch,
    read_json,
    same_values,
    stored,
    tokenizer_folder,
    variant_of,
)
from unreel.models.conditioner import Conditioner
from unreel.models.families import FAMILIES, FPS, USUAL_FPS, known, makes_videos
from unreel.models.fingerprint import Fingerprint, coarsest
from unreel.models.loading import NO_SAFETENSORS, loading, only_our_bars, repository, require_place, require_source
from unreel.models.memory import device_of, enough_memory
from unreel.models.readers import reader_folder
from unreel.models.shipped import EMBEDDED, PARTS, preset_of, shipped, world_of
from unreel.models.tokenizer import load_tokenizer, read_as_stored
from unreel.prompts.vocabulary import EVERYDAY, Vocabulary, of_world

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FULL_PRECISION = ("AutoencoderKLWan",)  # as diffusers runs them, whatever precision the rest of the pipeline has
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
class Settings:
    """How to sample and unlearn: the defaults are the paper's, `settings_of` gives those of a pipeline.

    `size` is (height, width) in pixels of videos, and of single frames of a video model to learn from; it and `frames` are
    the pipeline's own where they are None. `tiling` lets autoencoders decode one part of a frame after the other, which
    takes less memory and changes pixels a little. `batch` is how many videos are generated at once; `methods` holds, by
    their names, what methods have instead of their own settings.
    """

    steps: int = 50
    guidance: float = 7.5
    frames: int | None = 16
    fps: int = USUAL_FPS
    size: tuple[int, int] | None = None
    tiling: bool = False
    batch: int = 1
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sampling(self) -> dict[str, Any]:
        """All that decides what a seed makes of a prompt."""
        return {name: getattr(self, name) for name in ("steps", "guidance", "frames", "size", "tiling")}


@dataclass(frozen=True)
class VideoModel:
    """A text-to-video pipeline, how to sample from it (by default as `settings_of` says), and where it was loaded from."""

    pipeline: "DiffusionPipeline"
    settings: Settings = None  # type: ignore[assignment]
    source: str = ""

    def __post_init__(self) -> None:
        if self.settings is None:
            object.__setattr__(self, "settings", settings_of(self.source, self.pipeline))

    @property
    def video_bytes(self) -> int | None:
        """Of the pixels of one video; None where the pipeline decides how many those are when it is called."""
        frames, size = self.settings.frames, self.settings.size or video_size(self.pipeline)
        return 3 * frames * size[0] * size[1] if frames and size else None

    @property
    def alone(self) -> "Pair":
        """As a pair with itself."""
        return Pair(self.pipeline, self.pipeline, self.source, self.source, self.settings, _vocabulary_of(self.source))


@dataclass(frozen=True)
class Pair:
    """The pair to work on. `t2i_source` and `t2v_source` say where each was loaded from, `settings` how to sample (by
    default as `settings_of` says), `vocabulary` what it can make.
    """

    t2i: "DiffusionPipeline"
    t2v: "DiffusionPipeline"
    t2i_source: str
    t2v_source: str
    settings: Settings = None  # type: ignore[assignment]
    vocabulary: Vocabulary = field(default_factory=lambda: EVERYDAY)

    def __post_init__(self) -> None:
        if self.settings is None:
            object.__setattr__(self, "settings", settings_of(self.t2v_source, self.t2v))

    @classmethod
    def of(cls, pipeline: "DiffusionPipeline") -> "Pair":
        """A text-to-video pipeline in memory, as a pair with itself. Raises UnreelError for anything else."""
        require_makes_videos(pipeline, "this")
        source = str(getattr(pipeline.config, "_name_or_path", "") or type(pipeline).__name__)
        return cls(pipeline, pipeline, source, source)

    @property
    def video(self) -> VideoModel:
        return VideoModel(self.t2v, self.settings, self.t2v_source)

    def shared(self) -> dict[str, list[str]]:
        """For every text encoder of the video pipeline, what differs from the image pipeline's that is most like it,
        whatever the pipelines call them; an empty list means shared.

        Compares every tensor bit for bit (in the lower of the two precisions that they are stored in, where these differ)
        and the tokenizers.
        """
        out = {}
        for name, encoder in text_encoders(self.t2v).items():
            names = [
                differences(other, encoder, tokenizer_of(self.t2i, other_name), tokenizer_of(self.t2v, name))
                for other_name, other in text_encoders(self.t2i).items()
            ]
            out[name] = min(names, key=len, default=["only in one"])
        return out

    def conditioners(self) -> dict[str, Conditioner]:
        """Those of the image pipeline's text encoders that read prompts and that the video pipeline has too, by name."""
        theirs = text_encoders(self.t2v).values()
        return {
            name: conditioner
            for name, conditioner in Conditioner.all_of(self.t2i).items()
            if any(Fingerprint.of(conditioner.text_encoder).fits(other) for other in theirs)
        }

    @contextmanager
    def readings(self) -> Iterator[list[Conditioner]]:
        """Those, and the video pipeline's that give its network otherwise what they read: in another template, padded
        otherwise, led away from other words. Inside, the image pipeline's text encoders are the video pipeline's too, whose
        own may wait in main memory; if that leaves it with encoders on two devices, it is not asked.
        """
        own = self.conditioners()
        if self.t2v is self.t2i or isinstance(self.t2v, TextModel):  # which gives nothing to a network
            yield list(own.values())
            return
        theirs = text_encoders(self.t2v)
        instead = {
            name: getattr(self.t2i, other)
            for name, encoder in theirs.items()
            for other, one in own.items()
            if Fingerprint.of(one.text_encoder).fits(encoder)
        }
        places = {device_of(instead.get(name, encoder)) for name, encoder in theirs.items()}
        with ExitStack() as undo:
            for name, encoder in instead.items():
                undo.callback(setattr, self.t2v, name, getattr(self.t2v, name))
                setattr(self.t2v, name, encoder)
            asked = Conditioner.all_of(self.t2v) if instead and len(places) == 1 else {}
            others = [one for name, one in asked.items() if name in instead]
            same = {one.text_encoder: one for one in own.values()}
            yield [*own.values(), *(one for one in others if not one.reads_like(same[one.text_encoder]))]

    def require_shared(self) -> None:
        """Raises UnreelError, naming what differs, unless at least one text encoder is shared."""
        encoders = self.shared()
        if all(encoders.values()):
            what = "; ".join(f"{name}: {summarise(differs)}" for name, differs in encoders.items())
            raise UnreelError(
                f"{self.t2i_source} and {self.t2v_source} share no text encoder, so nothing unlearned in one would "
                f"reach the other ({what}). Give a pair that was trained with the same frozen text encoder."
            )


def differences(encoder_a: Any, encoder_b: Any, tokenizer_a: Any, tokenizer_b: Any) -> list[str]:
    """Names of the tensors in which two text encoders differ, and the tokenizer's vocabulary if that does; what is stored
    in less than it is loaded in is compared in that.
    """
    coarser = coarsest(Fingerprint.of(encoder).stored_precision for encoder in (encoder_a, encoder_b))
    out = differing(encoder_a.state_dict(), encoder_b.state_dict(), partial(same_values, precision=coarser))
    return out + ([] if tokenizer_a.get_vocab() == tokenizer_b.get_vocab() else [VOCABULARY])


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
        index = _index(folder) if folder.exists() else load_config(name, revision=version)
        options = dict(given or {}) | _left_out(source, index, text_only)
        if not folder.exists():
            folder = _downloaded(name, version, options)
    parts = {name: library for name, (library, _) in components(index).items() if name not in options}
    # Where there are weights by the plain name, those are loaded.
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
            # Some pipelines ask their network when they are built: HunyuanVideo 1.5.
            return load_pipeline(source, device=device, dtype=dtype, given=given)
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
    whole = {name: getattr(model, name) for name in text_encoders(model)} if text_only else modules_of(model)
    parts = list(whole.values())
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
    try:
        move(model, source, device, offload=offload)
        yield
    finally:
        model.remove_all_hooks()  # of offloading
        for part, place in before.items():
            if device_of(part) != place:  # what is quantized may refuse to be moved at all
                part.to(place)


def _index(folder: Path) -> dict[str, Any]:
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


def _load_part(
    source: str, part: str, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32, text_only: bool = False
) -> "DiffusionPipeline":
    """One of the two pipelines of a pair that ships with unreel, with what is no part of it: what its preset says that it
    reads with, and what it shares with the other one.
    """
    import diffusers

    home, preset = shipped(source), preset_of(source)
    assert home is not None
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    given = dict(vars(load_text_model(reader_folder(preset["reader"]), **options))) if "reader" in preset else {}
    for name in () if text_only or part == PARTS[0] else preset.get("shared", ()):
        _, kind = components(_index(home / part))[name]
        given[name] = getattr(diffusers, kind).from_pretrained(home / PARTS[0] / name, dtype=dtype, use_safetensors=True)
    return load_pipeline(home / part, text_only=text_only, given=given, **options)


def load_pair(
    t2i: str | Path | None = None,
    t2v: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    text_only: bool = False,
    makes_videos: bool = True,
) -> Pair:
    """Load the embedded pair (the default), or two pipelines from folders or hub ids; both `text_only`, or the video
    pipeline alone, where it is another one and `makes_videos` says that no video is to be made.

    A video pipeline alone, or the folder of a text encoder alone, is a pair with itself: enough for methods that learn from
    text. Raises UnreelError when something cannot be loaded or the two share no text encoder.
    """
    t2i, t2v = (None if source is None else str(source) for source in (t2i, t2v))
    whole = t2v or t2i or EMBEDDED  # a pair that ships with unreel is called by one name
    if (t2i is None or t2v is None) and shipped(whole):
        t2i = t2v = whole
    if t2v is None:
        raise UnreelError(
            "add --t2v: an image model alone is not enough; a text encoder's folder will do, as --t2v FOLDER --videos 0"
        )
    for source in (t2i, t2v):
        if source and not shipped(source):
            require_source(source)
    options: dict[str, Any] = {"device": device, "dtype": dtype}

    def load(source: str, part: str, text_only: bool) -> Any:
        if shipped(source):
            return _load_part(source, part, text_only=text_only, **options)
        if (Path(source) / "config.json").is_file() and not (Path(source) / INDEX_FILE).exists():
            return load_text_model(Path(source), **options)
        return load_pipeline(source, text_only=text_only, **options)

    image_model = None if t2i is None else load(t2i, "image", text_only)
    video_model = load(t2v, "video", text_only or bool(image_model and not makes_videos))
    if not isinstance(video_model, TextModel):
        require_makes_videos(video_model, t2v)
    settings, words = settings_of(t2v, video_model), _vocabulary_of(t2v)
    pair = Pair(image_model or video_model, video_model, t2i or t2v, t2v, settings, words)
    if t2i is not None:
        pair.require_shared()
    return pair


def _vocabulary_of(t2v: str | None) -> Vocabulary:
    world = world_of(t2v)
    return of_world(world) if world else EVERYDAY


def load_video_model(
    t2v: str | Path = EMBEDDED, *, device: str = "cpu", dtype: torch.dtype = torch.float32, offload: bool = False
) -> VideoModel:
    """Load a text-to-video pipeline alone, to generate with; with `offload` its parts take turns on the device.

    Raises UnreelError as `load_pipeline` does.
    """
    t2v = str(t2v)
    require_place(device, dtype)
    waiting = _load_part(t2v, "video", dtype=dtype) if shipped(t2v) else load_pipeline(t2v, dtype=dtype)
    pipeline = move(waiting, t2v, device, offload=offload)
    return VideoModel(pipeline, settings_of(t2v, pipeline), t2v)


def folders_of(source: str) -> dict[str, Path]:
    """Where a model lies, or each of a pair that ships with unreel, by what to call it; of one on the hub, only text
    encoders and tokenizers are fetched.
    """
    home = shipped(source)
    if home and "reader" in preset_of(source):  # both read with that
        return {source: reader_folder(preset_of(source)["reader"])}
    return {f"{source} {part}": home / part for part in PARTS} if home else {source: fetch(source)}


def require_makes_videos(pipeline: Any, what: str) -> None:
    """Raises UnreelError for anything that is no text-to-video pipeline that unreel knows."""
    if not makes_videos(type(pipeline).__name__):
        names = ", ".join(name for family in FAMILIES for name in family.t2v)
        raise UnreelError(f"{what} is a {type(pipeline).__name__}, no text-to-video pipeline: unreel knows {names}")


def settings_of(t2v: str, pipeline: Any) -> Settings:
    """How a pipeline is sampled from unless somebody says otherwise: of a pair that ships with unreel, as its `preset.json`
    says; else as the pipeline samples when it is called with a prompt alone, at the speed of its published example.
    """
    preset = preset_of(t2v)
    if preset:
        return Settings(**preset["sampling"], methods=preset["methods"])
    return Settings(**own_sampling(pipeline), fps=FPS.get(type(pipeline).__name__, USUAL_FPS))
