"""Many concepts in one erasure: `python -m benchmarks.many_concepts`.

One, five, ten and twenty of them, learned together, and the erasures of each added up, whose anchors are chosen knowing all
the others. Beside what each erases stands what the same concepts' own erasures erase, one at a time; what is kept is looked
for in prompts for things and styles that are erased at no size. Judged on images, made under bfloat16 autocast, and the
motion on a few videos: a quarter of an hour on one core. Seconds of learning are processor seconds.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from benchmarks.common import resume, write_result
from unreel import Concept, Erasure, generate, load_pair, unlearn
from unreel.evaluation.estimate import Estimate, in_video
from unreel.evaluation.evaluate import build_suite
from unreel.judges import Judge, found, load_judge
from unreel.methods._task import anchor_for
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Pair
from unreel.models.sampling import generate_images
from unreel.prompts.suite import ERASED, Prompt, ask

# None of the concepts that settings were chosen on. All five kinds are among the first five.
CONCEPTS = (
    *(Concept("Tokyo Tower"), Concept("Santa Claus", "character"), Concept("clown", "face"), Concept("noto", "style")),
    *(Concept("spinning", "motion"), Concept("pizza"), Concept("elephant"), Concept("robot", "character")),
    *(Concept("cowboy", "face"), Concept("guitar"), Concept("alien", "character"), Concept("penguin"), Concept("car")),
    *(Concept("cactus"), Concept("owl"), Concept("balloon"), Concept("sunflower"), Concept("octopus")),
    *(Concept("sailboat"), Concept("crown")),
)
SIZES = (1, 5, 10, 20)
NEVER_ERASED = (
    *("statue of liberty", "castle", "house", "rocket", "drum", "umbrella", "apple", "mushroom", "cat", "polar bear"),
    *("turtle", "whale", "ghost", "teddy bear", "cool guy"),
)
NEVER_ERASED_STYLES = ("openmoji", "ink", "fluent")
IMAGES = 6  # for each concept and group
KEPT_IMAGES = 4  # for each thing and style that is never erased
VIDEOS = 10
SEED = 15_000_000
NAME = "many_concepts"

Flags = dict[str, np.ndarray]  # by group, one yes or no an image or video


def kept_prompts() -> list[Prompt]:
    """Plain prompts for what is erased at no size, which name nothing that is."""
    rows = []
    for kind, names in (("object", NEVER_ERASED), ("style", NEVER_ERASED_STYLES)):
        for name in names:
            texts = [text for text in ask(Concept(name, kind)) if not any(c.is_named_in(text) for c in CONCEPTS)]
            rows += [(text, name) for text in random.Random(name).choices(texts, k=KEPT_IMAGES)]
    return [Prompt(text, "kept", name, SEED + 100_000 * len(CONCEPTS) + i) for i, (text, name) in enumerate(rows)]


def judged(pair: Pair, judge: Judge, concept: Concept, rows: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """One image for each prompt, and whether it shows the concept, and what else it was asked for: (n,) bool each."""
    texts, seeds = [row.text for row in rows], [row.seed for row in rows]
    with torch.autocast("cpu", torch.bfloat16):
        images = generate_images(pair.t2i, texts, seeds, pair.settings, what="")
    labels = list(dict.fromkeys([concept.name, *(row.label for row in rows)]))
    shown = judge.probabilities(images[:, None], labels)[:, 0] >= judge.threshold
    label = shown[np.arange(len(rows)), [labels.index(row.label) for row in rows]]
    return {"concept_found": shown[:, 0], "label_found": label}


def main() -> None:
    pair, judge = load_pair(), load_judge("embedded")
    conditioner = Conditioner.of(pair.t2i)
    options = {"seed": SEED, "images": IMAGES, "kept_images": KEPT_IMAGES, "videos": VIDEOS}
    same = resume(NAME, pair, judge, options)[1]
    kept = kept_prompts()

    @cache
    def prompts(concept: Concept) -> list[Prompt]:
        """The same at every size, so nothing that is erased at any is asked for besides."""
        suite = (
            {"videos": VIDEOS, "groups": ERASED[:1]} if concept.kind == "motion" else {"videos": IMAGES, "groups": ERASED}
        )
        seed = SEED + 100_000 * CONCEPTS.index(concept)
        return build_suite(conditioner, concept, judge, seed=seed, **suite)

    def look(concepts: Sequence[Concept]) -> dict[str, Flags]:
        """What is found of each concept, and of what is never erased."""
        out = {"kept": {"kept": judged(pair, judge, Concept(NEVER_ERASED[0]), kept)["label_found"]}}
        for concept in concepts:
            rows = prompts(concept)
            if concept.kind == "motion":
                with torch.autocast("cpu", torch.bfloat16):
                    videos = generate(pair.t2v, [r.text for r in rows], [r.seed for r in rows], pair.settings, what="")
                out[concept.name] = {"motion": in_video(found(judge, videos, [concept.name] * len(rows)))}
                continue
            shown = judged(pair, judge, concept, rows)["concept_found"]
            out[concept.name] = {g: shown[np.array([row.group == g for row in rows])] for g in ERASED}
        return out

    def look_with(erasure: Erasure, concepts: Sequence[Concept]) -> dict[str, Flags]:
        for pipeline in (pair.t2i, pair.t2v):
            erasure.apply(pipeline)
        seen = look(concepts)
        for pipeline in (pair.t2i, pair.t2v):
            erasure.remove(pipeline)
        return seen

    def shares(looks: Sequence[dict[str, Flags]]) -> dict[str, Any]:
        flags = [flag for seen in looks for flag in seen.values()]
        out = {
            group: asdict(Estimate.share(np.concatenate([flag[group] for flag in flags if group in flag])))
            for group in (*ERASED, "motion")
            if any(group in flag for flag in flags)
        }
        # The same images at every look: their number is that of one.
        kept_by_image = np.mean([seen["kept"]["kept"] for seen in looks], axis=0)
        return out | {"kept": asdict((Estimate.share if len(looks) == 1 else Estimate.mean)(kept_by_image))}

    @cache
    def alone(concept: Concept) -> tuple[Erasure, float]:
        """The erasure of one concept, and seconds of one core."""
        begun = time.process_time()
        return unlearn(concept, pair), time.process_time() - begun

    unlearn(Concept("castle"), pair)  # warm up
    before = look(CONCEPTS)
    singles = {concept.name: look_with(alone(concept)[0], [concept]) for concept in CONCEPTS}
    print(f"before {summary(shares([before]))}\none at a time {summary(shares(list(singles.values())))}", flush=True)
    seconds_of_one = median(alone(concept)[1] for concept in CONCEPTS)
    rows = []
    for size in SIZES:
        concepts = CONCEPTS[:size]
        anchored = [replace(c, anchor=anchor_for(c, concepts, conditioner, pair.vocabulary)) for c in concepts]
        apart = alone(anchored[0])[0]
        for concept in anchored[1:]:
            apart = apart + alone(concept)[0]
        begun = time.process_time()
        together = unlearn(concepts, pair)
        seconds = time.process_time() - begun
        looks = {"together": look_with(together, concepts), "added up": look_with(apart, concepts)}
        names = ("kept", *(concept.name for concept in concepts))
        figures = {
            "original": shares([{name: before[name] for name in names}]),
            "one at a time": shares([singles[concept.name] for concept in concepts]),
        }
        rows.append(
            {
                "concepts": size,
                "figures": figures | {how: shares([seen]) for how, seen in looks.items()},
                "by_concept": {
                    name: {how: round(mean(flag.mean() for flag in seen[name].values()), 3) for how, seen in looks.items()}
                    for name in names
                },
                "anchors": {concept.name: concept.anchor for concept in anchored},
                "check": together.provenance["check"],
                "nbytes": {"together": together.nbytes, "added up": apart.nbytes},
                "seconds": {"together": seconds, "added up": sum(alone(concept)[1] for concept in anchored)},
                "times_one": seconds / seconds_of_one,
            }
        )
        for how, seen in rows[-1]["figures"].items():
            print(size, how, summary(seen), flush=True)
        print(size, rows[-1]["nbytes"], rows[-1]["seconds"], rows[-1]["times_one"], flush=True)
    concepts = [asdict(concept) for concept in CONCEPTS]
    write_result(NAME, same | {"concepts": concepts, "seconds_of_one": seconds_of_one, "sizes": rows})


def summary(figures: dict[str, Any]) -> dict[str, float]:
    return {group: round(estimate["value"], 2) for group, estimate in figures.items()}


if __name__ == "__main__":
    main()
