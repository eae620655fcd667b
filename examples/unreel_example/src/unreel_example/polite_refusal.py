"""Ask for something else wherever a prompt names the concept."""

from dataclasses import dataclass, field

from unreel.interventions.prompt import PromptRewrite
from unreel.methods._task import Task


@dataclass(frozen=True)
class PoliteRefusalConfig:
    """`word` is what is asked for instead. Fields with a "help" become options of `unreel unlearn`."""

    word: str = field(default="apology", metadata={"help": "what to ask for instead"})


Config, NEEDS, AS_PUBLISHED = PoliteRefusalConfig, "text", True


def learn(task: Task, config: PoliteRefusalConfig) -> PromptRewrite:
    anchors = {concept.name: config.word for concept in task.concepts}
    return PromptRewrite(task.record("polite-refusal", config, anchors))
