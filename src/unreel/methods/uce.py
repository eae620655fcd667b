"""Unified Concept Editing on the cross-attention of the video model (Gandikota et al., arXiv 2308.14761, equation 7).

A least-squares edit of every key and value matrix through which the denoiser reads the text:

    W = (a sum_i W0 c*_i c_i' + b sum_j W0 c_j c_j' + lamb W0) (a sum_i c_i c_i' + b sum_j c_j c_j' + lamb I)^-1

with c_i token embeddings of the erased wordings, c*_i of the anchor, c_j of what is preserved, a `erase_scale`, b
`preserve_scale`. The authors' code (rohitgandikota/unified-concept-editing) has chosen the tokens in two ways, both with
a = 1 and lamb = 0.5:

- "last" (trainscripts/uce_sd_erase.py, the rewrite): the last token of each name alone; b = 1.
- "all" (train-scripts/train_erase.py, the paper's): of the erased names the last token, the end token and the padding, one
  for one with the anchor's; of the preserved names and the empty prompt every token; b = max(0.1, 1 / number of preserved
  texts).

Ours is a third, "whole": "all", and the tokens before a name's last one, as far as nothing that is preserved begins so:
where a text encoder reads from left to right, half a name ("Santa") is read without the rest. Each is moved to the mean of
all preserved tokens, which asks for nothing in particular: an anchor that is said once for every token of a name crowds
out what is asked for beside it.

As there, names stand alone, without a sentence around them, and attention that reads no text stays as it is. There,
objects turn into the empty prompt unless told otherwise (anchor "", whose last token is the start token), and only what is
asked for is preserved, or all artists. Ours: the anchor is chosen as text ablation chooses it, everything that the
vocabulary lists is preserved, the wordings of a concept are erased together, and so are several concepts. Texts are taken
as they reach the matrices, behind what transformers project them with; where padding is masked, it is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.interventions.erasure import Erasure
from unreel.methods import Task, option, require
from unreel.models.adapter import cross_attention, only_network_of
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import Delta
from unreel.models.denoiser import Denoiser
from unreel.models.weights import doubled
from unreel.prompts.concept import Concept
from unreel.prompts.vocabulary import Vocabulary


@dataclass(frozen=True)
class UCEConfig:
    """Settings, as the authors have them; `preserve_scale` 0 stands for the one that belongs to the choice of tokens."""

    tokens: Literal["last", "all", "whole"] = option("all", "which tokens of a name are moved: last, all or whole")
    erase_scale: float = 1.0
    preserve_scale: float = 0.0
    lamb: float = option(0.5, "weight of keeping each matrix as it is")

    def __post_init__(self) -> None:
        require(self, positive=["erase_scale", "lamb"], or_zero=["preserve_scale"])


Config, NEEDS, AS_PUBLISHED = UCEConfig, "video", True


def learn(task: Task, config: UCEConfig) -> Erasure:
    """Raises UnreelError for a model whose denoiser reads no text by cross-attention with key and value matrices, or that
    has several text encoders; and for names that are too long.
    """
    task.refuse("images")
    task.require_nothing_kept_is_forgotten()
    network = only_network_of(task.pair.t2v)
    matrices = {} if network is None else text_projections(network)
    if not matrices or len({matrix.in_features for matrix in matrices.values()}) > 1 or len(task.conditioners) > 1:
        raise UnreelError(
            f"UCE edits the cross-attention of a denoiser with one text encoder, which a {type(task.pair.t2v).__name__} "
            "has not: choose another method, such as text-ablation"
        )
    task.require_learning(network)
    preserved = [*others(task.pair.vocabulary, task.concepts), *task.keep]
    renamed = task.renamed
    kept = preserved if config.tokens == "last" else ["", *preserved]
    texts = [*(wording for wording, _ in renamed), *(anchor for _, anchor in renamed), *kept]
    conditioner = task.conditioners[0]
    conditioner.require_room_for(texts)
    denoiser = Denoiser.of(task.pair.t2v, task.pair.settings.size)
    read, masked = denoiser.text_inputs(next(iter(matrices.values())), texts)
    last, inner = last_words(conditioner, texts, read, masked), []
    if config.tokens == "whole":
        inner = [(i, last[i] - back) for i, back in first_words(conditioner, [name for name, _ in renamed], kept)]
    move = unified(read, last, len(renamed), config, inner)
    deltas: dict[str, Delta] = {
        f"{name}.weight": (weight @ move.to(weight.device)).float().cpu()
        for name, weight in ((name, doubled(matrix.weight)) for name, matrix in matrices.items())
    }
    record = task.record(config, task.anchors, losses=[], preserved=len(preserved))
    return task.network_erasure(deltas, record)


def last_words(conditioner: Conditioner, texts: Sequence[str], read: Sequence[torch.Tensor], masked: bool) -> list[int]:
    """Where the last word of each text stands, before the token that ends it, if there is one."""
    ids = conditioner.tokenizer(list(texts)).input_ids
    end = int(ids[0][-1] == conditioner.tokenizer.eos_token_id)
    if masked:  # what is masked is left out already
        lengths = [len(tokens) for tokens in read]
    else:  # a pipeline may read words in lower case, which may be more tokens or fewer
        mask = conditioner.tokenize(list(texts)).call.get("attention_mask")
        lengths = [len(each) for each in ids] if mask is None else mask.sum(1).tolist()
    return [length - 1 - end for length in lengths]


def first_words(conditioner: Conditioner, names: Sequence[str], kept: Sequence[str]) -> list[tuple[int, int]]:
    """Which tokens of names come before the last one and begin nothing that is kept, however that is written: the name's
    number, and how many tokens before its last.
    """
    tokenizer, stays = conditioner.tokenizer, [text.casefold() for text in kept]
    out = []
    for i, name in enumerate(names):
        ids = tokenizer(name, add_special_tokens=False).input_ids
        for count in range(1, len(ids)):
            begun = tokenizer.decode(ids[:count]).strip().casefold()
            if not any(text.startswith(begun) for text in stays):
                out.append((i, len(ids) - count))
    return out


@torch.no_grad()
def unified(
    read: Sequence[torch.Tensor],
    last: Sequence[int],
    renamed: int,
    config: UCEConfig,
    inner: Sequence[tuple[int, int]] = (),
) -> torch.Tensor:
    """The one move that every matrix makes, (width, width) in float64: W - W0 = W0 move, with
    move = a sum_i (c*_i - c_i) c_i' (...)^-1.

    `read` are texts as they reach the matrices, (tokens, width) each: `renamed` erased ones, as many anchors, and what is
    preserved; `last` is where the last word of each stands, and `inner` are other tokens of erased ones (text, place).
    """
    kept = len(read) - 2 * renamed
    usual = 1.0 if config.tokens == "last" else max(0.1, 1 / kept)
    whole = [doubled(tokens) for tokens in read]
    tails = [tokens[place:] for tokens, place in zip(whole, last, strict=True)]
    if config.tokens == "last":
        whole = tails = [tail[:1] for tail in tails]
    pairs = list(zip(tails[:renamed], tails[renamed : 2 * renamed], strict=True))
    source = torch.cat([tail[: len(goal)] for tail, goal in pairs])
    target = torch.cat([goal[: len(tail)] for tail, goal in pairs])
    rest = torch.cat([source[:0], *whole[2 * renamed :]])
    if inner:
        source = torch.cat([source, *(whole[i][place : place + 1] for i, place in inner)])
        target = torch.cat([target, rest.mean(0, keepdim=True).expand(len(inner), -1)])
    gram = config.erase_scale * source.T @ source + (config.preserve_scale or usual) * rest.T @ rest
    gram += config.lamb * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, config.erase_scale * source.T @ (target - source)).T


def text_projections(network: nn.Module) -> dict[str, nn.Linear]:
    """The key and value matrices that read the text, by name."""
    return {name: matrix for name, matrix in cross_attention(network).items() if name.endswith((".to_k", ".to_v"))}


def others(vocabulary: Vocabulary, concepts: Sequence[Concept]) -> list[str]:
    """Everything a model can be asked for but the concepts, however they are spelled, which is what to preserve."""
    return [word for words in vocabulary.values() for word in words if not any(each.is_spelled(word) for each in concepts)]
