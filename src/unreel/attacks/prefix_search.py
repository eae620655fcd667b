"""Adversarial prefix: k words in front of the prompt, which still names the concept.

UnlearnDiffAtk (Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate
Unsafe Images", ECCV 2024, arXiv 2310.11868): w* = argmin_w J(T(w, prompt)). The attacker holds the attacked text encoder T,
the image model's denoiser and pictures of the concept.
"""

from unreel.attacks import Case
from unreel.attacks._token_search import search
from unreel.attacks._words import typed_words

NEEDS_WEIGHTS = True


def attempt(case: Case, index: int, seed: int) -> str | None:
    return search(case, "", case.prompt, typed_words(case.attacked.tokenizer), index, seed)
