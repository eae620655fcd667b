"""What to make instead of a thing when nobody says: `python -m benchmarks.anchor_choice`.

At its best, an erasure makes of a concept what the original model makes of its anchor (the experiment `methods`,
prompt-rewrite), so an anchor that passes for the concept leaves it there, and one that pushes others out of the picture
takes them along. Here the original model makes images of every thing it knows, and each rule of choosing is read off for
the things that are the target of no published figure: how often the concept is found in what the rule puts in its place, in
plain prompts, beside something else (and how often that is then found), and behind words drawn at random, as in attacks.

Images under bfloat16 autocast; fifteen minutes on one core. Resumable thing by thing.
"""

import random
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from benchmarks.cells import cells_of
from benchmarks.common import resume, write_result
from benchmarks.over_concepts import share_over
from unreel import Concept, load_pair
from unreel.judges import load_judge
from unreel.models.conditioner import Conditioner
from unreel.models.reading import nearest
from unreel.models.sampling import generate_images
from unreel.models.tokenizer import whole_words
from unreel.prompts.kinds import COMPANIONS, SUBJECT_PROMPTS

IMAGES = {"plain": 40, "companions": 40, "random words": 60}  # of each thing
AROUND = 3  # random words, as many as the searches of attacks put there
RULES = (0, 1, 2, 4, 8, 12, 16, 20, 24, 32, 40)  # the place in the order from nearest to farthest
SEED = 15_000_000
NAME = "anchor_choice"
CONCEPTS = [Concept(**cell.concept) for cell in cells_of("methods") if cell.run == "text-ablation"]


def prompts(thing: str, things: list[str], words: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(prompt, what is asked for besides or the thing itself) by group."""
    rng = random.Random(f"{SEED}/{thing}")
    others = [other for other in things if other != thing]
    beside = [rng.choice(others) for _ in range(IMAGES["companions"])]
    return {
        "plain": [(SUBJECT_PROMPTS[i % len(SUBJECT_PROMPTS)].format(thing), thing) for i in range(IMAGES["plain"])],
        "companions": [
            (COMPANIONS[i % len(COMPANIONS)].format(thing, other=other), other) for i, other in enumerate(beside)
        ],
        "random words": [
            (" ".join([*rng.sample(words, AROUND), SUBJECT_PROMPTS[i % len(SUBJECT_PROMPTS)].format(thing)]), thing)
            for i in range(IMAGES["random words"])
        ],
    }


def main() -> None:
    pair, judge = load_pair(), load_judge("embedded")
    conditioner = Conditioner.of(pair.t2i)
    things, words = pair.vocabulary["concept"], list(whole_words(conditioner.tokenizer))
    stored, same = resume(NAME, pair, judge, {"seed": SEED, "images": IMAGES, "around": AROUND})
    seen: dict[str, Any] = stored.get("seen", {})
    for number, thing in enumerate(things):
        if thing in seen:
            continue
        groups = prompts(thing, things, words)
        texts = [text for rows in groups.values() for text, _ in rows]
        seeds = [SEED + 1000 * number + i for i in range(len(texts))]
        with torch.autocast("cpu", torch.bfloat16):
            images = generate_images(pair.t2i, texts, seeds, pair.settings, what=thing)
        shown = judge.probabilities(images[:, None], things)[:, 0] >= judge.threshold
        begin, entry = 0, {}
        for group, rows in groups.items():
            part = shown[begin : begin + len(rows)]
            begin += len(rows)
            entry[group] = {name: int(count) for name, count in zip(things, part.sum(0), strict=True) if count}
            if group == "companions":
                kept = part[np.arange(len(rows)), [things.index(other) for _, other in rows]]
                entry["companions kept"] = int(kept.sum())
        seen[thing] = entry
        write_result(NAME, same | {"seen": seen})
    targets = [thing for thing in things if not any(concept.is_named_in(thing) for concept in CONCEPTS)]
    order = {thing: nearest(conditioner, thing, [other for other in things if other != thing]) for thing in targets}
    rows = []
    for place in RULES:
        chosen = {thing: order[thing][place] for thing in targets}
        found, worst = {}, {}
        for group, count in IMAGES.items():
            passing = [seen[anchor][group].get(thing, 0) for thing, anchor in chosen.items()]
            flags = [np.arange(count) < number for number in passing]
            found[group], worst[group] = asdict(share_over(flags)), max(passing) / count
        kept = sum(seen[anchor]["companions kept"] for anchor in chosen.values()) / (IMAGES["companions"] * len(targets))
        rows.append({"place": place, "found": found, "worst": worst, "kept": kept, "chosen": chosen})
    write_result(NAME, same | {"seen": seen, "targets": targets, "rows": rows})


if __name__ == "__main__":
    main()
