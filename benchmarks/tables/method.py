"""Tables of the pages of methods, docs/methods/."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cells import cells_of, results_of
from benchmarks.tables._format import change, interval, load, percent, table, where
from benchmarks.tables.methods import METHODS, of_groups, pooled_alone
from unreel.models.anchors import TOO_NEAR
from unreel.models.shipped import EMBEDDED, preset_of

DOCUMENTS = ("docs/methods/index.md", *(f"docs/methods/{method}.md" for method in METHODS))
GROUPS = ("explicit", "neighbours")
LOOPS = {
    "unreel": "unreel",
    "published": "plain loop, as published: denoiser frozen, latents encoded once",
    "naive": "plain loop, naive: all gradients, latents encoded at every step",
}


def anchor_choice() -> str:
    """How often things are taken for what they would stand in for, by their place in the order from the nearest."""
    result = load("anchor_choice")
    chosen = len(result["seen"]) // TOO_NEAR
    rows = []
    for row in result["rows"]:
        place = f"**{row['place'] + 1}**" if row["place"] == chosen else str(row["place"] + 1)
        cells = [f"{interval(share, 1)}, at worst {100 * row['worst'][name]:.0f} %" for name, share in row["found"].items()]
        rows.append([place, *cells, percent(row["kept"])])
    groups = ", ".join(f"{count} {name}" for name, count in result["images"].items())
    note = f"{len(result['targets'])} things; images of each of the {len(result['seen'])} anchors: {groups}."
    return table(["place", *(f"{name}: found" for name in result["images"]), "companions kept"], rows) + f"\n\n{note}"


def attributes() -> str:
    rows = []
    for row in load("attributes")["rows"]:
        for group, figures in row["figures"].items():
            shares = [{arm: figures[what][arm] for arm in ("original", "edited")} for what in ("attribute", "subject")]
            kept = "kept on six others, mu 100" if row.get("kept") else "defaults"
            alike = change({"edited": figures["ssim"]["edited"]}, 1, 2)
            rows.append([f"{row['attribute']}, {row['subject']}", kept, group, *map(change, shares), alike])
    return table(["forgotten of", "how", "asked for", "the attribute found", "the subject found", "similarity"], rows)


def encoder_cost() -> str:
    """What text ablation costs on an encoder of CLIP ViT-L/14's size."""
    rows = []
    for entry in load("encoder_cost").values():
        rows += [[f"*{row['concept']}*", *_spent(row, entry)] for row in entry["concepts"]]
    head = ["concept", "on", "seconds", "peak GiB", "MB", "where the time goes, seconds"]
    return table(head, rows)


def _spent(row: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    profile = ", ".join(f"{part} {seconds:.0f}" for part, seconds in row["profile"].items() if seconds >= 0.5)
    machine, seconds = f"{entry['encoder'].split(', ')[-1]}, {where(entry)}", row["seconds"]
    figures = [f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}", f"{row['peak_memory_gib']:.1f}"]
    return [machine, *figures, f"{row['megabytes']:.1f}", profile]


def _few_digits(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def full_size() -> str:
    """What the paper's recipe costs on Stable Diffusion 1.5, and how far the loops' results are apart."""
    rows, notes = [], []
    for name, entry in load("full_size").items():
        if "runs" not in entry:
            continue
        where = f"{'CPU' if name.startswith('cpu') else entry['machine']}, {entry['steps']} steps"
        where += f", {entry['cap_gib']:g} GiB at most" if entry["cap_gib"] else ""
        clock, first = _clock(name), entry["runs"][0]
        for run in entry["runs"]:
            generation, cells = run["generation_seconds"], ["does not fit"] * 5
            if run["fits"]:
                times = f"{run['a_step'][clock] / first['a_step'][clock]:.2f}" if first["fits"] else ""
                cells = [_few_digits(run[part][clock]) for part in ("encoding", "a_step", "total")]
                cells += [times, f"{run['peak_memory_gib']:.1f}"]
            images = "not run here" if generation is None else _few_digits(generation)
            rows.append([LOOPS[run["loop"]], run["dtype"], where, images, *cells])
        apart = ", ".join(f"{loop} {far['relative']:.1e}" for loop, far in entry["apart"].items())
        if apart:
            notes.append(
                f"Distance of the plain loops' changes from unreel's, both in float32, over their norm: {apart} ({where})."
            )
    head = ["loop", "precision", "on", "four images, s", "encoding, s", "a step, s", "all after the images, s"]
    head += ["a step, relative", "peak GiB"]
    return "\n\n".join([table(head, rows), *notes])


def full_size_details() -> str:
    """What single choices do to a step of the paper's recipe on Stable Diffusion 1.5, and what a step consists of."""
    rows, notes = [], []
    for name, entry in load("full_size").items():
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
    return "\n\n".join([table(["what", "precision", "on", "s", "the first time, s", "peak GiB"], rows), *notes])


def _clock(name: str) -> str:
    return "processor_seconds" if name.startswith("cpu") else "seconds"


def many_concepts(of: str = "many_concepts") -> str:
    """Concepts found and all else kept, by the number of concepts and how they were put together."""
    sizes = sorted(((int(size), entry) for size, entry in load(of).items()), key=lambda each: each[0])
    rows = []
    for size, entry in sizes:
        for how, figures in entry["figures"].items():
            cells = [
                interval(figures[group]) if group in figures else "" for group in ("explicit", "paraphrases", "motion")
            ]
            cost = ["", ""]
            if how in entry["seconds"]:
                cost = [f"{entry['seconds'][how]:.1f}", f"{entry['nbytes'][how] / 1e6:.2f}"]
            rows.append([str(size), how, *cells, interval(figures["kept"]), *cost])
    head = ["concepts", "erased", "plain: found", "paraphrases: found", "motions: found", "all else kept", "seconds", "MB"]
    return f"{table(head, rows)}\n\nSeconds of one core."


def _scanned(experiment: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By run, its settings and the shares of its images, pooled over concepts: by group, original and edited."""
    measured = results_of(experiment)
    settings = {cell.run: cell.settings for cell in cells_of(experiment)}
    return {run: (settings[run], of_groups(list(by.values()))) for run, by in measured.items()}


def _scan_rows(experiment: str, method: str, name: Callable[[dict[str, Any]], list[str]]) -> list[list[str]]:
    """A row of the original model and one of each setting, that of the embedded pair in bold."""
    own = preset_of(EMBEDDED)["methods"][method]
    rows: list[list[str]] = []
    for settings, shares in _scanned(experiment).values():
        if not rows:
            rows.append(["original", *[""] * (len(name(settings)) - 1), *(interval(shares[g]["original"]) for g in GROUPS)])
        first, *rest = name(settings)
        first = f"**{first}**" if all(own.get(key) == value for key, value in settings.items()) else first
        rows.append([first, *rest, *(interval(shares[g]["edited"]) for g in GROUPS)])
    return rows


def scan() -> str:
    """Learning rates and numbers of epochs of few-shot."""
    rows = _scan_rows(
        "few-shot-scan", "few-shot", lambda settings: [f"{settings['learning_rate']:g}", str(settings["epochs"])]
    )
    return table(["learning rate", "epochs", "concept found", "neighbours found"], rows)


def concept_ablation_scan() -> str:
    """Learning rates and retain weights of concept ablation, with the mean number of steps until it stopped."""
    rows = _scan_rows(
        "concept-ablation-scan",
        "concept-ablation",
        lambda settings: [f"{settings['learning_rate']:g}", f"{settings['retain_weight']:g}"],
    )
    steps = [np.mean([result["steps"] for result in by.values()]) for by in results_of("concept-ablation-scan").values()]
    rows = [[*row, text] for row, text in zip(rows, ["", *(f"{mean:.0f}" for mean in steps)], strict=True)]
    return table(["learning rate", "lambda", "concept found", "neighbours found", "steps"], rows)


def shot_steps() -> str:
    """What fewer denoising steps of the images do to few-shot unlearning."""
    timed = load("shot_steps")
    own, rows = f"{timed['own']['steps']}, {timed['own']['scheduler'].removesuffix('Scheduler')}", []
    for settings, shares in _scanned("shot-steps").values():
        if not rows:
            rows.append(["original", *(interval(shares[group]["original"]) for group in GROUPS), ""])
        count = settings["shot_steps"]
        cells = [interval(shares[group]["edited"]) for group in GROUPS]
        rows.append([f"{count}, DPM-Solver++" if count else own, *cells, f"{timed['seconds'][str(count)]:.2f}"])
    return table(["denoising steps", "concept found", "neighbours found", "four images, s"], rows)


TABLES = {
    "anchor_choice": anchor_choice,
    "attributes": attributes,
    "concept_ablation_scan": concept_ablation_scan,
    "encoder_cost": encoder_cost,
    "full_size": full_size,
    "full_size_details": full_size_details,
    "many_concepts": many_concepts,
    "scan": scan,
    "shot_steps": shot_steps,
} | {f"of_{method.replace('-', '_')}": partial(pooled_alone, method) for method in METHODS}
