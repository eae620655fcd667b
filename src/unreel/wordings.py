"""Which words a model draws a concept from: other wordings of it, found with the image model as the judge.

To a text encoder that was trained on the world's text, "palace" and "castle" are two things to say; a denoiser behind it
may have learned to draw the same for both, and then whoever has forgotten one still draws it for the other. Whether it does
takes no finished picture and no classifier to tell. From the same noisy latents of the concept, the network predicts for a
phrase c

    d(c) = sum_{z, t} || v(z_t, t, c) - v(z_t, t, name) ||^2 / sum_{z, t} || v(z_t, t, "") - v(z_t, t, name) ||^2

0 where it is about to draw what it draws for the name, 1 where it is as far from that as when asked for nothing. v is what
the network predicts, whichever that is. With real images in place of latents of its own, and over all t, such errors
classify images (Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", arXiv 2303.16203).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch

from unreel.errors import UnreelError
from unreel.methods._shots import made_latents
from unreel.methods._task import everyday_of_kind
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Conditioning, Denoiser
from unreel.models.pair import Pair
from unreel.progress import track
from unreel.prompts.concept import Concept
from unreel.prompts.kinds import Kind

ALIKE = 0.5  # below which a phrase is taken to draw the concept
PICTURES, LEVELS = 2, (0.95, 0.8)  # latents of the concept, and how noisy: there, what is asked for decides what comes
FAR = 1.0  # a phrase that is farther on the first of them is looked at no more
TOGETHER = 32  # phrases read at once
MARGIN = 8  # tokens that are left for what a pipeline puts around a prompt within its limit, and steps of that limit


@dataclass(frozen=True)
class Wording:
    """A phrase, and how far what it draws is from what the concept's name draws: d(c)."""

    text: str
    distance: float


@dataclass(frozen=True)
class _Views:
    """Noisy latents (views, ...) of a concept, their timesteps (views,), what is predicted by name, and the squared
    distances (views,) from there of what is predicted when nothing is asked for.
    """

    noisy: torch.Tensor
    timesteps: torch.Tensor
    named: torch.Tensor
    unasked: torch.Tensor


def find_wordings(
    concepts: Sequence[Concept], pair: Pair, phrases: Sequence[str] | None = None, *, seed: int = 0
) -> dict[str, list[Wording]]:
    """By concept, those of `phrases`, or of everyday words of its kind, that the pair's image model draws it from, nearest
    first; none that name one of the concepts already, and none that could not be forgotten as a name is, such as one that
    is too long.

    Raises UnreelError for a motion, which no picture shows, for a pair without an image model, and for a name that draws
    nothing in particular.
    """
    reader, found = Conditioner.of(pair.t2i), {}
    for concept in concepts:
        if concept.kind == "motion":
            raise UnreelError(f"no picture shows {concept.name!r}, a motion: give other words for it with --synonym")
        reader.require_room_for(concept.forget_prompts)
    for kind in dict.fromkeys(concept.kind for concept in concepts):
        alike = [concept for concept in concepts if concept.kind == kind]
        listed = everyday_of_kind(alike[0]) if phrases is None else phrases
        asked = [phrase for phrase in dict.fromkeys(map(str.strip, listed)) if _sayable(phrase, kind, reader)]
        asked.sort(key=reader.length)
        for concept, distances in zip(alike, drawn_apart(alike, pair, asked, seed=seed), strict=True):
            rows = [Wording(*row) for row in zip(asked, distances, strict=True) if row[1] < ALIKE]
            rows = [row for row in rows if not any(each.is_named_in(row.text) for each in concepts)]
            found[concept.name] = sorted(rows, key=lambda row: row.distance)
    return {concept.name: found[concept.name] for concept in concepts}


def _sayable(phrase: str, kind: Kind, reader: Conditioner) -> bool:
    """Whether a phrase can be forgotten as a concept's name is."""
    try:
        concept = Concept(phrase, kind)
        reader.require_known(concept.wordings)
    except UnreelError:
        return False
    return reader.has_room_for(max(concept.forget_prompts, key=len))


@torch.no_grad()
def drawn_apart(concepts: Sequence[Concept], pair: Pair, phrases: Sequence[str], *, seed: int = 0) -> list[list[float]]:
    """For each concept, all of one kind, d(c) of every phrase; short ones side by side are read fastest."""
    denoiser, reader = Denoiser.of(pair.t2i, pair.settings.size if pair.t2i is pair.t2v else None), Conditioner.of(pair.t2i)
    frame = concepts[0].traits.templates[0]
    views = [_views(pair, denoiser, frame.format(concept.name), seed) for concept in concepts]
    out: list[list[float]] = [[] for _ in concepts]
    brief = cache(denoiser.reading_briefly)
    for start in track(range(0, len(phrases), TOGETHER), "looking for other words", "batch"):
        texts = [frame.format(phrase) for phrase in phrases[start : start + TOGETHER]]
        read = brief(-(-max(map(reader.length, texts)) // MARGIN + 1) * MARGIN).conditioning(texts)
        for distances, seen in zip(out, views, strict=True):
            distances += _distances(denoiser, seen, read, len(texts))
    return out


def _views(pair: Pair, denoiser: Denoiser, named: str, seed: int) -> _Views:
    """Raises UnreelError if what is predicted by name is what is predicted anyway."""
    latents = made_latents(pair, denoiser, [named] * PICTURES, range(seed, seed + PICTURES), 0)[:, 0]
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(latents)
    read, unasked = denoiser.conditioning([named]), denoiser.conditioning([""])
    rows = []
    for level, (z, e) in product(LEVELS, zip(latents.split(1), noise.split(1), strict=True)):
        t = torch.full((1,), level * (denoiser.timesteps - 1), device=z.device).round()
        noisy = denoiser.noisy(z, e, t)
        by_name, by_nothing = (denoiser.predict(noisy, t, each) for each in (read, unasked))
        rows.append((noisy, t, by_name, _apart(by_nothing, by_name)))
    views = _Views(*map(torch.cat, zip(*rows, strict=True)))
    if not (views.unasked > 0).all():
        raise UnreelError(f"the image model draws the same for {named!r} as when asked for nothing: it does not know it")
    return views


def _apart(made: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """Squared distances, (batch,)."""
    return (made - named).float().square().flatten(1).sum(1)


def _distances(denoiser: Denoiser, views: _Views, read: Conditioning, count: int) -> list[float]:
    """d(c) of every prompt, of those that are far on the first view on that alone."""
    first = views.noisy[:1].expand(count, *views.noisy.shape[1:]), views.timesteps[:1].expand(count)
    out = (_apart(denoiser.predict(*first, read), views.named[:1]) / views.unasked[0]).tolist()
    for i, each in enumerate(read.each()):
        if out[i] < FAR:
            made = denoiser.predict(views.noisy, views.timesteps, each.repeated(len(views.noisy)))
            out[i] = float(_apart(made, views.named).sum() / views.unasked.sum())
    return out
