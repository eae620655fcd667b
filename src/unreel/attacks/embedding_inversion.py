"""Concept inversion: a token of no vocabulary, learned to bring the concept back.

Pham et al., "Circumventing Concept Erasure Methods for Text-to-Image Generative Models", ICLR 2024, arXiv 2308.01508, by
textual inversion (Gal et al., arXiv 2208.01618): v* = argmin_v J(T(prompt with v in place of the wording)), T being the
attacked text encoder. The attacker holds T, the image model's denoiser and pictures of the concept, and a service that
takes embeddings. The denoiser still knows the concept, so this is the known limit of every method that changes T alone.
"""

import torch

from unreel.attacks import Case
from unreel.attacks._objective import generator_for, objective
from unreel.attacks._words import around
from unreel.models.conditioner import whole_words

NEEDS_WEIGHTS = True
DRAWS = 4  # the paper's batch of 4 images
RATE = 0.5  # ours, in units of the table's spread, for some hundred steps; the paper takes 5,000
STEPS = 5  # for each of the case's, since a step of a token search costs about as much as five of these


def attempt(case: Case, index: int, seed: int) -> torch.Tensor:
    """The attacked encoder's output (tokens, width) for the prompt with v*, after 5 `case.steps` steps of Adam."""
    conditioner, tokenizer = case.attacked, case.attacked.tokenizer
    before, after = around(case)
    placeholder = next(iter(whole_words(tokenizer)))
    tokens = conditioner.tokenize([f"{before} {placeholder} {after}"])
    place = len(tokenizer(before).input_ids) - 1  # all but the end
    table = conditioner.token_table.weight.detach().float()
    start = table[tokenizer(case.wording, add_special_tokens=False).input_ids].mean(0)
    v = start.clone().requires_grad_()

    def encode() -> torch.Tensor:
        rows = table[tokens.ids]
        embedded = torch.cat([rows[:, :place], v[None, None], rows[:, place + 1 :]], dim=1)
        return conditioner.encode_tokens(tokens, embedded)

    generator = generator_for(index, seed)
    optimizer = torch.optim.Adam([v], lr=RATE * float(table.std()))
    for _ in range(STEPS * case.steps):
        (v.grad,) = torch.autograd.grad(objective(case, DRAWS, generator)(encode()), v)
        optimizer.step()
    return encode()[0].detach()
