"""The prompt as the published text encoder reads it, given as embeddings in place of words.

The attacker holds what anyone may download, and a service that takes embeddings (`prompt_embeds` of diffusers). No change
of a text encoder can withstand that, since it is never asked; a change of the denoiser can.
"""

from dataclasses import replace

import torch

from unreel.attacks import Case
from unreel.attacks._objective import encoding_for_video, read

NEEDS_WEIGHTS, GIVES_EMBEDDINGS = False, True


@torch.no_grad()
def attempt(case: Case, index: int, seed: int) -> torch.Tensor:
    """The same at every attempt: only the video's seed is another."""
    return read(encoding_for_video(replace(case, attacked=case.original)), case.prompt).embeddings[0]
