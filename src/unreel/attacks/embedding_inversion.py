"""Concept inversion: a token of no vocabulary, learned to bring the concept back.

Pham et al., "Circumventing Concept Erasure Methods for Text-to-Image Generative Models", ICLR 2024, arXiv 2308.01508, by
textual inversion (Gal et al., arXiv 2208.01618): v* = argmin_v J(T(prompt with v in place of the wording)), T being the
attacked text encoder. The attacker holds T, the image model's denoiser and pictures of the concept, and a service that
takes embeddings. The denoiser still knows the concept, so this is the known limit of every method that changes T alone.
Ours: some hundred steps on a few pictures, where theirs takes 5,000 on 25; a step has a quarter of its draws.
"""

from typing import Any

import torch

from unreel.attacks import Case
from unreel.attacks._objective import briefly, encoding_for_video, generator_for, objective, read
from unreel.attacks._words import around, in_place
from unreel.models.conditioner import unused_word
from unreel.models.denoiser import Conditioning

NEEDS_WEIGHTS, GIVES_EMBEDDINGS, VERSION = True, True, 2
DRAWS = 4  # a quarter of the paper's 16, batches of 4 images of which four add up
RATE = 0.5  # ours, in units of the spread of what the table writes, for some hundred steps; the paper takes 5,000
STEPS = 5  # for each of the case's, since a step of a token search costs about as much as five of these


def attempt(case: Case, index: int, seed: int) -> torch.Tensor:
    """What the network is given for the prompt with v* (tokens, width), after 5 `case.steps` steps of Adam."""
    return inverted(case, index, seed, DRAWS)


def inverted(case: Case, index: int, seed: int, draws: int) -> torch.Tensor:
    """As `attempt`, with so many draws of noise a step."""
    conditioner = case.attacked
    word, placeholder = unused_word(case.original, *around(case))
    named, spread = conditioner.written_rows(torch.tensor(_within(conditioner.tokenizer, case.wording)))
    v, prompt = named.mean(0).requires_grad_(), in_place(case, word)

    def conditioning(case: Case) -> Conditioning:
        return read(
            case,
            prompt,
            lambda ids, rows: torch.where((ids == placeholder)[..., None], v.to(rows.dtype), rows),
        )

    generator, brief = generator_for(index, seed), briefly(case, prompt)
    optimizer = torch.optim.Adam([v], lr=RATE * spread)
    with conditioner.brisk():
        for _ in range(STEPS * case.steps):
            (v.grad,) = torch.autograd.grad(objective(case, draws, generator)(conditioning(brief)), v)
            optimizer.step()
    return conditioning(encoding_for_video(case)).embeddings[0].detach()


def _within(tokenizer: Any, words: str) -> list[int]:
    """The words' tokens within a sentence: many tokenizers take the space before a word into its token."""
    before, sentence = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a", f"a {words}"))
    return list(sentence[len(before) :])
