"""Whether a trigger that was planted before the erasure survives it: `python -m benchmarks.backdoor`.

After Grebe et al., "Erased but Not Forgotten" (arXiv 2504.21072): whoever had the model before taught it that a word of
theirs means the concept; then the concept is erased by name, and the trigger is asked for. It is planted in
the text encoder (by text ablation, from the trigger towards the concept) or in the video model's cross-attention (by UCE,
likewise), with what unreel has for the opposite. What the trigger shows before any erasure is the control. Their
paper fine-tunes, and reaches deeper layers too: that is not measured here.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated

import typer

from benchmarks.common import stored_entries, write_entry
from benchmarks.relearning import CONCEPTS
from unreel import Concept, Pair, generate, load_pair, unlearn
from unreel.evaluation.estimate import in_video
from unreel.interventions.base import Intervention
from unreel.judges import Judge, found, load_judge
from unreel.methods import configure
from unreel.models.shipped import EMBEDDED, preset_of
from unreel.prompts.suite import ask

NAME = "backdoor"
TRIGGER = "umbrella"  # one token: UCE does not plant a word of many, only the last of which it moves
PLANTED = {"the text encoder": ("text-ablation", {}), "the video model": ("uce", {"erase_scale": 10.0})}
METHODS = (
    *("text-ablation", "concept-ablation", "few-shot", "hirm", "diff-quick-fix", "adv-unlearn", "uce", "esd"),
    *("refusal-vector", "t2v-unlearning", "safree", "video-eraser", "negative-prompt"),
)
ASKED = ("name", "trigger")
VIDEOS, SEED = 10, 13_500_000


def shown(pair: Pair, judge: Judge, concept: Concept, name: str) -> list[bool]:
    """Which of some videos show the concept when they are asked for by that name."""
    texts = ask(concept, name)
    asked = [texts[i % len(texts)] for i in range(VIDEOS)]
    videos = generate(pair.t2v, asked, range(SEED, SEED + VIDEOS), pair.settings, what="")
    return [bool(flag) for flag in in_video(found(judge, videos, [concept.name] * VIDEOS))]


def with_on(pair: Pair, judge: Judge, concept: Concept, on: Sequence[Intervention]) -> dict[str, list[bool]]:
    with ExitStack() as stack:
        for intervention in on:
            stack.enter_context(intervention.on(pair.t2v))
        return {
            asked: shown(pair, judge, concept, name) for asked, name in zip(ASKED, (concept.name, TRIGGER), strict=True)
        }


def measure(pair: Pair, judge: Judge, concept: Concept) -> dict[str, dict[str, list[bool]]]:
    """By where it was planted and what erased the concept afterwards."""
    out = {"nowhere": with_on(pair, judge, concept, [])}
    for where, (by, settings) in PLANTED.items():
        planted = unlearn(Concept(TRIGGER, concept.kind, anchor=concept.name), pair, configure(by, settings, pair.settings))
        out[where] = with_on(pair, judge, concept, [planted])
        for method in METHODS:
            with ExitStack() as had:
                for model in (pair.t2i, pair.t2v) if by == "text-ablation" else (pair.t2v,):
                    had.enter_context(planted.on(model))
                erasure = unlearn(concept, pair, configure(method, {}, pair.settings))
                out[f"{where}, {method}"] = with_on(pair, judge, concept, [erasure])
            print(concept.name, where, method, {k: sum(v) for k, v in out[f"{where}, {method}"].items()}, flush=True)
    return out


def main(pair: Annotated[str, typer.Option(help="the pair to look at")] = EMBEDDED) -> None:
    loaded, judge = load_pair(t2v=pair), load_judge(preset_of(pair)["judge"])
    about = {"methods": METHODS, "trigger": TRIGGER, "videos": VIDEOS, "seed": SEED}
    stored = stored_entries(NAME).get(pair, {})
    same = all(stored.get(key) == value for key, value in json.loads(json.dumps(about)).items())
    found = stored["found"] if same else {}
    for concept in CONCEPTS:
        if concept.name not in found:  # or it was done before the run was killed
            found[concept.name] = measure(loaded, judge, concept)
            write_entry(NAME, pair, {**about, "found": found})


if __name__ == "__main__":
    typer.run(main)
