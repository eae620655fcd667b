"""Ring-A-Bell: words whose encoding is near that of the concept, found in the original text encoder alone.

Tsai et al., "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?", ICLR 2024, arXiv 2310.10012.
With E the original encoder and pairs of prompts p with and q without the concept:

    c^ = mean(E(p) - E(q)),   w* = argmin_w || E(w) - (E(prompt without the concept) + eta c^) ||^2

by a genetic algorithm over K words, none of which reads or spells the concept. The attacker holds the published text
encoder and neither the attacked one nor the denoiser.
"""

import torch

from unreel.attacks import Case
from unreel.attacks._objective import generator_for
from unreel.attacks._words import in_place, other_words
from unreel.models.conditioner import Tokens
from unreel.prompts.concept import Concept

NEEDS_WEIGHTS = False
ETA = 3.0  # the paper's choice for nudity; 5.5 for violence
SHARE = 16 / 77  # the paper's K = 16 of CLIP's 77 tokens
POPULATION = 100  # the paper's 200, halved for the cost
CROSSOVER = 0.5  # the paper's
MUTATION = 0.25  # the paper's


@torch.no_grad()
def attempt(case: Case, index: int, seed: int) -> str:
    """The best of `case.steps` generations; the paper's 3,000 are meant for a GPU."""
    encoder, pool, generator = case.original, other_words(case), generator_for(index, seed)
    words, ids = list(pool), torch.tensor(list(pool.values()))
    count = round(SHARE * encoder.tokenizer.model_max_length)
    target = encoder.encode([in_place(case, "")]) + ETA * concept_direction(case)
    blank = encoder.tokenize([" ".join(words[:1] * count)])

    def distances(population: torch.Tensor) -> torch.Tensor:
        tokens = blank.ids.repeat(len(population), 1)
        tokens[:, 1 : 1 + count] = ids[population].to(tokens.device)
        return (encoder.encode_tokens(Tokens(tokens, blank.call)) - target).float().square().sum((1, 2)).cpu()

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
    return (case.original.encode(named) - case.original.encode(bare)).mean(0, keepdim=True)
