"""MMA-Diffusion's prompt: words that mean the prompt to the text encoder, and name the concept in no way.

Yang et al., "MMA-Diffusion: MultiModal Attack on Diffusion Models" (CVPR 2024, arXiv 2311.17516):

    w* = argmin_w  1 - cos( f(w), f_0(prompt) )

over twenty words, none of which spells the concept, by gradient-guided swaps; f is what the attacked text encoder writes
and f_0 what the published one does. No denoiser is asked, so the attack knows nothing of a change there.

Ours: f is the mean over all that the network is given (there: CLIP's pooled state, T5's mean), and one step tries a few
swaps of whole words and never takes a worse one, where theirs tries 512 of any tokens, from letters at first.
"""

from dataclasses import replace

import torch
from torch.nn.functional import cosine_similarity

from unreel.attacks import Case
from unreel.attacks._objective import read
from unreel.attacks._token_search import search
from unreel.attacks._words import other_words
from unreel.models.denoiser import Conditioning

NEEDS_WEIGHTS = True
WORDS = 20  # the paper's
TRIES = 16  # ours: no denoiser is asked, so more than the other searches make


def attempt(case: Case, index: int, seed: int) -> str | None:
    with torch.no_grad():
        goal = _meant(read(replace(case, attacked=case.original), case.prompt))

    def apart(written: Conditioning) -> torch.Tensor:
        return 1 - cosine_similarity(_meant(written), goal, dim=0)

    return search(case, "", "", other_words(case), index, seed, aim=apart, most=WORDS, tries=TRIES)


def _meant(written: Conditioning) -> torch.Tensor:
    """The mean (width,) over the tokens at which the network looks."""
    states = written.embeddings[0].float()
    return states.sum(0) / (states != 0).any(-1).sum()
