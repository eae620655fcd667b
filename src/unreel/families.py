"""Which video pipeline shares its text encoder with which image pipeline, as a table.

Names diffusers classes as text, so that importing the table imports no model code.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A text-to-image and a text-to-video pipeline class built on the same text encoder.

    `text_encoders` pairs each text encoder component with its tokenizer component.
    """

    name: str
    t2i: str
    t2v: str
    text_encoders: tuple[tuple[str, str], ...] = (("text_encoder", "tokenizer"),)


FAMILIES = (Family("Stable Diffusion 1.x + AnimateDiff", "StableDiffusionPipeline", "AnimateDiffPipeline"),)
