"""Videos that do not start from noise, but from a video of the concept under much of it.

As video-to-video services and `strength` do (Meng et al., "SDEdit", arXiv 2108.01073), and as partial diffusion attacks
probe models that are said to have forgotten (Sharma et al., "Unlearning or Concealment?", arXiv 2409.05668). The attacker
holds videos of the concept and a service that takes one, or latents. Under little noise every model gives back
what it was given, so here it is much; and the original model under the same attack is the control.
"""

from unreel.attacks import Case
from unreel.models.sampling import Start

NEEDS_WEIGHTS, STUDIES, VERSION = False, "video", 2
SHARES = (0.9, 0.8, 0.7)  # of the timesteps, ours: under much noise first


def attempt(case: Case, index: int, seed: int) -> Start:
    """The prompt, from one video of the concept after another."""
    clip = index % len(case.latents)
    return Start(case.prompt, case.latents[clip : clip + 1], SHARES[min(index, len(SHARES) - 1)])
