"""What a model can be asked for, by kind, and what its text encoder takes to be alike.

Knows words; knows no sentences and no pixels.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch

from unreel.models.conditioner import Conditioner
from unreel.progress import track
from unreel.prompts import captions
from unreel.prompts.kinds import Kind

Vocabulary = dict[str, list[str]]
Meanings = dict[str, torch.Tensor]  # what a text encoder makes of texts: vectors (width)

BATCH = 64  # names read at once
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


def nearest(conditioner: Conditioner, name: str, names: Sequence[str], known: Meanings | None = None) -> list[str]:
    """`names` ordered from what the text encoder takes to be most like `name` to what it takes to be least like it; what
    they mean to it is looked up in what is `known`, and added to it.
    """
    if not names:
        return []
    known = {} if known is None else known
    texts = [name, *names]
    unknown = [text for text in dict.fromkeys(texts) if text not in known]
    with torch.no_grad():
        for start in track(range(0, len(unknown), BATCH), "looking for what is near", brief=True):
            some = unknown[start : start + BATCH]
            known |= zip(some, _meanings(conditioner, some), strict=True)
        vectors = torch.stack([known[text] for text in texts])
        centred = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
        order = (centred[1:] @ centred[0]).argsort(descending=True)
    return [names[i] for i in order.tolist()]


def _meanings(conditioner: Conditioner, texts: list[str]) -> torch.Tensor:
    """The mean over what the network sees of what the encoder writes for each text: (texts, width).

    To encoders that read from left to right, the first token of all means next to nothing (arXiv 2309.17453). Where that
    would be one of a text's own, it stands in a sentence, and its last token, which has read all of it, for all of it.
    """
    if conditioner.causal and not conditioner.begins_alike:
        tokens = conditioner.tokenize([f"a photo of a {text}" for text in texts])
        last = tokens.mask.sum(1) - 1
        return conditioner.encode_tokens(tokens).float()[torch.arange(len(texts), device=last.device), last]
    tokens = conditioner.tokenize(texts)
    seen = conditioner.seen(texts, tokens)[..., None]
    return (conditioner.encode_tokens(tokens).float() * seen).sum(1) / seen.sum(1)
