"""AdvUnlearn: the text encoder learns against prompts that bring the concept back (Zhang et al., arXiv 2405.15234).

With c a prompt that names the concept, T_0 the text encoder as found, phi the image model's denoiser and q a prompt to be
kept,

    theta* = argmin_theta  max_v || phi(z_t, t, T_theta(v, c)) - [ phi_0 - eta ( phi(z_t, t, T_0(c)) - phi_0 ) ] ||^2
                           + gamma E_q || phi(y_t, t, T_theta(q)) - phi(y_t, t, T_0(q)) ||^2,     phi_0 = phi(z_t, t,
                           T_0(""))

where v, the embedding of one token before c, is found anew at every step, as what most makes the denoiser do what it did
for c. The first 200 of 1,000 steps go without; Adam at 1e-5, eta = 1, gamma = 0.5 (0.3 for unsafe content), five q a step,
30 steps of Adam at 1e-3 for v are those of the authors (OPTML-Group/AdvUnlearn). For things and styles theta is the first
layer, for what is unsafe all.

The rate of v is in units of the spread of what the table of tokens writes, so that as many steps lead as far in every text
encoder: thirty of 0.07 at most 2.1 times as far as a row is long. On CLIP ViT-L/14, whose table has a spread of 0.014, that
is the authors' 1e-3.

Ours: z and y are latents of images that the model makes of c and q, noised; of the first layer matrices and biases alone
learn, of all of it embeddings too; q are twenty everyday prompts, c the sentences that few-shot learns from, where theirs
makes new latents at every step; gamma is 0.5 for unsafe content too, unless told otherwise; and the gradients of one step
for v do not add up with those of the steps before, as they do there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, cycle, islice

import torch
from torch.nn.functional import mse_loss

from unreel.errors import UnreelError
from unreel.interventions.erasure import Erasure
from unreel.methods import Task, descended, option, require
from unreel.methods._shots import latents_of
from unreel.models.conditioner import Conditioner, Trainable, unused_word
from unreel.models.deltas import Delta, differences
from unreel.models.denoiser import Conditioning, Denoiser
from unreel.models.sampling import made_latents

KEPT = 20  # prompts that images to keep are made of, and five of which are taken in turn


@dataclass(frozen=True)
class AdvUnlearnConfig:
    """Settings, as the authors have them. `warm_up` is how many of the `steps` go without an attack of `attack_steps`."""

    shots: int = option(4, "images to generate")
    shot_steps: int = option(0, "denoising steps an image, with DPM-Solver++; 0: the pipeline's own")
    steps: int = 1000
    warm_up: int = 200
    learning_rate: float = option(1e-5, "Adam's learning rate")
    eta: float = 1.0
    retain_weight: float = option(0.5, "weight of the loss that keeps other prompts as they are")
    retain_batch: int = 5
    attack_steps: int = option(30, "optimisation steps of the inner attack in each training step")
    attack_rate: float = option(0.07, "Adam's learning rate in the inner attack, in units of the token table's spread")
    seed: int = 0

    @property
    def refuses_offloading(self) -> str:
        return "AdvUnlearn cannot be offloaded: leave --offload out, or choose another method, such as text-ablation"

    def __post_init__(self) -> None:
        positive = ("shots", "steps", "learning_rate", "eta", "retain_batch", "attack_rate")
        require(self, positive=positive, or_zero=("shot_steps", "warm_up", "retain_weight", "attack_steps", "seed"))


Config, NEEDS, AS_PUBLISHED = AdvUnlearnConfig, "images", True


def learn(task: Task, config: AdvUnlearnConfig) -> Erasure:
    """Raises UnreelError for several concepts, several text encoders, anything to keep by name, and an anchor."""
    concept = task.only_concept()
    task.refuse("replace")
    task.require_learning()
    if len(task.conditioners) > 1:
        raise UnreelError(
            "AdvUnlearn attacks one text encoder, and this model has several: choose another method, such as text-ablation"
        )
    config, denoiser, latents = latents_of(task, config)
    kept = [text for text in task.prompts(task.conditioners[0], config.seed).everyday(KEPT + 1) if text][:KEPT]
    others = made_latents(task.pair, denoiser, kept, range(len(kept)), config.shot_steps)
    named = _Images(concept.forget_prompts, latents.flatten(0, 1))
    which: Trainable = "all" if concept.kind == "unsafe" else "first-layer"
    with denoiser.channels_last():
        deltas, losses = adv_unlearn(task.conditioners[0], denoiser, which, named, _Images(kept, others[:, 0]), config)
    return task.erasure([deltas], task.record(config, losses=losses, images=task.images_from))


@dataclass(frozen=True)
class _Images:
    """Prompts, and latents (n, ...) that show what they ask for: any of them, or one each."""

    prompts: Sequence[str]
    latents: torch.Tensor


def adv_unlearn(
    conditioner: Conditioner, denoiser: Denoiser, which: Trainable, named: _Images, kept: _Images, config: AdvUnlearnConfig
) -> tuple[dict[str, Delta], list[float]]:
    """The changes of the weights that learn, by name, and the loss at every step; the weights are left as they were found.

    Raises UnreelError if the loss, or a weight, stops being a number.
    """
    generator = torch.Generator("cpu").manual_seed(config.seed)  # CPU: the same draws on every device
    with torch.no_grad():
        nothing, *asked = (denoiser.conditioning([text]) for text in ("", *named.prompts))
        as_before = [denoiser.conditioning([text]) for text in kept.prompts]

    def noisy(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        t = torch.randint(denoiser.first_timestep, denoiser.timesteps, (len(z),), generator=generator).to(z.device)
        return denoiser.noisy(z, torch.randn(z.shape, generator=generator, dtype=torch.float32).to(z.device), t), t

    def one_of(number: int) -> int:
        return int(torch.randint(number, (1,), generator=generator))

    @cache
    def placeholder(prompt: str) -> tuple[str, int]:
        return unused_word(conditioner, "", prompt)

    turns = cycle(range(len(kept.prompts)))
    with conditioner.learning(which) as (weights, before):
        optimizer = torch.optim.Adam(weights.values(), lr=config.learning_rate)

        def loss(step: int) -> torch.Tensor:
            c, z = one_of(len(asked)), named.latents[one_of(len(named.latents))][None]
            attack = config.attack_steps if step >= config.warm_up else 0
            rounds = (noisy(z) for _ in range(attack))
            with _attacked(
                conditioner, denoiser, placeholder, named.prompts[c], asked[c], rounds, config.attack_rate, generator
            ) as read:
                z_t, t = noisy(z)
                with torch.no_grad():
                    empty, with_it = (denoiser.predict(z_t, t, words) for words in (nothing, asked[c]))
                total = mse_loss(denoiser.predict(z_t, t, read()), empty - config.eta * (with_it - empty))
            for turn in islice(turns, config.retain_batch):
                y_t, s = noisy(kept.latents[turn][None])
                with torch.no_grad():
                    goal = denoiser.predict(y_t, s, as_before[turn])
                now = denoiser.predict(y_t, s, denoiser.conditioning([kept.prompts[turn]]))
                stays = config.retain_weight / config.retain_batch * mse_loss(now, goal)
                stays.backward()  # one after the other: together their activations would fill a card
                total = total + stays.detach()
            return total

        losses = descended(optimizer, loss, config.steps)
        return differences(weights, before), losses


@contextmanager
def _attacked(
    conditioner: Conditioner,
    denoiser: Denoiser,
    placeholder: Callable[[str], tuple[str, int]],
    prompt: str,
    asked: Conditioning,
    rounds: Iterator[tuple[torch.Tensor, torch.Tensor]],
    rate: float,
    generator: torch.Generator,
) -> Iterator[Callable[[], Conditioning]]:
    """Inside, what it gives reads the prompt behind v, in the place of a word that it does not say (`placeholder`), found
    in as many steps as there are `rounds` of noisy latents and their timesteps; without any, it reads the prompt alone.
    """
    first = next(rounds, None)
    if first is None:
        yield lambda: denoiser.conditioning([prompt])
        return
    word, token = placeholder(prompt)
    some = torch.randint(len(conditioner.token_table.weight), (1,), generator=generator)
    drawn, spread = conditioner.written_rows(some)
    v = drawn[0].requires_grad_()

    def put(_: object, args: tuple, rows: torch.Tensor) -> torch.Tensor:
        return torch.where((args[0] == token)[..., None], v.to(rows.dtype), rows)

    def read() -> Conditioning:
        return denoiser.conditioning([f"{word} {prompt}"])

    optimizer = torch.optim.Adam([v], lr=rate * spread)
    with conditioner.token_table.register_forward_hook(put):
        for z_t, t in chain([first], rounds):
            with torch.no_grad():
                goal = denoiser.predict(z_t, t, asked)
            (v.grad,) = torch.autograd.grad(mse_loss(denoiser.predict(z_t, t, read()), goal), v)
            optimizer.step()
        v.requires_grad_(False)
        yield read
