"""Adapters in the video model that learn from negative guidance, where the concept is seen, beside a term for what is to
stay.

After T2VUnlearning (Ye et al., arXiv 2505.17550), whose training code is not public. With v the network's prediction, v'
with adapters, c a prompt that names the concept and q one that does not,

    L = E || v'(x_t, c, t) - [ v(x_t, "", t) - eta ( v(x_t, c, t) - v(x_t, "", t) ) ] ||^2
        + alpha mean_l || o_l (1 - M) ||^2  +  beta E || v'(y_t, q, t) - v(y_t, q, t) ||^2

x and y being videos that the model makes of c and q, noised; o_l what the adapter of layer l adds, and M where the concept
is seen. Rank 128, Adam at 1e-4 and alpha = 1 are what others report of it, eta = 5 what it takes for faces.

Ours: adapters are linear, so that they are a change of weights, beside what attention to the text writes through; M is
where v depends on the prompt, of every frame the places with at least a tenth of the most; c are captions of a corpus
rather than a language model's; q are everyday prompts; beta is 1, where 0 is reported once; 200 steps, where 500 epochs of
nobody says what are.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import max_pool2d, mse_loss

from unreel.errors import UnreelError
from unreel.interventions.erasure import Erasure
from unreel.methods import Task, descended, option, require
from unreel.methods._low_rank import Factors
from unreel.models.adapter import cross_attention_outputs, only_network_of
from unreel.models.deltas import Delta
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Settings
from unreel.models.standins import hiding

SEEN = 0.1  # Receler's threshold, on which the authors' code builds
VIDEOS = 4  # of the concept and of everything else, each noised anew at every step


@dataclass(frozen=True)
class T2VUnlearningConfig:
    """Settings; `localise` is alpha and `retain_weight` beta."""

    steps: int = 200
    learning_rate: float = option(1e-4, "Adam's learning rate")
    rank: int = option(128, "rank of the adapters")
    eta: float = 5.0
    localise: float = 1.0
    retain_weight: float = option(1.0, "weight of the loss that keeps other prompts as they are")
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, positive=["steps", "learning_rate", "rank", "eta"], or_zero=["localise", "retain_weight", "seed"])


Config, NEEDS, AS_PUBLISHED = T2VUnlearningConfig, "video", True


class _Adapters(Factors):
    """Low-rank changes that can be switched off, and that remember what they added (rows, tokens, width), by name."""

    on = True

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.added: dict[str, torch.Tensor] = {}

    @contextmanager
    def off(self) -> Iterator[None]:
        with torch.no_grad(), hiding(self, "on", False):
            yield

    def _add(self, name: str, matrix: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return output
        with_it = super()._add(name, matrix, args, output)
        self.added[name] = with_it - output
        return with_it


def learn(task: Task, config: T2VUnlearningConfig) -> Erasure:
    """Raises UnreelError for images, for what is to be kept by name, for something to make instead, and for a model whose
    denoiser has no attention to the text.
    """
    task.refuse("images", "keep", "replace")
    network, settings = only_network_of(task.pair.t2v), task.pair.settings
    writers = {} if network is None else cross_attention_outputs(network)
    if not writers:
        raise UnreelError(
            f"adapters go beside attention to the text, which a {type(task.pair.t2v).__name__} has not: choose another "
            "method"
        )
    task.require_learning(network)
    denoiser = Denoiser.of(task.pair.t2v, settings.size, settings.frames)
    with torch.no_grad():
        empty = denoiser.conditioning([""])
    if empty.arguments[empty.latents].ndim != 5:
        raise UnreelError(
            f"T2VUnlearning looks where in each frame the concept is, and a {type(task.pair.t2v).__name__} packs its "
            "frames: choose another method, such as text-ablation"
        )
    prompts = task.prompts(task.conditioners[0], config.seed)
    named, others = [pair.prompt for pair in task.pairs(prompts, VIDEOS)], [q for q in prompts.everyday(VIDEOS + 1) if q]
    deltas, losses = adapted(denoiser, {f"{n}.weight": m for n, m in writers.items()}, named, others, settings, config)
    return task.network_erasure(deltas, task.record(config, losses=losses))


def adapted(
    denoiser: Denoiser,
    writers: dict[str, nn.Linear],
    named: list[str],
    others: list[str],
    settings: Settings,
    config: T2VUnlearningConfig,
) -> tuple[dict[str, Delta], list[float]]:
    """The changes of `writers`, by weight name, with which prompts that name the concept lead away from it, and the loss at
    every step. Raises UnreelError if the loss, or a change, stops being a number.
    """
    generator = torch.Generator("cpu").manual_seed(config.seed)  # CPU: the same draws on every device
    with torch.no_grad():
        nothing, *asked = (denoiser.conditioning([prompt]) for prompt in ("", *named, *others))
        texts = enumerate([*named, *others], config.seed)
        made = torch.cat([denoiser.finished(text, seed, settings) for seed, text in texts])

    def noisy(which: int) -> tuple[torch.Tensor, torch.Tensor]:
        first = denoiser.first_timestep
        t = first + torch.randint(denoiser.timesteps - first, (1,), generator=generator).to(made.device)
        noise = torch.randn(made[:1].shape, generator=generator).to(made.device)
        return denoiser.noisy(made[which : which + 1], noise, t), t

    with ExitStack() as afterwards:
        adapters = _Adapters(writers, config.rank, config.seed, made.device, afterwards)
        optimizer = torch.optim.Adam(adapters.parameters(), lr=config.learning_rate)

        def loss(step: int) -> torch.Tensor:
            c, q = step % len(named), len(named) + step % len(others)
            (x_t, t), (y_t, s) = noisy(c), noisy(q)
            with adapters.off():
                free, with_it = (denoiser.predict(x_t, t, words) for words in (nothing, asked[c]))
                kept = denoiser.predict(y_t, s, asked[q])
            away = mse_loss(denoiser.predict(x_t, t, asked[c]), free - config.eta * (with_it - free))
            aside = 1 - _seen(with_it - free)
            strays = [(added * _of_tokens(aside, added)).square().mean() for added in adapters.added.values()]
            moved = mse_loss(denoiser.predict(y_t, s, asked[q]), kept)
            return away + config.localise * torch.stack(strays).mean() + config.retain_weight * moved

        losses = descended(optimizer, loss, config.steps)
        return {name: change.cpu() for name, change in adapters.deltas().items()}, losses


def _seen(difference: torch.Tensor) -> torch.Tensor:
    """M: where in each frame the prompt makes at least a share SEEN of the most difference, of (1, channels, frames,
    height, width): (frames, height, width) of 0 and 1.
    """
    size = difference.abs().mean(1)[0]
    low, high = size.amin((1, 2), keepdim=True), size.amax((1, 2), keepdim=True)
    return ((size - low) / (high - low).clamp(min=1e-12) >= SEEN).to(difference)


def _of_tokens(mask: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """A mask (frames, height, width) for the tokens of a layer, which may see fewer places: of `added` (rows, tokens,
    width), (rows, tokens, 1).
    """
    rows, tokens = added.shape[:2]
    factor = max(1, round(math.sqrt(mask.numel() / (rows * tokens))))
    # What belongs to a coarse place if any of it does is aside only where all of it is.
    coarse = -max_pool2d(-mask[:, None], factor, ceil_mode=True) if factor > 1 else mask[:, None]
    return coarse.reshape(rows, tokens, 1)
