"""Gradient-guided search for words, the core of the attacks that hold the weights.

After UnlearnDiffAtk (Zhang et al., "To Generate or Not?", arXiv 2310.11868) and P4D (Chin et al., "Prompting4Debugging",
arXiv 2309.06135): words w_1..w_k that minimise J(T(prompt with w)), T being the attacked text encoder. Both move embeddings
and project them onto the vocabulary; this one swaps whole words instead, as GCG does (Zou et al., arXiv 2307.15043): the
gradient in a token's embedding ranks the swaps, and the denoiser tries a few of the best.
"""

from collections.abc import Callable
from typing import Any

import torch

from unreel.attacks import Case
from unreel.attacks._objective import Objective, briefly, generator_for, objective, read, read_together

TOKENS = 3  # UnlearnDiffAtk, for objects and styles
DRAWS = 4  # ours
TOP = 64  # ours; GCG takes 256 of 32,000 tokens
TRIES = 4  # ours; GCG tries 512 a step, far more than an attempt may cost here


def room(case: Case, text: str, most: int = TOKENS) -> int:
    """How many words can be added to `text`: `most`, or fewer if no more fit."""
    return int(min(most, case.original.room - case.original.length(text)))


def search(
    case: Case,
    before: str,
    after: str,
    pool: dict[str, int],
    index: int,
    seed: int,
    *,
    aim: Objective | None = None,
    most: int = TOKENS,
    tries: int = TRIES,
) -> str | None:
    """The prompt `before`, at `most` k words of `pool` (`typed_words`), `after`, as `case.steps` steps have found it;
    None if no word fits between.

    Each step tries `tries` swaps of a single word and keeps the best if it lowers the `aim`, by default J.
    """
    count = room(case, f"{before} {after}", most)
    if count < 1:
        return None
    names, ids = list(pool), torch.tensor(list(pool.values()))
    table = case.attacked.token_table.weight.detach()
    generator = generator_for(index, seed)
    loss_of = aim or objective(case, DRAWS, generator)

    def draw(high: int, number: int) -> list[int]:
        return torch.randint(high, (number,), generator=generator).tolist()

    def text(words: list[int]) -> str:
        return " ".join(f"{before} {' '.join(names[word] for word in words)} {after}".split())

    brief = briefly(case, text([0] * count))  # all of them are words of one token, so it is as long as any

    def slopes(words: list[int]) -> torch.Tensor:
        """How much J would rise with each word of the pool in each place, to first order: (k, pool)."""
        seen: dict[str, Any] = {}

        def note(read_ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            seen["ids"], seen["rows"] = read_ids[0].tolist(), rows.detach().requires_grad_()
            return seen["rows"]

        (gradient,) = torch.autograd.grad(loss_of(read(brief, text(words), note)), seen["rows"])
        start = _place(seen["ids"], [int(ids[word]) for word in words])
        return (gradient[0, start : start + count] @ table[ids.to(table.device)].T).cpu()

    @torch.no_grad()
    def values(tried: list[list[int]]) -> list[float]:
        return [float(loss_of(written)) for written in read_together(brief, list(map(text, tried)))]

    with case.attacked.brisk():
        return text(_swapped(draw(len(names), count), case.steps, tries, slopes, values, draw))


def _swapped(
    best: list[int],
    steps: int,
    tries: int,
    slopes: Callable[[list[int]], torch.Tensor],
    values: Callable[[list[list[int]]], list[float]],
    draw: Callable[[int, int], list[int]],
) -> list[int]:
    """The words after all steps, each of which swaps one word if that lowers the loss."""
    (lowest,), ranking = values([best]), None
    for _ in range(steps):
        if ranking is None:
            ranking = slopes(best).argsort(dim=1)[:, :TOP].tolist()
        swaps = zip(draw(len(best), tries), draw(len(ranking[0]), tries), strict=True)
        tried = [[*best[:place], ranking[place][rank], *best[place + 1 :]] for place, rank in swaps]
        losses = values(tried)
        if min(losses) < lowest:
            lowest, best, ranking = min(losses), tried[losses.index(min(losses))], None
    return best


def _place(ids: list[int], words: list[int]) -> int:
    """Where `words` begin among a prompt's token `ids`. The first word may have another token there: that of a text's
    start.
    """
    places = range(len(ids) - len(words), -1, -1)
    inner = [place for place in places if ids[place + 1 : place + len(words)] == words[1:]]
    return next((place for place in inner if ids[place] == words[0]), inner[0] if inner else 0)
