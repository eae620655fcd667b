"""The paper's ablations and the learning rate: `python -m benchmarks.paper_ablations --sprites training/runs`.

One change at a time from the embedded pair's settings, on four of the test concepts: shots, generated against given
images (renders of the concept, hence the sprites), trainable layers, learning rate, and several concepts in one encoder one
after another. Resumable like methods.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from benchmarks.common import FOLDER, resume, slug, write_result
from benchmarks.methods import paper
from training.scenes import Renderer
from training.world import Scene, load_world
from unreel import Concept, Erasure, evaluate, load_pair, unlearn
from unreel.evaluation.estimate import Estimate, in_video
from unreel.judges import Judge, load_judge
from unreel.methods import configure
from unreel.models.pair import VideoModel, load_video_model

CONCEPTS = (Concept("Tokyo Tower"), Concept("Santa Claus", "character"), Concept("clown", "face"), Concept("ink", "style"))
IN_TURN = (Concept("Tokyo Tower"), Concept("Santa Claus", "character"), Concept("clown", "face"), Concept("pizza"))
SHOTS = (1, 2, 8)
TRAINABLE = ("all", "mlp", "attn", "mlp-attn")
LEARNING_RATES = (3e-4, 5e-4, 7e-4, 1e-3, 2e-3, 3e-3, 5e-3)
GROUPS = ("explicit", "neighbours")
VIDEOS = 10  # for each group and concept, so 40 a cell
SEED = 8_000_000
NAME = "paper_ablations"

Flags = dict[str, dict[str, list[bool]]]  # by group, before and after, one yes or no a video


def settings() -> Iterator[tuple[str, Any]]:
    """(what is changed, to what), the settings as they are first."""
    yield "none", None
    for name, values in (("shots", SHOTS), ("learning_rate", LEARNING_RATES), ("trainable", TRAINABLE)):
        yield from ((name, value) for value in values)
    yield "images", "given"


def draw(concept: Concept, folder: Path, renderer: Renderer, count: int) -> Path:
    """A folder of `count` renders of the concept, as a person would collect pictures of it."""
    world, rng = renderer.world, np.random.default_rng(SEED)
    names, styles, backgrounds = (list(world[key]) for key in ("concepts", "styles", "backgrounds"))
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        name = str(rng.choice(names)) if concept.kind == "style" else concept.name.lower()
        style = concept.name if concept.kind == "style" else styles[i % len(styles)]
        scene = Scene((name,), style, backgrounds[int(rng.integers(len(backgrounds)))])
        Image.fromarray(renderer.frame(scene, 0)).save(folder / f"{i}.png")
    return folder


def seen(model: VideoModel, judge: Judge, erasure: Erasure, concept: Concept, clips: Path) -> Flags:
    """What the judge finds of what the prompts of each group ask for, in videos of this benchmark's number and seed."""
    run = evaluate(model, erasure, judge, concept=concept, videos=VIDEOS, seed=SEED, groups=GROUPS, clips=clips)
    return {
        name: {when: in_video(group.label_found(when)).tolist() for when in ("original", "edited")}
        for name, group in run.groups.items()
    }


def summarise(looks: list[Flags]) -> dict[str, Any]:
    """Shares by group over several concepts."""
    return {
        name: {
            when: asdict(Estimate.share(np.concatenate([np.array(flags[name][when]) for flags in looks])))
            for when in ("original", "edited")
        }
        for name in GROUPS
    }


def main(
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    sprites: Annotated[Path, typer.Option(help="where training keeps its sprites")] = Path("training/runs"),
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> None:
    pair, judge = load_pair(device=device), load_judge("embedded", device)
    model = load_video_model(device=device, dtype=getattr(torch, dtype))
    renderer = Renderer(sprites / "sprites.npz", load_world("first"))
    stored, same = resume(NAME, pair, judge, {"dtype": dtype, "seed": SEED, "videos": VIDEOS})
    rows, turns = stored.get("rows", []), stored.get("one_after_another", [])

    def look(erasure: Erasure, concept: Concept) -> Flags:
        return seen(model, judge, erasure, concept, folder / "clips")

    def save() -> None:
        concepts = [asdict(concept) for concept in CONCEPTS]
        write_result(NAME, same | {"concepts": concepts, "rows": rows, "one_after_another": turns, "device": device})

    for name, value in list(settings())[len(rows) :]:
        config = configure("few-shot", {name: value} if name not in ("none", "images") else {}, pair.settings)
        looks, seconds = [], []
        for concept in CONCEPTS:
            images = None
            if name == "images":
                images = draw(concept, folder / "given" / slug(concept.name), renderer, config.shots)
            erasure = unlearn(concept, pair, config, images=images)
            seconds.append(erasure.provenance["parts"][0]["seconds"])
            looks.append(look(erasure, concept))
        by_concept = {concept.name: summarise([flags]) for concept, flags in zip(CONCEPTS, looks, strict=True)}
        figures = {"figures": summarise(looks), "by_concept": by_concept, "seconds": float(np.mean(seconds))}
        rows.append({"changed": name, "value": value} | figures)
        save()
        print(name, value, {g: round(rows[-1]["figures"][g]["edited"]["value"], 2) for g in GROUPS}, flush=True)

    # Several concepts in one encoder: each is unlearned on top of those before it, then all of them are judged.
    if not turns:
        stack: list[Erasure] = []
        for count, concept in enumerate(IN_TURN, 1):
            erasure = paper(concept, pair)
            erasure.apply(pair.t2i)
            stack.append(erasure)
            total = stack[0]
            for layer in stack[1:]:
                total = total + layer
            looks = {other.name: look(total, other) for other in IN_TURN[:count]}
            by_concept = {other: summarise([flags]) for other, flags in looks.items()}
            turns.append({"concepts": [c.name for c in IN_TURN[:count]], "by_concept": by_concept})
            turns[-1]["figures"] = summarise(list(looks.values()))
        for erasure in stack:
            erasure.remove(pair.t2i)
        save()


if __name__ == "__main__":
    typer.run(main)
