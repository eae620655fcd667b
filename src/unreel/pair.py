"""A text-to-image and a text-to-video pipeline, loaded safely, and the proof that they share a text encoder.

Knows files and pipeline classes; knows nothing about concepts or methods.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unreel.errors import UnreelError
from unreel.families import FAMILIES, Family
from unreel.vocabulary import EVERYDAY, Vocabulary, of_world

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
SETTINGS_FILE, WORLD_FILE = "unreel.json", "world.json"
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

    @property
    def family(self) -> Family:
        return family_of(self.t2i, self.t2v)

    def shared(self) -> dict[str, list[str]]:
        """For every text encoder component, what differs between the two pipelines; an empty list means shared.

        Compares every tensor bit for bit (in the lower of the two precisions where they differ) and the tokenizers.
        """
        return {
            encoder: differences(
                getattr(self.t2i, encoder),
                getattr(self.t2v, encoder),
                getattr(self.t2i, tokenizer),
                getattr(self.t2v, tokenizer),
            )
            for encoder, tokenizer in self.family.text_encoders
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
    """Names of the tensors and tokenizer properties in which two text encoders differ."""
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
    if tokenizer_a.model_max_length != tokenizer_b.model_max_length:
        out.append(f"tokenizer length ({tokenizer_a.model_max_length} against {tokenizer_b.model_max_length})")
    return out


def family_of(t2i: "DiffusionPipeline", t2v: "DiffusionPipeline") -> Family:
    """Raises UnreelError for a combination that is not in the table."""
    names = (type(t2i).__name__, type(t2v).__name__)
    for family in FAMILIES:
        if (family.t2i, family.t2v) == names:
            return family
    known = "; ".join(f"{family.t2i} with {family.t2v}" for family in FAMILIES)
    raise UnreelError(f"no known family pairs {names[0]} with {names[1]}: known are {known}")


def load_pipeline(
    source: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, text_only: bool = False
) -> "DiffusionPipeline":
    """Load one pipeline from a folder or a hub id, from safetensors only, without running downloaded code.

    `text_only` leaves out everything but tokenizers and text encoders.
    Raises UnreelError for anything that is no pipeline, has missing or broken weights, or pickled weights only.
    """
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    source, folder = str(source), Path(source)
    # A safety checker is always left out: it would blank the very images that unlearning needs.
    options: dict[str, None] = {"safety_checker": None}
    if folder.exists():
        options = _inspect(folder, text_only)
    elif source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UnreelError(f"{source} does not exist: give a folder, a hub id such as owner/name, or '{EMBEDDED}'")
    elif text_only:
        options |= {"unet": None, "vae": None, "motion_adapter": None}
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UnreelError(f"cannot load {source}: {reason[:300]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, silence_dtype_warnings=True)  # a pair may wait on the CPU in half precision


def _inspect(folder: Path, text_only: bool) -> dict[str, None]:
    """Check a pipeline folder before anything is loaded; returns which components to leave out."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UnreelError(f"{folder} is no pipeline: it has no model_index.json")
    try:
        entries = {k: v for k, v in json.loads(index.read_text()).items() if isinstance(v, list) and v and v[0]}
    except (ValueError, UnicodeDecodeError) as error:
        raise UnreelError(f"{index} is not valid JSON ({error}): fetch the pipeline again") from error
    leave_out: dict[str, None] = {}
    for name, (library, class_name) in entries.items():
        if library not in ("diffusers", "transformers", "stable_diffusion"):
            raise UnreelError(f"{folder} asks to run code of its own ({library}.{class_name}): refused")
        is_text = name.startswith(("text_encoder", "tokenizer"))
        if name == "safety_checker" or (text_only and not is_text):
            leave_out[name] = None
            continue
        component = folder / name
        if not component.is_dir():
            raise UnreelError(f"{folder} is incomplete: its {name} folder is missing")
        if name.startswith(("tokenizer", "scheduler", "feature_extractor")):
            continue
        if not any(component.glob("*.safetensors")):
            pickles = [file.name for file in component.iterdir() if file.suffix in _PICKLES]
            if pickles:
                raise UnreelError(
                    f"{component}/{pickles[0]} is a pickle, which can run code when loaded: refused. "
                    "Convert the weights to safetensors first."
                )
            raise UnreelError(f"{component} has no weights: expected a .safetensors file")
    return leave_out


def load_pair(
    t2i: str = EMBEDDED,
    t2v: str | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    text_only: bool = False,
) -> Pair:
    """Load the embedded pair (the default), or two pipelines from folders or hub ids.

    Raises UnreelError when a pipeline cannot be loaded or the two share no text encoder.
    """
    if t2v is None and t2i == EMBEDDED:
        t2v = EMBEDDED
    if t2v is None:
        raise UnreelError("give both a text-to-image and a text-to-video pipeline, or neither for the embedded pair")
    options: dict[str, Any] = {"device": device, "dtype": dtype, "text_only": text_only}
    image_model = load_pipeline(EMBEDDED_FOLDER / "image" if t2i == EMBEDDED else t2i, **options)
    video_model = load_pipeline(EMBEDDED_FOLDER / "video" if t2v == EMBEDDED else t2v, **options)
    words = of_world(json.loads((EMBEDDED_FOLDER / WORLD_FILE).read_text())) if t2v == EMBEDDED else EVERYDAY
    pair = Pair(image_model, video_model, t2i, t2v, _settings(t2v), words)
    pair.require_shared()
    return pair


def load_video_model(t2v: str = EMBEDDED, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> VideoModel:
    """Load a text-to-video pipeline alone, to generate with. Raises UnreelError as `load_pipeline` does."""
    folder = EMBEDDED_FOLDER / "video" if t2v == EMBEDDED else t2v
    return VideoModel(load_pipeline(folder, device=device, dtype=dtype), _settings(t2v), t2v)


def _settings(t2v: str) -> Settings:
    return Settings(**json.loads((EMBEDDED_FOLDER / SETTINGS_FILE).read_text())) if t2v == EMBEDDED else Settings()
