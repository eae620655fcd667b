"""Images to learn a concept from: the model's own, or given ones.

Knows pipelines and pixels; knows no method.
"""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from unreel.errors import UnreelError
from unreel.methods._options import require_offloadable
from unreel.methods._task import Task
from unreel.models.adapter import image_size, reads_latents_of_pictures
from unreel.models.denoiser import Denoiser
from unreel.models.sampling import encoded, load_images, made_latents
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
    return replace(config, shots=len(shots)), denoiser, encoded(denoiser, shots)


def _asked(concept: Concept, config: Any) -> tuple[list[str], list[int]]:
    """The prompts and seeds of the shots."""
    rng = np.random.default_rng(config.seed)
    prompts = [str(prompt) for prompt in rng.choice(concept.forget_prompts, config.shots)]
    return prompts, [int(seed) for seed in rng.integers(2**31, size=config.shots)]
