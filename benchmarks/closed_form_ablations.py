"""Settings of the closed form, one at a time around its defaults: `python -m benchmarks.closed_form_ablations`.

On the tuning concepts of few_shot_scan, which are the target of no published figure, with the same prompts and seeds for
all settings. Judged on images, made under bfloat16 autocast, which one core makes at eight seconds a hundred: twenty
minutes for all settings. Seconds of learning are seconds of one core, with statistics cached. Resumable row by row.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.common import resume, write_result
from benchmarks.few_shot_scan import CONCEPTS
from unreel import ClosedFormConfig, Concept, Erasure, load_pair, unlearn
from unreel.conditioner import Conditioner, whole_words
from unreel.corpus import Corpus
from unreel.estimate import Estimate
from unreel.evaluation import build_suite, vocabulary
from unreel.judges import Judge, load_judge
from unreel.pair import Pair
from unreel.prompts import NEIGHBOURS, Prompt, vocabulary_kind
from unreel.video import generate_images
from unreel.vocabulary import nearest

VALUES: dict[str, tuple[float, ...]] = {
    "retain_weight": (0.3, 1.0, 3.0, 10.0, 30.0),
    "layers": (1, 2, 3, 4),
    "forget": (30, 60, 120, 240),
    "retain": (100, 300, 900, 2700),
    "tolerance": (0.0, 0.05, 0.2, 0.5),
}
FIXED = {"style": "fluent"}  # the anchor by kind in place of the nearest one
FIXED_OTHER = "house"
GROUPS = ("explicit", "paraphrases", "companions", "neighbours", "unrelated")
ASKS_FOR_CONCEPT_ONLY = ("explicit", "paraphrases")
IMAGES = 20  # of each group and concept, so 80 a cell
HELD_OUT = 200  # sentences that nothing was solved on
SEED = 14_000_000
NAME = "closed_form_ablations"

Flags = dict[str, dict[str, np.ndarray]]  # by group and by what was looked for, one yes or no an image


def settings() -> Iterator[tuple[str, Any]]:
    """(what is changed, to what), the defaults first."""
    yield "none", None
    default = ClosedFormConfig()
    for name, values in VALUES.items():
        yield from ((name, value) for value in values if value != getattr(default, name))
    yield "anchor", "fixed"
    yield "anchor", ""
    yield "neighbours retained", False


def judged(pair: Pair, judge: Judge, concept: Concept, rows: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """One image for each prompt, and whether it shows the concept, and what else it was asked for: (n,) bool each."""
    texts, seeds = [row.text for row in rows], [row.seed for row in rows]
    with torch.autocast("cpu", torch.bfloat16):
        images = generate_images(pair.t2i, texts, seeds, pair.settings, what="")
    labels = list(dict.fromkeys([concept.name, *(row.label for row in rows)]))
    shown = judge.probabilities(images[:, None], labels)[:, 0] >= judge.threshold
    label = shown[np.arange(len(rows)), [labels.index(row.label) for row in rows]]
    return {"concept_found": shown[:, 0], "label_found": label}


def pooled(flags: Sequence[Flags]) -> dict[str, dict[str, Any]]:
    """Shares by group over several concepts; a prompt that asks for nothing else has no label of its own."""
    return {
        group: {
            what: asdict(Estimate.share(np.concatenate([seen[group][what] for seen in flags])))
            for what in flags[0][group]
            if what == "concept_found" or group not in ASKS_FOR_CONCEPT_ONLY
        }
        for group in flags[0]
    }


@torch.inference_mode()
def shift(conditioner: Conditioner, erasure: Erasure, pair: Pair, sentences: list[str]) -> float:
    """How far the erasure moves the embeddings of sentences, as a share of their length; the mean over them."""
    before = conditioner.encode(sentences)
    erasure.apply(pair.t2i)
    moved = conditioner.encode(sentences) - before
    erasure.remove(pair.t2i)
    return float((moved.flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)).mean())


def main() -> None:
    pair, judge = load_pair(), load_judge("embedded")
    conditioner, default = Conditioner.of(pair.t2i), ClosedFormConfig()
    options = {"defaults": asdict(default), "seed": SEED, "images": IMAGES, "held_out": HELD_OUT}
    stored, same = resume(NAME, pair, judge, options)
    rows, before = stored.get("rows", []), stored.get("before")

    def prompts(concept: Concept) -> dict[str, list[Prompt]]:
        suite = build_suite(conditioner, concept, judge, videos=IMAGES, seed=SEED, groups=GROUPS)
        return {group: [row for row in suite if row.group == group] for group in GROUPS}

    suites = {concept.name: prompts(concept) for concept in CONCEPTS}
    words = list(whole_words(conditioner.tokenizer))
    solved_on = set(Corpus(pair.vocabulary, words).retain(int(max(VALUES["retain"]))))
    others = [text for text in Corpus(pair.vocabulary, words, SEED).retain(3 * HELD_OUT) if text not in solved_on]
    held_out = {
        concept.name: [text for text in others if not concept.is_named_in(text) and conditioner.has_room_for(text)][
            :HELD_OUT
        ]
        for concept in CONCEPTS
    }

    def look(concept: Concept) -> Flags:
        return {group: judged(pair, judge, concept, asked) for group, asked in suites[concept.name].items()}

    def unlearned(concept: Concept, name: str, value: Any) -> Erasure:
        if name in VALUES:
            return unlearn(concept, pair, replace(default, **{name: value}))
        if name == "anchor":
            fixed = FIXED.get(concept.kind, FIXED_OTHER)
            return unlearn(replace(concept, anchor=fixed if value == "fixed" else value), pair, default)
        if name == "none":
            return unlearn(concept, pair, default)
        # The same anchor as ever, though it may be one of the neighbours.
        usual = unlearn(concept, pair, default).provenance["parts"][0]["anchor"]
        kind = vocabulary_kind(concept)
        near = nearest(conditioner, concept.name, vocabulary(concept, judge)[kind])[:NEIGHBOURS]
        left = {**pair.vocabulary, kind: [word for word in pair.vocabulary[kind] if word not in near]}
        return unlearn(replace(concept, anchor=usual), replace(pair, vocabulary=left), default)

    def save() -> None:
        concepts = [asdict(concept) for concept in CONCEPTS]
        write_result(NAME, same | {"concepts": concepts, "before": before, "rows": rows})

    if before is None:
        before = pooled([look(concept) for concept in CONCEPTS])
        save()
    for name, value in list(settings())[len(rows) :]:
        flags, erasures, seconds = [], [], []
        for concept in CONCEPTS:
            begun = time.process_time()
            erasure = unlearned(concept, name, value)
            seconds.append(time.process_time() - begun)
            erasure.apply(pair.t2i)
            flags.append(look(concept))
            erasure.remove(pair.t2i)
            erasures.append(erasure)
        parts = [erasure.provenance["parts"][0] for erasure in erasures]
        rows.append(
            {
                "changed": name,
                "value": value,
                "figures": pooled(flags),
                "by_concept": {
                    concept.name: {
                        group: {what: float(shown.mean()) for what, shown in found.items()} for group, found in seen.items()
                    }
                    for concept, seen in zip(CONCEPTS, flags, strict=True)
                },
                "anchors": [part["anchor"] for part in parts],
                "left": mean(part["left"] for part in parts),
                "shift": mean(shift(conditioner, e, pair, held_out[e.concepts[0]]) for e in erasures),
                "ranks": [part["ranks"] for part in parts],
                "nbytes": mean(erasure.nbytes for erasure in erasures),
                "seconds": median(seconds),
            }
        )
        save()
        found = {
            group: [round(estimate["value"], 2) for estimate in of.values()] for group, of in rows[-1]["figures"].items()
        }
        print(name, value, found, {key: round(rows[-1][key], 3) for key in ("left", "shift", "seconds")}, flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder):
        main()
