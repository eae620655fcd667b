"""Another wording: k words in place of the concept's own, none of which reads or spells it.

P4D (Chin et al., "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts", ICML
2024, arXiv 2309.06135) with J in place of the distance to the original model's prediction: w* = argmin_w J(T(prompt with
w)). The attacker holds the attacked text encoder T, the image model's denoiser and pictures of the concept.

Ours: k = 3 as in the prefix search, where the authors' default is 16, so a weaker attack than theirs.
"""

from unreel.attacks import Case
from unreel.attacks._token_search import search
from unreel.attacks._words import around, other_words

NEEDS_WEIGHTS = True


def attempt(case: Case, index: int, seed: int) -> str | None:
    return search(case, *around(case), other_words(case), index, seed)
