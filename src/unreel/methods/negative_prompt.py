"""A negative prompt: guide away from the concepts, and change no weight.

Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) with what names the concepts where the empty prompt was. What
most services do today, and the floor that other methods are compared with.
"""

from dataclasses import dataclass

from unreel.errors import UnreelError
from unreel.interventions.prompt import NegativePrompt
from unreel.methods._task import Task


@dataclass(frozen=True)
class NegativePromptConfig:
    """There is nothing to set."""


Config, NEEDS, AS_PUBLISHED = NegativePromptConfig, "text", True


def learn(task: Task, config: NegativePromptConfig) -> NegativePrompt:
    """Raises UnreelError for what it makes no use of: images, anchors, what is to be kept."""
    task.require_no_images()
    if task.keep or any(concept.anchor is not None for concept in task.concepts):
        raise UnreelError(
            "a negative prompt makes nothing in particular instead, and keeps nothing by name: leave both out"
        )
    return NegativePrompt(task.record("negative-prompt", config, losses=[]))
