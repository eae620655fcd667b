"""Concept ablation with early stopping: the concept is drawn to an anchor until it is gone, and no further.

Concept ablation (Kumari et al., arXiv 2303.13516) with the weights that few-shot erasing trains (Fuchi & Takagi,
arXiv 2405.07288), and with a term that keeps all other prompts where they are:

    theta* = argmin_theta  E_{z, t, e} || phi(z_t, t, T_theta(p)) - phi(z_t, t, T_0(p')) ||^2
                           + lambda  E_q || T_theta(q) - T_0(q) ||^2 / E_q || T_0(q) ||^2

with p a sentence that names the concept, its anchor prompt p' the same sentence with the anchor, q any other sentence, T_0
the text encoder as found and phi the frozen denoiser. Two measures, on sentences and noise that training never sees, tell
when to stop: the effect left, which is the first term as a share of what it was at the start, and the retain shift,
E_q || T_theta(q) - T_0(q) || / || T_0(q) ||. Where a pipeline has several text encoders, all of them learn together, and
what is said of T_theta(q) is the mean over them; tokens that the denoiser is not to look at do not count.

Ours, beside lambda and when to stop: z are latents of a few images of the concept, where theirs are hundreds of the anchor
(200; 1,000 in the paper); the text encoder learns, where theirs is the attention to the text in the denoiser, its keys and
values; and t is of the noisier half, where theirs is of all.

Knows sentences and latents; knows nothing about how images are made.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import mse_loss

from unreel.errors import UnreelError
from unreel.interventions.erasure import Erasure
from unreel.methods import Task, option, require
from unreel.methods._descent import finite
from unreel.methods._shots import latents_of
from unreel.models.conditioner import Conditioner, Trainable
from unreel.models.deltas import Delta, differences
from unreel.models.denoiser import Denoiser
from unreel.models.tokenizer import whole_words
from unreel.models.tokens import Tokens
from unreel.models.weights import set_to
from unreel.progress import track
from unreel.prompts.corpus import Corpus

NOISY = 0.5  # the share of the timesteps, the noisiest, to learn from: below, the latents say more than the prompt does
HELD_PAIRS, HELD_RETAIN = 8, 16  # how many sentences are measured on and not trained on, of short lists half

GONE = "the concept is gone"
WENT_BACK = "other prompts moved too far: went back to step {}"
RAN_OUT = "the steps ran out"


@dataclass(frozen=True)
class ConceptAblationConfig:
    """Hyperparameters, for checkpoints of the usual size; none has been run here with these defaults.

    Learning rate, Adam's and the trained weights are few-shot erasing's, number of steps and batch size those of concept
    ablation's code on one of the two GPUs that it recommends; the rest is ours. `retain_weight` is lambda; `retain_batch`
    sentences q go with the `batch_size` pairs of a step. Every `check` steps, training ends if at most `stop` of the effect
    is left, and goes back to the check before if the retain shift is more than `bound`. `forget` and `retain` are how many
    sentences the caller is to draw, `shot_steps` is as for few-shot.
    Raises UnreelError for values that make no sense.
    """

    shots: int = option(4, "images to generate")
    shot_steps: int = option(0, "denoising steps an image, with DPM-Solver++; 0: the pipeline's own")
    steps: int = 100
    batch_size: int = option(4, "images in each training step")
    learning_rate: float = option(1e-5, "Adam's learning rate")
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    trainable: Trainable = option(
        "mlp-final-attn", "which weights learn: mlp-final-attn, mlp, attn, mlp-attn, first-layer or all"
    )
    retain_weight: float = option(10.0, "weight of the loss that keeps other prompts as they are")
    retain_batch: int = 8
    stop: float = 0.3
    bound: float = 0.1
    check: int = 5
    forget: int = option(240, "prompts about each concept to learn from")
    retain: int = 900
    seed: int = 0

    @property
    def refuses_offloading(self) -> str:
        return "concept ablation cannot be offloaded: leave --offload out, or choose another method, such as text-ablation"

    def __post_init__(self) -> None:
        require(
            self,
            positive=(
                "shots",
                "steps",
                "batch_size",
                "learning_rate",
                "retain_batch",
                "bound",
                "check",
                "forget",
                "retain",
            ),
            or_zero=("retain_weight", "shot_steps", "seed"),
        )
        if not 0 <= self.stop < 1:
            raise UnreelError(f"stop is the share of the effect that may be left, from 0 to below 1, not {self.stop}")


Config, NEEDS, AS_PUBLISHED = ConceptAblationConfig, "images", True


def learn(task: Task, config: ConceptAblationConfig) -> Erasure:
    """Raises UnreelError for several concepts and anything to keep."""
    concept, pair = task.only_concept(), task.pair
    task.require_learning()
    config, denoiser, latents = latents_of(task, config)
    instead = task.anchored[0].anchor or ""
    corpus = Corpus(pair.vocabulary, list(whole_words(task.conditioners[0].tokenizer)), config.seed)
    pairs = corpus.forget(concept, {wording.lower(): instead for wording in concept.wordings}, config.forget)
    pairs = [pair for pair in pairs if all(reader.has_room_for(text) for reader in task.conditioners for text in pair)]
    others = [text for text in corpus.retain(config.retain) if not concept.is_named_in(text)]
    with denoiser.channels_last():
        deltas, record = ablate(task.conditioners, denoiser, pairs, others, config, latents)
    return task.erasure(deltas, task.record(config, {concept.name: instead}, **record, images=task.images_from))


class _Learner:
    """The trained weights of all text encoders, with their original values."""

    def __init__(self, conditioners: Sequence[Conditioner], which: Trainable, afterwards: ExitStack) -> None:
        self.conditioners = conditioners
        learning = [afterwards.enter_context(conditioner.learning(which)) for conditioner in conditioners]
        self.weights = [weights for weights, _ in learning]
        self.original = [original for _, original in learning]

    def copy(self) -> list[dict[str, torch.Tensor]]:
        return [{name: weight.detach().clone() for name, weight in weights.items()} for weights in self.weights]

    def parameters(self) -> list[nn.Parameter]:
        return [weight for weights in self.weights for weight in weights.values()]

    @contextmanager
    def as_found(self) -> Iterator[None]:
        """Inside, the encoders are T_0, and nothing learns."""
        with torch.no_grad(), ExitStack() as afterwards:
            for weights, original in zip(self.weights, self.original, strict=True):
                afterwards.enter_context(set_to(weights, original))
            yield

    def tokenize(self, prompts: Sequence[str]) -> list[Tokens]:
        return [conditioner.tokenize(list(prompts)) for conditioner in self.conditioners]

    def read(self, tokens: Sequence[Tokens]) -> list[torch.Tensor]:
        """T of the same prompts by each encoder: (prompts, tokens, width), zero at masked tokens."""
        asked = zip(self.conditioners, tokens, strict=True)
        return [conditioner.encode_tokens(own) * own.mask[..., None] for conditioner, own in asked]


@dataclass(frozen=True)
class _Material:
    """Sentences that name the concept with their anchor prompts, other sentences, and the latents to show them with."""

    learner: _Learner
    denoiser: Denoiser
    latents: torch.Tensor  # (shots, 2, channels, height, width): each image and its mirror image
    pairs: list[tuple[str, str]]  # p and p'
    others: list[str]  # q

    def noisy(self, levels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """z_t and t for `levels` (count) from 0 to below 1, the range of timesteps to learn from; z and e are drawn."""
        last = self.denoiser.timesteps
        first = max(int((1 - NOISY) * last), self.denoiser.first_timestep)
        shots = torch.randint(len(self.latents), levels.shape, generator=generator)
        z = self.latents[shots, torch.randint(2, levels.shape, generator=generator)]
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float32).to(z.device)
        t = (first + (levels * (last - first)).long()).to(z.device)
        t = last - 1 - t if self.denoiser.inverted else t  # Mochi counts from the noise
        return self.denoiser.noisy(z, noise, t), t

    def predicted(self, z_t: torch.Tensor, t: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """phi(z_t, t, T(prompts)), with the encoders as they are now."""
        return self.denoiser.predict(z_t, t, self.denoiser.conditioning(prompts))


class _Lessons:
    """The batches to train on, one after the other and round again."""

    def __init__(self, material: _Material, config: ConceptAblationConfig, generator: torch.Generator) -> None:
        self.material, self.config, self.generator = material, config, generator

    def losses(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The denoising and the retain term of step 0, 1, ..., differentiable in the encoders' weights."""
        material, learner = self.material, self.material.learner
        now = [material.pairs[i] for i in _turn(step, self.config.batch_size, len(material.pairs))]
        turn = _turn(step, self.config.retain_batch, len(material.others))
        also = learner.tokenize([material.others[i] for i in turn])
        z_t, t = material.noisy(torch.rand(len(now), generator=self.generator), self.generator)
        with learner.as_found():
            aim, kept = material.predicted(z_t, t, [anchor for _, anchor in now]), learner.read(also)
        denoising = mse_loss(material.predicted(z_t, t, [prompt for prompt, _ in now]), aim)
        moved = [
            (out - place).square().sum() / place.square().sum() for out, place in zip(learner.read(also), kept, strict=True)
        ]
        return denoising, torch.stack(moved).mean()


class _Exam:
    """How far training has come, on sentences and noise that it never sees. To be made before it begins.

    Raises UnreelError if the anchor asks for the same as the concept.
    """

    @torch.no_grad()
    def __init__(self, material: _Material, generator: torch.Generator) -> None:
        self.material = material
        count = len(material.pairs)
        # Spread evenly, since so few draws would fall together.
        self.z_t, self.t = material.noisy((torch.arange(count) + 0.5) / count, generator)
        self.aim = material.predicted(self.z_t, self.t, [anchor for _, anchor in material.pairs])
        self.others = material.learner.tokenize(material.others)
        self.kept = material.learner.read(self.others)
        self.effect = self._distance()
        if self.effect == 0:
            raise UnreelError("the concept and its anchor ask for the same: choose another anchor")

    @torch.no_grad()
    def measure(self) -> tuple[float, float]:
        """The share of the effect that is left, and the retain shift."""
        now = self.material.learner.read(self.others)
        shifts = [
            (out - place).flatten(1).norm(dim=1) / place.flatten(1).norm(dim=1)
            for out, place in zip(now, self.kept, strict=True)
        ]
        return self._distance() / self.effect, torch.stack(shifts).mean().item()

    def _distance(self) -> float:
        prompts = [prompt for prompt, _ in self.material.pairs]
        return mse_loss(self.material.predicted(self.z_t, self.t, prompts), self.aim).item()


def ablate(
    conditioners: Sequence[Conditioner],
    denoiser: Denoiser,
    pairs: Sequence[tuple[str, str]],
    retain: Sequence[str],
    config: ConceptAblationConfig,
    latents: torch.Tensor,
) -> tuple[list[dict[str, Delta]], dict[str, Any]]:
    """Unlearn what the first sentences of `pairs` name and the second do not, and keep what the sentences `retain` say.

    `latents` is (shots, 2, channels, height, width), or any layout of a latent in place of the last three: images of the
    concept and their mirror images. The weights of the text encoders, all that the denoiser reads, are left as they were
    found. Returns the changes of each one's trained weights, by name, and, as plain data, the denoising loss at every step
    ("losses"), rows of step, effect left and retain shift ("measured"), why training ended ("stopped") and after which step
    the changes were taken ("kept"; 0 if nothing is changed). Raises UnreelError if there are fewer than two sentences of
    either sort, the anchor asks for the same as the concept, or the loss stops being a number.
    """
    if len(pairs) < 2 or len(retain) < 2:
        raise UnreelError(
            "too few prompts fit to train on some and measure on others: raise --forget, or name it in fewer words"
        )
    generator = torch.Generator("cpu").manual_seed(config.seed)  # CPU: the same draws on every device
    losses: list[float] = []
    measured: list[list[float]] = []
    with ExitStack() as afterwards:
        learner = _Learner(conditioners, config.trainable, afterwards)
        lessons, exam = _prepare(learner, denoiser, pairs, retain, config, latents, generator)
        optimizer = torch.optim.Adam(learner.parameters(), lr=config.learning_rate, betas=config.betas, eps=config.eps)
        kept, good, stopped = 0, learner.original, RAN_OUT
        for step in track(range(1, config.steps + 1), "unlearning", "step"):
            denoising, others = lessons.losses(step - 1)
            (denoising + config.retain_weight * others).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(finite(denoising.item(), step, config.learning_rate))
            if step % config.check and step < config.steps:
                continue
            residual, shift = (finite(value, step, config.learning_rate) for value in exam.measure())
            measured.append([step, residual, shift])
            if shift > config.bound:
                stopped = WENT_BACK.format(kept)
                break
            kept, good = step, learner.copy()
            if residual <= config.stop:
                stopped = GONE
                break
        deltas = [differences(now, before) for now, before in zip(good, learner.original, strict=True)]
    return deltas, {"losses": losses, "measured": measured, "stopped": stopped, "kept": kept}


def _prepare(
    learner: _Learner,
    denoiser: Denoiser,
    pairs: Sequence[tuple[str, str]],
    retain: Sequence[str],
    config: ConceptAblationConfig,
    latents: torch.Tensor,
    generator: torch.Generator,
) -> tuple[_Lessons, _Exam]:
    """Shuffled, and some sentences kept to measure on."""
    pairs, retain = _shuffled(pairs, generator), _shuffled(retain, generator)
    held, others = min(HELD_PAIRS, len(pairs) // 2), min(HELD_RETAIN, len(retain) // 2)
    learned_on = _Material(learner, denoiser, latents, pairs[held:], retain[others:])
    unseen = _Material(learner, denoiser, latents, pairs[:held], retain[:others])
    return _Lessons(learned_on, config, generator), _Exam(unseen, generator)


def _shuffled(rows: Sequence[Any], generator: torch.Generator) -> list[Any]:
    return [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]


def _turn(step: int, count: int, total: int) -> list[int]:
    """The places of the `count` rows whose turn it is."""
    return [i % total for i in range(step * count, (step + 1) * count)]
