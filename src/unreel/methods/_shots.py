"""Images to learn a concept from: the model's own, or given ones.

Knows pipelines and pixels; knows no method.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from unreel.errors import UnreelError
from unreel.methods._task import Task
from unreel.models.adapter import fewer_steps, image_size, makes_pictures, reads_latents_of_pictures
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Pair
from unreel.models.sampling import generate_images, load_images, to_tensor
from unreel.prompts.concept import Concept

Shots = TypeVar("Shots", bound=Any)  # settings with `shots`, `shot_steps` and `seed`


def latents_of(task: Task, config: Shots) -> tuple[Shots, Denoiser, torch.Tensor]:
    """The settings with the number of shots there are, the denoiser, and latents of the shots, each with its mirror image:
    (shots, 2, channels, height, width).

    Latents that a transformer makes itself, or single frames of a video model, stay as they are made, and are their own
    mirror images. Raises UnreelError for settings that cannot learn while parts of the model are offloaded.
    """
    pair, concept = task.pair, task.concepts[0]
    denoiser = Denoiser.of(pair.t2i, pair.settings.size if pair.t2i is pair.t2v else None)
    if denoiser.offloaded:
        require_offloadable(config)
    if task.images is None:
        return config, denoiser, made_latents(pair, denoiser, *_asked(concept, config), config.shot_steps)
    if not reads_latents_of_pictures(pair.t2i):
        raise UnreelError(f"{type(pair.t2i).__name__} learns from images that it makes itself: leave --images out")
    shots = load_images(task.images, image_size(pair.t2i))
    return replace(config, shots=len(shots)), denoiser, _encoded(denoiser, shots)


def made_latents(
    pair: Pair, denoiser: Denoiser, prompts: Sequence[str], seeds: Sequence[int], shot_steps: int
) -> torch.Tensor:
    """Latents of what the image model makes of each prompt, each with its mirror image: (prompts, 2, channels, height,
    width), or any layout of a latent in place of the last three.
    """
    if not makes_pictures(pair.t2i):
        latents = denoiser.sample(prompts, seeds, shot_steps or pair.settings.steps)
        return torch.stack([latents, latents], dim=1)
    return _encoded(denoiser, _images(pair, prompts, seeds, shot_steps))


def _encoded(denoiser: Denoiser, images: np.ndarray) -> torch.Tensor:
    # One at a time, so that memory does not grow with their number.
    pictures = to_tensor(images).split(1)
    return torch.stack([torch.cat([denoiser.encode(image), denoiser.encode(image.flip(-1))]) for image in pictures])


def make_shots(pair: Pair, concept: Concept, config: Any) -> np.ndarray:
    """Images of the concept from the pair's own image model: (shots, height, width, 3) uint8."""
    return _images(pair, *_asked(concept, config), config.shot_steps)


def _images(pair: Pair, prompts: Sequence[str], seeds: Sequence[int], shot_steps: int) -> np.ndarray:
    settings = replace(pair.settings, steps=shot_steps or pair.settings.steps)
    with fewer_steps(pair.t2i) if shot_steps else nullcontext():
        return generate_images(pair.t2i, prompts, seeds, settings)


def _asked(concept: Concept, config: Any) -> tuple[list[str], list[int]]:
    """The prompts and seeds of the shots."""
    rng = np.random.default_rng(config.seed)
    prompts = [str(prompt) for prompt in rng.choice(concept.forget_prompts, config.shots)]
    return prompts, [int(seed) for seed in rng.integers(2**31, size=config.shots)]


def require_offloadable(config: Any) -> None:
    """Raises UnreelError, saying what helps, if the method cannot learn while a text encoder waits in main memory."""
    refusal = getattr(config, "refuses_offloading", "")
    if refusal:
        raise UnreelError(refusal)
