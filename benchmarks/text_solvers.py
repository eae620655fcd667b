"""Solve or descend? Ways to learn the same change from the same text, on SmolLM2: `python -m benchmarks.text_solvers`.

- `solve`: the closed form as it is, on the last layers
- `mended solve`: the same equations, but for the layers, prompts and tokens of text ablation: the first three fifths, from
  a name's last token on, and the first token of all, which drowns all others, left out of every sum
- `gradients`: text ablation, the default (of `benchmarks.real_encoders`, not made again)
- `gradients from the solve`: text ablation that begins where the mended solve ends, at its own rank

The twelve concepts of `benchmarks.real_encoders`, with its figures and anchors. MiniLM has no column: its norms come after
its sums, which the closed form refuses. Seconds include a self-check, but for the mended solve, which is none of the
product's. A killed run goes on where it was.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer

from benchmarks.common import RESULTS, write_result
from benchmarks.encoders import encoder, everyday_prompts
from benchmarks.real_encoders import SEEN_IN_TUNING, SENTENCES, Measure
from unreel import ClosedFormConfig, Concept, Pair, TextAblationConfig, load_pair, unlearn
from unreel.conditioner import Conditioner, Tokens
from unreel.erasure import Change, LowRank, changed
from unreel.methods import closed_form as solver
from unreel.methods import text_ablation as learner
from unreel.prompt_pairs import PromptPair
from unreel.reading import as_anchors, side_by_side
from unreel.unlearning import near_to, prompts_for

ENCODER = "smollm2"
WAYS = ("solve", "mended solve", "gradients from the solve")


@dataclass(frozen=True)
class Counted(Tokens):
    """Tokens of which only some count."""

    counted: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def seen(self) -> torch.Tensor:
        return self.counted


@dataclass(frozen=True)
class Early(Conditioner):
    """A conditioner of whose layers there are only the first three fifths, and whose first tokens do not count."""

    @cached_property
    def layers(self) -> list[torch.nn.Module]:
        whole = Conditioner.layers.func(self)  # type: ignore[attr-defined]
        return whole[: -(-3 * len(whole) // 5)]

    def tokenize(self, prompts: list[str]) -> Tokens:
        tokens = super().tokenize(prompts)
        counted = tokens.seen.clone()
        counted[:, 0] = False
        return Counted(tokens.ids, tokens.call, counted)


def mended_solve(
    conditioner: Conditioner, pairs: Sequence[PromptPair], kept: Sequence[str], seed: int
) -> dict[str, LowRank]:
    """What the closed form says of the first layers, the tokens that text ablation counts, and `pairs`."""
    early = Early(**{name: getattr(conditioner, name) for name in Conditioner.__dataclass_fields__})
    config = ClosedFormConfig(layers=len(early.layers), seed=seed)
    of_twin = {(pair.prompt, pair.anchor): pair for pair in pairs}

    def tokenize(_: Conditioner, twins: Sequence[tuple[str, str]]) -> tuple[Tokens, Tokens, torch.Tensor]:
        batch = [of_twin[twin] for twin in twins]
        said, wanted, places = side_by_side(conditioner, batch)
        return Counted(said.ids, said.call, as_anchors(conditioner, batch).counted), wanted, places[..., None]

    retained = solver.moments(early, kept, config)
    with patch.object(solver, "tokenize", tokenize):
        changes, _ = solver.closed_form(early, list(of_twin), retained, config)
    return changes


def of_rank(change: LowRank, rank: int) -> LowRank:
    """The nearest change of a lower rank."""
    left, scales, right = torch.linalg.svd(change.dense(), full_matrices=False)
    root = scales[:rank].sqrt()
    return LowRank(left[:, :rank] * root, root[:, None] * right[:rank])


@contextmanager
def beginning_at(start: Mapping[str, LowRank]) -> Iterator[None]:
    """Inside, text ablation begins at `start`, where it says something of a matrix."""
    begun = learner._begun

    def begin(conditioner: Conditioner, factors: Any, *rest: Any) -> float:
        way = begun(conditioner, factors, *rest)
        with torch.no_grad():
            for name, change in start.items():
                up, down = factors.factors[name]
                low = of_rank(change, up.shape[1])
                up[:, : low.up.shape[1]], down[: low.down.shape[0]] = low.up, low.down
        return way

    with patch.object(learner, "_begun", begin):
        yield


def learned(way: str, concept: Concept, pair: Pair) -> Mapping[str, Change]:
    """`concept` says what is made instead of it."""
    if way == "solve":
        return unlearn(concept, pair, ClosedFormConfig()).changes
    conditioner = next(iter(pair.conditioners().values()))
    config = TextAblationConfig()
    prompts = prompts_for([concept], pair, conditioner, config.seed)
    near = near_to([concept], conditioner, pair.vocabulary)
    kept = [*prompts.everyday(config.retain), *prompts.neighbours(near, config.retain)]
    start = mended_solve(conditioner, prompts.pairs(config.forget), kept, config.seed)
    if way == "mended solve":
        return start
    with beginning_at(start):
        return unlearn(concept, pair, config).changes


def main(
    concept: Annotated[list[str] | None, typer.Option(help="only these, which writes nothing")] = None,
) -> None:
    given = json.loads(SENTENCES.read_text())["final"]
    everyday = [prompt for i, prompt in enumerate(everyday_prompts()) if i % SEEN_IN_TUNING]
    reference = json.loads((RESULTS / "real_encoders.json").read_text())
    file = RESULTS / "text_solvers.json"
    stored = json.loads(file.read_text()) if file.is_file() else {}
    cells = stored.get("cells", {}) if stored.get("settings") == reference["settings"] else {}
    pair = load_pair(t2v=str(encoder(ENCODER)), text_only=True)
    conditioner = next(iter(pair.conditioners().values()))
    for name in concept or given:
        own = {"gradients": reference["cells"][ENCODER][name]}
        cells.setdefault(name, {}).update(own)
        about = Concept(name, given[name]["kind"], anchor=own["gradients"]["anchor"])
        for way in WAYS:
            if way in cells[name]:
                continue
            start = time.perf_counter()
            changes = learned(way, about, pair)
            seconds = round(time.perf_counter() - start, 1)
            compared = Measure(conditioner, about, own["gradients"]["anchor"], given[name], everyday)
            with changed(conditioner.text_encoder, changes):
                cells[name][way] = {"seconds": seconds, **compared.figures()}
            print(name, way, json.dumps(cells[name][way]), flush=True)
            if not concept:
                write_result("text_solvers", {"settings": reference["settings"], "cells": cells})


if __name__ == "__main__":
    typer.run(main)
