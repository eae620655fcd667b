"""A text-to-image and a text-to-video pipeline, loaded safely, and the proof that they share a text encoder.

Knows files and pipeline classes; knows nothing about concepts or methods.
"""

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unreel.conditioner import Conditioner, words_of
from unreel.erasure import Fingerprint
from unreel.errors import UnreelError
from unreel.families import FAMILIES, known, makes_videos, text_encoders
from unreel.vocabulary import EVERYDAY, Vocabulary, of_world

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
SETTINGS_FILE, WORLD_FILE = "unreel.json", "world.json"
# Classes of transformers, by the names that a configuration has for them.
TEXT_ENCODERS = (
    *("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "UMT5EncoderModel"),
    *("LlamaModel", "Gemma2Model", "Qwen2_5_VLForConditionalGeneration"),
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Settings:
    """How to sample and unlearn: the defaults are the paper's; the embedded pair brings its own in `unreel.json`.

    `batch` is how many videos are generated at once; `few_shot` and `anchored` override fields of those methods' settings.
    """

    steps: int = 50
    guidance: float = 7.5
    frames: int = 16
    fps: int = 8
    batch: int = 1
    few_shot: dict[str, Any] = field(default_factory=dict)
    anchored: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoModel:
    """A text-to-video pipeline, how to sample from it, and where it was loaded from."""

    pipeline: "DiffusionPipeline"
    settings: Settings = Settings()
    source: str = ""


@dataclass(frozen=True)
class Pair:
    """The pair to work on. `t2i_source` and `t2v_source` say where each was loaded from, `vocabulary` what it can make."""

    t2i: "DiffusionPipeline"
    t2v: "DiffusionPipeline"
    t2i_source: str
    t2v_source: str
    settings: Settings = Settings()
    vocabulary: Vocabulary = field(default_factory=lambda: EVERYDAY)

    @property
    def video(self) -> VideoModel:
        return VideoModel(self.t2v, self.settings, self.t2v_source)

    def shared(self) -> dict[str, list[str]]:
        """For every text encoder of the video pipeline, what differs from the image pipeline's that is most like it,
        whatever the pipelines call them; an empty list means shared.

        Compares every tensor bit for bit (in the lower of the two precisions where they differ) and the tokenizers.
        """
        out = {}
        for name, encoder in text_encoders(self.t2v).items():
            found = [
                differences(other, encoder, tokenizer_of(self.t2i, other_name), tokenizer_of(self.t2v, name))
                for other_name, other in text_encoders(self.t2i).items()
            ]
            out[name] = min(found, key=len, default=["only in one"])
        return out

    def conditioners(self) -> dict[str, Conditioner]:
        """Those of the image pipeline's text encoders that read prompts and that the video pipeline has too, by name."""
        theirs = [Fingerprint.of(encoder) for encoder in text_encoders(self.t2v).values()]
        return {
            name: conditioner
            for name, conditioner in Conditioner.all_of(self.t2i).items()
            if any(Fingerprint.of(conditioner.text_encoder).matches(other) for other in theirs)
        }

    def require_shared(self) -> None:
        """Raises UnreelError, naming what differs, unless at least one text encoder is shared."""
        found = self.shared()
        if all(found.values()):
            what = "; ".join(f"{name}: {summarise(differs)}" for name, differs in found.items())
            raise UnreelError(
                f"{self.t2i_source} and {self.t2v_source} share no text encoder, so nothing unlearned in one would "
                f"reach the other ({what}). Give a pair that was trained with the same frozen text encoder."
            )


def summarise(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def differences(encoder_a: Any, encoder_b: Any, tokenizer_a: Any, tokenizer_b: Any) -> list[str]:
    """Names of the tensors in which two text encoders differ, and the tokenizer's vocabulary if that does."""
    a, b = encoder_a.state_dict(), encoder_b.state_dict()
    out = [f"{name} (only in one)" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        left, right = a[name], b[name]
        if left.shape != right.shape:
            out.append(f"{name} ({tuple(left.shape)} against {tuple(right.shape)})")
            continue
        lower = left.dtype if left.dtype.itemsize <= right.dtype.itemsize else right.dtype
        if not torch.equal(left.to(lower).cpu(), right.to(lower).cpu()):
            out.append(name)
    if tokenizer_a.get_vocab() != tokenizer_b.get_vocab():
        out.append("tokenizer vocabulary")
    return out


def tokenizer_of(pipeline: Any, text_encoder: str) -> Any:
    """What takes words to pieces for the text encoder that the pipeline holds under that name."""
    return words_of(getattr(pipeline, text_encoder.replace("text_encoder", "tokenizer")))


@dataclass(frozen=True)
class TextModel:
    """A text encoder with its tokenizer and nothing else: what methods that need no images can work on."""

    tokenizer: Any
    text_encoder: nn.Module


def load_pipeline(
    source: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32, text_only: bool = False
) -> "DiffusionPipeline":
    """Load one pipeline from a folder or a hub id, from safetensors only, without running downloaded code.

    Without a `dtype`, text encoders have the precision that they are stored in. `text_only` leaves out everything but
    tokenizers and text encoders.
    Raises UnreelError for anything that is no pipeline of a known family, has missing or broken weights, or pickled weights
    only.
    """
    import diffusers
    from safetensors import SafetensorError

    source, folder = str(source), Path(source)
    if not folder.exists() and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise UnreelError(f"{source} does not exist: give a folder, a hub id such as owner/name, or '{EMBEDDED}'")
    try:
        index = _index(folder) if folder.exists() else diffusers.DiffusionPipeline.load_config(source)
        options = _left_out(source, index, text_only)
        if folder.exists():
            _require_safetensors(folder, [name for name in _components(index) if name not in options])
        kind = getattr(diffusers, index["_class_name"])
        pipeline = kind.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UnreelError(f"cannot load {source}: {reason[:300]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _index(folder: Path) -> dict[str, Any]:
    """The list of a pipeline's parts."""
    file = folder / "model_index.json"
    if not file.is_file():
        raise UnreelError(f"{folder} is no pipeline: it has no model_index.json")
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise UnreelError(f"{file} is not valid JSON ({error}): fetch the pipeline again") from error


def _components(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Where the class of each part of a pipeline comes from and what it is called, without parts that are left empty."""
    return {name: tuple(value) for name, value in index.items() if isinstance(value, (list, tuple)) and value and value[0]}


def _left_out(source: str, index: dict[str, Any], text_only: bool) -> dict[str, None]:
    """Which parts not to load. Raises UnreelError for a pipeline of no known family or with code of its own."""
    kind = index.get("_class_name")
    if not known(str(kind)):
        names = sorted({name for family in FAMILIES for name in (*family.t2v, *family.t2i)})
        raise UnreelError(f"{source} is a {kind}, which unreel does not know: it knows {', '.join(names)}")
    for name, (library, class_name) in _components(index).items():
        if library not in ("diffusers", "transformers", "stable_diffusion"):
            raise UnreelError(f"{source} asks to run code of its own ({library}.{class_name} as its {name}): refused")
    # A safety checker is always left out: it would blank the very images that unlearning needs.
    out = {"safety_checker": None} if "safety_checker" in index else {}
    if text_only:
        out |= {name: None for name in _components(index) if not name.startswith(("text_encoder", "tokenizer"))}
    return out


def _require_safetensors(folder: Path, components: Iterable[str]) -> None:
    """Raises UnreelError if a part is missing or has no weights that can be loaded safely."""
    for name in components:
        component = folder / name
        if not component.is_dir():
            raise UnreelError(f"{folder} is incomplete: its {name} folder is missing")
        if not name.startswith(("tokenizer", "scheduler", "feature_extractor", "processor")):
            _require_weights(component)


def _require_weights(component: Path) -> None:
    if any(component.glob("*.safetensors")):
        return
    pickles = [file.name for file in component.iterdir() if file.suffix in _PICKLES]
    if pickles:
        raise UnreelError(
            f"{component}/{pickles[0]} is a pickle, which can run code when loaded: refused. Convert the weights to "
            "safetensors first: load them where you trust them, and save_pretrained(..., safe_serialization=True)."
        )
    raise UnreelError(f"{component} has no weights: expected a .safetensors file")


def load_text_model(folder: Path, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32) -> TextModel:
    """Load a text encoder alone, from a folder such as a pipeline's `text_encoder`; its tokenizer may lie in the same
    folder or in the one beside it that pipelines put it in.

    Raises UnreelError for anything that is no text encoder of a known kind, or has no tokenizer.
    """
    import transformers
    from safetensors import SafetensorError

    try:
        config = json.loads((folder / "config.json").read_text())
        names = [name for name in config.get("architectures") or [] if name in TEXT_ENCODERS]
    except (ValueError, AttributeError) as error:
        raise UnreelError(f"{folder / 'config.json'} is no model's configuration: fetch it again") from error
    if "auto_map" in config or not names:
        known_ones = ", ".join(TEXT_ENCODERS)
        raise UnreelError(f"{folder} holds no text encoder that unreel knows: it knows {known_ones}, without own code")
    _require_weights(folder)
    beside = folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
    words = next((place for place in (folder, beside) if (place / "tokenizer_config.json").is_file()), None)
    if words is None:
        raise UnreelError(f"{folder} has no tokenizer, nor is there one in {beside}")
    try:
        kind = getattr(transformers, names[0])
        encoder = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True).to(device).eval()
        return TextModel(transformers.AutoTokenizer.from_pretrained(words), encoder)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise UnreelError(f"cannot load {folder}: {' '.join(str(error).split())[:300]}") from error


def load_pair(
    t2i: str | None = None,
    t2v: str | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    text_only: bool = False,
) -> Pair:
    """Load the embedded pair (the default), or two pipelines from folders or hub ids.

    A video pipeline alone, or the folder of a text encoder alone, is a pair with itself: enough for methods that learn from
    text. Raises UnreelError when something cannot be loaded or the two share no text encoder.
    """
    if t2v is None and t2i in (None, EMBEDDED):
        t2i = t2v = EMBEDDED
    if t2v is None:
        raise UnreelError("give the text-to-video pipeline too, or it alone; neither for the embedded pair")
    options: dict[str, Any] = {"device": device, "dtype": dtype}

    def load(source: str, embedded: str) -> Any:
        folder = EMBEDDED_FOLDER / embedded if source == EMBEDDED else Path(source)
        if (folder / "config.json").is_file() and not (folder / "model_index.json").exists():
            return load_text_model(folder, **options)
        return load_pipeline(folder if source == EMBEDDED else source, text_only=text_only, **options)

    video_model = load(t2v, "video")
    image_model = video_model if t2i is None else load(t2i, "image")
    words = of_world(json.loads((EMBEDDED_FOLDER / WORLD_FILE).read_text())) if t2v == EMBEDDED else EVERYDAY
    if not isinstance(video_model, TextModel) and not makes_videos(type(video_model).__name__):
        names = ", ".join(name for family in FAMILIES for name in family.t2v)
        raise UnreelError(f"{t2v} is a {type(video_model).__name__}, no text-to-video pipeline: unreel knows {names}")
    pair = Pair(image_model, video_model, t2i or t2v, t2v, _settings(t2v, video_model), words)
    if t2i is not None:
        pair.require_shared()
    return pair


def load_video_model(t2v: str = EMBEDDED, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> VideoModel:
    """Load a text-to-video pipeline alone, to generate with. Raises UnreelError as `load_pipeline` does."""
    folder = EMBEDDED_FOLDER / "video" if t2v == EMBEDDED else t2v
    pipeline = load_pipeline(folder, device=device, dtype=dtype)
    return VideoModel(pipeline, _settings(t2v, pipeline), t2v)


def _settings(t2v: str, pipeline: Any) -> Settings:
    """The embedded pair's own settings; for another pipeline what it takes itself when it is called with a prompt alone."""
    if t2v == EMBEDDED:
        return Settings(**json.loads((EMBEDDED_FOLDER / SETTINGS_FILE).read_text()))
    usual = {name: it.default for name, it in inspect.signature(type(pipeline).__call__).parameters.items()}
    own = {"steps": "num_inference_steps", "guidance": "guidance_scale", "frames": "num_frames"}
    return Settings(**{field: usual[name] for field, name in own.items() if usual.get(name) is not None})
