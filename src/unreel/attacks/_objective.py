"""What attackers with the weights minimise: the denoising loss of pictures of the concept, over a few draws of noise.

    J(c) = E_{z, t, e} || target(z, t, e) - eps_phi(z_t, t, c) ||^2

Knows latents, the denoiser, and how the image model reads a prompt with the attacked encoder; knows no prompt.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from unreel.attacks import Case
from unreel.models.denoiser import MARGIN, Conditioning
from unreel.models.standins import hiding

NOISY = 0.5  # ours: with less noise the latents show the picture, and the conditioning hardly matters

Objective = Callable[[Conditioning], torch.Tensor]
Rows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def generator_for(index: int, seed: int) -> torch.Generator:
    """A CPU generator of its own for every attempt."""
    return torch.Generator("cpu").manual_seed(random.Random(f"{seed}/{index}").getrandbits(63))


def objective(case: Case, draws: int, generator: torch.Generator) -> Objective:
    """J for the conditioning of one prompt: a differentiable scalar.

    Noise is drawn once, so that two conditionings can be compared; noise levels are evenly spaced, so that few draws
    suffice. With fewer draws than latents, the first latent is chosen at random, and those after it follow.
    """
    number = len(case.latents)
    first = int(torch.randint(number, (1,), generator=generator)) if draws < number else 0
    z = case.latents[(first + torch.arange(draws)) % number]
    noise = torch.randn(z.shape, generator=generator, dtype=torch.float32).to(z.device)
    offset = torch.rand(1, generator=generator)
    level = 1 - (torch.arange(draws) + offset) / draws * NOISY
    t = case.denoiser.timesteps_of(level).to(z.device)

    def loss(read: Conditioning) -> torch.Tensor:
        return case.denoiser.loss(z, noise, t, read.repeated(draws))

    return loss


def read(case: Case, text: str, rows: Rows | None = None) -> Conditioning:
    """What the image model's pipeline gives to its network for `text`, templates included, with the attacked encoder in
    its place. `rows(ids, embedded)` may give other token embeddings than the encoder's own.
    """
    return read_together(case, [text], rows)[0]


def read_together(case: Case, texts: Sequence[str], rows: Rows | None = None) -> list[Conditioning]:
    """`read` for several prompts at once, which for large encoders takes hardly longer than for one."""
    pipeline, encoder = case.denoiser.pipeline, case.attacked.text_encoder
    with ExitStack() as afterwards:
        if pipeline.text_encoder is not encoder:
            afterwards.enter_context(hiding(pipeline.text_encoder, "forward", encoder.__call__))
        if rows is not None:
            hook = case.attacked.token_table.register_forward_hook(lambda _, args, embedded: rows(args[0], embedded))
            afterwards.enter_context(hook)
        return case.denoiser.conditioning(texts).each()


def encoding_for_video(case: Case) -> Case:
    """The same case, encoding prompts as the video pipeline does, which is given the embeddings: it may put other words
    around prompts.
    """
    return replace(case, denoiser=case.video or case.denoiser)


def briefly(case: Case, longest: str) -> Case:
    """The same case, read with only the padding that prompts as long as `longest` need."""
    tokens = case.attacked.length(longest) + MARGIN
    return replace(case, denoiser=case.denoiser.reading_briefly(tokens, longest))
