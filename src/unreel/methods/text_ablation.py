"""Concept ablation in text space: low-rank changes of a text encoder's first layers, learned from text alone.

Concept ablation (Kumari et al., arXiv 2303.13516) asks that a model make of a prompt what it made of its anchor prompt;
that is asked here of the text encoder's last hidden states, so that neither image nor denoiser is needed. With p a prompt
that names the concept, p' its anchor prompt, q a prompt that does not, T_0 the encoder as found, and T_theta the same with
a low-rank change (LoRA, arXiv 2106.09685) of every matrix of its first layers,

    theta* = argmin_theta  E_p [ || T_theta(p) - T_0(p') ||^2 / E_{p of the same concept} || T_0(p) - T_0(p') ||^2 ]
                           + lambda  E_q || T_theta(q) - T_0(q) ||^2 / E_q || T_0(q) ||^2

over the tokens that count (see reading.py); the last term twice, for everyday prompts q and with its own weight for those
about what is near. What guidance leads away from does not move at all. What a name means is put together in the first
layers (Basu et al., arXiv 2310.13730); that early ones change while the last one is supervised is HiRM's idea (arXiv
2602.19631). Where changes begin: _least_squares.py.

Knows sentences and text encoders; knows no pixels.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice
from statistics import median_low
from typing import Any

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.interventions.erasure import Erasure
from unreel.methods import Task, option, require
from unreel.methods._descent import finite, require_finite
from unreel.methods._least_squares import least_squares
from unreel.methods._low_rank import Factors
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import LowRank
from unreel.models.memory import checkpointing
from unreel.models.reading import Aim, as_anchors, as_read, beginnings, together
from unreel.models.tokens import Tokens
from unreel.progress import track
from unreel.prompts.pairs import PromptPair

GUIDES = 60  # how many prompts that name the concept measure the initial distance to the anchor
SOLVED = 1 / 3  # the share of the changing layers that begin at the least-squares solution
NEAR = 0.5  # the weight there of prompts about what is near, where everyday ones have 1
AT_ONCE = 4  # lessons whose aims are read together
ROUNDING = 1e-9  # squared distances, as a share of squared norms, that mere rounding makes
RATE = 0.15  # the power of the number of concepts by which the learning rate is divided
SCALE = 2.0**12  # of the loss, where gradients come in float16
STEPS, SHALLOW = 90, 12  # steps; with fewer layers than SHALLOW there are more of them, each of which costs less
FAR = 0.1  # how far a token may move, as a share of its norm, before more counts less


@dataclass(frozen=True)
class TextAblationConfig:
    """Settings; where each comes from stands in docs/methods/text-ablation.md.

    The first `layers` layers change; 0 stands for three fifths of them, at least four. `rank` is that of every change
    for one concept; for n there are sqrt(n) times as much of it, and of the steps.
    Of `steps`, 0 stands for 90, and for more, at most twice as many, where there are fewer than twelve layers.
    There are `forget` prompts that name the concept, `retain` everyday ones and as many about what is near; a step takes
    `forget_batch` of the first and their share of the others. `retain_weight` is lambda for everyday prompts,
    `near_weight` for those about what is near; for n concepts both are divided by the fourth root of n, and the learning
    rate by n**0.15. That rises for a twentieth of the steps and falls in a straight line to zero from a fifth on.
    `solve_weight` is lambda of the least squares that say where changes begin, against `solve_retain` everyday prompts,
    less by the root of the number of concepts; without it all begin at zero. `gradient_checkpointing` computes activations
    twice instead of keeping them, to the same result.
    Raises UnreelError for values that make no sense.
    """

    layers: int = option(0, "how many of the first layers change; 0: three fifths of them, at least four")
    rank: int = option(8, "rank of each weight change for one concept, times sqrt(n) for n")
    steps: int = 0
    learning_rate: float = option(1.5e-3, "Adam's learning rate")
    betas: tuple[float, float] = (0.9, 0.95)
    forget_batch: int = 10
    retain_weight: float = option(90.0, "weight of the loss that keeps other prompts as they are")
    near_weight: float = 20.0
    solve_weight: float = 250.0
    forget: int = option(200, "prompts about each concept to learn from")
    retain: int = 120
    solve_retain: int = 1000
    gradient_checkpointing: bool = option(False, "less memory, more time, the same result")
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self,
            positive=("rank", "learning_rate", "forget_batch", "forget", "retain", "solve_retain"),
            or_zero=("retain_weight", "near_weight", "solve_weight", "layers", "steps", "seed"),
        )


Config, NEEDS, AS_PUBLISHED = TextAblationConfig, "text", False


def learn(task: Task, config: TextAblationConfig) -> Erasure:
    """Learn the changes of every text encoder. The record holds one list of losses, or one for each encoder if there are
    several. Raises UnreelError for images, and for what is both to be kept and to be forgotten.
    """
    task.refuse("images")
    task.require_nothing_kept_is_forgotten()
    task.require_learning()
    learned = [_learn(task, conditioner, config) for conditioner in task.conditioners]
    losses = [record["losses"] for _, record in learned]
    record = task.record(config, task.anchors, losses=losses if len(losses) > 1 else losses[0])
    return task.erasure([deltas for deltas, _ in learned], record)


def _learn(task: Task, conditioner: Conditioner, config: TextAblationConfig) -> tuple[dict[str, LowRank], dict[str, Any]]:
    prompts, more = task.prompts(conditioner, config.seed), len(task.concepts) ** 0.5  # as many more as steps
    return text_ablation(
        conditioner,
        task.pairs(prompts, round(config.forget * more)),
        prompts.everyday(max(config.solve_retain, round(config.retain * more))),
        prompts.neighbours(task.near(conditioner), round(config.retain * more), task.keep),
        config,
        concepts=len(task.concepts),
    )


def text_ablation(
    conditioner: Conditioner,
    pairs: Sequence[PromptPair],
    everyday: Sequence[str],
    neighbours: Sequence[str],
    config: TextAblationConfig,
    *,
    concepts: int = 1,
) -> tuple[dict[str, LowRank], dict[str, Any]]:
    """Make the encoder read the prompts of `pairs` as their anchor prompts, and `everyday` and `neighbours` as before.

    `pairs` are about so many `concepts`, for which there are more steps, but far fewer than each would take alone. Of
    `everyday`, all beyond the first `config.retain`, or more for several, only serve the least squares where changes
    begin. The weights are left as they were found.

    Returns the changes by weight name and, as plain data, the residual at every step: the share of the initial squared
    distance to the anchor ("losses"). Raises UnreelError if there is nothing to learn from, concept and anchor say the
    same, or what is learned is no number.
    """
    if not pairs:
        raise UnreelError("no prompt that names the concept fits into this text encoder: name it in fewer words")
    layers, rank = first_layers(conditioner, config), round(config.rank * concepts**0.5)
    steps = round((config.steps or STEPS * min(2.0, max(1.0, SHALLOW / len(conditioner.layers)))) * concepts**0.5)
    losses: list[float] = []
    conditioner.text_encoder.requires_grad_(False)
    matrices = conditioner.first_matrices(min(layers, len(conditioner.token_layers)))
    away = _inputs_for_guidance(conditioner, matrices)
    with ExitStack() as afterwards:
        afterwards.enter_context(conditioner.brisk())
        few = everyday[: round(config.retain * concepts**0.5)]
        lessons = _lessons(conditioner, pairs, few, neighbours, config)  # with nothing changed yet
        factors = Factors(matrices, rank, config.seed, conditioner.device, afterwards)
        some = lessons if concepts > 1 else lessons[: -(-GUIDES // config.forget_batch)]
        initial = _initial_distances(conditioner, some)
        if config.solve_weight:
            first = conditioner.token_layers[: max(1, round(SOLVED * layers))]
            kept, weight = {1.0: everyday, NEAR: neighbours}, config.solve_weight / concepts**0.5
            factors.begin(least_squares(conditioner, first, pairs, kept, weight, rank, config.seed))
        factors.be_blind_to(away)
        rate = config.learning_rate / concepts**RATE
        optimizer = torch.optim.Adam(factors.parameters(), lr=rate, betas=config.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        # Factors are in float32, but their gradients come through the encoder: in float16 small ones would vanish. Adam's
        # steps do not depend on the scale.
        scale = SCALE if conditioner.text_encoder.dtype == torch.float16 else 1.0
        if config.gradient_checkpointing:
            afterwards.enter_context(checkpointing(conditioner.layers))
        # With several concepts, a step reads fewer prompts about each, and as many of all others as with one.
        weights = (config.retain_weight / concepts**0.25, config.near_weight / concepts**0.25)
        for lesson in track(islice(cycle(lessons), steps), "unlearning", "step", total=steps):
            loss = _backward(conditioner, lesson, initial, weights, scale)
            losses.append(finite(loss, len(losses) + 1, rate))
            optimizer.step()
            factors.blinded()
            optimizer.zero_grad()
            schedule.step()
        require_finite(factors.parameters())
        return factors.deltas(), {"losses": losses}


@torch.no_grad()
def _inputs_for_guidance(conditioner: Conditioner, matrices: Mapping[str, nn.Linear]) -> dict[str, torch.Tensor]:
    """The inputs of matrices (tokens, in), by weight name, when the encoder reads what guidance leads away from; {} if
    that is an empty prompt, which is among the everyday ones.

    It is half of every video, so it is not to move at all. If changes add nothing to the first matrices' outputs for it,
    all later matrices get what they got before. A loss for it would not do: it is read like no other prompt, and the
    first steps throw it far.
    """
    tokens, inputs = conditioner.guided_from(), {}
    if tokens is None:
        return {}

    def note(name: str, _: nn.Module, args: tuple, __: torch.Tensor) -> None:
        inputs[name] = args[0].reshape(-1, args[0].shape[-1])

    with ExitStack() as hooks:
        for name, matrix in matrices.items():
            hooks.enter_context(matrix.register_forward_hook(partial(note, name)))
        conditioner.encode_tokens(tokens)
    return inputs


def first_layers(conditioner: Conditioner, config: TextAblationConfig) -> int:
    """How many layers change."""
    return config.layers or max(4, -(-3 * len(conditioner.layers) // 5))


def _rate(step: int, steps: int) -> float:
    """The learning rate of a step from 0, as a share of the highest; straight to zero at the end (arXiv 2502.15938)."""
    return min(1.0, (step + 1) / max(1, steps // 20), (steps - step) / (0.8 * steps))


@dataclass(frozen=True)
class _Lesson:
    """The prompts of one step, those to forget by first, and the encoder's target `states`. Masks (prompts, tokens) say
    which tokens are to be read as the anchor prompts' (`forget`), as before (`everyday`), and as before because they are
    near (`near`).
    """

    tokens: Tokens
    states: torch.Tensor
    forget: torch.Tensor
    everyday: torch.Tensor
    near: torch.Tensor
    concepts: Sequence[str]  # what each of the prompts to forget by is about

    @property
    def naming(self) -> int:
        """How many prompts name a concept."""
        return len(self.concepts)

    def aim(self, counted: torch.Tensor) -> Aim:
        return Aim(self.tokens, self.states, counted)


def _lessons(
    conditioner: Conditioner,
    pairs: Sequence[PromptPair],
    everyday: Sequence[str],
    neighbours: Sequence[str],
    config: TextAblationConfig,
) -> list[_Lesson]:
    """The lessons in random order. Each has prompts of about the same length, so that little of them is padding."""
    count = -(-len(pairs) // config.forget_batch)
    forget = _cut(sorted(pairs, key=lambda pair: conditioner.length(pair.prompt)), count)
    kept = [_cut(sorted(texts, key=conditioner.length), count) for texts in (everyday, neighbours)]
    lessons = []
    for start in track(range(0, count, AT_ONCE), "reading what to aim at", brief=True):
        some = range(start, min(start + AT_ONCE, count))
        lessons += _read(conditioner, [forget[i] for i in some], [[part[i] for part in kept] for i in some])
    order = torch.randperm(count, generator=torch.Generator("cpu").manual_seed(config.seed))  # the same on every device
    return [lessons[i] for i in order.tolist()]


def _read(conditioner: Conditioner, forget: Sequence[list[PromptPair]], kept: Sequence[list[list[str]]]) -> list[_Lesson]:
    """Several lessons, whose aims are read together, which takes less time than one after the other."""
    texts = [list(chain(*parts)) for parts in kept]
    aims = [as_anchors(conditioner, list(chain(*forget)), short=True).parts([len(pairs) for pairs in forget])]
    if any(texts):
        aims.append(as_read(conditioner, list(chain(*texts)), short=True).parts([len(asked) for asked in texts]))
    return [_lesson(conditioner, pairs, parts, own) for pairs, parts, *own in zip(forget, kept, *aims, strict=True)]


def _lesson(
    conditioner: Conditioner, pairs: Sequence[PromptPair], kept: Sequence[list[str]], aims: Sequence[Aim]
) -> _Lesson:
    prompts = [*(pair.prompt for pair in pairs), *chain(*kept)]
    whole = together(conditioner, prompts, aims)
    row = torch.arange(len(whole.counted), device=whole.counted.device)[:, None]
    naming, more = len(pairs), len(pairs) + len(kept[0])
    # To encoders that read from left to right, the tokens before the name are everyday text, at no extra cost.
    before = beginnings(conditioner, whole.tokens, pairs) if conditioner.causal else torch.zeros_like(whole.counted)
    return _Lesson(
        tokens=whole.tokens,
        states=whole.states,
        forget=whole.counted & (row < naming),
        everyday=whole.counted & (row >= naming) & (row < more) | before,
        near=whole.counted & (row >= more),
        concepts=[pair.concept for pair in pairs],
    )


def _cut(ordered: list[Any], count: int) -> list[list[Any]]:
    """The list in `count` parts of about the same size."""
    return [ordered[len(ordered) * i // count : len(ordered) * (i + 1) // count] for i in range(count)]


@torch.no_grad()
def _initial_distances(conditioner: Conditioner, lessons: Sequence[_Lesson]) -> dict[str, float]:
    """By concept, the mean squared distance of a counted token from its target before anything changed. None is taken as
    less than half of the median. Raises UnreelError if concept and anchor say the same.
    """
    distances, squares, tokens = defaultdict[str, float](float), 0.0, Counter[str]()
    for lesson in lessons:
        aim = lesson.aim(lesson.forget).rows(slice(lesson.naming))
        rows = aim.distances(conditioner.token_states(aim.tokens)).tolist(), aim.counted.sum(1).tolist()
        for concept, distance, counted in zip(lesson.concepts, *rows, strict=True):
            distances[concept] += distance
            tokens[concept] += counted
        squares += float(aim.squares.sum())
    if sum(distances.values()) <= ROUNDING * squares:
        raise UnreelError(
            "the concept and what is to be made instead say the same to this text encoder: choose another anchor"
        )
    means = {concept: distance / max(1, tokens[concept]) for concept, distance in distances.items()}
    least = median_low(means.values()) / 2
    return {concept: max(mean, least) for concept, mean in means.items()}


def _backward(
    conditioner: Conditioner,
    lesson: _Lesson,
    initial: Mapping[str, float],
    weights: tuple[float, float],
    scale: float = 1.0,
) -> float:
    """Add the gradients of the loss on one lesson, times `scale`; returns the residual, the share of the initial squared
    distances that is left. Each concept's distances are divided by its own initial one: otherwise the concept farthest
    from its anchor would be all that is learned.
    """
    written = conditioner.token_states(lesson.tokens)
    distances = lesson.aim(lesson.forget).distances(written)[: lesson.naming]
    whole = torch.tensor([initial[concept] for concept in lesson.concepts]).to(distances)
    residual = (distances / whole).sum() / int(lesson.forget.sum())
    everyday, near = (_moved(lesson.aim(counted), written) for counted in (lesson.everyday, lesson.near))
    (scale * (residual + weights[0] * everyday + weights[1] * near)).backward()
    return float(residual.detach())


def _moved(aim: Aim, written: torch.Tensor) -> torch.Tensor:
    """The mean squared movement of a counted token, as a share of the mean squared norm. Movements above FAR count in
    proportion only (pseudo-Huber), since a few tokens that the encoder reads in two ways could be most of it.
    """
    tokens = aim.counted.sum().clamp(min=1)
    share = (written - aim.states).float().square().sum(-1) * tokens / aim.squares.sum().clamp(min=1e-12)
    bent = FAR**2 * ((1 + 2 * share / FAR**2).sqrt() - 1)
    return (bent * aim.counted).sum() / tokens
