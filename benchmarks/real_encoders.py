"""Does the default forget in text encoders that somebody else pretrained? `python -m benchmarks.real_encoders`.

Twelve concepts on SmolLM2-135M and MiniLM (`python -m benchmarks.encoders` brings them), measured on sentences that people
wrote (`real_encoders.json`), none of which the method has seen, and on VBench's prompts. Per concept:

- `left`: || T'(p) - T(p') ||^2 as a share of || T(p) - T(p') ||^2, summed over prompts p and over tokens from the name's
  last on; p' is p with the anchor in the concept's place. `capitals`, `plural`, `possessive`, `behind`: the same for other
  spellings and behind some sixty words
- `shared`, `near`, `everyday`: || T'(q) - T(q) || / || T(q) ||, the median over prompts that share a word with the name,
  about the nearest things, and of VBench less those that name the concept
"""

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from benchmarks.common import RESULTS, write_result
from benchmarks.encoders import ENCODERS, encoder, everyday_prompts
from unreel import Concept, Pair, TextAblationConfig, load_pair, unlearn
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import changed
from unreel.models.reading import Aim, as_anchors, as_read
from unreel.prompts import spelling
from unreel.prompts.grammar import bare, fill, in_place_of
from unreel.prompts.pairs import PromptPair

SENTENCES = Path(__file__).with_suffix(".json")
BATCH = 8
SEEN_IN_TUNING = 12  # one in so many of the everyday prompts


def pairs_of(concept: Concept, sentences: list[str], anchor: str, way: str = "") -> list[PromptPair]:
    """The sentences with their anchor prompts; `way` says how the name is written in them."""
    forms = {"plural": spelling.pluralised, "possessive": spelling.possessive}
    change = forms.get(way, str)
    alone = way == "plural" or concept.kind in ("style", "motion")
    instead = bare(anchor) if alone else in_place_of(concept.name, bare(anchor))
    gap, out = "motion" if concept.kind == "motion" else "name", []
    for sentence in sentences:
        # People write "Mickey Mouses" as well as "Mickey Mice".
        written = (change(concept.name), f"{concept.name}s") if way == "plural" else (change(concept.name),)
        match = re.search("|".join(map(re.escape, written)), sentence, re.IGNORECASE)
        assert match, f"{sentence!r} does not name {change(concept.name)!r}"
        text = f"{sentence[: match.start()]}[{gap}]{sentence[match.end() :]}"
        anchor_prompt = fill(text, {gap: change(instead) if instead else ""})
        out.append(PromptPair(sentence, anchor_prompt, match[0]))
    return out


class Measure:
    """A concept's sentences as an encoder reads them, to be compared with how it reads them with an erasure on."""

    def __init__(
        self, conditioner: Conditioner, concept: Concept, anchor: str, sentences: dict[str, Any], everyday: list[str]
    ):
        self.conditioner = conditioner
        behind = [" ".join(passage) for passage in sentences["behind"]]
        groups = {"left": pairs_of(concept, sentences["held_out"], anchor)}
        groups |= {way: pairs_of(concept, texts, anchor, way) for way, texts in sentences["variants"].items()}
        groups["behind"] = pairs_of(concept, behind, anchor)
        self.anchored = {name: self._read(pairs, anchors=True) for name, pairs in groups.items()}
        kept = {"shared": sentences["shared"], "near": sentences["near"]}
        kept["everyday"] = [prompt for prompt in everyday if not concept.is_named_in(prompt)]
        self.kept = {name: self._read(texts) for name, texts in kept.items() if texts}
        self.initial = {name: self._distances(aims) for name, aims in self.anchored.items()}

    def _read(self, texts: list[Any], anchors: bool = False) -> list[Aim]:
        ordered = sorted(texts, key=lambda one: len(one.prompt if anchors else one))
        batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
        if anchors:
            return [as_anchors(self.conditioner, batch, from_name=True) for batch in batches]
        return [as_read(self.conditioner, batch) for batch in batches]

    @torch.no_grad()
    def _distances(self, aims: list[Aim]) -> torch.Tensor:
        return torch.cat([aim.distances(self.conditioner.encode_tokens(aim.tokens)) for aim in aims])

    def figures(self) -> dict[str, float]:
        """The figures of the encoder as it is now."""
        left = {name: float(self._distances(aims).sum() / self.initial[name].sum()) for name, aims in self.anchored.items()}
        moved = {
            name: median((self._distances(aims) / torch.cat([aim.squares for aim in aims])).sqrt().tolist())
            for name, aims in self.kept.items()
        }
        return {name: round(value, 4) for name, value in (left | moved).items()}


def measured(
    pair: Pair, name: str, sentences: dict[str, Any], config: TextAblationConfig, everyday: list[str]
) -> dict[str, Any]:
    """One cell: one concept on one encoder."""
    concept = Concept(name, sentences["kind"])
    start = time.perf_counter()
    erasure = unlearn(concept, pair, config)
    seconds = time.perf_counter() - start
    part = erasure.provenance["parts"][0]
    conditioner = next(iter(pair.conditioners().values()))
    measure = Measure(conditioner, concept, part["anchor"], sentences, everyday)
    with changed(conditioner.text_encoder, erasure.components[0].deltas):
        figures = measure.figures()
    return {
        "kind": concept.kind,
        "anchor": part["anchor"],
        "seconds": round(seconds, 1),
        "megabytes": round(erasure.nbytes / 1e6, 2),
        "check": erasure.provenance["check"],
        **figures,
    }


def main(
    tuning: Annotated[bool, typer.Option("--tuning", help="the three concepts to tune on; prints, writes nothing")] = False,
    only: Annotated[list[str] | None, typer.Option("--encoder", help="only this encoder")] = None,
    concept: Annotated[list[str] | None, typer.Option(help="only this concept, with --tuning")] = None,
    settings: Annotated[str, typer.Option(help="settings of the method as JSON, with --tuning")] = "{}",
) -> None:
    config = TextAblationConfig(**json.loads(settings)) if tuning else TextAblationConfig()
    sentences_of = json.loads(SENTENCES.read_text())["tuning" if tuning else "final"]
    # Prompts that were looked at while tuning do not count any more.
    everyday = [prompt for i, prompt in enumerate(everyday_prompts()) if (i % SEEN_IN_TUNING == 0) == tuning]
    options = {"settings": json.loads(json.dumps(asdict(config)))}
    file = RESULTS / "real_encoders.json"
    stored = json.loads(file.read_text()) if file.is_file() and not tuning else {}
    cells: dict[str, Any] = stored.get("cells", {}) if stored.get("settings") == options["settings"] else {}
    for name in only or ENCODERS:
        pair = load_pair(t2v=str(encoder(name)), text_only=True)
        for each, sentences in sentences_of.items():
            if each in cells.setdefault(name, {}) or (concept and each not in concept):
                continue
            cells[name][each] = measured(pair, each, sentences, config, everyday)
            print(name, each, json.dumps(cells[name][each]), flush=True)
            if not tuning:
                write_result("real_encoders", {**options, "cells": cells})


if __name__ == "__main__":
    typer.run(main)
