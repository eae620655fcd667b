"""Every method on twelve concepts: `python -m benchmarks.methods NAME`, NAME being one of METHODS.

What it erases, what else it breaks and what it costs, on the same prompts and seeds, with the same judge. Learning is in
float32, the videos are made in --dtype. Finished videos lie in --folder, so a killed run goes on where it was, and those of
the unedited model are made once for all methods; an hour and a half on one core for all groups. On a GPU: `--device cuda
--dtype float32`.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import FOLDER, contact_sheet, resume, slug, write_result
from unreel import Concept, evaluate, load_pair, unlearn
from unreel.evaluation.estimate import Estimate, in_video
from unreel.evaluation.run import Evaluation
from unreel.judges import load_judge
from unreel.methods import configure
from unreel.models.pair import Pair, load_video_model
from unreel.prompts.suite import GROUPS

# Disjoint from the concepts of the scans, from which the settings come.
CONCEPTS = (
    Concept("Tokyo Tower"),
    Concept("elephant"),
    Concept("pizza"),
    Concept("Santa Claus", "character"),
    Concept("alien", "character"),
    Concept("robot", "character"),
    Concept("ink", "style"),
    Concept("noto", "style"),
    Concept("clown", "face"),
    Concept("cowboy", "face"),
    Concept("spinning", "motion"),
    Concept("dancing", "motion"),
)
VIDEOS = 50
SEED = 5_000_000
SHEET = {"explicit": 4, "companions": 2, "neighbours": 4}
FEWER = ("explicit", "paraphrases", "companions", "neighbours", "unrelated")


def paper(concept: Concept, pair: Pair) -> Any:
    return unlearn(concept, pair, configure("few-shot", {}, pair.settings))


def text_ablation(concept: Concept, pair: Pair) -> Any:
    """The default."""
    return unlearn(concept, pair)


def anchored(concept: Concept, pair: Pair) -> Any:
    return unlearn(concept, pair, configure("concept-ablation", {}, pair.settings))


def unified_concept_editing(concept: Concept, pair: Pair) -> Any:
    """On the video model's cross-attention, towards the same anchor as text ablation, all that is known preserved."""
    return unlearn(concept, pair, configure("uce", {}))


def prompt_rewrite(concept: Concept, pair: Pair) -> Any:
    """To the same anchor as text ablation."""
    return unlearn(concept, pair, configure("prompt-rewrite", {}))


def negative_prompt(concept: Concept, pair: Pair) -> Any:
    return unlearn(concept, pair, configure("negative-prompt", {}))


# What each makes of a concept, and which groups of prompts it is measured on.
METHODS: dict[str, tuple[Callable[[Concept, Pair], Any], tuple[str, ...]]] = {
    "text_ablation": (text_ablation, FEWER),
    "paper": (paper, GROUPS),
    "concept-ablation": (anchored, FEWER),
    "uce": (unified_concept_editing, FEWER),
    "negative_prompt": (negative_prompt, FEWER),
    "prompt_rewrite": (prompt_rewrite, ("explicit", "companions")),  # neighbours and the unrelated do not name the concept
}


def main(
    method: Annotated[str, typer.Argument(help=", ".join(METHODS))],
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> None:
    make, groups = METHODS[method]
    name = f"{method}_method"
    pair, judge = load_pair(device=device), load_judge("embedded", device)
    model = load_video_model(device=device, dtype=getattr(torch, dtype))
    stored, same = resume(name, pair, judge, {"dtype": dtype, "seed": SEED, "videos": VIDEOS, "groups": groups})
    done = stored.get("concepts", {})
    for concept in CONCEPTS:
        if concept.name in done:
            continue
        erasure = make(concept, pair)
        options = {"concept": concept, "videos": VIDEOS, "seed": SEED, "groups": groups, "clips": folder / "clips"}
        run = evaluate(model, erasure, judge, **options)
        sheet(method, run)
        done[concept.name] = run.run.document() | {
            "settings": erasure.provenance["parts"][0]["settings"],
            "anchor": erasure.provenance["parts"][0].get("anchor"),
            "by_label": {group: by_label(run, group) for group in run.groups},
        }
        for group in run.groups:
            figure = run.figure("concept_found", group)
            print(f"{concept.name}, {group}: {figure.original} -> {figure.edited}", flush=True)
        ordered = {each.name: done[each.name] for each in CONCEPTS if each.name in done}
        write_result(name, same | {"concepts": ordered, "device": device})


def sheet(method: str, run: Evaluation) -> None:
    """Frames of the first clips of some groups, before above after."""
    rows = []
    for name, count in SHEET.items():
        if name in run.groups:
            group = run.groups[name]
            videos = [list(islice(group.videos(when), count)) for when in ("original", "edited")]
            for prompt, before, after in zip(group.prompts, *videos, strict=False):
                rows += [(f"{prompt.text}\nbefore", before), ("edited", after)]
    contact_sheet(f"{slug(method)}-{slug(run.concept.name)}", rows, label=230)


def by_label(run: Evaluation, name: str) -> dict[str, list[float]]:
    """For every label of a group, the share of its videos that show it, before and after."""
    group = run.groups[name]
    labels = [prompt.label for prompt in group.prompts]
    shown = [in_video(group.label_found(when)) for when in ("original", "edited")]
    return {
        label: [Estimate.share(found[np.array([other == label for other in labels])]).value for found in shown]
        for label in dict.fromkeys(labels)
    }


if __name__ == "__main__":
    typer.run(main)
