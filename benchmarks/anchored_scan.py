"""Which learning rate and retain weight the embedded encoder needs with an anchor: `python -m benchmarks.anchored_scan`.

Judged on images, with concepts that are the target of no published figure, as few_shot_scan.py does. The best setting has
the largest difference between neighbours found and concept found, and of equals the fewest steps.
What it takes is measured beside few-shot unlearning with the embedded pair's settings, one after the other.
"""

from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks.common import write_result
from unreel import Concept, FewShotConfig, load_pair
from unreel.evaluation.estimate import Estimate
from unreel.evaluation.evaluate import build_suite
from unreel.interventions.erasure import ComponentDelta, Erasure
from unreel.judges import found, load_judge
from unreel.methods import configure
from unreel.methods._shots import make_shots
from unreel.methods.concept_ablation import ConceptAblationConfig, ablate
from unreel.methods.few_shot import few_shot
from unreel.models.conditioner import Conditioner, whole_words
from unreel.models.denoiser import Denoiser
from unreel.models.sampling import generate_images, to_tensor
from unreel.models.weights import Fingerprint
from unreel.prompts.corpus import Corpus
from unreel.prompts.suite import Prompt

ANCHORS = {
    Concept("castle"): "house",
    Concept("snowman", "character"): "teddy bear",
    Concept("openmoji", "style"): "fluent",
    Concept("nerd", "face"): "cool guy",
}
# Few and small steps, since the encoder is small: a short memory, and many checks.
FIXED: dict[str, Any] = {
    "steps": 24,
    "batch_size": 2,
    "betas": (0.5, 0.98),
    "retain_batch": 4,
    "stop": 0.4,
    "bound": 0.2,
    "check": 4,
}
LEARNING_RATES = (1e-5, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3)
RETAIN_WEIGHTS = (3.0, 10.0)
GROUPS = ("explicit", "neighbours")
IMAGES = 20  # of each group
SEED = 3_000_000
REPEATS = 5


def main() -> None:
    pair, judge = load_pair(), load_judge("embedded")
    conditioner, denoiser = Conditioner.of(pair.t2i), Denoiser.of(pair.t2i)
    words = list(whole_words(conditioner.tokenizer))

    def latents(concept: Concept) -> torch.Tensor:
        pixels = to_tensor(make_shots(pair, concept, FewShotConfig()))
        return torch.stack([denoiser.encode(pixels), denoiser.encode(pixels.flip(-1))], dim=1)

    def unlearn(concept: Concept, config: ConceptAblationConfig) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        corpus = Corpus(pair.vocabulary, words, config.seed)
        said = {wording.lower(): ANCHORS[concept] for wording in concept.wordings}
        retain = [sentence for sentence in corpus.retain(config.retain) if not concept.is_named_in(sentence)]
        twins = corpus.forget(concept, said, config.forget)
        return ablate(conditioner, denoiser, twins, retain, config, shots[concept])

    def prompts(concept: Concept) -> dict[str, list[Prompt]]:
        rows = build_suite(conditioner, concept, judge, videos=IMAGES, seed=SEED, groups=GROUPS)
        return {group: [row for row in rows if row.group == group] for group in GROUPS}

    def shown(rows: list[Prompt]) -> np.ndarray:
        images = generate_images(pair.t2i, [row.text for row in rows], [row.seed for row in rows], pair.settings, what="")
        return found(judge, images[:, None], [row.label for row in rows])[:, 0]

    def shares(results: dict[Concept, dict[str, np.ndarray]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for group in GROUPS:
            out[group] = asdict(Estimate.share(np.concatenate([results[c][group] for c in ANCHORS])))
            out[f"{group}_by_concept"] = {c.name: float(results[c][group].mean()) for c in ANCHORS}
        return out

    shots = {concept: latents(concept) for concept in ANCHORS}
    groups = {concept: prompts(concept) for concept in ANCHORS}
    before = shares({c: {group: shown(rows) for group, rows in groups[c].items()} for c in ANCHORS})
    scan = []
    for learning_rate, retain_weight in tqdm(list(product(LEARNING_RATES, RETAIN_WEIGHTS)), desc="settings"):
        config, after, records = settings(learning_rate, retain_weight), {}, {}
        for concept in ANCHORS:
            deltas, records[concept.name] = unlearn(concept, config)
            erasure = Erasure((ComponentDelta(deltas, Fingerprint.of(pair.t2i.text_encoder)),), {})
            erasure.apply(pair.t2i)
            after[concept] = {group: shown(rows) for group, rows in groups[concept].items()}
            erasure.remove(pair.t2i)
        row = {
            "learning_rate": learning_rate,
            "retain_weight": retain_weight,
            **shares(after),
            "steps": mean(len(record["losses"]) for record in records.values()),
            "ended": {
                name: {"stopped": record["stopped"], "kept": record["kept"], "measured": record["measured"]}
                for name, record in records.items()
            },
        }
        print(
            f"lr {learning_rate:g}, retain weight {retain_weight:g}: concept {row['explicit']['value']:.3f} "
            f"neighbours {row['neighbours']['value']:.3f} steps {row['steps']:g}",
            flush=True,
        )
        scan.append(row)
    best = max(scan, key=lambda row: (row["neighbours"]["value"] - row["explicit"]["value"], -row["steps"]))
    chosen = {**FIXED, "learning_rate": best["learning_rate"], "retain_weight": best["retain_weight"]}
    plain = configure("few-shot", {}, pair.settings)
    cost = {
        "concept-ablation": {c.name: seconds(lambda c=c: unlearn(c, ConceptAblationConfig(**chosen))) for c in ANCHORS},
        "few_shot": {c.name: seconds(lambda c=c: few_shot([conditioner], denoiser, c, plain, shots[c])) for c in ANCHORS},
    }
    write_result(
        "anchored_scan",
        {
            "anchors": [{**asdict(concept), "anchor": anchor} for concept, anchor in ANCHORS.items()],
            "fixed": FIXED,
            "original": before,
            "scan": scan,
            "chosen": chosen,
            "seconds": cost,
            "seed": SEED,
        },
    )


def settings(learning_rate: float, retain_weight: float) -> ConceptAblationConfig:
    return ConceptAblationConfig(**FIXED, learning_rate=learning_rate, retain_weight=retain_weight)


def seconds(work: Callable[[], Any]) -> float:
    """Wall time without the shots, the median of a few runs after one to warm up."""
    taken = []
    for _ in range(REPEATS + 1):
        start = perf_counter()
        work()
        taken.append(perf_counter() - start)
    return round(median(taken[1:]), 3)


if __name__ == "__main__":
    main()
