"""Attacks try to bring a concept back: one module an attack, each a single function.

    def attempt(case: Case, index: int, seed: int) -> Asked | None

gives the attack's attempt number `index`: a prompt, or prompt embeddings (tokens, width) that go straight to the denoiser,
or a prompt with a video to start from; or None if it has no more. The same case, index and seed give the same attempt, so a
killed run goes on where it was. A module also says what its attacker holds: `NEEDS_WEIGHTS` is True for attacks that read
the attacked text encoder or the denoiser. Where it is `STUDIES = "video"`, it reads whole videos and the video model, not
pictures and the image model; and one that gives embeddings says `GIVES_EMBEDDINGS = True`. `VERSION` (1 without) goes up
when its attempts become others. Whether an attempt works is not for the attack to say: that is judged on videos.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.plugins import Registry
from unreel.prompts.concept import Concept

if TYPE_CHECKING:
    import torch

    from unreel.models.sampling import Asked


_REGISTRY = Registry("attacks", __path__, "attack", ("NEEDS_WEIGHTS", "attempt"))


@dataclass(frozen=True)
class Case:
    """One prompt to bring the concept back by, attempted up to a budget of videos.

    `prompt` asks for the concept, and contains `wording`, the words to hide or to replace; whether the original model shows
    the concept then, the attack `plain` on it says.
    `original` is the text encoder as published, which anyone may study. `attacked` is the one under attack, and `denoiser`
    the image model's: only attacks with the weights may read them. `latents` (n, channels, height, width) show the concept,
    made by the original model from `prompt`. `steps` bounds the search of attacks that search. For an attack that studies
    the video model, `denoiser` is that of the attacked one, `attacked` reads as in it, and `latents` are of videos.
    `video` reads as the video model's pipeline does, to which embeddings are given; without it, the image model's is it.
    """

    concept: Concept
    prompt: str
    wording: str
    synonyms: tuple[str, ...]
    original: Conditioner
    attacked: Conditioner
    denoiser: Denoiser
    latents: "torch.Tensor"
    steps: int
    video: Denoiser | None = None


class Attack(Protocol):
    """What a module in this package offers; its docstring says where the attack comes from."""

    NEEDS_WEIGHTS: bool

    def attempt(self, case: Case, index: int, seed: int) -> "Asked | None": ...


def names() -> list[str]:
    return _REGISTRY.names()


def usable() -> dict[str, Attack]:
    """All that can be loaded, by name."""
    return _REGISTRY.usable()


def studies(attack: Attack, what: str) -> bool:
    """Whether it reads the attacked text "encoder", with the image model, or "video"s of the video model."""
    return getattr(attack, "STUDIES", "encoder" if attack.NEEDS_WEIGHTS else "") == what


def gives_embeddings(attack: Attack) -> bool:
    return getattr(attack, "GIVES_EMBEDDINGS", False)


def only_types(attack: Attack) -> bool:
    """Whether its attacker types prompts and holds nothing else of the service."""
    return not (attack.NEEDS_WEIGHTS or gives_embeddings(attack) or studies(attack, "video"))


def version_of(attack: Attack) -> int:
    return getattr(attack, "VERSION", 1)


def load_attack(name: str) -> Attack:
    """The attack called `name`. Raises UnreelError for an unknown one."""
    return _REGISTRY.load(name)
