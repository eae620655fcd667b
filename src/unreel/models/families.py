"""Which pipelines read prompts with the same text encoder, as a table.

Names diffusers classes as text, so that importing the table imports no model code. Which checkpoints really share an
encoder is for their weights to say: `pair.py` compares them.
"""

from dataclasses import dataclass


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


LTX = "LTXPipeline", "LTXConditionPipeline"  # the second of 0.9.5 and later, which takes start pictures too
SKYREELS = "SkyReelsV2Pipeline", "SkyReelsV2DiffusionForcingPipeline"  # the second, whose frames may differ in noise
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
        ("CogVideoXPipeline", *LTX, "MochiPipeline", "LattePipeline", "AllegroPipeline"),
        ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "StableDiffusion3Pipeline", "FluxPipeline"),
        ("CogVideoXPipeline", *LTX),
    ),
    Family("Wan", "UMT5 XXL", ("WanPipeline", *SKYREELS, "HeliosPipeline"), one_frame=("WanPipeline", *SKYREELS)),
    Family("HunyuanVideo", "Llama 3 8B, CLIP ViT-L/14", ("HunyuanVideoPipeline",), one_frame=("HunyuanVideoPipeline",)),
    Family("HunyuanVideo 1.5", "Qwen2.5-VL 7B", ("HunyuanVideo15Pipeline",), ("HunyuanImagePipeline",)),
    Family("Kandinsky 5", "Qwen2.5-VL 7B, CLIP ViT-L/14", ("Kandinsky5T2VPipeline",), ("Kandinsky5T2IPipeline",)),
)


# Frames a second of pipelines that make more than the usual ones, as diffusers' own example of each writes them; Mochi's as
# its documentation does.
FPS = {
    **dict.fromkeys(LTX, 24),
    "MochiPipeline": 30,
    "AllegroPipeline": 15,
    "WanPipeline": 16,
    **dict.fromkeys(SKYREELS, 24),
    "HeliosPipeline": 24,
    "HunyuanVideoPipeline": 15,
    "HunyuanVideo15Pipeline": 15,
    "Kandinsky5T2VPipeline": 24,
    "SanaVideoPipeline": 16,
}
USUAL_FPS = 8  # AnimateDiff's, CogVideoX's


def known(pipeline_class: str) -> list[Family]:
    """The families that a pipeline class belongs to; none if it is not in the table."""
    return [family for family in FAMILIES if pipeline_class in (*family.t2v, *family.t2i)]


def makes_videos(pipeline_class: str) -> bool:
    return any(pipeline_class in family.t2v for family in FAMILIES)
