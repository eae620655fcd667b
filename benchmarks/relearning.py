"""How soon a forgotten concept is back when somebody trains on pictures of it: `python -m benchmarks.relearning`.

The text encoder with an erasure in it learns again from four pictures of the concept, by the ordinary denoising loss, with
its MLPs and final attention, as few-shot learns. After so many steps, images of other prompts and seeds are judged. Beside
it stands a word that the model never knew, taught the same pictures by the same steps in the original model: an erasure
that is only hidden is back sooner than that. Every curve is written when it is done.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import of_pair, plainly, resume, shows, stored_entries, write_entry
from unreel import Concept, Pair, load_pair, unlearn
from unreel.judges import Judge, load_judge
from unreel.methods import configure
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.sampling import generate_images, made_latents
from unreel.models.shipped import EMBEDDED, preset_of

NAME = "relearning"
CONCEPTS = (Concept("tokyo tower"), Concept("pizza"), Concept("santa claus", "character"), Concept("clown", "face"))
METHODS = ("text-ablation", "concept-ablation", "few-shot", "hirm", "diff-quick-fix", "adv-unlearn")
UNKNOWN = "zibbleton"  # which names nothing
NEVER_KNEW = "a word it never knew"
SHOTS, BATCH, RATE = 4, 2, 3e-4  # pictures, pictures a step, Adam's
STEPS = (0, 1, 2, 5, 10, 20, 40, 80)
IMAGES, SEED = 20, 12_500_000


def relearned(pair: Pair, texts: Sequence[str], latents: torch.Tensor) -> Iterator[int]:
    """Yields the number of steps done at each of STEPS, with the image model's text encoder as it is then."""
    generator, reader, denoiser = torch.Generator().manual_seed(SEED), Conditioner.of(pair.t2i), Denoiser.of(pair.t2i)
    with reader.learning("mlp-final-attn") as (weights, _):
        optimizer = torch.optim.Adam(weights.values(), lr=RATE)
        for step in range(STEPS[-1] + 1):
            if step in STEPS:
                yield step
            shots = torch.randint(len(latents), (BATCH,), generator=generator)
            z, prompts = latents[shots], [texts[i] for i in torch.randint(len(texts), (BATCH,), generator=generator)]
            t = torch.randint(denoiser.first_timestep, denoiser.timesteps, (BATCH,), generator=generator)
            noise = torch.randn(z.shape, generator=generator)
            denoiser.loss(z, noise, t, denoiser.conditioning(prompts)).backward()
            optimizer.step()
            optimizer.zero_grad()


def shown(pair: Pair, judge: Judge, name: str, concept: Concept) -> np.ndarray:
    """Which of some images show the concept when they are asked for by a name: (images,) bool."""
    texts = plainly(concept, name)
    asked = [texts[i % len(texts)] for i in range(IMAGES)]
    with torch.autocast("cpu", torch.bfloat16):
        images = generate_images(pair.t2i, asked, range(SEED, SEED + IMAGES), pair.settings, what="")
    return shows(judge, images[:, None], [concept.name] * IMAGES)[:, 0]


def lessons(pair: Pair, concept: Concept) -> tuple[list[str], torch.Tensor]:
    """Sentences that name the concept, and latents (pictures, channels, height, width) of what the model makes of some."""
    named = concept.forget_prompts
    asked = [named[i % len(named)] for i in range(SHOTS)]
    return named, made_latents(pair, Denoiser.of(pair.t2i), asked, range(SEED - SHOTS, SEED), 0).flatten(0, 1)


def curve(
    pair: Pair, judge: Judge, concept: Concept, method: str, lesson: tuple[list[str], torch.Tensor]
) -> list[list[bool]]:
    """Which images show the concept after each of STEPS: asked for by its name, after a method has made the model forget
    it, or by a word that means nothing.
    """
    named, latents = lesson
    if method == NEVER_KNEW:
        texts = [text.replace(concept.name, UNKNOWN) for text in named]
        return [shown(pair, judge, UNKNOWN, concept).tolist() for _ in relearned(pair, texts, latents)]
    with unlearn(concept, pair, configure(method, {}, pair.settings)).on(pair.t2i):
        return [shown(pair, judge, concept.name, concept).tolist() for _ in relearned(pair, named, latents)]


def main(pair: Annotated[str, typer.Option(help="the pair to look at")] = EMBEDDED) -> None:
    loaded, judge = load_pair(t2v=pair), load_judge(preset_of(pair)["judge"])
    name = of_pair(NAME, pair)
    options = {"seed": SEED, "images": IMAGES, "shots": SHOTS, "batch": BATCH, "rate": RATE, "steps": STEPS}
    same = json.loads(json.dumps(resume(name, loaded, judge, options)[1]))  # as it is stored
    for concept in CONCEPTS:
        stored = stored_entries(name).get(concept.name, {})
        rows: dict[str, Any] = dict(stored["shown"]) if stored.get("made_with") == same else {}
        left = [method for method in (NEVER_KNEW, *METHODS) if method not in rows]
        lesson = lessons(loaded, concept) if left else ([], torch.empty(0))
        for method in left:
            rows[method] = curve(loaded, judge, concept, method, lesson)
            print(concept.name, method, [round(float(np.mean(flags)), 2) for flags in rows[method]], flush=True)
            write_entry(name, concept.name, {"shown": rows, "made_with": same})


if __name__ == "__main__":
    typer.run(main)
