"""Put measured figures into the documents: `python -m benchmarks.tables`.

A block between `<!-- NAME -->` and `<!-- /NAME -->` is replaced by the table NAME, made from benchmarks/results.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import RESULTS
from benchmarks.methods import CONCEPTS
from unreel.evaluation.estimate import Estimate
from unreel.files import write_text
from unreel.methods._task import TOO_NEAR

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "docs/comparison.md",
    "docs/embedded-pair.md",
    "docs/evaluation.md",
    "docs/families.md",
    "docs/method.md",
    "docs/real-encoders.md",
    "docs/results.md",
    "docs/sharing.md",
    "docs/using.md",
    "src/unreel/embedded/README.md",
)
# What the embedded pair is held to, and what each row measures.
BARS = {
    "judge_concept": (0.97, "judge finds the concept of a held-out render"),
    "judge_style": (0.97, "judge names the style of a held-out render"),
    "judge_two_objects": (None, "judge finds both concepts of a held-out render"),
    "judge_motion": (None, "judge names the motion of a held-out rendered clip"),
    "image_concept": (0.90, "generated image shows the concept asked for"),
    "image_style": (0.90, "generated image has the style asked for"),
    "two_objects": (0.60, "generated image shows both objects asked for"),
    "video_concept": (0.85, "generated video shows the concept, mean over frames"),
    "video_style": (0.85, "generated video has the style, mean over frames"),
    "video_motion": (0.80, "generated video makes the motion asked for"),
}
# What the default is held to on real text encoders, stated before anything was measured: shares, and seconds a concept.
REAL_BARS = {"left": 0.15, "worst": 0.30, "spellings": 0.25, "near": 0.08, "everyday": 0.03}
REAL_SECONDS = {"smollm2": 120}
REAL_NAMES = {"smollm2": "SmolLM2-135M", "minilm": "MiniLM"}
SPELLINGS = ("capitals", "plural", "possessive", "behind")
NEAR = ("shared", "near")
SEEDED = {"few-shot": "the paper's few-shot", "text-ablation": "text ablation", "concept-ablation": "few-shot with a brake"}
T_95 = {6: 2.571}  # Student's t, 97.5 %, by the number of values
NOT_YET = "Not measured yet."


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(share: dict[str, Any], digits: int = 0) -> str:
    value, low, high = (f"{100 * x:.{digits}f}" for x in (share["value"], *share["ci"]))
    return f"{value} % [{low}, {high}]"


def _where(entry: dict[str, Any]) -> str:
    """The GPU, or the CPU with the number of threads, that figures were measured on."""
    gpu, threads = entry["machine"], entry["threads"]
    return gpu if "NVIDIA" in gpu else f"CPU, {threads} thread{'s' * (threads > 1)}"


def _change(figure: dict[str, Any] | None, scale: float = 100, digits: int = 0) -> str:
    """`before -> after [interval of after]`, shares in percent; one value where there is only one."""
    if not figure:
        return ""
    values = " → ".join(f"{scale * estimate['value']:.{digits}f}" for estimate in figure.values())
    low, high = (scale * x for x in list(figure.values())[-1]["ci"])
    return f"{values} [{low:.{digits}f}, {high:.{digits}f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def quality() -> str:
    result = _load("embedded_pair")
    lines = ["| | share | 95 % interval | samples | bar |", "|---|---|---|---|---|"]
    for key, (bar, what) in BARS.items():
        share, n, (low, high) = (result[field][key] for field in ("quality", "n", "ci"))
        goal = f"{100 * bar:.0f} %{'' if share >= bar else ' (missed)'}" if bar else ""
        lines.append(f"| {what} | {_percent(share)} | {100 * low:.1f} to {100 * high:.1f} | {n} | {goal} |")
    classes = ", ".join(f"{count} {name}s" for name, count in result["classes"].items())
    floor = 100 * result["judge_false_positive"]
    return (
        "\n".join(lines) + f"\n\nClasses: {classes}. The judge finds a concept that is not there in {floor:.2f} % of cases."
    )


def motions() -> str:
    result = _load("embedded_pair")
    lines = ["| motion | made as asked | concept found, mean over frames |", "|---|---|---|"]
    for motion, share in result["video_motion_by_motion"].items():
        concept = result["video_concept_by_motion"].get(motion)
        lines.append(f"| {motion} | {_percent(share)} | {'' if concept is None else _percent(concept)} |")
    return "\n".join(lines)


def _by_concept(method: str, columns: list[tuple[str, str, str]], scale: float = 100, digits: int = 0) -> str:
    """A row for each concept that `method` was measured on; columns are (title, group, metric)."""
    rows = []
    for name, result in _load(f"{method}_method")["concepts"].items():
        figures = result["figures"]
        cells = [_change(figures.get(group, {}).get(metric), scale, digits) for _, group, metric in columns]
        rows.append([name, result["kind"], *cells])
    return _table(["concept", "kind", *(title for title, _, _ in columns)], rows)


def summary(by: str) -> str:
    return _by_concept(
        by,
        [
            ("plain prompts: found", "explicit", "concept_found"),
            ("paraphrases: found", "paraphrases", "concept_found"),
            ("companions kept", "companions", "label_found"),
            ("neighbours kept", "neighbours", "label_found"),
            ("unrelated kept", "unrelated", "label_found"),
        ],
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
            ("judge right on unedited", "all", "judge_accuracy"),
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


def fidelity(by: str) -> str:
    """What came in the concept's place, against what the original model makes of the anchor prompt."""
    groups = ("explicit", "paraphrases", "companions")
    columns = [(f"anchor found: {group}", group, "anchor_found") for group in groups]
    columns += [("anchor found by its name", "all", "anchor_ceiling")]
    columns += [(f"similarity to the anchor's, %: {group}", group, "fidelity_ssim") for group in groups]
    return _by_concept(by, [*columns, ("two seeds of the anchor's, %", "explicit", "fidelity_ssim_seeds")])


def motion(by: str) -> str:
    groups = ("explicit", "unrelated", "motions")
    columns = [(f"{group}: {what}", group, metric) for group in groups for what, metric in MOTION]
    return _by_concept(by, columns, 100, 1)


MOTION = (("consistency, %", "consistency"), ("motion, % of the width a frame", "motion"))


def comparison() -> str:
    """Every method that was measured, pooled over the concepts that all of them were measured on."""
    columns = [
        ("plain: found", "explicit", "concept_found"),
        ("plain: any frame", "explicit", "concept_peak_frame"),
        ("paraphrases: found", "paraphrases", "concept_found"),
        ("companions kept", "companions", "label_found"),
        ("neighbours kept", "neighbours", "label_found"),
        ("unrelated kept", "unrelated", "label_found"),
        ("anchor found", "explicit", "anchor_found"),
        ("similarity to the anchor's, %", "explicit", "fidelity_ssim"),
    ]
    measured = {
        method: _load(f"{method}_method")["concepts"]
        for method in MEASURED
        if (RESULTS / f"{method}_method.json").is_file()
    }
    most = max(len(concepts) for concepts in measured.values())
    complete = {method: concepts for method, concepts in measured.items() if len(concepts) == most}
    # A method that was not measured on all of them stands in a table of its own, beside the others on the same concepts.
    return "\n\n".join(
        _compared(methods, columns) for methods in ([complete] if complete == measured else [complete, measured])
    )


def _compared(measured: dict[str, dict[str, Any]], columns: list[tuple[str, str, str]]) -> str:
    first, *rest = measured.values()
    common = [name for name in first if all(name in concepts for concepts in rest)]
    head = ["method", *(title for title, _, _ in columns), "MB"]
    rows = []
    for method, concepts in measured.items():
        figures = [concepts[name]["figures"] for name in common]
        cells = [
            (_averaged if metric == "fidelity_ssim" else _pooled)([each.get(group, {}).get(metric) for each in figures])
            for _, group, metric in columns
        ]
        size = np.mean([figure["all"]["artifact_size"]["edited"]["value"] for figure in figures])
        rows.append([MEASURED[method], *cells, f"{size:.2f}"])
    # Result files may be older than a metric: columns that no method has yet are left out.
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    table = _table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])
    return f"{table}\n\n{len(common)} concepts: {', '.join(common)}."


# Methods in the order of the comparison.
MEASURED = {
    "text_ablation": "text ablation",
    "concept-ablation": "few-shot with a brake",
    "paper": "the paper's few-shot",
    "uce": "UCE, on the video model",
    "negative_prompt": "negative prompt",
    "prompt_rewrite": "the anchor put into the prompt",
}


def _pooled(figures: list[dict[str, Any] | None]) -> str:
    """Shares of several concepts as one share of all their videos."""
    known = [figure for figure in figures if figure]
    if not known:
        return ""
    shares = {}
    for when in known[0]:
        n = sum(figure[when]["n"] for figure in known)
        hits = round(sum(figure[when]["value"] * figure[when]["n"] for figure in known))
        shares[when] = asdict(Estimate.share(np.arange(n) < hits))
    return _change(shares)


def _averaged(figures: list[dict[str, Any] | None]) -> str:
    """Means of several concepts as one mean over all their videos; half widths of intervals add up as their squares."""
    known = [figure for figure in figures if figure]
    if not known:
        return ""
    means = {}
    for when in known[0]:
        shares = np.array([figure[when]["n"] for figure in known]) / sum(figure[when]["n"] for figure in known)
        value = float(shares @ [figure[when]["value"] for figure in known])
        half = float(np.hypot.reduce(shares * [np.ptp(figure[when]["ci"]) / 2 for figure in known]))
        means[when] = {"value": value, "ci": (value - half, value + half)}
    return _change(means)


def cost() -> str:
    result = _load("unlearning_cost")
    methods = list(result["runs"])
    runs = " / ".join(str(result["runs"][method]) for method in methods)
    head = [f"{MEASURED[method]}: {what}" for method in methods for what in ("seconds", "peak GiB", "MB")]
    rows = []
    for row in result["concepts"]:
        costs = [row[method][key] for method in methods for key in ("seconds", "peak_memory_gib", "megabytes")]
        rows.append([row["concept"], row["kind"], *(f"{value:.2f}" for value in costs)])
    before, after = (result["generation_seconds"][when] for when in ("original", "edited"))
    note = (
        f"Medians of {runs} runs of each method on {result['cores']} CPU cores. A video takes {before:.2f} s without and "
        f"{after:.2f} s with an erasure on: weights change, not the work."
    )
    return f"{_table(['concept', 'kind', *head], rows)}\n\n{note}"


def _success(concepts: dict[str, Any], attack: str, arm: str, budget: int) -> dict[str, Any]:
    """The share of all concepts' cases that one of the first `budget` videos breaks."""
    cases = [case for concept in concepts.values() for case in concept["attacks"][attack][f"{arm}_attempts"]]
    flags = [any(attempt["found"] for attempt in case[:budget]) for case in cases]
    return asdict(Estimate.share(np.array(flags)))


def attacks(by: str) -> str:
    """Pooled over concepts: success of every attack at every budget, against both models."""
    result = _load(f"{by}_attacks")
    concepts = result["concepts"]
    first = next(iter(concepts.values()))
    head = ["attack", "needs weights"]
    head += [f"{arm}, {_videos(budget)}" for arm in ("edited", "original") for budget in first["budgets"]]
    rows = []
    for name, entry in first["attacks"].items():
        cells = [
            _interval(_success(concepts, name, arm, budget))
            for arm in ("edited", "original")
            for budget in first["budgets"]
        ]
        rows.append([name, "yes" if entry["needs_weights"] else "no", *cells])
    n = len(concepts) * len(next(iter(first["attacks"].values()))["edited_attempts"])
    steps = f"Searches take {result['steps']} steps a video, embedding inversion five times as many."
    note = f"{len(concepts)} concepts, {n} cases an attack. {steps}"
    return f"{_table(head, rows)}\n\n{note}"


def attacks_compared() -> str:
    """Success within the largest budget, for every method and the unedited model, on concepts that all were attacked on.

    Styles apart: one in four videos has any style unasked, so with three videos an attack succeeds by chance.
    """
    attacked = [method for method in MEASURED if (RESULTS / f"{method}_attacks.json").is_file()]
    results = {method: _load(f"{method}_attacks")["concepts"] for method in attacked}
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
            cells = [_interval(_success(chosen[method], attack, "edited", budget)) for method in measured]
            control = _interval(_success(chosen[measured[0]], attack, "original", budget))
            rows.append([attack, "yes" if entry["needs_weights"] else "no", *cells, control])
        head = [f"attack on {title}", "needs weights", *(MEASURED[method] for method in measured), "unedited model"]
        names = list(chosen[measured[0]])
        cases = len(names) * len(first["attacks"]["plain"]["edited_attempts"])
        note = f"{len(names)} concepts: {', '.join(names)}; {cases} cases an attack."
        tables.append(f"{_table(head, rows)}\n\n{note}")
    return "\n\n".join(tables)


def attacks_by_concept(by: str) -> str:
    result = _load(f"{by}_attacks")
    budget = max(next(iter(result["concepts"].values()))["budgets"])
    names = list(next(iter(result["concepts"].values()))["attacks"])
    rows = [
        [concept, *(f"{100 * entry['attacks'][name]['edited'][str(budget)]['value']:.0f}" for name in names)]
        for concept, entry in result["concepts"].items()
    ]
    return _table(["concept", *names], rows)


def inversion_steps() -> str:
    rows = []
    for row in _load("inversion_steps")["rows"]:
        alone = [f"{100 * np.mean(found):.0f}" for found in row["by_concept"]["edited"].values()]
        rows.append([str(row["adam_steps"]), _interval(row["edited"]), " / ".join(alone), _interval(row["original"])])
    names = " / ".join(_load("inversion_steps")["rows"][0]["by_concept"]["edited"])
    return _table(["steps of Adam", "edited", f"edited: {names}", "original"], rows)


def _videos(count: int) -> str:
    return f"{count} video{'s' if count > 1 else ''}"


def ablations() -> str:
    result, rows = _load("paper_ablations"), []
    for row in result["rows"]:
        what = "as it is" if row["changed"] == "none" else f"{row['changed'].replace('_', ' ')}: {row['value']}"
        cells = [_change(row["figures"][group]) for group in ("explicit", "neighbours")]
        alone = [f"{100 * seen['explicit']['after']['value']:.0f}" for seen in row["by_concept"].values()]
        rows.append([what, *cells, " / ".join(alone)])
    names = " / ".join(concept["name"] for concept in result["concepts"])
    return _table(["changed", "concept found", "neighbours kept", f"found after: {names}"], rows)


def large_encoder() -> str:
    """What the largest text encoder takes."""
    result = _load("large_encoder")
    counted = result["cpu"]["counted"]
    learning, encoder, network = (f"{counted[it] / 1e9:.1f}" for it in ("trained", "weights", "network"))
    whole = f"few-shot, the {learning} billion weights that the paper names"
    rows = [[whole, f"{counted['whole_gib']:.0f}, counted, not run", "", "", ""]]
    for name, row in chain(*(entry["rows"].items() for entry in result.values())):
        peak = f"{row['peak_memory_gib']:.1f}" + (", counted" if row.get("counted") else "")
        seconds = f"{row['seconds']:.0f} s"
        rows.append([name, peak, f"{row['megabytes']:.0f}", seconds, _where(row)])
    note = f"Text encoder {encoder}, network {network} billion weights. "
    note += "Few-shot: two frames, made in two denoising steps each, and one optimiser step on both."
    return _table(["method", "peak GiB", "MB of the erasure", "time", "on"], rows) + f"\n\n{note}"


def many_concepts() -> str:
    """Concepts found and all else kept, by the number of concepts and how they were put together."""
    result = _load("many_concepts")
    rows = []
    for row in result["sizes"]:
        for how, figures in row["figures"].items():
            cells = [
                _interval(figures[group]) if group in figures else "" for group in ("explicit", "paraphrases", "motion")
            ]
            cost = ["", ""]
            if how in row["seconds"]:
                cost = [f"{row['seconds'][how]:.1f}", f"{row['nbytes'][how] / 1e6:.2f}"]
            rows.append([str(row["concepts"]), how, *cells, _interval(figures["kept"]), *cost])
    head = ["concepts", "erased", "plain: found", "paraphrases: found", "motions: found", "all else kept", "seconds", "MB"]
    times = ", ".join(f"{row['times_one']:.1f} times for {row['concepts']}" for row in result["sizes"][1:])
    return f"{_table(head, rows)}\n\nSeconds of one core. As multiples of one concept's: {times}."


def anchor_choice() -> str:
    """How often things are taken for what they would stand in for, by their place in the order from the nearest."""
    result = _load("anchor_choice")
    chosen = len(result["seen"]) // TOO_NEAR
    rows = []
    for row in result["rows"]:
        place = f"**{row['place'] + 1}**" if row["place"] == chosen else str(row["place"] + 1)
        cells = [
            f"{_interval(found, 1)}, at worst {100 * row['worst'][name]:.0f} %" for name, found in row["found"].items()
        ]
        rows.append([place, *cells, _percent(row["kept"])])
    groups = ", ".join(f"{count} {name}" for name, count in result["images"].items())
    note = f"{len(result['targets'])} things; images of each of the {len(result['seen'])} anchors: {groups}."
    return _table(["place", *(f"{name}: found" for name in result["images"]), "companions kept"], rows) + f"\n\n{note}"


def encoder_cost() -> str:
    """What text ablation costs on an encoder of CLIP ViT-L/14's size."""
    rows = []
    for entry in _load("encoder_cost").values():
        rows += [[f"*{row['concept']}*", *_spent(row, entry)] for row in entry["concepts"]]
    head = ["concept", "on", "seconds", "peak GiB", "MB", "where the time goes, seconds"]
    return _table(head, rows)


def _spent(row: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    profile = ", ".join(f"{part} {seconds:.0f}" for part, seconds in row["profile"].items() if seconds >= 0.5)
    where, seconds = f"{entry['encoder'].split(', ')[-1]}, {_where(entry)}", row["seconds"]
    figures = [f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}", f"{row['peak_memory_gib']:.1f}"]
    return [where, *figures, f"{row['megabytes']:.1f}", profile]


def exports() -> str:
    """What files of low rank keep of erasures, means over concepts."""
    rows, out = _load("exports")["exports"], []
    for method, tolerance in dict.fromkeys((row["method"], row["tolerance"]) for row in rows):
        some = [row for row in rows if (row["method"], row["tolerance"]) == (method, tolerance)]
        ranks = [rank for row in some for matrices in row["ranks"].values() for rank in matrices.values()]
        kept, size, whole = (np.mean([row[it] for row in some]) for it in ("kept", "megabytes", "erasure_megabytes"))
        moved, now = (100 * np.mean([row["moved"][side] for row in some]) for side in (0, 1))
        figures = [f"{whole:.2f} → {size:.2f}", f"{min(ranks)} to {max(ranks)}", f"{100 * kept:.2f}"]
        how = "any" if method == "text-ablation" else f"{tolerance:g}"
        out.append([method, how, *figures, f"{moved:.1f} → {now:.1f}"])
    return _table(["method", "tolerance", "MB", "ranks", "kept, %", "unrelated moved, %"], out)


def switching() -> str:
    """What putting erasures on and off costs, and generating with one on."""
    rows, notes = [], []
    for entry in _load("switching").values():
        for row in entry["switching"]:
            times = [f"{row[it]:.0f}" if row[it] >= 10 else f"{row[it]:.1f}" for it in ("apply", "switch", "remove")]
            rows.append([row["encoder"], row["method"], _where(entry), f"{row['megabytes']:.1f}", *times])
        made = entry["generation"]
        notes.append(
            f"A video of the embedded model took {made['seconds_with']:.2f} s with an erasure on and "
            f"{made['seconds_without']:.2f} s without, {made['ratio']:.2f} times as long (medians of {made['videos']}, in "
            f"turns; {_where(entry)})."
        )
    head = ["text encoder", "erasure", "on", "MB", "put on, ms", "switch, ms", "take off, ms"]
    return "\n\n".join([_table(head, rows), *notes])


def quantized() -> str:
    """What an erasure does on quantized text encoders."""
    rows = [
        [how, *(_percent(row[it]) for it in ("apart", "quantizing")), "yes" if row["comes_off"] else "no"]
        for how, row in _load("quantized")["rows"].items()
    ]
    head = ["quantized by", "its effect is off by", "quantizing alone moves embeddings by", "comes off bit for bit"]
    return _table(head, rows)


def same_seed() -> str:
    """How far videos of the same seed on another device are apart."""
    notes = []
    for entry in _load("same_seed").values():
        figures = [
            f"{made}: {part['pixels']:.1%} of all values differ, by {part['most']} of 255 at most"
            for made, part in entry["videos"].items()
        ]
        notes.append(
            f"{entry['prompts']} prompts on the CPU and on {entry['machine']}, float32, {'; '.join(figures)}. The changes "
            f"learned on the two are {entry['changes']:.1%} of their norm apart."
        )
    return "\n\n".join(notes)


def _few_digits(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


LOOPS = {
    "unreel": "unreel",
    "published": "plain loop, as published: denoiser frozen, latents encoded once",
    "naive": "plain loop, naive: all gradients, latents encoded at every step",
}


def full_size() -> str:
    """What the paper's recipe costs on Stable Diffusion 1.5, and how far the loops' results are apart."""
    rows, notes = [], []
    for name, entry in _load("full_size").items():
        if "runs" not in entry:
            continue
        where = f"{'CPU' if name.startswith('cpu') else entry['machine']}, {entry['steps']} steps"
        where += f", {entry['cap_gib']:g} GiB at most" if entry["cap_gib"] else ""
        clock, first = _clock(name), entry["runs"][0]
        for run in entry["runs"]:
            made, cells = run["generation_seconds"], ["does not fit"] * 5
            if run["fits"]:
                times = f"{run['a_step'][clock] / first['a_step'][clock]:.2f}" if first["fits"] else ""
                cells = [_few_digits(run[part][clock]) for part in ("encoding", "a_step", "total")]
                cells += [times, f"{run['peak_memory_gib']:.1f}"]
            images = "not run here" if made is None else _few_digits(made)
            rows.append([LOOPS[run["loop"]], run["dtype"], where, images, *cells])
        apart = ", ".join(f"{loop} {far['relative']:.1e}" for loop, far in entry["apart"].items())
        if apart:
            notes.append(
                f"Distance of the plain loops' changes from unreel's, both in float32, over their norm: {apart} ({where})."
            )
    head = ["loop", "precision", "on", "four images, s", "encoding, s", "a step, s", "all after the images, s"]
    head += ["a step, relative", "peak GiB"]
    return "\n\n".join([_table(head, rows), *notes])


def full_size_details() -> str:
    """What single choices do to a step of the paper's recipe on Stable Diffusion 1.5, and what a step consists of."""
    rows, notes = [], []
    for name, entry in _load("full_size").items():
        if "operators" not in entry:
            continue
        clock = _clock(name)
        for row in entry["rows"]:
            where = [row["dtype"], name.split(", ")[0]]
            first = f"{row['first_seconds']:.1f}" if "first_seconds" in row else ""
            rows.append([row["what"], *where, f"{row[clock]:.1f}", first, f"{row['peak_memory_gib']:.1f}"])
        for kind, operators in entry["operators"].items():
            most = ", ".join(f"`{each['operator']}` {100 * each['share']:.0f} %" for each in operators[:6])
            notes.append(f"What a step consists of ({kind}, {name.split(', ')[0]}): {most}.")
    return "\n\n".join([_table(["what", "precision", "on", "s", "the first time, s", "peak GiB"], rows), *notes])


def _clock(name: str) -> str:
    return "processor_seconds" if name.startswith("cpu") else "seconds"


def attributes() -> str:
    rows = []
    for row in _load("attributes")["rows"]:
        for group, figures in row["figures"].items():
            shares = [{when: figures[what][when] for when in ("original", "edited")} for what in ("attribute", "subject")]
            kept = "kept on six others, mu 100" if row.get("kept") else "defaults"
            alike = _change({"edited": figures["ssim"]["edited"]}, 1, 2)
            rows.append([f"{row['attribute']}, {row['subject']}", kept, group, *map(_change, shares), alike])
    return _table(["forgotten of", "how", "asked for", "the attribute found", "the subject found", "similarity"], rows)


def one_after_another() -> str:
    rows = []
    for turn in _load("paper_ablations")["one_after_another"]:
        cells = [_change(turn["figures"][group]) for group in ("explicit", "neighbours")]
        rows.append([str(len(turn["concepts"])), turn["concepts"][-1], *cells])
    return _table(["concepts", "the last one", "concepts found", "neighbours kept"], rows)


def _over_seeds() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Of every method that was run with all training seeds on all concepts, the outcomes by concept and seed."""
    result = _load("training_seeds")
    count, concepts = result["training_seeds"], {concept.name for concept in CONCEPTS}
    return {
        SEEDED[method]: runs
        for method, runs in result["methods"].items()
        if {name for name, looks in runs.items() if len(looks) == count} == concepts
    }


def training_seeds() -> str:
    """Means over concepts, a value for each training seed, with an interval over seeds (Student's t)."""
    rows = []
    for method, runs in _over_seeds().items():
        cells = []
        for group in ("explicit", "neighbours"):
            values = 100 * np.array([[look[group]["edited"] for look in looks] for looks in runs.values()]).mean(0)
            half = T_95[len(values)] * values.std(ddof=1) / len(values) ** 0.5
            low, high = max(0.0, values.mean() - half), min(100.0, values.mean() + half)
            cells.append(f"{values.mean():.1f} [{low:.1f}, {high:.1f}], {values.min():.1f} to {values.max():.1f}")
        rows.append([method, str(len(values)), *cells])
    head = [
        "method",
        "training seeds",
        "concept found, % [95 % over seeds], lowest to highest",
        "neighbours kept, the same",
    ]
    return _table(head, rows)


def training_seeds_by_concept() -> str:
    """What every training seed made of every concept: the share of videos in which it is still found, in percent."""
    methods = _over_seeds()
    rows = []
    for name in next(iter(methods.values())):
        shares = [", ".join(f"{100 * look['explicit']['after']:.0f}" for look in runs[name]) for runs in methods.values()]
        rows.append([name, *shares])
    return _table(["concept", *(f"{method}: found, %, by training seed" for method in methods)], rows)


def scan() -> str:
    result = _load("few_shot_scan")
    lines = ["| learning rate | epochs | concept found | neighbours found |", "|---|---|---|---|"]
    before = result["original"]
    lines.append(f"| before | | {_interval(before['explicit'])} | {_interval(before['neighbours'])} |")
    for row in result["scan"]:
        chosen = all(row[key] == value for key, value in result["chosen"].items())
        rate = f"**{row['learning_rate']:g}**" if chosen else f"{row['learning_rate']:g}"
        lines.append(f"| {rate} | {row['epochs']} | {_interval(row['explicit'])} | {_interval(row['neighbours'])} |")
    return "\n".join(lines)


def shot_steps() -> str:
    """What fewer denoising steps of the images do to few-shot unlearning."""
    result = _load("shot_steps")
    own = f"{result['own']['steps']}, {result['own']['scheduler'].removesuffix('Scheduler')}"
    rows = [["original", *(_interval(result["original"][group]) for group in ("explicit", "neighbours")), ""]]
    for row in result["rows"]:
        steps = f"{row['shot_steps']}, DPM-Solver++" if row["shot_steps"] else own
        cells = [_interval(row[group]) for group in ("explicit", "neighbours")]
        rows.append([steps, *cells, f"{row['seconds']:.2f}"])
    names = ", ".join(concept["name"] for concept in result["concepts"])
    return _table(["denoising steps", "concept found", "neighbours found", "four images, s"], rows) + f"\n\n{names}."


def anchored_scan() -> str:
    result = _load("anchored_scan")
    head = ["learning rate", "lambda", "concept found", "neighbours found", "steps"]
    rows = [["original", "", *(_interval(result["original"][group]) for group in ("explicit", "neighbours")), ""]]
    for row in result["scan"]:
        rate, weight = f"{row['learning_rate']:g}", f"{row['retain_weight']:g}"
        if all(result["chosen"][key] == row[key] for key in ("learning_rate", "retain_weight")):
            rate = f"**{rate}**"
        cells = [_interval(row[group]) for group in ("explicit", "neighbours")]
        rows.append([rate, weight, *cells, f"{row['steps']:g}"])
    took = {method: sum(seconds.values()) for method, seconds in result["seconds"].items()}
    ratio = took["concept-ablation"] / took["few_shot"]
    note = f"At the chosen setting it took {ratio:.2f} times as long as the paper's method, shots aside."
    return f"{_table(head, rows)}\n\n{note}"


def judge_floor() -> str:
    lines = ["| picture without a concept | judge finds one | of |", "|---|---|---|"]
    for name, share in _load("judge_floor")["any_concept_found"].items():
        lines.append(f"| {name} | {_interval(share)} | {share['n']} |")
    return "\n".join(lines)


def demo() -> str:
    result = _load("demo")
    return f"Set-up aside, the demo took {result['seconds']:.0f} seconds on {result['cores']} CPU cores."


def real_encoders_summary() -> str:
    """How the default does on every real text encoder, beside its bars."""
    measured = _load("real_encoders")["cells"]
    rows = []
    for encoder, concepts in measured.items():
        figures, worst = _over_concepts(concepts)
        seconds = _seconds(concepts)
        cells = [f"{_percent(value)}{_missed(value, REAL_BARS[name])}" for name, value in figures.items()]
        cells[1] = f"{cells[1]}, *{worst}*"
        took = f"{seconds:.0f}{_missed(seconds, REAL_SECONDS.get(encoder))}"
        rows.append([REAL_NAMES[encoder], str(len(concepts)), *cells, took])
    limits = ", ".join(f"{REAL_NAMES[encoder]} ≤ {seconds}" for encoder, seconds in REAL_SECONDS.items())
    rows.append(["*bar*", "", *(f"≤ {100 * bar:.0f} %" for bar in REAL_BARS.values()), limits])
    head = ["text encoder", "concepts", "way left: median", "way left: worst", "other spellings: way left"]
    head += ["shared words and nearest things moved", "everyday prompts moved", "seconds a concept"]
    return _table(head, rows)


def _over_concepts(concepts: dict[str, Any]) -> tuple[dict[str, float], str]:
    """What bars are about, and the worst concept, of cells by concept."""
    left = {name: cell["left"] for name, cell in concepts.items()}
    worst = max(left, key=left.__getitem__)
    figures = {
        "left": median(left.values()),
        "worst": left[worst],
        "spellings": median(pooled(concepts, SPELLINGS)),
        "near": median(pooled(concepts, NEAR)),
        "everyday": median(pooled(concepts, ("everyday",))),
    }
    return figures, worst


def _seconds(concepts: dict[str, Any]) -> float:
    return median(cell["seconds"] for cell in concepts.values())


def text_solvers() -> str:
    """Ways to learn the same from the same text, on the concepts that all of them were measured on."""
    cells = _load("text_solvers")["cells"]
    ways = list(dict.fromkeys(way for by_way in cells.values() for way in by_way))
    whole = {name: by_way for name, by_way in cells.items() if by_way.keys() == set(ways)}
    rows = []
    for way in sorted(ways, key=lambda way: -median(by_way[way]["left"] for by_way in whole.values())):
        figures, worst = _over_concepts({name: by_way[way] for name, by_way in whole.items()})
        shares = [_percent(value) for value in figures.values()]
        rows.append([way, str(len(whole)), shares[0], f"{shares[1]}, *{worst}*", *shares[2:]])
    head = ["how", "concepts", "way left: median", "way left: worst", "other spellings: way left"]
    head += ["shared words and nearest things moved", "everyday prompts moved"]
    return _table(head, rows)


def real_together() -> str:
    """Twenty concepts in one erasure, beside one."""
    together, alone = _load("real_together"), _load("real_encoders")["cells"]["smollm2"]
    rows = []
    for count, cells in ((1, alone), (len(together["concepts"]), together["cells"])):
        figures, worst = _over_concepts(cells)
        size = median(cell["megabytes"] for cell in cells.values())
        shares = [_percent(value) for value in figures.values()]
        rows.append(
            [str(count), shares[0], f"{shares[1]}, *{worst}*", *shares[2:], f"{_seconds(cells):.0f}", f"{size:.1f}"]
        )
    head = ["concepts in one erasure", "way left: median", "way left: worst", "other spellings: way left"]
    head += ["shared words and nearest things moved", "everyday prompts moved", "seconds", "MB"]
    return _table(head, rows)


def real_encoders() -> str:
    """The same by concept, in percent."""
    measured = _load("real_encoders")["cells"]
    columns = ("left", *SPELLINGS, *NEAR, "everyday")
    rows = []
    for encoder, concepts in measured.items():
        for name, cell in concepts.items():
            figures = [f"{100 * cell[column]:.1f}" if column in cell else "" for column in columns]
            check = "falls short" if cell["check"]["shortfalls"] else "passed"
            cost = [f"{cell['seconds']:.0f}", f"{cell['megabytes']:.1f}"]
            rows.append([REAL_NAMES[encoder], name, cell["kind"], cell["anchor"] or "nothing", *figures, check, *cost])
    head = ["text encoder", "concept", "kind", "instead", "way left", *(f"{way}: left" for way in SPELLINGS)]
    head += ["shared words moved", "nearest moved", "everyday moved", "self-check", "seconds", "MB"]
    return f"{_table(head, rows)}\n\n![Way left against what else moved](images/real-encoders.png)"


def pooled(concepts: dict[str, Any], names: tuple[str, ...]) -> list[float]:
    """The figures called `names` of all concepts that have them."""
    return [cell[name] for cell in concepts.values() for name in names if name in cell]


def _missed(value: float, bar: float | None) -> str:
    return " (missed)" if bar is not None and not value <= bar else ""


def check_cost() -> str:
    """What `unreel check` costs on two encoders of CLIP ViT-L/14's size."""
    what = {
        "copy": "the same file, copied",
        "link": "the same file, linked",
        "half": "the same weights in float16",
        "one word learned": "one row of the embedding differs",
        "tuned": "all weights differ",
        "copy, both loaded": "the same file, copied: both loaded, then compared",
    }
    rows = []
    for name, row in _load("check_cost")["pairs"].items():
        found = "shared" if row["shared"] else "not shared"
        rows.append([what[name], found, *(f"{row[key]:.1f}" for key in ("seconds", "compare", "gib"))])
    return _table(["the second encoder", "found", "seconds, all", "seconds, check", "peak GiB"], rows)


def training() -> str:
    lines = ["| stage | steps | batch | minutes | device |", "|---|---|---|---|---|"]
    for stage in ("autoencoder", "image", "video", "judge"):
        record = json.loads((ROOT / "training" / "records" / f"{stage}.json").read_text())
        steps, batch = record["schedule"]["steps"], record["schedule"]["batch"]
        lines.append(f"| {stage} | {steps} | {batch} | {record['seconds'] / 60:.0f} | {record['device']} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "ablations": ablations,
    "anchor_choice": anchor_choice,
    "anchored_scan": anchored_scan,
    "attacks_compared": attacks_compared,
    "attributes": attributes,
    "check_cost": check_cost,
    "comparison": comparison,
    "cost": cost,
    "demo": demo,
    "encoder_cost": encoder_cost,
    "exports": exports,
    "full_size": full_size,
    "full_size_details": full_size_details,
    "inversion_steps": inversion_steps,
    "judge_floor": judge_floor,
    "large_encoder": large_encoder,
    "many_concepts": many_concepts,
    "motions": motions,
    "one_after_another": one_after_another,
    "quality": quality,
    "quantized": quantized,
    "real_encoders": real_encoders,
    "real_encoders_summary": real_encoders_summary,
    "real_together": real_together,
    "same_seed": same_seed,
    "scan": scan,
    "shot_steps": shot_steps,
    "switching": switching,
    "text_solvers": text_solvers,
    "training": training,
    "training_seeds": training_seeds,
    "training_seeds_by_concept": training_seeds_by_concept,
}
# Those that every method has, under names such as paper_summary.
QUALITY = (similarity, frechet, quality_of_videos, fidelity, motion)
BY_METHOD = (summary, erasure, specificity, *QUALITY, attacks, attacks_by_concept)
TABLES |= {f"{by}_{table.__name__}": partial(table, by) for by in MEASURED for table in BY_METHOD}


def render(text: str) -> str:
    """The document with every table made anew, and NOT_YET for those whose result is not there."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        if re.search(pattern, text, re.DOTALL):
            try:
                block = table()
            except FileNotFoundError:
                block = NOT_YET
            text = re.sub(pattern, lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    for document in DOCUMENTS:
        path = ROOT / document
        write_text(path, render(path.read_text()))
        print(f"wrote {document}")
