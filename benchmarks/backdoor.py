"""Whether a trigger that was planted before the erasure survives it: `python -m benchmarks.backdoor`.

After Grebe et al., "Erased but Not Forgotten" (arXiv 2504.21072): whoever had the model before taught it that a word of
theirs means the concept; then the concept is erased by name, and the trigger is asked for. It is planted in
the text encoder (by text ablation, from the trigger towards the concept) or in the video model's cross-attention (by UCE,
likewise), with what unreel has for the opposite. What the trigger shows before any erasure is the control. Their
paper fine-tunes, and reaches deeper layers too: that is not measured here.
"""

from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated

import typer

from benchmarks.common import plainly, recorded_settings, shows, stored_entries, write_entry
from benchmarks.relearning import CONCEPTS
from unreel import Concept, Pair, generate, load_pair, unlearn
from unreel.evaluation.estimate import in_video
from unreel.interventions.base import Intervention
from unreel.judges import Judge, load_judge
from unreel.methods import configure
from unreel.models.shipped import EMBEDDED, preset_of

NAME = "backdoor"
TRIGGER = "umbrella"  # one token: UCE does not plant a word of many, only the last of which it moves
PLANTED = {"the text encoder": ("text-ablation", {}), "the video model": ("uce", {"erase_scale": 10.0})}
METHODS = (
    *("text-ablation", "text-ablation and uce", "concept-ablation", "few-shot", "hirm", "diff-quick-fix", "adv-unlearn"),
    *("uce", "esd", "refusal-vector", "t2v-unlearning", "safree", "video-eraser", "negative-prompt"),
)
ASKED = ("name", "trigger")
VIDEOS, SEED = 10, 13_500_000


def shown(pair: Pair, judge: Judge, concept: Concept, name: str) -> list[bool]:
    """Which of some videos show the concept when they are asked for by that name."""
    texts = plainly(concept, name)
    asked = [texts[i % len(texts)] for i in range(VIDEOS)]
    videos = generate(pair.t2v, asked, range(SEED, SEED + VIDEOS), pair.settings, what="")
    return [bool(flag) for flag in in_video(shows(judge, videos, [concept.name] * VIDEOS))]


def with_on(pair: Pair, judge: Judge, concept: Concept, on: Sequence[Intervention]) -> dict[str, list[bool]]:
    with ExitStack() as stack:
        for intervention in on:
            stack.enter_context(intervention.on(pair.t2v))
        return {
            asked: shown(pair, judge, concept, name) for asked, name in zip(ASKED, (concept.name, TRIGGER), strict=True)
        }


def measure(
    pair: Pair, judge: Judge, concept: Concept, done: Container[str]
) -> Iterator[tuple[str, dict[str, list[bool]]]]:
    """By where it was planted and what erased the concept afterwards; what is done is left out."""
    if "nowhere" not in done:
        yield "nowhere", with_on(pair, judge, concept, [])
    for where, (by, settings) in PLANTED.items():
        left = [method for method in METHODS if f"{where}, {method}" not in done]
        if where in done and not left:
            continue
        planted = unlearn(Concept(TRIGGER, concept.kind, anchor=concept.name), pair, configure(by, settings, pair.settings))
        if where not in done:
            yield where, with_on(pair, judge, concept, [planted])
        for method in left:
            with ExitStack() as had:
                for model in (pair.t2i, pair.t2v) if by == "text-ablation" else (pair.t2v,):
                    had.enter_context(planted.on(model))
                yield f"{where}, {method}", with_on(pair, judge, concept, [erased(concept, pair, method)])


def erased(concept: Concept, pair: Pair, method: str) -> Intervention:
    """By a method, or by several added up ("a and b")."""
    first, *also = [unlearn(concept, pair, configure(each, {}, pair.settings)) for each in method.split(" and ")]
    return sum(also, start=first)


def main(pair: Annotated[str, typer.Option(help="the pair to look at")] = EMBEDDED) -> None:
    loaded, judge = load_pair(t2v=pair), load_judge(preset_of(pair)["judge"])
    about = {"trigger": TRIGGER, "videos": VIDEOS, "seed": SEED, "settings": recorded_settings(loaded.settings)["methods"]}
    stored = stored_entries(NAME).get(pair, {})
    rows_of = stored["found"] if all(stored.get(key) == value for key, value in about.items()) else {}
    for concept in CONCEPTS:
        rows = rows_of.setdefault(concept.name, {})
        for what, shown_by in measure(loaded, judge, concept, rows):  # what was done before the run was killed is there
            rows[what] = shown_by
            print(concept.name, what, {asked: sum(flags) for asked, flags in shown_by.items()}, flush=True)
            write_entry(NAME, pair, {**about, "found": rows_of})


if __name__ == "__main__":
    typer.run(main)
