"""Evaluations and attacks as self-contained pages, with the figures for programs beside.

Knows how to lay out; computes nothing but the loss curve's points.
"""

import base64
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unreel.evaluation.attack import ARMS, AttackRun
from unreel.evaluation.estimate import Figure
from unreel.evaluation.run import Evaluation, Group
from unreel.files import file_name, write_bytes, write_json, write_text
from unreel.interventions.erasure import REPORT_FILE
from unreel.models.sampling import encode_mp4
from unreel.report.table import COLUMNS, TITLES, attack_rows, cell
from unreel.versions import versions

ATTACKS_FILE = "attacks.json"
NEED = ("failed", "refused", "weak", "forgotten")  # takedowns, in the order in which people need to see them
SHOWN = 6  # clips of each group on the page


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
    environment = Environment(loader=PackageLoader("unreel.report"), autoescape=True)
    page = environment.get_template("report.html").render(
        concept=evaluation.concept,
        parts=parts,
        provenance=evaluation.erasure.provenance,
        limits=evaluation.erasure.limits.replace("`", ""),
        checked=evaluation.erasure.edits_text_encoder,
        judge=evaluation.judge,
        groups=groups,
        anchored=any(group.has_anchor for group in evaluation.groups.values()),
        measures=[
            {"title": title, "better": better, "cells": [cells.get((metric, name), "") for name in evaluation.groups]}
            for metric, title, better in titles
        ],
        general=[(figure.title, cell(figure)) for figure in evaluation.figures if not figure.group],
        document=evaluation.run.document(),
    )
    evaluation.run.save(folder)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _place(figure: Figure) -> int:
    """Where it stands on the page: in the order of the terminal's columns, each with its references, then all others."""
    return next((i for i, (metric, _) in enumerate(COLUMNS) if figure.metric.startswith(metric)), len(COLUMNS))


def _rows(folder: Path, group: Group) -> list[dict[str, Any]]:
    """The first clips of a group, written as mp4 files and embedded into the page: of each prompt, one by each arm."""
    fps = group.cache.model.settings.fps
    rows: list[dict[str, Any]] = [
        {"prompt": prompt.text, "seed": prompt.seed, "clips": []} for prompt in group.prompts[:SHOWN]
    ]
    for arm in group.batches:
        for i, (row, frames) in enumerate(zip(rows, islice(group.videos(arm), SHOWN), strict=True)):
            content = encode_mp4(frames, fps)
            write_bytes(folder / "videos" / f"{file_name(group.name)}-{i:02d}-{arm}.mp4", content)
            caption = f"original, of “{group.anchors[i]}”" if arm == "anchor" else arm
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
    if group.has_anchor and group.knows_anchor and arm != "original":
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


def loss_points(losses: list[float]) -> str:
    """The loss curve as points of an SVG polyline, from its lowest to its highest."""
    low, high = min(losses), max(losses)
    return share_points([(loss - low) / ((high - low) or 1.0) for loss in losses])


def share_points(shares: list[float], width: int = 600, height: int = 120) -> str:
    """Shares, one after the other, as points of an SVG polyline whose top is 1."""
    last = max(1, len(shares) - 1)
    return " ".join(f"{i * width / last:.1f},{height - share * height:.1f}" for i, share in enumerate(shares))


def write_attack_report(folder: Path, result: AttackRun) -> Path:
    """Write attacks.json, and report.html with the last video of some cases; returns the page's path."""
    from jinja2 import Environment, PackageLoader

    rows, fps = attack_rows(result), result.cache.model.settings.fps
    for row in rows:
        row["curves"] = {arm: share_points(shares) for arm, shares in row["by_frame"].items() if len(shares) > 1}
        # What worked first: a success is what people need to see.
        shown = sorted(row["attempts"], key=lambda attempt: not attempt.found)[:SHOWN]
        row["clips"] = [
            {
                "prompt": a.prompt,
                "seed": a.seed,
                "found": a.found,
                "data": _data(result.cache.frames(a.batch, a.place), fps),
            }
            for a in shown
        ]
    figures = result.document() | {"versions": versions()}
    environment = Environment(loader=PackageLoader("unreel.report"), autoescape=True)
    page = environment.get_template("attacks.html").render(
        concept=result.concept,
        judge=result.judge,
        cases=len(result.outcomes[0].cases),
        arms=ARMS,
        rows=rows,
        document=figures,
    )
    write_json(folder / ATTACKS_FILE, figures)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def write_batch_report(folder: Path, document: dict[str, Any]) -> Path:
    """Write report.html about a batch of takedowns, those first that somebody has to look at; returns its path."""
    from jinja2 import Environment, PackageLoader

    rows = sorted(document["takedowns"], key=lambda row: NEED.index(row["status"]))
    environment = Environment(loader=PackageLoader("unreel.report"), autoescape=True)
    weak = any(row["status"] == "weak" for row in rows)
    page = environment.get_template("batch.html").render(rows=rows, weak=weak, document=document)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _data(frames: np.ndarray, fps: int) -> str:
    """An mp4 as text, to embed into a page."""
    return base64.b64encode(encode_mp4(frames, fps)).decode()
