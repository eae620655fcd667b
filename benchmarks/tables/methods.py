"""What every method was measured on: the experiments `methods` and `attacks`, as tables of one method or of all; `of` names
the same experiments on another pair.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.cells import WORDINGS, results_of
from benchmarks.tables._format import averaged, change, count_of_videos, interval, load, pooled, pooled_shares, table
from unreel.evaluation.estimate import Estimate
from unreel.models.shipped import EMBEDDED

# Methods in the order of the comparison.
TITLES = {
    "text-ablation": "text ablation",
    "concept-ablation": "concept ablation with early stopping",
    "few-shot": "the paper's few-shot",
    "uce": "UCE, on the video model",
    "esd": "ESD, on the video model",
    "refusal-vector": "a refusal vector in the video model",
    "t2v-unlearning": "adapters in the video model, after T2VUnlearning",
    "hirm": "HiRM",
    "diff-quick-fix": "DiffQuickFix",
    "adv-unlearn": "AdvUnlearn",
    "safree": "SAFREE",
    "video-eraser": "VideoEraser",
    "negative-prompt": "negative prompt",
    "prompt-rewrite": "the anchor put into the prompt",
}
MOTION = (("consistency, %", "consistency"), ("motion, % of the width a frame", "motion"))


def of_groups(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of the videos of several concepts, of prompts for them and for their neighbours."""
    metrics = {"explicit": "concept_found", "neighbours": "label_found"}
    return {
        group: pooled_shares([result["figures"][group][metric] for result in results]) for group, metric in metrics.items()
    }


def _by_concept(
    method: str, columns: list[tuple[str, str, str]], scale: float = 100, digits: int = 0, of: str = "methods"
) -> str:
    """A row for each concept that `method` was measured on; columns are (title, group, metric)."""
    rows = []
    for name, result in results_of(of)[method].items():
        figures = result["figures"]
        cells = [change(figures.get(group, {}).get(metric), scale, digits) for _, group, metric in columns]
        rows.append([name, result["kind"], *cells])
    return table(["concept", "kind", *(title for title, _, _ in columns)], rows)


def summary(by: str, of: str = "methods") -> str:
    return _by_concept(
        by,
        [
            ("plain prompts: found", "explicit", "concept_found"),
            ("paraphrases: found", "paraphrases", "concept_found"),
            ("companions kept", "companions", "label_found"),
            ("neighbours kept", "neighbours", "label_found"),
            ("unrelated kept", "unrelated", "label_found"),
        ],
        of=of,
    )


def erasure(by: str) -> str:
    return _by_concept(
        by,
        [
            ("plain: mean frame", "explicit", "concept_mean_frame"),
            ("plain: any frame", "explicit", "concept_peak_frame"),
            ("plain: last frame", "explicit", "concept_last_frame"),
            ("paraphrases: mean frame", "paraphrases", "concept_mean_frame"),
            ("beside a companion: mean frame", "companions", "concept_mean_frame"),
            ("judge's floor", "all", "judge_floor"),
            ("judge right on the original", "all", "judge_accuracy"),
        ],
    )


def specificity(by: str) -> str:
    groups = ("companions", "neighbours", "unrelated", "styles", "motions")
    kept = [(f"{group} found", group, "label_found") for group in groups]
    return _by_concept(by, [*kept, ("embeddings of unrelated prompts moved", "all", "embedding_shift")])


def similarity(by: str) -> str:
    groups = ("companions", "neighbours", "unrelated", "styles", "motions")
    return _by_concept(by, [(group, group, "ssim") for group in groups], 1, 2)


def frechet(by: str) -> str:
    groups = ("explicit", "companions", "neighbours", "unrelated", "styles", "motions")
    return _by_concept(by, [(group, group, "frechet") for group in groups], 1, 0)


def quality_of_videos(by: str) -> str:
    return _by_concept(
        by,
        [
            ("blank or noise: plain prompts", "explicit", "degenerate"),
            ("blank or noise: unrelated", "unrelated", "degenerate"),
        ],
    )


def motion(by: str) -> str:
    groups = ("explicit", "unrelated", "motions")
    columns = [(f"{group}: {what}", group, metric) for group in groups for what, metric in MOTION]
    return _by_concept(by, columns, 100, 1)


COMPARED = [
    ("plain: found", "explicit", "concept_found"),
    ("plain: any frame", "explicit", "concept_peak_frame"),
    ("paraphrases: found", "paraphrases", "concept_found"),
    ("companions kept", "companions", "label_found"),
    ("neighbours kept", "neighbours", "label_found"),
    ("unrelated kept", "unrelated", "label_found"),
    ("anchor found", "explicit", "anchor_found"),
    ("similarity to the anchor's, %", "explicit", "fidelity_ssim"),
]


def pooled_alone(method: str) -> str:
    """The row of one method in the comparison."""
    results = results_of("methods")
    if method not in results:
        raise FileNotFoundError(f"{method} was not measured")
    return _compared({method: results[method]})


def comparison(of: str = "methods", *, only_complete: bool = False) -> str:
    """Every method that was measured, pooled over the concepts that all of them were measured on; or those alone that were
    measured on every concept.
    """
    everywhere = results_of(of)
    measured = {method: everywhere[method] for method in TITLES if method in everywhere}
    most = max(len(concepts) for concepts in measured.values())
    complete = {method: concepts for method, concepts in measured.items() if len(concepts) == most}
    # A method that was not measured on all of them stands in a table of its own, beside the others on the same concepts.
    alone = only_complete or complete == measured
    return "\n\n".join(_compared(methods) for methods in ([complete] if alone else [complete, measured]))


def _compared(measured: dict[str, dict[str, Any]]) -> str:
    first, *rest = measured.values()
    common = [name for name in first if all(name in concepts for concepts in rest)]
    head = ["method", *(title for title, _, _ in COMPARED), "MB"]
    rows = []
    for method, concepts in measured.items():
        figures = [concepts[name]["figures"] for name in common]
        cells = [
            (averaged if metric == "fidelity_ssim" else pooled)([each.get(group, {}).get(metric) for each in figures])
            for _, group, metric in COMPARED
        ]
        size = np.mean([figure["all"]["artifact_size"]["edited"]["value"] for figure in figures])
        rows.append([TITLES[method], *cells, f"{size:.2f}"])
    # Result files may be older than a metric: columns that no method has yet are left out.
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    compared = table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])
    return f"{compared}\n\n{len(common)} concept{'s' * (len(common) > 1)}: {', '.join(common)}."


def _success(concepts: dict[str, Any], attack: str, arm: str, budget: int) -> dict[str, Any]:
    """The share of all concepts' cases that one of the first `budget` videos breaks."""
    cases = [case for concept in concepts.values() for case in concept["attacks"][attack][f"{arm}_attempts"]]
    flags = [any(attempt["found"] for attempt in case[:budget]) for case in cases]
    return asdict(Estimate.share(np.array(flags)))


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
    tables = []
    for title, styles in (("things, persons and motions", False), ("styles", True)):
        chosen = {
            method: {name: concepts[name] for name in common if (concepts[name]["kind"] == "style") == styles}
            for method, concepts in results.items()
        }
        if not chosen[measured[0]]:
            continue
        rows = []
        for attack, entry in first["attacks"].items():
            cells = [interval(_success(chosen[method], attack, "edited", budget)) for method in measured]
            control = interval(_success(chosen[measured[0]], attack, "original", budget))
            rows.append([attack, "yes" if entry["needs_weights"] else "no", *cells, control])
        head = [f"attack on {title}", "needs weights", *(TITLES[method] for method in measured), "original model"]
        names = list(chosen[measured[0]])
        cases = len(names) * len(first["attacks"]["plain"]["edited_attempts"])
        note = f"{len(names)} concepts: {', '.join(names)}; {cases} cases an attack."
        tables.append(f"{table(head, rows)}\n\n{note}")
    return "\n\n".join(tables)


def attacks_by_frame(by: str, of: str = "attacks") -> str:
    """Frame after frame, in how many cases the last video of each attack shows the concept, pooled over concepts."""
    concepts = list(results_of(of)[by].values())
    rows = []
    for attack in concepts[0]["attacks"]:
        for arm in ("edited", "original"):
            frames = np.mean([concept["attacks"][attack][f"{arm}_by_frame"] for concept in concepts], axis=0)
            rows.append([attack, arm, *(f"{100 * share:.0f}" for share in frames)])
    return table(["attack", "model", *(f"frame {i}" for i in range(1, len(rows[0]) - 1))], rows)


def wordings(of: str) -> str:
    """Images that still show the concept when it is called otherwise, pooled over concepts."""
    results = results_of(of)
    rows = [
        [
            TITLES.get(run, run),
            *(pooled([entry["figures"][group]["concept_found"] for entry in concepts.values()]) for group in WORDINGS),
        ]
        for run, concepts in results.items()
    ]
    names = ", ".join(next(iter(results.values())))
    head = ["method", "its captions' first words", "its captions' other words", "words it never saw"]
    return f"{table(head, rows)}\n\nConcepts: {names}."


def rivals_scan(of: str = "rivals-scan") -> str:
    """What every setting that was tried of a rival shows, pooled over concepts."""
    rows = []
    for run, concepts in results_of(of).items():
        shares = of_groups(list(concepts.values()))
        if not rows:
            rows.append(["original", *(interval(shares[group]["original"]) for group in shares)])
        rows.append([run, *(interval(shares[group]["edited"]) for group in shares)])
    return table(["method, setting", "concept found", "neighbours found"], rows)


def relearning(pair: str = EMBEDDED) -> str:
    """How soon a concept is back when it is trained on, beside a word that the model never knew."""
    result = load("relearning")[pair]
    rows = [[TITLES.get(name, name), *map(interval, shares)] for name, shares in result["shown"].items()]
    images = len(result["concepts"]) * result["images"]
    note = f"Concepts: {', '.join(result['concepts'])}; {images} images a cell. {result['shots']} pictures to learn from."
    return f"{table(['after so many steps', *map(str, result['steps'])], rows)}\n\n{note}"


def attacks_by_concept(by: str) -> str:
    concepts = results_of("attacks")[by]
    budget = max(next(iter(concepts.values()))["budgets"])
    names = list(next(iter(concepts.values()))["attacks"])
    rows = [
        [concept, *(f"{100 * entry['attacks'][name]['edited'][str(budget)]['value']:.0f}" for name in names)]
        for concept, entry in concepts.items()
    ]
    return table(["concept", *names], rows)
