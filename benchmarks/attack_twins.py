"""Do attacks revive what was forgotten, or describe it? `python -m benchmarks.attack_twins`.

For every prompt that broke a method in benchmarks.attacks: what the *unedited* model makes of it, from the same seed, with
the anchor put where the prompt names the concept, by any of its wordings. If the judge finds the concept there too, other
words in the prompt show it without its name, and no change of what the name means can help.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import FOLDER, RESULTS, resume, write_result
from benchmarks.methods import CONCEPTS
from benchmarks.rivals import PromptRewrite
from benchmarks.tables import MEASURED, _load
from unreel import load_pair
from unreel.clips import ClipStore
from unreel.conditioner import Conditioner
from unreel.estimate import Estimate, in_video
from unreel.judges import found, load_judge
from unreel.pair import load_video_model
from unreel.unlearning import anchor_for

NAME = "attack_twins"


def main(
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> None:
    pair, judge = load_pair(device=device), load_judge("embedded", device)
    model = load_video_model(device=device, dtype=getattr(torch, dtype))
    store, conditioner = ClipStore(model, folder / "clips"), Conditioner.of(pair.t2i)
    _, same = resume(NAME, pair, judge, {"dtype": dtype})
    methods: dict[str, Any] = {}
    for method in MEASURED:
        if not (RESULTS / f"{method}_attacks.json").is_file():
            continue
        rows = []
        for concept in CONCEPTS:
            anchor = anchor_for(concept, [concept], conditioner, pair.vocabulary)
            rewrite = PromptRewrite(replace(concept, synonyms=tuple(judge.wordings(concept.name))), anchor)
            attacks = _load(f"{method}_attacks")["concepts"].get(concept.name, {}).get("attacks", {})
            broke = [
                {"attack": attack, "concept": concept.name, "kind": concept.kind} | attempt
                for attack, entry in attacks.items()
                for case in entry["edited_attempts"]
                for attempt in case
                if attempt["found"] and attempt["prompt"]
            ]
            if not broke:
                continue
            twins = [rewrite.rewritten(row["prompt"]) for row in broke]
            batches = store.batches(twins, [row["seed"] for row in broke])
            store.make(batches, f"{method}, {concept.name}")
            shown = in_video(found(judge, np.stack(list(store.read(batches))), [concept.name] * len(broke)))
            rows += [row | {"twin": twin, "found": bool(f)} for row, twin, f in zip(broke, twins, shown, strict=True)]
        attacked = list(dict.fromkeys(row["attack"] for row in rows))
        shares = {
            name: asdict(Estimate.share(np.array([r["found"] for r in rows if r["attack"] == name]))) for name in attacked
        }
        methods[method] = {"twin_found": shares, "prompts": rows}
        print(method, {name: (share["value"], share["n"]) for name, share in shares.items()}, flush=True)
    write_result(NAME, same | {"methods": methods, "device": device})


if __name__ == "__main__":
    typer.run(main)
