"""Ask for something else wherever a prompt names the concept."""

from dataclasses import dataclass

from unreel.interventions.prompt import PromptRewrite
from unreel.methods import Task, option


@dataclass(frozen=True)
class PoliteRefusalConfig:
    """`word` is what is asked for instead. Fields made by `option` are options of `unreel unlearn` too."""

    word: str = option("apology", "what to ask for instead")


Config, NEEDS, AS_PUBLISHED = PoliteRefusalConfig, "text", True


def learn(task: Task, config: PoliteRefusalConfig) -> PromptRewrite:
    anchors = {concept.name: config.word for concept in task.concepts}
    return PromptRewrite(task.record(config, anchors))
