"""Prompt rewriting: put the anchor where a prompt names the concept, as a filter in front of a service would.

It is what text ablation aims for, the original model asked for the anchor, as far as prompts name the concept in words that
the filter knows.
"""

from dataclasses import dataclass

from unreel.interventions.prompt import PromptRewrite
from unreel.methods import Task


@dataclass(frozen=True)
class PromptRewriteConfig:
    """There is nothing to set."""


Config, NEEDS, AS_PUBLISHED = PromptRewriteConfig, "text", True


def learn(task: Task, config: PromptRewriteConfig) -> PromptRewrite:
    """Raises UnreelError for what it makes no use of: images, and what is to be kept."""
    task.refuse("images", "keep")
    return PromptRewrite(task.record(config, task.anchors, losses=[]))
