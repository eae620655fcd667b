"""A text-to-image and a text-to-video pipeline, loaded safely, and the proof that they share a text encoder.

Knows files and pipeline classes; knows nothing about concepts or methods.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unreel.errors import UnreelError, summarise
from unreel.models.adapter import modules_of, own_sampling, text_encoders, tokenizer_of, video_size
from unreel.models.compare import INDEX_FILE, VOCABULARY, components, differing, fetch, same_values
from unreel.models.conditioner import Conditioner
from unreel.models.families import FAMILIES, FPS, USUAL_FPS, makes_videos
from unreel.models.fingerprint import Fingerprint, coarsest
from unreel.models.loading import require_place, require_source
from unreel.models.memory import device_of
from unreel.models.pipelines import TextModel, index_of, load_pipeline, load_text_model, move
from unreel.models.readers import reader_folder
from unreel.models.shipped import EMBEDDED, PARTS, preset_of, shipped, world_of
from unreel.models.standins import hiding
from unreel.models.weights import gradients_as_found
from unreel.prompts.vocabulary import EVERYDAY, Vocabulary, of_world

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Settings:
    """How to sample and unlearn: the defaults are the paper's, `settings_of` gives those of a pipeline.

    `size` is (height, width) in pixels, of videos and of the single frames that methods learn from. `negative_prompt` is
    what guidance leads videos away from. `size`, `frames` and `negative_prompt` are the pipeline's own if they are None.
    `tiling` lets autoencoders decode a frame part by part, which takes less memory and changes pixels a little. `batch`
    is how many videos are generated at once. `methods` holds, by a method's name, what replaces the defaults of its
    settings.
    """

    steps: int = 50
    guidance: float = 7.5
    frames: int | None = 16
    fps: int = USUAL_FPS
    size: tuple[int, int] | None = None
    tiling: bool = False
    negative_prompt: str | None = None
    batch: int = 1
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sampling(self) -> dict[str, Any]:
        """All that decides what a seed makes of a prompt."""
        usual = {name: getattr(self, name) for name in ("steps", "guidance", "frames", "size", "tiling")}
        # Only where there is one: what was made without keeps its name.
        return usual if self.negative_prompt is None else usual | {"negative_prompt": self.negative_prompt}


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
        """Bytes of one video's pixels; None if the pipeline decides only when it is called how many pixels there are."""
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
        """For every text encoder of the video pipeline, by name, what differs from the most similar one of the image
        pipeline, whatever its name there; an empty list means shared.

        Compares the tokenizers, and every tensor bit for bit (in the lower of the two precisions that they are stored
        in, if these differ).
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
        """The image pipeline's text encoders that read prompts and that the video pipeline has too, by name."""
        theirs = text_encoders(self.t2v).values()
        return {
            name: conditioner
            for name, conditioner in Conditioner.all_of(self.t2i).items()
            if any(Fingerprint.of(conditioner.text_encoder).fits(other) for other in theirs)
        }

    @contextmanager
    def gradients_as_found(self) -> Iterator[None]:
        """Afterwards the weights of both pipelines take gradients, or none, as they did."""
        with gradients_as_found(part for model in (self.t2i, self.t2v) for part in modules_of(model).values()):
            yield

    @contextmanager
    def readings(self) -> Iterator[list[Conditioner]]:
        """Yields `conditioners()`, then those of the video pipeline that feed its network differently: another template,
        other padding, another negative prompt. Inside, the video pipeline uses the image pipeline's text encoders,
        because its own may wait in main memory; if its encoders are then on two devices, it is not asked.
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
                undo.enter_context(hiding(self.t2v, name, encoder))
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
    """The names of the tensors in which two text encoders differ, and the tokenizer's vocabulary if that differs.
    Tensors are compared in the coarser of the two precisions that they are stored in.
    """
    coarser = coarsest(Fingerprint.of(encoder).stored_precision for encoder in (encoder_a, encoder_b))
    out = differing(encoder_a.state_dict(), encoder_b.state_dict(), partial(same_values, precision=coarser))
    return out + ([] if tokenizer_a.get_vocab() == tokenizer_b.get_vocab() else [VOCABULARY])


def _load_part(
    source: str, part: str, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32, text_only: bool = False
) -> "DiffusionPipeline":
    """One pipeline of a pair that ships with unreel, with what is stored elsewhere: the language model that its preset
    names, and components shared with the other pipeline.
    """
    import diffusers

    home, preset = shipped(source), preset_of(source)
    assert home is not None
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    given = dict(vars(load_text_model(reader_folder(preset["reader"]), **options))) if "reader" in preset else {}
    for name in () if text_only or part == PARTS[0] else preset.get("shared", ()):
        _, kind = components(index_of(home / part))[name]
        given[name] = getattr(diffusers, kind).from_pretrained(home / PARTS[0] / name, dtype=dtype, use_safetensors=True)
    return load_pipeline(home / part, text_only=text_only, given=given, **options)


def load_pair(
    t2i: str | Path | None = None,
    t2v: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    text_only: bool = False,
    makes_images: bool = True,
    makes_videos: bool = True,
) -> Pair:
    """Load the embedded pair (the default), or two pipelines from folders or hub ids. With `text_only`, only their text
    encoders and tokenizers are loaded; without `makes_images`, or without `makes_videos`, only those of that one, if
    there are two.

    A video pipeline alone, or the folder of a text encoder alone, is a pair with itself: enough for methods that learn
    from text. Raises UnreelError when something cannot be loaded or the two share no text encoder.
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

    image_model = None if t2i is None else load(t2i, "image", text_only or not makes_images)
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
    """The folder of a model, or of each part of a pair that ships with unreel, by what to call it. From the hub, only
    text encoders and tokenizers are fetched.
    """
    home = shipped(source)
    if home and "reader" in preset_of(source):  # both read with that
        return {source: reader_folder(preset_of(source)["reader"])}
    return {f"{source} {part}": home / part for part in PARTS} if home else {source: fetch(source)}


def require_makes_videos(pipeline: Any, what: str) -> None:
    """Raises UnreelError for anything that is no text-to-video pipeline that unreel knows."""
    if not makes_videos(type(pipeline).__name__):
        names = ", ".join(name for family in FAMILIES for name in family.t2v)
        kind = "text encoder" if isinstance(pipeline, TextModel) else type(pipeline).__name__
        raise UnreelError(f"{what} is a {kind}, no text-to-video pipeline: unreel knows {names}")


def settings_of(t2v: str, pipeline: Any) -> Settings:
    """The settings of a pipeline unless somebody asks for others: those in the `preset.json` of a pair that ships with
    unreel; else the defaults of the pipeline's call, at the frame rate of its published example.
    """
    preset = preset_of(t2v)
    if preset:
        return Settings(**preset["sampling"], methods=preset["methods"])
    return Settings(**own_sampling(pipeline), fps=FPS.get(type(pipeline).__name__, USUAL_FPS))
