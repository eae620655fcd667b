"""VideoEraser: no weight changes; SAFREE's projection, and guidance away from the concept (interventions/safree.py).

Xu et al., arXiv 2508.15314, as described: their released code projects the concept's tokens instead of the prompt's, and
loses the memory over steps in one of its pipelines. Numbers are the paper's, as far as they were found.
"""

from dataclasses import dataclass

from unreel.interventions.safree import VideoEraser
from unreel.methods import Task, option, require


@dataclass(frozen=True)
class VideoEraserConfig:
    """`guidance_weight` is w of interventions/safree.py, `threshold` theta, `momentum_scale` s, `momentum` beta."""

    alpha: float = option(0.01, "how much more of the concept than others a token must hold to be changed")
    guidance_weight: float = 1000.0
    threshold: float = 1.0
    momentum_scale: float = 0.5
    momentum: float = 0.5

    def __post_init__(self) -> None:
        require(self, positive=["guidance_weight"], or_zero=["alpha", "threshold", "momentum_scale", "momentum"])


Config, NEEDS, AS_PUBLISHED = VideoEraserConfig, "text", True


def learn(task: Task, config: VideoEraserConfig) -> VideoEraser:
    """Raises UnreelError for what it makes no use of: images, anchors, what is to be kept."""
    task.refuse("images", "keep", "replace")
    return VideoEraser(task.record(config, losses=[]))
