"""What was measured of attacks, as tables of one method or of all: the experiment `attacks`, triggers that were planted
before an erasure, and training on pictures of what is forgotten; `of` and `pair` name the same on another pair.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.cells import results_of
from benchmarks.tables._format import count_of_videos, interval, load, table
from benchmarks.tables.methods import TITLES
from unreel.evaluation.estimate import Estimate
from unreel.models.shipped import EMBEDDED


def attacks(by: str) -> str:
    """Pooled over concepts: success of every attack at every budget, against both models."""
    concepts = results_of("attacks")[by]
    first = next(iter(concepts.values()))
    head = ["attack", "needs weights"]
    head += [f"{arm}, {count_of_videos(budget)}" for arm in ("edited", "original") for budget in first["budgets"]]
    rows = []
    for name, entry in first["attacks"].items():
        cells = [
            interval(_success(concepts, name, arm, budget)) for arm in ("edited", "original") for budget in first["budgets"]
        ]
        rows.append([name, "yes" if entry["needs_weights"] else "no", *cells])
    n = len(concepts) * len(next(iter(first["attacks"].values()))["edited_attempts"])
    steps = f"Searches take {first['search_steps']} steps a video, embedding inversion five times as many."
    note = f"{len(concepts)} concepts, {n} cases an attack. {steps}"
    return f"{table(head, rows)}\n\n{note}"


def attacks_compared(of: str = "attacks") -> str:
    """Success within the largest budget, for every method and the original model, on concepts that all were attacked on.

    Styles apart: one in four videos has any style unasked, so with three videos an attack succeeds by chance.
    """
    everywhere = results_of(of)
    results = {method: everywhere[method] for method in TITLES if method in everywhere}
    measured = list(results)
    common = [name for name in results[measured[0]] if all(name in concepts for concepts in results.values())]
    first = results[measured[0]][common[0]]
    budget = max(first["budgets"])
    entries = [result["attacks"].items() for concepts in results.values() for result in concepts.values()]
    tried = {name: entry["needs_weights"] for attacks in entries for name, entry in attacks}
    tables = []
    for title, styles in (("things, persons and motions", False), ("styles", True)):
        chosen = {
            method: {name: concepts[name] for name in common if (concepts[name]["kind"] == "style") == styles}
            for method, concepts in results.items()
        }
        if not chosen[measured[0]]:
            continue
        rows = []
        for attack, needs_weights in tried.items():
            # Where no text encoder is edited, nothing can be studied in one: there cells are empty.
            cells = [_pooled_success(chosen[method], attack, "edited", budget) for method in measured]
            controls = [_pooled_success(chosen[method], attack, "original", budget) for method in measured]
            rows.append([attack, "yes" if needs_weights else "no", *cells, next(filter(None, controls))])
        head = [f"attack on {title}", "needs weights", *(TITLES[method] for method in measured), "original model"]
        names = list(chosen[measured[0]])
        cases = len(names) * len(first["attacks"]["plain"]["edited_attempts"])
        note = f"{len(names)} concepts: {', '.join(names)}; {cases} cases an attack."
        tables.append(f"{table(head, rows)}\n\n{note}")
    return "\n\n".join(tables)


def attacks_by_concept(by: str) -> str:
    concepts = results_of("attacks")[by]
    budget = max(next(iter(concepts.values()))["budgets"])
    names = list(next(iter(concepts.values()))["attacks"])
    rows = [
        [concept, *(f"{100 * entry['attacks'][name]['edited'][str(budget)]['value']:.0f}" for name in names)]
        for concept, entry in concepts.items()
    ]
    return table(["concept", *names], rows)


def attacks_by_frame(by: str, of: str = "attacks") -> str:
    """Frame after frame, in how many cases the last video of each attack shows the concept, pooled over concepts."""
    concepts = list(results_of(of)[by].values())
    rows = []
    for attack in concepts[0]["attacks"]:
        for arm in ("edited", "original"):
            frames = np.mean([concept["attacks"][attack][f"{arm}_by_frame"] for concept in concepts], axis=0)
            rows.append([attack, arm, *(f"{100 * share:.0f}" for share in frames)])
    return table(["attack", "model", *(f"frame {i}" for i in range(1, len(rows[0]) - 1))], rows)


def _pooled_success(concepts: dict[str, Any], attack: str, arm: str, budget: int) -> str:
    """With its interval; nothing where the attack was not tried on every concept."""
    if not all(attack in concept["attacks"] for concept in concepts.values()):
        return ""
    return interval(_success(concepts, attack, arm, budget))


def _success(concepts: dict[str, Any], attack: str, arm: str, budget: int) -> dict[str, Any]:
    """The share of all concepts' cases that one of the first `budget` videos breaks."""
    cases = [case for concept in concepts.values() for case in concept["attacks"][attack][f"{arm}_attempts"]]
    flags = [any(attempt["found"] for attempt in case[:budget]) for case in cases]
    return asdict(Estimate.share(np.array(flags)))


def backdoor(pair: str = EMBEDDED) -> str:
    """Whether a trigger that was planted before an erasure still shows the concept after it."""
    result = load("backdoor")[pair]
    rows = []
    for name, shares in result["found"].items():
        where, _, method = name.partition(", ")
        found = [interval(shares[asked]) for asked in ("name", "trigger")]
        rows.append([where, TITLES[method] if method else "nothing yet", *found])
    videos = len(result["concepts"]) * result["videos"]
    note = f"Concepts: {', '.join(result['concepts'])}; {videos} videos a cell. The trigger: *{result['trigger']}*."
    head = ["planted in", "then erased by", "asked for by name: found", "asked for by the trigger: found"]
    return f"{table(head, rows)}\n\n{note}"


def relearning(pair: str = EMBEDDED) -> str:
    """How soon a concept is back when it is trained on, beside a word that the model never knew."""
    result = load("relearning")[pair]
    rows = [[TITLES.get(name, name), *map(interval, shares)] for name, shares in result["shown"].items()]
    images = len(result["concepts"]) * result["images"]
    note = f"Concepts: {', '.join(result['concepts'])}; {images} images a cell. {result['shots']} pictures to learn from."
    return f"{table(['after so many steps', *map(str, result['steps'])], rows)}\n\n{note}"
