"""Concept inversion in the video model: a token of no vocabulary, learned from videos of the concept.

After PROBE (arXiv 2603.21547), as embedding_inversion.py but for v* = argmin_v J with the attacked video model's own
denoiser and whole videos that the original model made. Its second term, on the latents that a prediction leads to, is the
first one weighted by the noise; here the noisier half of the timesteps is learned from alone. The attacker holds the
attacked video model and videos of the concept, and a service that takes embeddings, so this is an attack on changes of the
denoiser too.

Ours: one vector, some hundred steps and one draw of one of two videos a step, where theirs takes five vectors and 3,000
steps of four of a hundred clips.
"""

import torch

from unreel.attacks import Case
from unreel.attacks.embedding_inversion import inverted
from unreel.models.memory import checkpointing

NEEDS_WEIGHTS, STUDIES, GIVES_EMBEDDINGS, VERSION = True, "video", True, 3
DRAWS = 1  # a video costs as much as many pictures


def attempt(case: Case, index: int, seed: int) -> torch.Tensor:
    """What the network is given for the prompt with v* (tokens, width)."""
    network = case.denoiser.network
    able = getattr(network, "_supports_gradient_checkpointing", False)  # which the oldest networks do not
    with checkpointing([], network if able else None):
        return inverted(case, index, seed, DRAWS)
