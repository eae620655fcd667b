"""Which pipelines read prompts with the same text encoder, as a table; and which parts of a pipeline read them.

Names diffusers classes as text, so that importing the table imports no model code. Which checkpoints really share an
encoder is for their weights to say: `pair.py` compares them.
"""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unreel.errors import UnreelError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Family:
    """Pipeline classes of diffusers whose usual checkpoints share `text_encoder`, video and image apart.

    Where no image pipeline shares it, or besides those, methods that learn from images can learn from the video pipeline's
    own single frames, if it was trained on images too: `one_frame`.
    """

    name: str
    text_encoder: str
    t2v: tuple[str, ...]
    t2i: tuple[str, ...] = ()
    one_frame: tuple[str, ...] = ()


FAMILIES = (
    Family("Stable Diffusion 1.x", "CLIP ViT-L/14", ("AnimateDiffPipeline",), ("StableDiffusionPipeline",)),
    Family(
        "Stable Diffusion 2.x",
        "OpenCLIP ViT-H/14",
        ("TextToVideoSDPipeline",),  # ModelScope, ZeroScope
        ("StableDiffusionPipeline",),
    ),
    Family(
        "Stable Diffusion XL",
        "CLIP ViT-L/14, OpenCLIP ViT-bigG/14",
        ("AnimateDiffSDXLPipeline",),
        ("StableDiffusionXLPipeline",),
    ),
    Family("Sana", "Gemma 2 2B", ("SanaVideoPipeline",), ("SanaPipeline", "SanaSprintPipeline")),
    Family(
        "T5",
        "T5 v1.1 XXL",
        ("CogVideoXPipeline", "LTXPipeline", "MochiPipeline", "LattePipeline", "AllegroPipeline"),
        ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "StableDiffusion3Pipeline", "FluxPipeline"),
        ("CogVideoXPipeline", "LTXPipeline"),
    ),
    Family("Wan", "UMT5 XXL", ("WanPipeline", "SkyReelsV2Pipeline"), one_frame=("WanPipeline", "SkyReelsV2Pipeline")),
    Family("HunyuanVideo", "Llama 3 8B, CLIP ViT-L/14", ("HunyuanVideoPipeline",), one_frame=("HunyuanVideoPipeline",)),
    Family("HunyuanVideo 1.5", "Qwen2.5-VL 7B", ("HunyuanVideo15Pipeline",), ("HunyuanImagePipeline",)),
    Family("Kandinsky 5", "Qwen2.5-VL 7B, CLIP ViT-L/14", ("Kandinsky5T2VPipeline",), ("Kandinsky5T2IPipeline",)),
)


def known(pipeline_class: str) -> list[Family]:
    """The families that a pipeline class belongs to; none if it is not in the table."""
    return [family for family in FAMILIES if pipeline_class in (*family.t2v, *family.t2i)]


def makes_videos(pipeline_class: str) -> bool:
    return any(pipeline_class in family.t2v for family in FAMILIES)


def frames_argument(pipeline: Any) -> str | None:
    """What a video pipeline calls the number of frames it is to make; None for an image pipeline."""
    takes = inspect.signature(type(pipeline).__call__).parameters
    return next((name for name in ("num_frames", "video_length", "frames") if name in takes), None)


def size_arguments(pipeline: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    """What asks a pipeline for (height, width) in pixels and no other size; nothing for its own."""
    if size is None:
        return {}
    # Binned, it would choose another one.
    binned = "use_resolution_binning" in inspect.signature(type(pipeline).__call__).parameters
    return {"height": size[0], "width": size[1], **({"use_resolution_binning": False} if binned else {})}


def network_of(pipeline: Any) -> Any:
    """What denoises in a pipeline, U-Net or transformer; None if there is none."""
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def decodes_in_tiles_only(pipeline: Any) -> bool:
    """Whether the pipeline's autoencoder cannot decode a video in one piece."""
    return type(pipeline).__name__ == "AllegroPipeline"


def makes_pictures(pipeline: Any) -> bool:
    """Whether a pipeline is an image model with a U-Net, whose latents are pictures."""
    return hasattr(pipeline, "unet") and frames_argument(pipeline) is None


def text_encoders(pipeline: Any) -> "dict[str, nn.Module]":
    """The text encoders of a pipeline by the names of its components; of models that see too, the part that reads.

    Raises UnreelError for what is no pipeline.
    """
    if not hasattr(pipeline, "__dict__"):
        raise UnreelError(f"{pipeline!r} is no pipeline")
    names = [name for name in getattr(pipeline, "components", None) or vars(pipeline) if name.startswith("text_encoder")]
    return {name: reading_part(getattr(pipeline, name)) for name in sorted(names) if getattr(pipeline, name) is not None}


def reading_part(encoder: "nn.Module") -> "nn.Module":
    """The language model within a model of pictures and words, as some pipelines hold it; else the encoder itself. Of what
    torch has compiled, what it was compiled from, whose weights it shares.
    """
    encoder = getattr(encoder, "_orig_mod", encoder)
    parts = (module for name, module in encoder.named_modules() if name.rpartition(".")[2] == "language_model")
    return next(parts, encoder)
