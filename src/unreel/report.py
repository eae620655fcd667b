"""Evaluations and attacks for people: a table for the terminal, a self-contained page, and the figures for programs.

Knows how to lay out; computes nothing but the loss curve's points.
"""

import base64
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unreel.estimate import Estimate
from unreel.evaluation import Evaluation, Group
from unreel.files import file_name, write_bytes, write_json, write_text
from unreel.interventions.erasure import METRICS_FILE, REPORT_FILE
from unreel.metrics import Figure
from unreel.models.adapter import network_of
from unreel.models.sampling import encode_mp4
from unreel.robustness import ARMS, Robustness
from unreel.versions import versions

ATTACKS_FILE = "attacks.json"
ARM_TITLES = {"before": "original", "after": "edited"}
SHOWN = 6  # clips of each group on the page
TITLES = {
    "explicit": "asked for in plain words",
    "paraphrases": "asked for in other words",
    "companions": "together with something else",
    "neighbours": "its nearest neighbours",
    "unrelated": "unrelated",
    "styles": "styles",
    "motions": "motions",
}
# The terminal's columns, and what comes first on the page; everything else stands in metrics.json and on the page.
COLUMNS = (
    ("concept_found", "concept found"),
    ("anchor_found", "anchor found"),
    ("fidelity_ssim", "similarity to anchor's"),
    ("label_found", "what else was asked for"),
    ("ssim", "similarity to original"),
)


def number(value: float, unit: str) -> str:
    """A value as people read it; shares become percent."""
    if unit == "%":
        return f"{100 * value:.0f} %" if value in (0, 1) or value >= 0.1 else f"{100 * value:.1f} %"
    return f"{value:.{_digits(value)}f}" + (f" {unit}" if unit else "")


def _digits(value: float) -> int:
    return 2 if abs(value) < 100 else 0


def interval(estimate: Estimate, unit: str) -> str:
    """Its 95 % interval; empty for what was read off and not sampled."""
    low, high = (100 * x if unit == "%" else x for x in estimate.ci)
    digits = _digits(high) if unit != "%" else int(high < 10)
    return "" if estimate.n == 1 else f"[{low:.{digits}f}, {high:.{digits}f}]"


def cell(figure: Figure) -> str:
    """`original -> edited [interval of the latter]`, or the one value there is."""
    values = [number(estimate.value, figure.unit) for estimate in figure.estimates.values()]
    return f"{' -> '.join(values)} {interval(list(figure.estimates.values())[-1], figure.unit)}".strip()


def table(evaluation: Evaluation, width: int) -> str:
    """The figures that matter most, as text: a row for each group, then what concerns all of them. One table below the
    other where it would be wider than `width` characters.
    """
    found = {(figure.metric, figure.group): figure for figure in evaluation.figures}
    columns = [(metric, title) for metric, title in COLUMNS if any(key[0] == metric for key in found)]
    rows = [["original -> edited [95 %]", *(title for _, title in columns)]]
    for name in evaluation.groups:
        cells = [cell(found[metric, name]) if (metric, name) in found else "" for metric, _ in columns]
        rows.append([TITLES.get(name, name), *cells])
    general = [[figure.title, cell(figure)] for figure in evaluation.figures if not figure.group]
    return f"{align(rows, width)}\n\n{align(general, width)}"


def align(rows: Sequence[Sequence[str]], width: int) -> str:
    """Rows of text as columns two spaces apart; the columns that do not fit into `width` characters follow below, beside
    the first one again.
    """
    columns = [[text.ljust(max(map(len, column))) for text in column] for column in zip(*rows, strict=True)]
    first, tables = columns[0], [[columns[0]]]
    for column in columns[1:]:
        taken = sum(len(each[0]) + 2 for each in tables[-1])
        if len(tables[-1]) > 1 and taken + len(column[0]) > width:
            tables.append([first])
        tables[-1].append(column)
    return "\n\n".join("\n".join("  ".join(row).rstrip() for row in zip(*each, strict=True)) for each in tables)


def document(evaluation: Evaluation) -> dict[str, Any]:
    """The run's figures as plain data: shares from 0 to 1, each with n and its 95 % interval; seconds, GiB, MB."""
    judge, settings = evaluation.judge, evaluation.model.settings
    return {
        "concept": evaluation.concept.name,
        "kind": evaluation.concept.kind,
        "anchor": evaluation.concept.anchor,
        "methods": [part["method"] for part in evaluation.erasure.provenance["parts"]],
        "judge": {"name": judge.name, "error": judge.error} if judge else None,
        "figures": evaluation.metrics(),
        "erasure": evaluation.erasure.identity,
        "model": evaluation.model.source,
        "sampling": settings.sampling,
        "dtype": str(network_of(evaluation.model.pipeline).dtype).removeprefix("torch."),
        "versions": versions(),
    }


def write_report(folder: Path, evaluation: Evaluation) -> Path:
    """Write metrics.json, videos/ and report.html into an existing folder; returns the page's path."""
    from jinja2 import Environment, PackageLoader

    (folder / "videos").mkdir(exist_ok=True)
    groups = [
        {"title": TITLES.get(name, name), "arms": len(group.batches), "rows": _rows(folder, group)}
        for name, group in evaluation.groups.items()
    ]
    parts = [part | {"curves": _curves(part)} for part in evaluation.erasure.provenance["parts"]]
    figures = sorted(evaluation.figures, key=_place)
    titles = dict.fromkeys((figure.metric, figure.title, figure.better) for figure in figures if figure.group)
    cells = {(figure.metric, figure.group): cell(figure) for figure in evaluation.figures}
    environment = Environment(loader=PackageLoader("unreel", "templates"), autoescape=True)
    page = environment.get_template("report.html").render(
        concept=evaluation.concept,
        parts=parts,
        provenance=evaluation.erasure.provenance,
        judge=evaluation.judge,
        groups=groups,
        anchored=any(group.has_anchor for group in evaluation.groups.values()),
        measures=[
            {"title": title, "better": better, "cells": [cells.get((metric, name), "") for name in evaluation.groups]}
            for metric, title, better in titles
        ],
        general=[(figure.title, cell(figure)) for figure in evaluation.figures if not figure.group],
        document=document(evaluation),
    )
    write_json(folder / METRICS_FILE, document(evaluation))
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _place(figure: Figure) -> int:
    """Where it stands on the page: in the order of the terminal's columns, each with its references, then all others."""
    return next((i for i, (metric, _) in enumerate(COLUMNS) if figure.metric.startswith(metric)), len(COLUMNS))


def _rows(folder: Path, group: Group) -> list[dict[str, Any]]:
    """The first clips of a group, written as mp4 files and embedded into the page: of each prompt, one by each arm."""
    fps = group.store.model.settings.fps
    rows: list[dict[str, Any]] = [
        {"prompt": prompt.text, "seed": prompt.seed, "clips": []} for prompt in group.prompts[:SHOWN]
    ]
    for arm in group.batches:
        for i, (row, frames) in enumerate(zip(rows, islice(group.videos(arm), SHOWN), strict=True)):
            content = encode_mp4(frames, fps)
            write_bytes(folder / "videos" / f"{file_name(group.name)}-{i:02d}-{arm}.mp4", content)
            caption = f"original, of “{group.anchors[i]}”" if arm == "anchor" else ARM_TITLES[arm]
            clip = {"caption": caption, "data": base64.b64encode(content).decode(), "found": _found(group, arm, i)}
            row["clips"].append(clip)
    return rows


def _found(group: Group, arm: str, index: int) -> list[tuple[str, bool]]:
    """What the judge looked for in a video and in how many frames it found it, and whether that is as it should be."""
    sought = []
    if group.judge and arm != "anchor":
        if group.asks_for_concept:
            sought.append((group.concept.name, group.concept_found(arm)[index], False))
        else:
            sought.append((group.prompts[index].label, group.label_found(arm)[index], True))
    if group.has_anchor and group.knows_anchor and arm != "before":
        sought.append((group.anchor_label, group.anchor_found(arm)[index], True))
    return [
        (f"{name} in {int(frames.sum())} of {len(frames)} frames", bool(frames.mean() >= 0.5) == wanted)
        for name, frames, wanted in sought
    ]


def _curves(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The losses of each text encoder that learned by itself, and their curve."""
    losses = part.get("losses") or []
    curves = losses if losses and isinstance(losses[0], list) else [losses]
    return [{"losses": curve, "points": loss_points(curve)} for curve in curves if curve]


def loss_points(losses: list[float], width: int = 600, height: int = 120) -> str:
    """The loss curve as points of an SVG polyline."""
    low, high = min(losses), max(losses)
    span, last = (high - low) or 1.0, max(1, len(losses) - 1)
    return " ".join(f"{i * width / last:.1f},{height - (loss - low) * height / span:.1f}" for i, loss in enumerate(losses))


def attack_table(robustness: Robustness, width: int) -> str:
    """Success of each attack at each budget, as text that is at most `width` characters wide, if it can be."""
    head = [f"{arm}, {budget} video{'s' if budget > 1 else ''}" for arm in ARMS for budget in robustness.budgets]
    rows = [[row["attack"], "yes" if row["needs_weights"] else "no", *row["cells"]] for row in _attack_rows(robustness)]
    return align([["attack", "weights", *head], *rows], width)


def _attack_rows(robustness: Robustness) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for outcome in robustness.outcomes:
        row = rows.setdefault(
            outcome.attack, {"attack": outcome.attack, "needs_weights": outcome.needs_weights, "cells": []}
        )
        estimates = [outcome.success(budget) for budget in robustness.budgets]
        row["cells"] += [f"{number(estimate.value, '%')} {interval(estimate, '%')}".strip() for estimate in estimates]
        if outcome.arm == "edited":
            row["attempts"] = [case[-1] for case in outcome.cases if case]
    return list(rows.values())


def write_attack_report(folder: Path, robustness: Robustness) -> Path:
    """Write attacks.json, and report.html with the last video of some cases; returns the page's path."""
    from jinja2 import Environment, PackageLoader

    rows, fps = _attack_rows(robustness), robustness.store.model.settings.fps
    for row in rows:
        # What worked first: a success is what people need to see.
        shown = sorted(row["attempts"], key=lambda attempt: not attempt.found)[:SHOWN]
        row["clips"] = [
            {
                "prompt": a.prompt,
                "seed": a.seed,
                "found": a.found,
                "data": _data(robustness.store.frames(a.batch, a.place), fps),
            }
            for a in shown
        ]
    figures = robustness.document() | {"versions": versions()}
    environment = Environment(loader=PackageLoader("unreel", "templates"), autoescape=True)
    page = environment.get_template("attacks.html").render(
        concept=robustness.concept,
        judge=robustness.judge,
        cases=len(robustness.outcomes[0].cases),
        arms=ARMS,
        rows=rows,
        document=figures,
    )
    write_json(folder / ATTACKS_FILE, figures)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _data(frames: np.ndarray, fps: int) -> str:
    """An mp4 as text, to embed into a page."""
    return base64.b64encode(encode_mp4(frames, fps)).decode()
