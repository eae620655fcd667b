"""DiffQuickFix: one matrix of the text encoder, solved anew (Basu et al., arXiv 2310.13730).

What a name means is put together in the first self-attention; the matrix W through which that writes is edited in closed
form, as in ROME and MEMIT:

    W = (lambda W0 + sum_i v_i k_i') (lambda I + sum_i k_i k_i')^-1

with k_i what enters W at the last token of the name and at every token after it, and v_i what W writes at the token of the
anchor prompt that stands as far behind the anchor. Names stand alone and in three sentences, and lambda is 0.01, as in the
authors' code (adobe-research/DiffQuickFixRelease). Nothing is preserved but by lambda.

Ours: the anchor is chosen as text ablation chooses it; wordings of a concept, and several concepts, are solved together, in
float64; a bias of W, which their code adds twice, counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unreel.interventions.erasure import Erasure
from unreel.methods import Task, option, require
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import Delta
from unreel.models.reading import end_of_name
from unreel.models.weights import doubled, portable

SENTENCES = ("{}", "A photo of {}", "An image of {}", "A picture of {}")


@dataclass(frozen=True)
class DiffQuickFixConfig:
    """`lamb` is lambda, what the matrix as found weighs."""

    lamb: float = option(0.01, "weight of keeping each matrix as it is")

    def __post_init__(self) -> None:
        require(self, positive=["lamb"])


Config, NEEDS, AS_PUBLISHED = DiffQuickFixConfig, "text", True


def learn(task: Task, config: DiffQuickFixConfig) -> Erasure:
    """Raises UnreelError for images, and for what is to be kept by name."""
    task.refuse("images", "keep")
    task.require_learning()
    deltas = [quick_fix(conditioner, task.renamed, config.lamb) for conditioner in task.conditioners]
    return task.erasure(deltas, task.record(config, task.anchors, losses=[]))


@torch.no_grad()
def quick_fix(conditioner: Conditioner, renamed: Sequence[tuple[str, str]], lamb: float) -> dict[str, Delta]:
    """The change of the first layer's attention output, by weight name, with which the first of each pair of names is read
    as the second.
    """
    matrix = conditioner.attention_output(conditioner.layers[0])
    name = next(name for name, module in conditioner.text_encoder.named_modules() if module is matrix)
    keys, goals = [], []
    for wording, anchor in renamed:
        for sentence in SENTENCES:
            tails = _tails(
                conditioner, matrix, [(sentence.format(wording), wording), (sentence.format(anchor).strip(), anchor)]
            )
            keys.append(tails[0])
            # Where the anchor's tail is shorter, its last token stands for the rest.
            goals.append(tails[1][torch.arange(len(tails[0])).clamp(max=len(tails[1]) - 1)])
    k, goal = (doubled(torch.cat(rows)) for rows in (keys, goals))
    gram = k.T @ k + lamb * torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    move = torch.linalg.solve(gram, k.T @ (goal - k))  # W0 is applied to both sides, so the change is W0 of the move
    return {portable(f"{name}.weight"): (doubled(matrix.weight) @ move.T).float().cpu()}


def _tails(conditioner: Conditioner, matrix: nn.Linear, texts: Sequence[tuple[str, str]]) -> list[torch.Tensor]:
    """What enters `matrix` for each text, from the last token of the name in it on, or for its last token where a name of
    no words leaves none: (tokens, in).
    """
    entering: list[torch.Tensor] = []
    tokens = conditioner.tokenize([text for text, _ in texts])
    with matrix.register_forward_pre_hook(lambda _, args: entering.append(args[0])):
        conditioner.encode_tokens(tokens)
    ids = tokens.ids.tolist()
    firsts = [end_of_name(conditioner, name, ids[i], ids[1 - i]) for i, (_, name) in enumerate(texts)]
    own = [mask.nonzero().flatten() for mask in tokens.mask]
    return [entering[0][i, own[i][min(first, own[i][-1]) <= own[i]]] for i, first in enumerate(firsts)]
