"""Where words for the same thing become alike: `python -m benchmarks.where_words_meet`.

UCE, told the name alone, moves whatever lies along the name. It is solved twice for each concept of the experiment
`modern-wordings`: for what the reader writes, and for that behind the layers with which the video model projects it, which
is what UCE edits. How far each move takes other words for the concept along the way from its name to its anchor says
whether they are alike there. No picture is made.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.cells import WORDINGS, cells_of, results_of
from benchmarks.common import write_result
from benchmarks.over_concepts import mean_over
from unreel import Concept, load_pair
from unreel.methods.uce import UCEConfig, last_words, others, text_projections, unified
from unreel.models.adapter import network_of
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Pair
from unreel.models.shipped import world_of

PAIR = "embedded:modern"
OTHERS = 4  # words of each other concept


def places(pair: Pair) -> dict[str, nn.Linear]:
    """The matrices that get the text, by what they get of it."""
    network = network_of(pair.t2v)
    assert network is not None
    return {
        "as the reader writes it": network.get_submodule("caption_projection.linear_1"),
        "behind the projection": next(iter(text_projections(network).values())),
    }


@dataclass(frozen=True)
class Read:
    """The input of a matrix that gets the text, (tokens, width), and the place of the last word, for each text."""

    tokens: dict[str, torch.Tensor]
    last: dict[str, int]

    @classmethod
    def of(cls, pair: Pair, matrix: nn.Linear, texts: Sequence[str]) -> "Read":
        read, masked = Denoiser.of(pair.t2v).text_inputs(matrix, texts)
        last = last_words(Conditioner.of(pair.t2v), texts, read, masked)
        return cls(dict(zip(texts, read, strict=True)), dict(zip(texts, last, strict=True)))

    def shares(self, name: str, anchor: str, preserved: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """For each word the share of the way from the name to the anchor that UCE's move takes its last token."""
        names = [name, anchor, *preserved]
        move = unified([self.tokens[text] for text in names], [self.last[text] for text in names], 1, UCEConfig())
        ends = torch.stack([self.tokens[text][self.last[text]] for text in (name, anchor, *words)]).double()
        way = ends[1] - ends[0]
        return (ends[2:] @ move.T @ way / (way @ way)).numpy()


@torch.inference_mode()
def main() -> None:
    pair, known = load_pair(t2v=PAIR), (world_of(PAIR) or {})["concepts"]
    concepts = [Concept(**cell.concept) for cell in cells_of("modern-wordings") if cell.run == "text-ablation"]
    anchors = {name: result["anchor"] for name, result in results_of("modern-methods")["uce"].items()}
    asked = {concept.name: _asked(concept, known) for concept in concepts}
    kept = {concept.name: ["", *others(pair.vocabulary, [concept])] for concept in concepts}
    words = [word for groups in asked.values() for group in groups.values() for word in group]
    texts = list(dict.fromkeys([*words, *anchors.values(), *(text for texts in kept.values() for text in texts)]))
    moved = {}
    for place, matrix in places(pair).items():
        read = Read.of(pair, matrix, texts)
        pooled: dict[str, list[np.ndarray]] = {}
        for concept in concepts:
            for group, group_words in asked[concept.name].items():
                if not group_words:
                    continue
                shares = read.shares(concept.name, anchors[concept.name], kept[concept.name], group_words)
                pooled.setdefault(group, []).append(shares)
        moved[place] = {
            group: asdict(mean_over([each.mean() for each in shares], [len(each) for each in shares]))
            for group, shares in pooled.items()
        }
    write_result("where_words_meet", {"concepts": list(asked), "moved": moved})


def _asked(concept: Concept, known: dict[str, Any]) -> dict[str, list[str]]:
    """Words for the concept by group, its name, and words for other things."""
    own = {group: [w for w in known[concept.name.lower()][group] if not concept.is_named_in(w)] for group in WORDINGS}
    rest = [word for name in known if name != concept.name.lower() for word in known[name][WORDINGS[0]][:OTHERS]]
    return {"name": [concept.name], **own, "others": rest}


if __name__ == "__main__":
    main()
