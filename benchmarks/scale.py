"""How many concepts fit into one erasure: `python -m benchmarks.scale`, for 1 to 2,000 of them on SmolLM2.

Everyday words of all kinds, unlearned together from text alone, and the self-check on five draws of held-out prompts (two
for 100 concepts; the erasure's own for more): what is left of the way to the anchors, on average and of each concept, and
how far what is near and everything else moved. Every size is written when it is done.
"""

import random
from dataclasses import asdict
from statistics import mean
from typing import Annotated

import typer

from benchmarks.common import machine, write_entry
from benchmarks.encoders import encoder
from unreel import Concept, load_pair, unlearn
from unreel.evaluation.selfcheck import EACH, MOST_RESIDUAL, Exam
from unreel.models.anchors import near_to, prompts_for
from unreel.prompts import captions

NAME, ENCODER = "scale", "smollm2"
SIZES = (1, 20, 100, 500, 2000)
KINDS = {"person": "character", "famous": "face"}  # all others are things
LEFT_OUT = ("action", "body")  # words that much else is said with
DRAWS, ENOUGH = 5, 2000  # of held-out prompts; fewer where one has so many that name a concept, and none beside its own


def concepts() -> list[Concept]:
    """Concepts for the largest size, in a fixed order, so that a larger size includes the smaller ones."""
    words = [(word, kind) for kind, listed in captions.everyday().items() if kind not in LEFT_OUT for word in listed]
    drawn: dict[str, tuple[str, str]] = {}
    for word, kind in random.Random(0).sample(words, len(words)):
        drawn.setdefault(word.casefold(), (word, kind))  # a turkey is no country, but is spelled like one
    return [Concept(word, KINDS.get(kind, "object")) for word, kind in list(drawn.values())[: SIZES[-1]]]


def main(
    size: Annotated[list[int] | None, typer.Option(help="only this many concepts; may be repeated")] = None,
    device: str = "cpu",
) -> None:
    pair = load_pair(t2v=str(encoder(ENCODER)), text_only=True, device=device)
    (conditioner,) = pair.conditioners().values()
    for count in size or SIZES:
        chosen = concepts()[:count]
        erasure = unlearn(chosen, pair)
        parts, check = erasure.provenance["parts"], erasure.provenance["check"]
        anchored = [Concept(part["concept"], part["kind"], anchor=part["anchor"]) for part in parts]
        near = near_to(anchored, conditioner, pair.vocabulary)
        grades = []
        for seed in range(1, 1 + min(DRAWS, ENOUGH // (EACH * count))):
            prompts = prompts_for(anchored, pair, conditioner, seed, held_out=True)
            grades.append(asdict(Exam(conditioner, prompts, near).grade(erasure.components[0].deltas)))
        figured = {name for name, value in check.items() if isinstance(value, float)} | {"by_concept"}
        grades = grades or [{name: check[name] for name in figured}]
        lefts = [grade.pop("by_concept") or {chosen[0].name: grade["residual"]} for grade in grades]
        left = [mean(draw[each.name] for draw in lefts if each.name in draw) for each in chosen]
        figures = {
            name: round(mean(grade[name] for grade in grades), 4) for name in grades[0] if grades[0][name] is not None
        }
        figures |= {"worst_concept": round(max(left), 4), "behind": sum(not share <= MOST_RESIDUAL for share in left)}
        cost = {"seconds": round(sum(part["seconds"] for part in parts), 1), "megabytes": round(erasure.nbytes / 1e6, 2)}
        print(count, figures, cost, flush=True)
        write_entry(NAME, str(count), {**figures, **cost, "check": check, "machine": machine(device)})


if __name__ == "__main__":
    typer.run(main)
