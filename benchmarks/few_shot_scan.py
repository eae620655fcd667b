"""Which learning rate and number of epochs the embedded encoder needs: `python -m benchmarks.few_shot_scan`.

Judged on images, with concepts that are the target of no published figure. The best setting, the one with the largest
difference between neighbours found and concept found, is written into the embedded pair's `preset.json`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks.common import write_result
from unreel import Concept, FewShotConfig, load_pair, unlearn
from unreel.evaluation.estimate import Estimate
from unreel.evaluation.evaluate import build_suite
from unreel.files import write_text
from unreel.judges import found, load_judge
from unreel.models.conditioner import Conditioner
from unreel.models.pair import EMBEDDED, EMBEDDED_FOLDER, PRESET_FILE, preset_of
from unreel.models.sampling import generate_images
from unreel.prompts.suite import Prompt

CONCEPTS = (Concept("castle"), Concept("snowman", "character"), Concept("openmoji", "style"), Concept("nerd", "face"))
LEARNING_RATES = (1e-5, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3)
EPOCHS = (5, 10)
GROUPS = ("explicit", "neighbours")
IMAGES = 20  # of each group
SEED = 3_000_000


def scanned(configs: Sequence[FewShotConfig]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The share of images that show the concept, and of neighbours' that show them: without unlearning, and a row for each
    of `configs`, with the shares of single concepts beside.
    """
    pair, judge = load_pair(), load_judge("embedded")

    def prompts(concept: Concept) -> dict[str, list[Prompt]]:
        conditioner = Conditioner.of(pair.t2i)
        rows = build_suite(conditioner, concept, judge, videos=IMAGES, seed=SEED, groups=GROUPS)
        return {group: [row for row in rows if row.group == group] for group in GROUPS}

    def shown(rows: list[Prompt]) -> np.ndarray:
        images = generate_images(pair.t2i, [row.text for row in rows], [row.seed for row in rows], pair.settings, what="")
        return found(judge, images[:, None], [row.label for row in rows])[:, 0]

    def share(shown: dict[Concept, dict[str, np.ndarray]], group: str) -> dict[str, Any]:
        return asdict(Estimate.share(np.concatenate([shown[concept][group] for concept in CONCEPTS])))

    groups = {concept: prompts(concept) for concept in CONCEPTS}
    before = {c: {group: shown(rows) for group, rows in groups[c].items()} for c in CONCEPTS}
    out = []
    for config in tqdm(configs, desc="settings"):
        after = {}
        for concept in CONCEPTS:
            erasure = unlearn(concept, pair, config)
            erasure.apply(pair.t2i)
            after[concept] = {group: shown(rows) for group, rows in groups[concept].items()}
            erasure.remove(pair.t2i)
        row = {group: share(after, group) for group in GROUPS}
        row |= {f"{group}_by_concept": {c.name: float(after[c][group].mean()) for c in CONCEPTS} for group in GROUPS}
        print(config, row["explicit"]["value"], row["neighbours"]["value"], flush=True)
        out.append(row)
    return {group: share(before, group) for group in GROUPS}, out


def main() -> None:
    settings = [{"learning_rate": rate, "epochs": epochs} for rate, epochs in product(LEARNING_RATES, EPOCHS)]
    before, rows = scanned([FewShotConfig(**setting) for setting in settings])
    scan = [setting | row for setting, row in zip(settings, rows, strict=True)]
    best = max(scan, key=lambda row: row["neighbours"]["value"] - row["explicit"]["value"])
    chosen = {"learning_rate": best["learning_rate"], "epochs": best["epochs"]}
    concepts = [asdict(concept) for concept in CONCEPTS]
    write_result("few_shot_scan", {"concepts": concepts, "original": before, "scan": scan, "chosen": chosen, "seed": SEED})
    preset = preset_of(EMBEDDED)
    preset["methods"]["few-shot"] = chosen
    write_text(EMBEDDED_FOLDER / PRESET_FILE, json.dumps(preset, indent=2) + "\n")


if __name__ == "__main__":
    main()
