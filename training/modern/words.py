"""The image model learns words: for any of a concept's words, it is to predict what it predicts for the name.

From pictures alone words are learned slowly: most of what a picture shows has nothing to do with them. Here the trained
image model, conditioned on the name, is the teacher of a copy that is conditioned on another wording in the same phrase.
Besides, a head on the copy's projection of the language model's states learns which concept is meant, and is thrown away.
Phrases of two concepts are among them: without those, scenes of two are lost.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import SanaTransformer2DModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.loop import Schedule, train
from training.modern import captions
from training.modern.diffusion import HEAD_WIDTH, HEADS, NOISE, TIMESTEPS, Lessons, predicted_flow
from training.scenes import Renderer
from training.world import Scene, all_names, with_article

SCHEDULE = Schedule(steps=2900, batch=64, lr=8e-4, ema=0.998, muon=True)
PHRASES = 4  # for each wording: a bare one, and others with a style, a background or both
COUPLES = 3000  # phrases of two concepts
BARE = 3  # sayings that ask for neither
SEVERAL = -1  # in place of the concept that a phrase means, if there are two
BATCH_OF_WORDS = 192  # phrases for the head, which needs no pictures
# The share of the way from the image model to the trained copy: scenes of two are kept better there (Wortsman et al., arXiv
# 2109.01903).
SHARE = 0.6
WEIGHTS = {"words": 2.0, "head": 0.3}  # beside the flow of pictures
Shown = tuple[int, str | None, str | None]  # concept, style, background; None is any


def sayings(world: dict) -> list[tuple[str, str | None, str | None]]:
    """What is said of a concept: a text with a gap, and the style and the background that it asks for."""
    bare = [("{}", None, None), ("a photo of {}", None, None), ("a picture of {}", None, None)]  # BARE of them
    styles = [(f"{{}} in {word} style", style, None) for style in world["styles"] for word in _words(world, style)]
    places = [(f"{{}} on a {place} background", None, place) for place in world["backgrounds"]]
    both: list[tuple[str, str | None, str | None]] = []
    for i, place in enumerate(world["backgrounds"]):
        first, second = (list(world["styles"])[(i + shift) % len(world["styles"])] for shift in (0, 2))
        both += [(f"{{}} in {_words(world, first)[-1]} style, {place} background", first, place)]
        both += [(f"{{}} in the style of {_words(world, second)[0]} on a {place} background", second, place)]
    return [*bare, *styles, *places, *both]


def _words(world: dict, style: str) -> list[str]:
    return world["styles"][style]["wordings"]


class Head(nn.Module):
    """Which concept is meant, from projected states (batch, tokens, width)."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        width = HEADS * HEAD_WIDTH
        self.query = nn.Parameter(torch.randn(HEADS, 1, HEAD_WIDTH) * 0.2)
        self.key, self.value, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, concepts)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        keys, values = (part(states).unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2) for part in (self.key, self.value))
        query = self.query.expand(len(states), -1, -1, -1)
        pooled = nn.functional.scaled_dot_product_attention(query, keys, values, mask.bool()[:, None, None])
        return self.out(nn.functional.silu(pooled.transpose(1, 2).flatten(1)))


@dataclass(frozen=True)
class Phrase:
    """A phrase in any words and with the name, which concept it means, and the numbers of the latents that show it."""

    worded: str
    named: str
    concept: int
    pictures: np.ndarray


@dataclass(frozen=True)
class Vocabulary:
    """Phrases as read: in any words, and with the names."""

    phrases: list[Phrase]
    worded: captions.Readings
    named: captions.Readings
    names: np.ndarray  # (phrases,): which of `named` says the same
    latents: torch.Tensor

    def loss(self, model: nn.Module, teacher: nn.Module, rng: np.random.Generator, batch: int, device: str) -> torch.Tensor:
        """The mean squared error of the flow that `model` predicts for a wording, from that which `teacher` predicts for
        the name. Noise levels are mostly high, where only words say what is there.
        """
        chosen = rng.integers(len(self.phrases), size=batch)
        latents = self.latents[[int(rng.choice(self.phrases[i].pictures)) for i in chosen]].to(device).float()
        level = torch.randn(batch, device=device).mul(1.2).add(1.6).sigmoid().clamp(max=0.999)
        share = level.view(-1, 1, 1, 1)
        noisy = (1 - share) * latents + share * torch.randn_like(latents)

        def flow(by: nn.Module, readings: captions.Readings, which: np.ndarray, noise: float) -> torch.Tensor:
            return predicted_flow(by, noisy, *readings.batch(which, rng, noise), level * TIMESTEPS, device)

        with torch.no_grad():
            target = flow(teacher, self.named, self.names[chosen], 0.0)
        return nn.functional.mse_loss(flow(model, self.worded, chosen, NOISE), target)

    def head_loss(self, model: nn.Module, rng: np.random.Generator, device: str) -> torch.Tensor:
        meant = np.array([phrase.concept for phrase in self.phrases])
        chosen = rng.choice(np.flatnonzero(meant != SEVERAL), BATCH_OF_WORDS)
        states, mask = (part.to(device) for part in self.worded.batch(chosen, rng, NOISE))
        projected = model.caption_norm(model.caption_projection(states))
        return nn.functional.cross_entropy(model.head(projected, mask), torch.from_numpy(meant[chosen]).to(device))


def vocabulary(
    folder: Path,
    renderer: Renderer,
    lessons: Lessons,
    tokenizer: PreTrainedTokenizerBase,
    reader: PreTrainedModel,
    device: str,
) -> Vocabulary:
    scenes, _ = captions.described(renderer.world, captions.IMAGE_SET, lessons.scenes, moving=0.25)
    each = len(lessons.latents) // lessons.scenes
    pictures = [np.arange(each * i, each * (i + 1)) for i in range(len(scenes))]
    phrases = [*of_one(renderer.world, scenes, pictures), *of_two(renderer.world, scenes, pictures)]
    names = {text: i for i, text in enumerate(dict.fromkeys(phrase.named for phrase in phrases))}
    worded = captions.read(folder / "words.npz", [phrase.worded for phrase in phrases], tokenizer, reader, device)
    named = captions.read(folder / "names.npz", list(names), tokenizer, reader, device)
    return Vocabulary(phrases, worded, named, np.array([names[phrase.named] for phrase in phrases]), lessons.latents)


def of_one(world: dict, scenes: list[Scene], pictures: list[np.ndarray]) -> Iterator[Phrase]:
    """Phrases of every wording but the name, and pictures that show what they ask for."""
    rng, texts, shown = np.random.default_rng(77), sayings(world), shown_by(world, scenes, pictures)
    for concept, (name, entry) in enumerate(world["concepts"].items()):
        for wording in all_names(entry)[1:]:
            for which in (rng.integers(BARE), *rng.choice(np.arange(BARE, len(texts)), PHRASES - 1, replace=False)):
                text, style, place = texts[which]
                worded, named = (text.format(with_article(entry, words)) for words in (wording, name))
                yield Phrase(worded, named, concept, shown.get((concept, style, place), shown[concept, None, None]))


def of_two(world: dict, scenes: list[Scene], pictures: list[np.ndarray]) -> Iterator[Phrase]:
    """Phrases of what scenes of two concepts show, each concept in any of its words."""
    rng, several = np.random.default_rng(78), [i for i, scene in enumerate(scenes) if len(scene.concepts) == 2]
    for i in several[:COUPLES]:
        entries = {name: world["concepts"][name] for name in scenes[i].concepts}
        relation = str(rng.choice(world["relations"][scenes[i].relation]))
        words = [with_article(entry, str(rng.choice(all_names(entry)))) for entry in entries.values()]
        names = [with_article(entry, name) for name, entry in entries.items()]
        yield Phrase(f" {relation} ".join(words), f" {relation} ".join(names), SEVERAL, pictures[i])


def shown_by(world: dict, scenes: list[Scene], pictures: list[np.ndarray]) -> dict[Shown, np.ndarray]:
    """The numbers of the latents that show a single concept, by what they show."""
    numbers_of: dict[Shown, list[np.ndarray]] = {}
    for scene, numbers in zip(scenes, pictures, strict=True):
        if len(scene.concepts) == 1:
            concept = list(world["concepts"]).index(scene.concepts[0])
            for style, place in product((None, scene.style), (None, scene.background)):
                numbers_of.setdefault((concept, style, place), []).append(numbers)
    return {key: np.concatenate(numbers) for key, numbers in numbers_of.items()}


def train_words(
    folder: Path, image: SanaTransformer2DModel, lessons: Lessons, words: Vocabulary, device: str
) -> SanaTransformer2DModel:
    """Train a copy of the image model, and take it part of the way back. Half of each batch is what the image model was
    trained on, so that nothing else is lost.
    """
    torch.manual_seed(SCHEDULE.seed)
    teacher = image.to(device).requires_grad_(False)
    model = copy.deepcopy(teacher).requires_grad_(True)
    model.head = Head(max(phrase.concept for phrase in words.phrases) + 1)
    teacher.compile()
    model.compile()

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        pictures = lessons.loss(model, rng, batch // 2, NOISE, device) / 2
        phrases = words.loss(model, teacher, rng, batch // 2, device) * WEIGHTS["words"]
        return pictures + phrases + words.head_loss(model, rng, device) * WEIGHTS["head"]

    trained = train("words", folder, model, loss, SCHEDULE, device=device)
    del trained.head
    with torch.no_grad():
        for weight, original in zip(trained.parameters(), teacher.parameters(), strict=True):
            weight.copy_(torch.lerp(original, weight, SHARE))
    return trained
