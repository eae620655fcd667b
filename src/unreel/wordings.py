"""Which words a model draws a concept from: other wordings of it, found with the image model as the judge.

To a text encoder that was trained on the world's text, "palace" and "castle" are two things to say; a denoiser behind it
may have learned to draw the same for both, and then whoever has forgotten one still draws it for the other. Whether it does
takes no picture of them and no classifier to tell. From the same noisy latents of the concept, the network predicts for a
phrase c

    d(c) = mean_{z, t} || v(z_t, t, c) - v(z_t, t, name) ||^2 / || v(z_t, t, "") - v(z_t, t, name) ||^2

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
from unreel.models.anchors import everyday_of_kind
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import MARGIN, Conditioning, Denoiser
from unreel.models.memory import enough_memory
from unreel.models.pair import Pair
from unreel.models.sampling import made_latents
from unreel.models.tokenizer import require_known
from unreel.progress import track
from unreel.prompts.concept import Concept
from unreel.prompts.kinds import Kind

ALIKE = 0.5  # below which a phrase is taken to draw the concept
PICTURES, LEVELS = 2, (0.95, 0.8)  # latents of the concept; noise levels at which the prompt decides most
FAR = 1.0  # a phrase that is farther on the first view is not looked at on the others
TOGETHER, PREDICTED = 32, 8  # phrases that are encoded at once; predictions at once


@dataclass(frozen=True)
class Wording:
    """A phrase, and its distance d(c) from the concept's name."""

    text: str
    distance: float


@dataclass(frozen=True)
class _View:
    """Noisy latents (1, ...) of a concept, their timestep (1,), and `unasked`: the squared distance between the
    predictions for the concept's name and for the empty prompt.
    """

    noisy: torch.Tensor
    timestep: torch.Tensor
    unasked: float


def find_wordings(
    concepts: Sequence[Concept | str], pair: Pair, phrases: Sequence[str] | None = None, *, seed: int = 0
) -> dict[str, list[Wording]]:
    """By concept, those of `phrases`, or of everyday words of its kind, that the pair's image model draws it from,
    nearest first. Left out are phrases that name one of the concepts, and those that could not be forgotten as a name
    is, such as one that is too long.

    Raises UnreelError for a motion, which no picture shows, for a pair without an image model, for a name that draws
    nothing in particular, and if numbers break down.
    """
    if any(isinstance(each, (str, Concept)) for each in (concepts, phrases)):
        raise UnreelError("concepts are a list of names or Concepts, and phrases a list of texts")
    these = [Concept(concept) if isinstance(concept, str) else concept for concept in concepts]
    readers, drawn = list(pair.conditioners().values()), {}
    for concept in these:
        require_drawn(concept)
        for reader in readers:
            require_known(reader.tokenizer, concept.wordings)
            reader.require_room_for(concept.forget_prompts)
    for kind in dict.fromkeys(concept.kind for concept in these):
        alike = [concept for concept in these if concept.kind == kind]
        listed = everyday_of_kind(alike[0]) if phrases is None else phrases
        asked = [phrase for phrase in _unlike(listed) if not any(each.is_named_in(phrase) for each in these)]
        asked = [phrase for phrase in asked if all(_sayable(phrase, kind, reader) for reader in readers)]
        enough = enough_memory("looking for other words", readers[0].device, ["--dtype bfloat16"])
        with pair.gradients_as_found(), enough:
            apart = drawn_apart(alike, pair, asked, seed=seed)
        for concept, distances in zip(alike, apart, strict=True):
            rows = [Wording(*row) for row in zip(asked, distances, strict=True) if row[1] < ALIKE]
            drawn[concept.name] = sorted(rows, key=lambda row: row.distance)
    return {concept.name: drawn[concept.name] for concept in these}


def require_drawn(concept: Concept) -> None:
    """Raises UnreelError for what no picture shows."""
    if concept.kind == "motion":
        raise UnreelError(f"no picture shows {concept.name!r}, a motion: give other words for it with --synonym")


def _unlike(phrases: Sequence[str]) -> list[str]:
    """Each phrase once: case and spaces make no difference."""
    by_spelling: dict[str, str] = {}
    for phrase in phrases:
        by_spelling.setdefault(" ".join(phrase.casefold().split()), " ".join(phrase.split()))
    return list(by_spelling.values())


def _sayable(phrase: str, kind: Kind, reader: Conditioner) -> bool:
    """Whether a phrase can be forgotten as a concept's name is."""
    try:
        concept = Concept(phrase, kind)
        require_known(reader.tokenizer, concept.wordings)
    except UnreelError:
        return False
    return reader.has_room_for(max(concept.forget_prompts, key=len))


@torch.no_grad()
def drawn_apart(concepts: Sequence[Concept], pair: Pair, phrases: Sequence[str], *, seed: int = 0) -> list[list[float]]:
    """d(c) of every phrase, for each of `concepts`, which are of one kind. If the first view of a concept gives FAR or
    more for a phrase, that is its distance; otherwise it is the mean over all views.
    """
    size = pair.settings.size if pair.t2i is pair.t2v else None
    denoiser, reader, frame = Denoiser.of(pair.t2i, size), Conditioner.of(pair.t2i), concepts[0].traits.templates[0]
    names, brief = [frame.format(concept.name) for concept in concepts], cache(denoiser.reading_briefly)
    views = [_views(pair, denoiser, name, seed) for name in names]

    def apart(named: Sequence[str], texts: Sequence[str], seen: Sequence[Sequence[_View]]) -> torch.Tensor:
        """d of every text for every name on some views of it: (names, texts). Names are read with the texts, because a
        pipeline may pad prompts that are read together, and its network may look at the padding.
        """
        longest = max([*named, *texts], key=reader.length)
        tokens = (-(-reader.length(longest) // MARGIN) + 1) * MARGIN
        read = brief(tokens, longest).conditioning([*named, *texts])
        behind = range(len(named), len(named) + len(texts))
        return torch.stack([_distances(denoiser, each, read.rows([i, *behind])) for i, each in enumerate(seen)])

    places = sorted(range(len(phrases)), key=lambda i: reader.length(phrases[i]))  # short ones are read in less time
    out = torch.zeros(len(concepts), len(phrases))
    for start in track(range(0, len(places), TOGETHER), "looking for other words", "batch"):
        some = places[start : start + TOGETHER]
        out[:, some] = apart(names, [frame.format(phrases[i]) for i in some], [each[:1] for each in views])
    near = [[i for i in places if row[i] < FAR] for row in out]
    closer = [
        (at, each[start : start + TOGETHER]) for at, each in enumerate(near) for start in range(0, len(each), TOGETHER)
    ]
    for at, some in track(closer, "looking closer", "batch"):
        seen = views[at]
        more = apart([names[at]], [frame.format(phrases[i]) for i in some], [seen[1:]])[0]
        out[at, some] = (out[at, some] + more * len(seen[1:])) / len(seen)
    if not out.isfinite().all():
        raise UnreelError("what the image model predicts stopped being a number: choose another --dtype")
    return out.tolist()


def _views(pair: Pair, denoiser: Denoiser, named: str, seed: int) -> list[_View]:
    """Views of the concept that `named` asks for. Raises UnreelError if the predictions with it are those without it."""
    latents = made_latents(pair, denoiser, [named] * PICTURES, range(seed, seed + PICTURES), 0)[:, 0]
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(latents)
    read, views = denoiser.conditioning(["", named]), []  # Mochi reads all as empty if the last one is
    for level, (z, e) in product(LEVELS, zip(latents.split(1), noise.split(1), strict=True)):
        t = denoiser.timesteps_of(torch.tensor([level])).to(z.device)
        noisy = denoiser.noisy(z, e, t)
        by_nothing, by_name = denoiser.predict(noisy.expand(2, *z.shape[1:]), t.expand(2), read).float()
        views.append(_View(noisy, t, float((by_nothing - by_name).square().sum())))
    if any(view.unasked == 0 for view in views):
        raise UnreelError(
            f"the image model draws the same for {named!r} as when asked for nothing: it does not know it, or by "
            "another spelling or --kind"
        )
    return views


def _predicted(denoiser: Denoiser, view: _View, read: Conditioning) -> torch.Tensor:
    """The denoiser's prediction on the view for every prompt: (prompts, *latents)."""
    count = len(read.arguments[read.latents])
    return denoiser.predict(view.noisy.expand(count, *view.noisy.shape[1:]), view.timestep.expand(count), read).float()


def _distances(denoiser: Denoiser, views: Sequence[_View], read: Conditioning) -> torch.Tensor:
    """d of every prompt but the first, which is the name's and which distances are from: (prompts,)."""
    rows, out = range(len(read.arguments[read.latents])), []
    parts = [read.rows(rows[start : start + PREDICTED]) for start in rows[::PREDICTED]]
    for view in views:
        made = torch.cat([_predicted(denoiser, view, part) for part in parts])
        out.append((made[1:] - made[0]).square().flatten(1).sum(1).cpu() / view.unasked)
    return torch.stack(out).mean(0)
