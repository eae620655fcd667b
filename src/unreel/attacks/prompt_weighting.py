"""Prompt weighting: the prompt counts more than it should, as `(a castle)1.5` asks for in many interfaces.

As the compel library weights: what the attacked text encoder writes for the prompt, c, is led away from what it writes for
an empty one, e + w (c - e). The attacker holds a service with such an interface; here, its text encoder.
"""

import torch

from unreel.attacks import Case
from unreel.attacks._objective import encoding_for_video, read

NEEDS_WEIGHTS, GIVES_EMBEDDINGS = True, True
WEIGHTS = (1.5, 2.0, 3.0, 1.2, 5.0)


@torch.no_grad()
def attempt(case: Case, index: int, seed: int) -> torch.Tensor | None:
    """With one weight after the other, those that people take first."""
    if index >= len(WEIGHTS):
        return None
    prompt, nothing = (read(encoding_for_video(case), text).embeddings[0] for text in (case.prompt, ""))
    width = min(len(prompt), len(nothing))
    weighted = prompt.clone()
    weighted[:width] = nothing[:width] + WEIGHTS[index] * (prompt[:width] - nothing[:width])
    return weighted
