"""What was measured of attacks, as tables of one method or of all: the experiment `attacks`, triggers that were planted
before an erasure, and training on pictures of what is forgotten; `of` and `pair` name the same on another pair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.backdoor import ASKED, METHODS, PLANTED
from benchmarks.cells import results_of
from benchmarks.over_concepts import share_over
from benchmarks.tables._format import count_of_videos, interval, load, table
from benchmarks.tables.methods import TITLES, by_completeness
from unreel.attacks import load_attack, only_types, version_of
from unreel.models.shipped import EMBEDDED


def attacks(by: str) -> str:
    """Pooled over concepts: success of every attack at every budget, against both models."""
    concepts = results_of("attacks")[by]
    first = next(iter(concepts.values()))
    head = ["attack", "needs weights"]
    head += [f"{arm}, {count_of_videos(budget)}" for arm in ("edited", "original") for budget in first["budgets"]]
    rows = []
    for name in _on_all(list(concepts.values())):
        cells = [
            interval(_success(concepts, name, arm, budget)) for arm in ("edited", "original") for budget in first["budgets"]
        ]
        rows.append([_marked(name, concepts.values()), "yes" if first["attacks"][name]["needs_weights"] else "no", *cells])
    n = len(concepts) * len(next(iter(first["attacks"].values()))["edited_attempts"])
    steps = f"Searches take {first['search_steps']} steps a video, embedding inversion five times as many."
    note = f"{len(concepts)} concepts, {n} cases an attack. {steps}"
    return f"{table(head, rows)}\n\n{note}{_footnote(rows)}"


def attacks_compared(of: str = "attacks", *, only_complete: bool = False) -> str:
    """Success within the smallest and the largest budget, for the original model and every method, on the concepts that all
    of them were attacked on; first those methods, and where it is `only_complete` those alone, that were attacked on most.
    """
    everywhere = results_of(of)
    measured = {method: everywhere[method] for method in TITLES if method in everywhere}
    return "\n\n".join(_compared(methods) for methods in by_completeness(measured, only_complete))


def _compared(results: dict[str, Any]) -> str:
    """Styles are in a table of their own: one in four videos has any style unasked, so with three videos an attack succeeds
    by chance. Attacks that only type prompts are apart from those that take more, if there are several of each.
    """
    first, *rest = results.values()
    common = [name for name in first if all(name in concepts for concepts in rest)]
    tables = []
    for title, styles in (("things, persons and motions", False), ("styles", True)):
        names = [name for name in common if (first[name]["kind"] == "style") == styles]
        arms = {method: {name: concepts[name] for name in names} for method, concepts in results.items()}
        columns = {attack: column for attack in _tried(arms) if any((column := _column(arms, attack))[1:])}
        if not columns:
            continue
        typed = [attack for attack in columns if only_types(load_attack(attack))]
        more = [attack for attack in columns if attack not in typed]
        parts = {f"typed, on {title}": typed, f"with weights or embeddings, on {title}": more}
        if min(len(typed), len(more)) < 2:
            parts = {f"on {title}": [*typed, *more]}
        shown = []
        for caption, chosen in parts.items():
            names_marked = [
                _marked(attack, (entry for concepts in arms.values() for entry in concepts.values())) for attack in chosen
            ]
            rows = list(zip(["original model", *(TITLES[m] for m in arms)], *(columns[a] for a in chosen), strict=True))
            shown.append([[caption, *names_marked], *map(list, rows)])
        cases = sum(len(first[name]["attacks"]["plain"]["edited_attempts"]) for name in names)
        note = f"{len(names)} concept{'s' * (len(names) > 1)}: {', '.join(names)}; {cases} cases an attack."
        marks = _footnote([line for lines in shown for line in lines])
        tables.append("\n\n".join([*(table(head, rows) for head, *rows in shown), note + marks]))
    return "\n\n".join(tables)


def _tried(arms: dict[str, Any]) -> list[str]:
    return sorted({name for concepts in arms.values() for one in concepts.values() for name in one["attacks"]})


def _column(arms: dict[str, Any], attack: str) -> list[str]:
    """Success of an attack against the original model and against each method."""
    # If no text encoder is edited, nothing can be studied in one, and cells are empty. Results of an older version of an
    # attack would stand beside a control of a newer one.
    tried_as = [_versions(concepts, attack) for concepts in arms.values()]
    cells = [
        _pooled_success(concepts, attack, "edited") if as_here == next(filter(None, tried_as)) else ""
        for concepts, as_here in zip(arms.values(), tried_as, strict=True)
    ]
    marks = [cell or MIXED * bool(as_here) for cell, as_here in zip(cells, tried_as, strict=True)]
    controls = (_pooled_success(concepts, attack, "original") for concepts in arms.values())
    return [next(filter(None, controls), ""), *marks] if any(cells) else []


# Marks after the name of an attack, or in place of a figure, and what each says.
OLDER, ELSE, MIXED = " \\*", " †", "‡"
FOOTNOTES = {
    OLDER: "Measured with an older version of the attack; CHANGELOG.md says what has changed.",
    ELSE: "Of some concept measured in an earlier run, against the erasure that was learned then.",
    MIXED: "Measured on some of the concepts only, or with another version of the attack than the control: not shown here.",
}


def _versions(concepts: dict[str, Any], attack: str) -> list[int]:
    """The versions in which an attack was tried, on the concepts that it was tried on."""
    return [one["attacks"][attack].get("version", 1) for one in concepts.values() if attack in one["attacks"]]


def _marked(attack: str, results: Iterable[dict[str, Any]]) -> str:
    """The attack's name, marked where some result is of an older version of it, or of another erasure than the last."""
    some = [result for result in results if attack in result["attacks"]]
    older = any(result["attacks"][attack].get("version", 1) != version_of(load_attack(attack)) for result in some)
    other = any(result["attacks"][attack].get("erasure") != result.get("erasure") for result in some)
    return attack + OLDER * older + ELSE * other


def _footnote(rows: Sequence[Sequence[str]]) -> str:
    return "".join(
        f"\n\n{mark.strip()} {text}"
        for mark, text in FOOTNOTES.items()
        if any(mark in cell for row in rows for cell in row)
    )


def attacks_by_concept(by: str) -> str:
    concepts = results_of("attacks")[by]
    budget = max(next(iter(concepts.values()))["budgets"])
    names = _on_all(list(concepts.values()))
    rows = [
        [concept, *(f"{100 * entry['attacks'][name]['edited'][str(budget)]['value']:.0f}" for name in names)]
        for concept, entry in concepts.items()
    ]
    return table(["concept", *names], rows)


def attacks_by_frame(by: str, of: str = "attacks") -> str:
    """Frame after frame, in how many cases the last video of each attack shows the concept, pooled over concepts."""
    concepts = list(results_of(of)[by].values())
    rows = []
    for attack in _on_all(concepts):
        for arm in ("edited", "original"):
            tried = [shares for concept in concepts if (shares := concept["attacks"][attack][f"{arm}_by_frame"])]
            if not tried:
                continue
            frames = np.mean(tried, axis=0)
            rows.append([attack, arm, *(f"{100 * share:.0f}" for share in frames)])
    return table(["attack", "model", *(f"frame {i}" for i in range(1, len(rows[0]) - 1))], rows)


def _on_all(concepts: Sequence[dict[str, Any]]) -> list[str]:
    """The attacks that were tried on every concept."""
    return [name for name in concepts[0]["attacks"] if all(name in concept["attacks"] for concept in concepts)]


def _pooled_success(concepts: dict[str, Any], attack: str, arm: str) -> str:
    """Success within the smallest budget and, with its interval, the largest; empty if not tried on every concept."""
    if attack not in _on_all(list(concepts.values())):
        return ""
    budgets = next(iter(concepts.values()))["budgets"]
    few, many = (_success(concepts, attack, arm, budget) for budget in (min(budgets), max(budgets)))
    low, high = (100 * bound for bound in many["ci"])
    return f"{100 * few['value']:.0f} / {100 * many['value']:.0f} [{low:.0f}, {high:.0f}]"


def _success(concepts: dict[str, Any], attack: str, arm: str, budget: int) -> dict[str, Any]:
    """The share of all concepts' cases that one of the first `budget` videos breaks."""
    tried = [[case for case in one["attacks"][attack][f"{arm}_attempts"] if case] for one in concepts.values()]
    flags = [np.array([any(each["found"] for each in case[:budget]) for case in cases]) for cases in tried if cases]
    return asdict(share_over(flags))


def backdoor(pair: str = EMBEDDED) -> str:
    """Whether a trigger that was planted before an erasure still shows the concept after it."""
    result = load("backdoor")[pair]
    most = max(len(looks) for looks in result["found"].values())
    by_concept = {name: looks for name, looks in result["found"].items() if len(looks) == most}
    rows = []
    for name in ("nowhere", *(f"{where}, {method}".strip(", ") for where in PLANTED for method in ("", *METHODS))):
        if name not in next(iter(by_concept.values())):
            continue
        where, _, method = name.partition(", ")
        flags = {asked: [np.array(looks[name][asked]) for looks in by_concept.values()] for asked in ASKED}
        cells = [interval(asdict(share_over(flags[asked]))) for asked in ASKED]
        rows.append([where, TITLES[method.replace(" ", "-")] if method else "nothing yet", *cells])
    videos = len(by_concept) * result["videos"]
    note = f"Concepts: {', '.join(by_concept)}; {videos} videos a cell. The trigger: *{result['trigger']}*."
    head = ["planted in", "then erased by", "asked for by name: found", "asked for by the trigger: found"]
    return f"{table(head, rows)}\n\n{note}"


def relearning(of: str = "relearning") -> str:
    """How soon a concept is back when it is trained on, beside a word that the model never knew, over the concepts that all
    of them were measured on.
    """
    result = load(of)
    methods = max((entry["shown"] for entry in result.values()), key=len)
    complete = {name: entry for name, entry in result.items() if entry["shown"].keys() == methods.keys()}
    about, rows = next(iter(complete.values()))["made_with"], []
    for method in methods:
        curves = zip(*(np.array(entry["shown"][method]) for entry in complete.values()), strict=True)  # step by step
        rows.append([TITLES.get(method, method), *(interval(asdict(share_over(flags))) for flags in curves)])
    images = len(complete) * about["images"]
    note = f"Concepts: {', '.join(complete)}; {images} images a cell. {about['shots']} pictures to learn from."
    return f"{table(['after so many steps', *map(str, about['steps'])], rows)}\n\n{note}"
