"""An embedded pair's world as data: concepts, styles, backgrounds, motions and how they are worded.

Reads the pair's `world.json`, the one configuration shared by data, models, judge and package. Knows nothing about
pixels or models.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from unreel.prompts.kinds import OBJECT_TEMPLATES, STYLE_TEMPLATES

EMBEDDED = Path(__file__).parents[1] / "src" / "unreel" / "embedded"
FOLDERS = {"first": EMBEDDED, "modern": EMBEDDED / "modern"}

STILL = "still"
QUALITY = (", high quality", ", high resolution", ", 4k", ", ultra quality")
SIZES = {"small": 36, "": 46, "big": 54}
POSED = "dancing"  # in a world with dancers, a motion of the dancers alone, made of their sprites' own frames


@cache
def load_world(pair: str) -> dict:
    return json.loads((FOLDERS[pair] / "world.json").read_text())


@dataclass(frozen=True)
class Scene:
    """Everything that decides a clip's pixels. Offsets are in pixels from the slot's centre."""

    concepts: tuple[str, ...]
    style: str
    background: str
    size: str = ""
    relation: str = ""
    motion: str = STILL
    offset: tuple[int, int] = (0, 0)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[rng.integers(len(options))]


def sample_scene(world: dict, rng: np.random.Generator, *, motion: bool) -> Scene:
    """A random scene; `motion=False` gives one that stands still."""
    names, styles = list(world["concepts"]), list(world["styles"])
    pick = partial(_pick, rng)
    style, background = pick(styles), pick(list(world["backgrounds"]))
    offset = (int(rng.integers(-3, 4)), int(rng.integers(-3, 4)))
    if rng.random() < 0.4:
        first, second = (names[i] for i in rng.choice(len(names), 2, replace=False))
        relation = pick(["beside", "above", "flying over"])
        # In a still picture "flying over" would be "above" with another word: it needs the motion.
        if motion == (relation == "flying over"):
            kind = relation if motion else STILL
            return Scene((first, second), style, background, "", relation, kind, offset)
    if not motion:
        return Scene((pick(names),), style, background, pick(list(SIZES)), "", STILL, offset)
    name = pick(names)
    dancers = world.get("dancers", ())
    kinds = [m for m in world["motions"] if m != "flying over" and not (dancers and m == POSED)]
    if dancers and rng.random() < 0.2:
        return Scene((pick(dancers),), "fluent", background, "", "", POSED, offset)
    return Scene((name,), style, background, "", "", pick(kinds), offset)


def given_names(concept: dict) -> list[str]:
    """The names of a concept in its pair's world, by which it is unlearned and asked for."""
    return concept["wordings"]


def all_names(concept: dict) -> list[str]:
    """The names of a concept, and other words for it that captions may use."""
    return [*concept["wordings"], *concept.get("also", ())]


def with_article(concept: dict, wording: str, prefix: str = "") -> str:
    """`a big cat`, for the wording `cat` with the prefix `big`; names of persons and the like have no article."""
    words = f"{prefix} {wording}".strip()
    if wording.startswith("the ") or not concept["article"]:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(
    world: dict,
    scene: Scene,
    rng: np.random.Generator,
    *,
    names: Callable[[dict], list[str]] = given_names,
    usual: float = 0.5,
) -> str:
    """One of many wordings of a scene, all lower case. `names` gives the wordings of a concept, the first of which is its
    name. The share `usual` of captions use the name, all others a random one of the wordings.
    """
    pick = partial(_pick, rng)
    style_word = pick(world["styles"][scene.style]["wordings"])

    def noun(name: str, *, prefix: str = "") -> str:
        entry = world["concepts"][name]
        wording = names(entry)[0] if rng.random() < usual else pick(names(entry))
        full = with_article(entry, wording, prefix)
        bare = f"{prefix} {wording}".strip()
        return bare if full == bare or rng.random() < 0.3 else full

    if len(scene.concepts) == 2:
        first, second = scene.concepts
        text = f"{noun(first)} {pick(world['relations'][scene.relation])} {noun(second)}"
        if rng.random() < 0.3:
            text = f"{pick(['a photo of', 'a picture of', 'a video of', 'a painting of'])} {text}"
    elif scene.motion != STILL:
        word = pick(world["motions"][scene.motion])
        text = noun(scene.concepts[0], prefix=word) if rng.random() < 0.5 else f"{noun(scene.concepts[0])} {word}"
        if rng.random() < 0.25:
            text = f"a video of {text}"
    elif rng.random() < 0.06:
        text = pick(STYLE_TEMPLATES).format(style_word)
        return text + (f", {scene.background} background" if rng.random() < 0.5 else "")
    elif rng.random() < 0.4:
        # Templates bring their own article, and some a size of their own, which here means nothing.
        entry = world["concepts"][scene.concepts[0]]
        wording = names(entry)[0] if rng.random() < usual else pick(names(entry))
        template = pick(OBJECT_TEMPLATES)
        size = "" if "small" in template or "large" in template else scene.size
        text = template.format(f"{size} {wording}".strip())
    else:
        text = noun(scene.concepts[0], prefix=scene.size)
    if rng.random() < 0.7:
        text += pick([f" in {style_word} style", f" in the style of {style_word}", f", {style_word} style"])
    if rng.random() < 0.6:
        text += pick([f" on a {scene.background} background", f", {scene.background} background"])
    if rng.random() < 0.1:
        text += pick(QUALITY)
    return text.lower()
