"""A negative prompt: guide away from the concepts, and change no weight.

Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) with what names the concepts where the empty prompt was. What
most services do today, and the floor that other methods are compared with.
"""

from dataclasses import dataclass

from unreel.interventions.prompt import NegativePrompt
from unreel.methods import Task


@dataclass(frozen=True)
class NegativePromptConfig:
    """There is nothing to set."""


Config, NEEDS, AS_PUBLISHED = NegativePromptConfig, "text", True


def learn(task: Task, config: NegativePromptConfig) -> NegativePrompt:
    """Raises UnreelError for what it makes no use of: images, anchors, what is to be kept."""
    task.refuse("images", "keep", "replace")
    return NegativePrompt(task.record(config, losses=[]))
