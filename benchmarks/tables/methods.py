"""What every method was measured on: the experiment `methods`, as tables of one method or of all; `of` names the same on
another pair.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cells import WORDINGS, cells_of, results_of
from benchmarks.over_concepts import shares_over
from benchmarks.tables._format import averaged, change, interval, load, pooled, table
from unreel.evaluation.estimate import mcnemar
from unreel.methods import load_method, names
from unreel.models.shipped import preset_of

# Runs in the order of the comparison; most are methods with their defaults.
TITLES = {
    "text-ablation": "text ablation",
    "text-ablation-nothing": "text ablation, nothing instead",
    "concept-ablation": "concept ablation with early stopping",
    "few-shot": "the paper's few-shot",
    "few-shot-slower": "the same at two thirds of its rate",
    "few-shot-lora": "few-shot as LoRA of rank 16",
    "uce": "UCE, on the video model",
    "text-ablation-and-uce": "text ablation, and UCE on top",
    "esd": "ESD-x, on the video model",
    "esd-u": "ESD-u, on the video model",
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
METHODS = [run for run in TITLES if run in names()]
MOTION = (("consistency, %", "consistency"), ("motion, % of the width a frame", "motion"))


def of_groups(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of the videos of several concepts, of prompts for them and for their neighbours."""
    metrics = {"explicit": "concept_found", "neighbours": "label_found"}
    return {
        group: shares_over([result["figures"][group][metric] for result in results]) for group, metric in metrics.items()
    }


def _by_concept(
    method: str, columns: list[tuple[str, str, str]], scale: float = 100, digits: int = 0, of: str = "methods"
) -> str:
    """A row for each concept that `method` was measured on; columns are (title, group, metric), as far as they were."""
    rows = []
    for name, result in results_of(of)[method].items():
        figures = result["figures"]
        cells = [change(figures.get(group, {}).get(metric), scale, digits) for _, group, metric in columns]
        rows.append([name, result["kind"], *cells])
    return _of_what_was_measured(["concept", "kind", *(title for title, _, _ in columns)], rows)


def _of_what_was_measured(head: list[str], rows: list[list[str]]) -> str:
    """A table without the columns that have nothing in any row: result files may be older than a metric, and methods are
    not all measured on the same groups.
    """
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])


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
    return _compared({method: results[method]}, results.get("text-ablation"))


def comparison(of: str = "methods", *, only_complete: bool = False) -> str:
    """Every method that was measured, pooled over the concepts that all of them were measured on; or those alone that were
    measured on every concept.
    """
    everywhere = results_of(of)
    measured = {method: everywhere[method] for method in TITLES if method in everywhere}
    return "\n\n".join(_compared(methods) for methods in by_completeness(measured, only_complete))


def measured_earlier(of: str = "methods") -> str:
    """Which cells are not what the experiment asks for now: of other numbers of videos, prompts or seeds than others."""
    older: dict[str, list[str]] = {}
    counts = set()
    for cell in cells_of(of):
        if (stored := cell.stored()) and stored["cell"] != json.loads(json.dumps(asdict(cell))):
            older.setdefault(TITLES[cell.run], []).append(cell.concept["name"])
            counts.add(str(stored["cell"]["options"]["videos"]))
    if not older:
        return "Every cell was made with the same prompts and seeds."
    named = "; ".join(f"{title} ({', '.join(concepts)})" for title, concepts in older.items())
    videos = " or ".join(sorted(counts))
    return f"Made by an earlier version, with {videos} videos and in part other prompts, and not made again yet: {named}."


def by_completeness(measured: dict[str, dict[str, Any]], only_complete: bool) -> list[dict[str, dict[str, Any]]]:
    """The methods that were measured on most concepts, and, unless it is `only_complete` or they are all, all of them: a
    method that was not measured on all concepts stands in a table of its own, beside the others on the same concepts.
    """
    most = max(len(concepts) for concepts in measured.values())
    complete = {method: concepts for method, concepts in measured.items() if len(concepts) == most}
    return [complete] if only_complete or complete == measured else [complete, measured]


def _compared(measured: dict[str, dict[str, Any]], like: dict[str, Any] | None = None) -> str:
    """A row a method, on the concepts that all have; figures are those that were taken as often as `like`, by default the
    first method, has them.
    """
    first, *rest = measured.values()
    like = like or first
    common = [name for name in first if all(name in concepts for concepts in (*rest, like))]
    head = ["method", *(title for title, _, _ in COMPARED), "MB"]
    rows, of_first = [], [like[name]["figures"] for name in common]
    for method, concepts in measured.items():
        figures = [concepts[name]["figures"] for name in common]
        cells = [
            _of_all(averaged if metric == "fidelity_ssim" else pooled, figures, of_first, group, metric)
            for _, group, metric in COMPARED
        ]
        size = np.mean([figure["all"]["artifact_size"]["edited"]["value"] for figure in figures])
        rows.append([TITLES[method], *cells, f"{size:.2f}"])
    return f"{_of_what_was_measured(head, rows)}\n\n{len(common)} concept{'s' * (len(common) > 1)}: {', '.join(common)}."


def _of_all(
    pool: Callable[..., str], figures: Sequence[dict[str, Any]], first: Sequence[dict[str, Any]], group: str, metric: str
) -> str:
    """A metric over all concepts; nothing where it was measured on fewer of them than of the first method's."""
    each, others = ([by.get(group, {}).get(metric) for by in figures_of] for figures_of in (figures, first))
    return pool(each) if all(own or not other for own, other in zip(each, others, strict=True)) else ""


SIDES = {"explicit": "concept_found"} | dict.fromkeys(("companions", "neighbours", "unrelated"), "label_found")


def concept_by_concept(of: str = "methods") -> str:
    """A row a method, on the concepts that all have been measured on: of each, the share of videos by name in which it is
    found, and the shares of companions, neighbours and unrelated things that are.
    """
    everywhere = results_of(of)
    measured = by_completeness({run: everywhere[run] for run in TITLES if run in everywhere}, only_complete=False)[-1]
    names = [name for name in next(iter(measured.values())) if all(name in concepts for concepts in measured.values())]

    def cell(figures: dict[str, Any], arm: str) -> str:
        values = [figures.get(group, {}).get(metric) for group, metric in SIDES.items()]
        return " / ".join(f"{100 * value[arm]['value']:.0f}" if value else "-" for value in values)

    first = next(iter(measured.values()))
    rows = [["without an erasure", *(cell(first[name]["figures"], "original") for name in names)]]
    for run, concepts in measured.items():
        rows.append([TITLES[run], *(cell(concepts[name]["figures"], "edited") for name in names)])
    return table(["method", *names], rows)


CLOSELY = [
    ("plain: mean frame", "explicit", "concept_mean_frame", pooled),
    ("plain: last frame", "explicit", "concept_last_frame", pooled),
    ("paraphrases: any frame", "paraphrases", "concept_peak_frame", pooled),
    ("plain: blank or noise", "explicit", "degenerate", pooled),
    ("plain: motion", "explicit", "motion", partial(averaged, digits=1)),
    ("unrelated: motion", "unrelated", "motion", partial(averaged, digits=1)),
    ("unrelated: consecutive frames alike", "unrelated", "consistency", averaged),
    ("neighbours: as before", "neighbours", "ssim", averaged),
    ("unrelated: as before", "unrelated", "ssim", averaged),
]


def closely(of: str = "methods") -> str:
    """Of the methods that were measured on most concepts: frame by frame, how it moves, how far it is the same video."""
    everywhere = results_of(of)
    (measured,) = by_completeness({run: everywhere[run] for run in TITLES if run in everywhere}, only_complete=True)
    rows, names = [], list(next(iter(measured.values())))
    of_first = [result["figures"] for result in next(iter(measured.values())).values()]
    for run, concepts in measured.items():
        figures = [concepts[name]["figures"] for name in names]
        cells = [_of_all(pool, figures, of_first, group, metric) for _, group, metric, pool in CLOSELY]
        seconds = median(each["all"]["unlearning_seconds"]["edited"]["value"] for each in figures)
        rows.append([TITLES[run], *cells, f"{seconds:.1f}"])
    return table(["method", *(title for title, *_ in CLOSELY), "seconds to unlearn"], rows)


def costs() -> str:
    """What each method takes on a quiet machine: to unlearn, medians over a concept of each kind, and of a video."""
    result = load("unlearning_cost")
    rows, generation = result["concepts"], result["generation_seconds"]
    out = []
    for method in (method for method in TITLES if method in rows[0]):
        spent = [row[method] for row in rows]
        seconds = sorted(each["seconds"] for each in spent)
        cells = [f"{median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f})"]
        cells += [f"{median(each[what] for each in spent):.2f}" for what in ("peak_memory_gib", "megabytes")]
        out.append([TITLES[method], *cells, f"{generation[method]:.2f}" if method in generation else ""])
    names = ", ".join(row["concept"] for row in rows)
    note = f"{names}; {result['cores']} CPU cores. A video of the original model takes {generation['original']:.2f} s."
    return f"{table(['method', 'seconds to unlearn', 'peak GiB', 'MB', 'seconds a video'], out)}\n\n{note}"


PAIRED = [each for each in COMPARED if each[2] in ("concept_found", "label_found")]


def against_default(of: str = "methods", default: str = "text-ablation") -> str:
    """Videos of the same prompts and seeds on which a method does better or worse than the default, and how likely that is
    by chance.
    """
    results = {method: by_concept for method in TITLES if (by_concept := results_of(of).get(method))}
    default_by = results.pop(default)
    rows = []
    for method, concepts in results.items():
        judged = [{name for name, result in by.items() if "by_video" in result} for by in (concepts, default_by)]
        common, cells = sorted(judged[0] & judged[1]), []
        for _, group, metric in PAIRED:
            looks = [[by[name]["by_video"].get(group) for name in common] for by in (concepts, default_by)]
            pairs = [(one[metric]["edited"], two[metric]["edited"]) for one, two in zip(*looks, strict=True) if one and two]
            cells.append(_disagreement(pairs, wanted="0" if metric == "concept_found" else "1"))
        if any(cells):
            rows.append([TITLES[method], str(len(common)), *cells])
    if not rows:
        raise FileNotFoundError("no videos were told apart")
    return table(["method", "concepts", *(title for title, _, _ in PAIRED)], rows)


def _flipped(differences: Sequence[int]) -> float:
    """How often the sum of differences is as far from zero if each could as well have the other sign: the exact permutation
    test of paired differences (Fisher, 1935), one for each concept, since the videos of a concept go together.
    """
    sums = [sum(signs) for signs in product(*((each, -each) for each in differences))]
    return sum(abs(each) >= abs(sum(differences)) for each in sums) / len(sums)


def _disagreement(pairs: Sequence[tuple[str, str]], wanted: str) -> str:
    """How often the first of two verdicts on the same video is as wanted and the second is not, and the reverse, over all
    concepts; and how likely that is by chance, by concept, or by video where there is one concept.
    """
    if not pairs:
        return ""
    better, worse = (
        [sum(a != b and (a == wanted) == first for a, b in zip(one, two, strict=True)) for one, two in pairs]
        for first in (True, False)
    )
    (up, down), videos = map(sum, (better, worse)), sum(len(one) for one, _ in pairs)
    p = _flipped([a - b for a, b in zip(better, worse, strict=True)]) if len(pairs) > 1 else mcnemar(up, down)
    return f"+{up} / -{down} of {videos}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def wordings(of: str) -> str:
    """Images that still show the concept when it is called otherwise, pooled over concepts, of runs that have them all."""
    results, rows = results_of(of), []
    for run, concepts in results.items():
        if len(concepts) < len(next(iter(results.values()))):
            continue
        figures = [entry["figures"] for entry in concepts.values()]
        cells = [pooled([each.get(group, {}).get("concept_found") for each in figures]) for group in WORDINGS]
        rows.append([TITLES.get(run, run), *cells])
    named = ", ".join(next(iter(results.values())))
    head = ["method", "its captions' first words", "its captions' other words", "words it never saw"]
    return f"{table(head, rows)}\n\nConcepts: {named}."


def rivals_scan(of: str = "rivals-scan") -> str:
    """What every setting that was tried of a rival shows, over the concepts on which all were; those that its pair has are
    in bold. A result that is older than a setting was made with its default.
    """
    rows, cells, results = [], {cell.run: cell for cell in cells_of(of)}, results_of(of)
    common = [name for name in next(iter(results.values())) if all(name in concepts for concepts in results.values())]
    for run, concepts in results.items():
        shares = of_groups([concepts[name] for name in common])
        if not rows:
            rows.append(["original", *(interval(shares[group]["original"]) for group in shares)])
        own = preset_of(cells[run].pair)["methods"].get(cells[run].method, {})
        config = json.loads(json.dumps(asdict(load_method(cells[run].method).Config(**own))))
        chosen = all(result["settings"].items() <= config.items() for result in concepts.values())
        chosen &= not any(cells[run].concept.get(told) for told in ("anchor", "synonyms"))  # nothing of it by default
        rows.append([f"**{run}**" if chosen else run, *(interval(shares[group]["edited"]) for group in shares)])
    return f"{table(['method, setting', 'concept found', 'neighbours found'], rows)}\n\nConcepts: {', '.join(common)}."
