"""SAFREE: no weight changes; tokens that are most of the concept are projected away from it (interventions/projection.py).

Yoon et al., arXiv 2410.12761, as its authors run it on ZeroScope, where the concept is the negative prompt besides. There
the concept is a list of 6 to 17 phrases, given for unsafe content alone (for images the artist's name, for artists); here
it is its wordings, a single one unless synonyms are given.
"""

from dataclasses import dataclass

from unreel.interventions.safree import Safree
from unreel.methods import Task, option, require


@dataclass(frozen=True)
class SafreeConfig:
    """`alpha` says how much farther from the concept than others a prompt without a token must be."""

    alpha: float = option(0.01, "how much more of the concept than others a token must hold to be changed")

    def __post_init__(self) -> None:
        require(self, positive=[], or_zero=["alpha"])


Config, NEEDS, AS_PUBLISHED = SafreeConfig, "text", True


def learn(task: Task, config: SafreeConfig) -> Safree:
    """Raises UnreelError for what it makes no use of: images, anchors, what is to be kept."""
    task.refuse("images", "keep", "replace")
    return Safree(task.record(config, losses=[]))
