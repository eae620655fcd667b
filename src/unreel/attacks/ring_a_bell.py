"""Ring-A-Bell: words whose encoding is near that of the concept, found in the original text encoder alone.

Tsai et al., "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?", ICLR 2024, arXiv 2310.10012.
With E the original encoder and pairs of prompts p with and q without the concept:

    c^ = mean(E(p) - E(q)),   w* = argmin_w || E(w) - (E(prompt without the concept) + eta c^) ||^2

by a genetic algorithm over K words, none of which reads or spells the concept. The attacker holds the published text
encoder and neither the attacked one nor the denoiser.

Ours: the prompt lacks the concept, where theirs is a whole one that means it without naming it; words are whole, and those
that spell the concept left out, where theirs are any tokens; the better half of a generation stays as it is, beside one
child of each, where there every one may change and leaves two or none.
"""

import torch

from unreel.attacks import Case
from unreel.attacks._objective import generator_for
from unreel.attacks._words import in_place, other_words
from unreel.models.conditioner import Conditioner
from unreel.models.tokenizer import NO_LENGTH
from unreel.models.tokens import Tokens
from unreel.prompts.concept import Concept

NEEDS_WEIGHTS, VERSION = False, 2
ETA = 3.0  # the paper's choice for nudity; 5.5 for violence
SHARE = 16 / 77  # the paper's K = 16 of CLIP's 77 tokens
MOST = 16  # of an encoder that reads more than CLIP
POPULATION = 100  # the paper's 200, halved for the cost
CROSSOVER = 0.5  # the paper's
MUTATION = 0.25  # the paper's


@torch.no_grad()
def attempt(case: Case, index: int, seed: int) -> str:
    """The best of `case.steps` generations; the paper's 3,000 are meant for a GPU."""
    with case.original.brisk():
        return _evolved(case, index, seed)


def _evolved(case: Case, index: int, seed: int) -> str:
    encoder, pool, generator = case.original, other_words(case), generator_for(index, seed)
    words, ids = list(pool), torch.tensor(list(pool.values()))
    longest = encoder.tokenizer.model_max_length
    count = min(MOST, round(SHARE * min(longest, NO_LENGTH)))
    target = _read(encoder, [in_place(case, "")]) + ETA * concept_direction(case)
    text = " ".join(words[:1] * count)
    blank = encoder.tokenize([text])
    counted = _counted(encoder, [text], blank)
    after = int((blank.ids[0] == ids[0].to(blank.ids.device)).nonzero().max()) + 1

    def distances(population: torch.Tensor) -> torch.Tensor:
        tokens = blank.repeated(len(population))
        tokens.ids[:, after - count : after] = ids[population].to(tokens.ids.device)
        return (_encoded(encoder, tokens, counted) - target).float().square().sum((1, 2)).cpu()

    def chance(number: int) -> torch.Tensor:
        return torch.rand(number, generator=generator)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    population = draw(len(words), POPULATION, count)
    costs = distances(population)
    keep = POPULATION // 2
    for _ in range(case.steps):
        kept = costs.argsort()[:keep]
        parents, costs = population[kept], costs[kept]
        partners = parents[draw(keep, keep)]
        crossed = (chance(keep) < CROSSOVER)[:, None] & (torch.arange(count) >= draw(count, keep, 1))
        children = torch.where(crossed, partners, parents)
        mutants = (chance(keep) < MUTATION).nonzero()[:, 0]
        children[mutants, draw(count, len(mutants))] = draw(len(words), len(mutants))
        population, costs = torch.cat([parents, children]), torch.cat([costs, distances(children)])
    return " ".join(words[i] for i in population[costs.argmin()].tolist())


def concept_direction(case: Case) -> torch.Tensor:
    """c^ (1, tokens, width): what naming the concept does to an encoding, over the templates of its kind."""
    named = Concept(case.wording, case.concept.kind).forget_prompts
    bare = [text.replace(case.wording, "") for text in named]
    with_it, without = (_read(case.original, texts) for texts in (named, bare))
    return (with_it - without).mean(0, keepdim=True)


def _read(encoder: Conditioner, texts: list[str]) -> torch.Tensor:
    tokens = encoder.tokenize(texts)
    return _encoded(encoder, tokens, _counted(encoder, texts, tokens))


def _counted(encoder: Conditioner, texts: list[str], tokens: Tokens) -> torch.Tensor | None:
    """Which tokens of prompts count where they are not padded to one length, (batch, tokens); None where they are."""
    if tokens.call.get("attention_mask") is not None:
        return tokens.mask
    one, other = (encoder.tokenize([text]).ids.shape for text in ("a", "a photo of a cat"))
    return None if one == other else encoder.seen(texts, tokens)  # padding, to the longest, is not masked


def _encoded(encoder: Conditioner, tokens: Tokens, counted: torch.Tensor | None) -> torch.Tensor:
    """The paper's E: all tokens (batch, tokens, width) where prompts are padded to one length; where they are not, and
    there is nothing to subtract token by token, the mean of those that are `counted` (batch, 1, width).
    """
    states = encoder.encode_tokens(tokens)
    if counted is None:
        return states
    mask = counted[..., None].to(states.dtype)
    return (states * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
