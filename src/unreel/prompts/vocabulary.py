"""What a model can be asked for, by kind.

Knows words; knows no sentences, no models and no pixels.
"""

from difflib import get_close_matches
from typing import Any

from unreel.prompts import captions
from unreel.prompts.kinds import Kind

Vocabulary = dict[str, list[str]]

KINDS = ("concept", "style", "motion")  # what every vocabulary has; one may have persons besides

# For models whose vocabulary nobody has listed.
EVERYDAY = {
    "concept": [
        *("cat", "dog", "horse", "cow", "sheep", "elephant", "lion", "bear", "monkey", "rabbit", "fox", "owl", "eagle"),
        *("penguin", "duck", "fish", "shark", "whale", "turtle", "frog", "snake", "butterfly", "bee", "spider"),
        *("house", "castle", "church", "bridge", "tower", "lighthouse", "windmill", "skyscraper", "tent"),
        *("car", "bus", "train", "bicycle", "motorcycle", "airplane", "helicopter", "rocket", "ship", "sailboat"),
        *("tree", "flower", "cactus", "mushroom", "mountain", "waterfall", "volcano", "beach", "apple", "banana", "pizza"),
        *("cake", "cup", "bottle", "chair", "table", "lamp", "clock", "book", "guitar", "piano", "umbrella", "balloon"),
    ],
    "style": ["watercolor", "oil painting", "pencil drawing", "pixel art", "anime", "origami", "stained glass", "mosaic"],
    "person": ["man", "woman", "boy", "girl", "child", "old man", "old woman", "cartoon animal"],
    "motion": ["walking", "running", "jumping", "spinning", "dancing", "waving", "swimming", "falling"],
}


def of_world(world: dict[str, Any]) -> Vocabulary:
    """What an embedded world shows, without the motions that take two subjects: one subject cannot be asked for them."""
    motions = [words[0] for name, words in world["motions"].items() if name not in world["relations"]]
    return {"concept": list(world["concepts"]), "style": list(world["styles"]), "motion": motions}


def kind_of(name: str, vocabulary: Vocabulary) -> Kind:
    """What the vocabulary lists a name as: a style, a motion, or else an object."""
    name = name.strip().lower()
    motions = [*vocabulary["motion"], *(captions.everyday()["action"] if vocabulary is EVERYDAY else ())]
    if name in (style.lower() for style in vocabulary["style"]):
        return "style"
    return "motion" if name in (motion.lower() for motion in motions) else "object"


def spelled_alike(name: str, vocabulary: Vocabulary) -> list[str]:
    """What the vocabulary lists under nearly that name, the most alike first."""
    listed = {word.lower(): word for words in vocabulary.values() for word in words}
    return [listed[word] for word in get_close_matches(name.strip().lower(), listed, cutoff=0.7)]
