"""Twenty concepts in one erasure, on SmolLM2: `python -m benchmarks.real_together`.

The twelve of `benchmarks.real_encoders`, measured as there, and eight more, which are only forgotten too. Prompts that
share a word with a concept or are near to it are left out where they name another, everyday ones where they name any.
"""

import json
import time

import typer

from benchmarks.common import write_result
from benchmarks.encoders import encoder, everyday_prompts
from benchmarks.real_encoders import SEEN_IN_TUNING, SENTENCES, Measure
from unreel import Concept, TextAblationConfig, load_pair, unlearn
from unreel.models.deltas import changed

ENCODER = "smollm2"
MORE = {
    "Statue of Liberty": "object",
    "Big Ben": "object",
    "Homer Simpson": "character",
    "Pablo Picasso": "style",
    "Elvis Presley": "face",
    "giraffe": "object",
    "sunflower": "object",
    "juggling": "motion",
}


def main() -> None:
    sentences_of = json.loads(SENTENCES.read_text())["final"]
    concepts = [Concept(name, one["kind"]) for name, one in sentences_of.items()]
    concepts += [Concept(name, kind) for name, kind in MORE.items()]
    pair = load_pair(t2v=str(encoder(ENCODER)), text_only=True)
    config = TextAblationConfig()
    start = time.perf_counter()
    erasure = unlearn(concepts, pair, config)
    cost = {"seconds": round(time.perf_counter() - start, 1), "megabytes": round(erasure.nbytes / 1e6, 2)}
    everyday = [
        prompt
        for i, prompt in enumerate(everyday_prompts())
        if i % SEEN_IN_TUNING and not any(concept.is_named_in(prompt) for concept in concepts)
    ]
    conditioner = next(iter(pair.conditioners().values()))
    anchors = {part["concept"]: part["anchor"] for part in erasure.provenance["parts"]}
    cells = {}
    for concept in concepts[: len(sentences_of)]:
        others = [other for other in concepts if other is not concept]
        sentences = {**sentences_of[concept.name]}
        for name in ("shared", "near"):
            sentences[name] = [text for text in sentences[name] if not any(other.is_named_in(text) for other in others)]
        measure = Measure(conditioner, concept, anchors[concept.name], sentences, [] if cells else everyday)
        with changed(conditioner.text_encoder, erasure.components[0].deltas):
            figures = measure.figures()
        same = {"everyday": next(iter(cells.values()))["everyday"]} if cells else {}  # for all, so measured once
        cells[concept.name] = {"anchor": anchors[concept.name], **cost, **figures, **same}
        print(concept.name, json.dumps(cells[concept.name]), flush=True)
    result = {
        "concepts": [concept.name for concept in concepts],
        "check": erasure.provenance["check"],
        "cells": cells,
    }
    write_result("real_together", result)


if __name__ == "__main__":
    typer.run(main)
