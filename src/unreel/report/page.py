"""Evaluations and attacks as self-contained pages, with the figures for programs beside.

Knows how to lay out: which videos are shown, which come first, and how many bytes they may take.
"""

import base64
import math
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from unreel.evaluation.attack import ARMS, AttackRun
from unreel.evaluation.estimate import Figure
from unreel.evaluation.run import Evaluation, Group
from unreel.files import file_names, write_bytes, write_json, write_text
from unreel.interventions.base import REPORT_FILE, without_paths
from unreel.models.sampling import encode_mp4
from unreel.report import plots
from unreel.report.table import COLUMNS, TITLES, attack_rows, cell
from unreel.report.verdict import attack_verdict, verdict
from unreel.versions import versions

ATTACKS_FILE = "attacks.json"
VIDEOS, INDEX_FILE = "videos", "index.json"
FIRST, WORST = 3, 3  # videos of each group on the page: those of its first prompts, and of those that went worst
SHOWN = FIRST + WORST
BUDGET = 1_900_000  # bytes of all videos on a page, which stays below 3 MB with them
LEVELS: tuple[tuple[int | None, int], ...] = ((None, 16), (320, 23), (240, 27), (160, 31))  # longest side, H.264's crf
NEED = ("failed", "refused", "weak", "unchecked", "passed")  # takedowns, in the order in which people need to see them


def write_report(folder: Path, evaluation: Evaluation) -> Path:
    """Write metrics.json, videos/ and report.html into an existing folder; returns the page's path."""
    shown = {name: _chosen(group) for name, group in evaluation.groups.items()}
    _write_videos(folder, evaluation, shown)
    groups = within_budget(lambda encode, most: _groups(evaluation, shown, encode, most), evaluation.model.settings.fps)
    parts = [part | {"curves": _curves(part)} for part in evaluation.erasure.provenance["parts"]]
    figures = sorted(evaluation.figures, key=_place)
    titles = dict.fromkeys((figure.metric, figure.title, figure.better) for figure in figures if figure.group)
    cells = {(figure.metric, figure.group): cell(figure) for figure in evaluation.figures}
    page = (
        environment()
        .get_template("report.html")
        .render(
            verdict=verdict(evaluation.run),
            concept=evaluation.concept,
            parts=parts,
            provenance=without_paths(evaluation.erasure.provenance),
            limits=evaluation.erasure.limits.replace("`", ""),
            checked=evaluation.erasure.edits_text_encoder,
            judge=evaluation.judge,
            groups=groups,
            shares=_shares(evaluation),
            by_frame=_by_frame(evaluation),
            fps=evaluation.model.settings.fps,
            anchored=any(group.has_anchor for group in evaluation.groups.values()),
            measures=[
                {"title": title, "better": better, "cells": [cells.get((metric, name), "") for name in evaluation.groups]}
                for metric, title, better in titles
            ],
            general=[(figure.title, cell(figure)) for figure in evaluation.figures if not figure.group],
            document=without_paths(evaluation.run.document()),
        )
    )
    evaluation.run.save(folder)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def environment() -> Any:
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("unreel.report"), autoescape=True)


def _place(figure: Figure) -> int:
    """A figure's rank on the page: the terminal's columns in their order, each with its references, then all others."""
    return next((i for i, (metric, _) in enumerate(COLUMNS) if figure.metric.startswith(metric)), len(COLUMNS))


def _chosen(group: Group) -> list[int]:
    """Which videos of a group to show, worst first: those of its first prompts, the same on every page of the same
    prompts, and the worst of the others.
    """
    bad = _badness(group)
    order = sorted(range(len(bad)), key=lambda i: (-bad[i], i))
    few = set(range(min(FIRST, len(bad))))
    few |= set([i for i in order if i not in few][: SHOWN - len(few)])
    return [i for i in order if i in few]


def _badness(group: Group) -> np.ndarray:
    """How far each video of the edited model is from what it should be: (n,). It is worse the more frames show the
    concept, or lack what else was asked for. Where no judge looks, or all are judged alike, the difference from the
    original video decides: too small if the concept was asked for, else too large.
    """
    pairs = zip(group.videos("original"), group.videos("edited"), strict=True)
    moved = np.array([np.abs(edited.astype(np.int16) - original).mean() / 255 for original, edited in pairs])
    bad = -0.01 * moved if group.asks_for_concept else 0.01 * moved
    if group.judge and group.asks_for_concept:
        bad = bad + group.concept_found("edited").mean(1)
    if group.judge and group.asks_for_others:
        bad = bad + 1 - group.label_found("edited").mean(1)
    return bad


def _write_videos(folder: Path, evaluation: Evaluation, shown: dict[str, list[int]]) -> None:
    """The videos that the page shows, as files, and an index of what they are of."""
    (folder / VIDEOS).mkdir(exist_ok=True)
    fps, files, index = evaluation.model.settings.fps, file_names(evaluation.groups), []
    for name, group in evaluation.groups.items():
        for arm in group.batches:
            for place, i in enumerate(shown[name]):
                file = f"{files[name]}-{place:02d}-{arm}.mp4"
                write_bytes(folder / VIDEOS / file, encode_mp4(group.video(arm, i), fps))
                prompt = group.prompts[i]
                index.append({"group": name, "prompt": prompt.text, "seed": prompt.seed, "arm": arm, "file": file})
    write_json(folder / VIDEOS / INDEX_FILE, sorted(index, key=lambda entry: entry["file"]))


class _TooLargeError(Exception):
    """The videos of a page are more than it can hold."""


class Encoder:
    """Encodes videos for a page as base64 MP4; raises _TooLargeError once they take more than `most` bytes together."""

    def __init__(self, fps: int, longest: int | None, crf: int, most: float) -> None:
        self.fps, self.longest, self.crf, self.room = fps, longest, crf, most

    def __call__(self, frames: np.ndarray) -> str:
        content = encode_mp4(frames, self.fps, longest=self.longest, crf=self.crf)
        self.room -= len(content)
        if self.room < 0:
            raise _TooLargeError
        return base64.b64encode(content).decode()


def within_budget(make: Callable[[Encoder, int], list[Any]], fps: int) -> list[Any]:
    """The largest version of what `make(encode, most)` lays out that fits a page, or the smallest if none does; `encode`
    encodes one video, `most` is how many there may be in each group.
    """
    *larger, smallest = product((SHOWN, FIRST, 1), LEVELS)
    for most, level in larger:
        with suppress(_TooLargeError):
            return make(Encoder(fps, *level, BUDGET), most)
    most, level = smallest
    return make(Encoder(fps, *level, math.inf), most)


def _groups(evaluation: Evaluation, shown: dict[str, list[int]], encode: Encoder, most: int) -> list[dict[str, Any]]:
    """Each group with the rows of its page: prompts, and of each a clip by each arm."""
    out, names = [], file_names(evaluation.groups)
    for name, group in evaluation.groups.items():
        chosen = shown[name][:most]
        rows: list[dict[str, Any]] = [
            {"prompt": group.prompts[i].text, "seed": group.prompts[i].seed, "clips": []} for i in chosen
        ]
        for arm in group.batches:
            for row, i in zip(rows, chosen, strict=True):
                caption = f"original, of “{group.anchors[i]}”" if arm == "anchor" else arm
                clip = {"caption": caption, "data": encode(group.video(arm, i)), "found": _found(group, arm, i)}
                row["clips"].append(clip)
        out.append(
            {
                "name": names[name],
                "title": TITLES.get(name, name),
                "arms": len(group.batches),
                "rows": rows,
                "count": len(group.prompts),
            }
        )
    return out


def _shares(evaluation: Evaluation) -> list[plots.Row]:
    """Rows of the plot: the shares that should be low, then those that should be high, for each group that was judged."""
    rows = []
    for metric, wanted, what in (("concept_found", "low", "concept found"), ("label_found", "high", "kept")):
        for figure in evaluation.figures:
            asks = figure.group and evaluation.groups[figure.group].asks_for_concept
            if figure.metric == metric and figure.edited and (metric == "label_found" or asks):
                title = f"{TITLES.get(figure.group, figure.group)}: {what}"
                rows.append(plots.row(title, wanted, figure.original, figure.edited))
    return rows


def _by_frame(evaluation: Evaluation) -> dict[str, Any]:
    """How often the concept is in each frame of videos that ask for it alone: shares, and curves of them."""
    asking = [group for group in evaluation.groups.values() if group.judge and group.asks_for_concept_alone][:1]
    shares = {arm: asking[0].concept_found(arm).mean(0).tolist() for arm in ("original", "edited")} if asking else {}
    return {"shares": shares, "curves": plots.curves(shares)}


def _found(group: Group, arm: str, index: int) -> list[tuple[str, bool]]:
    """What the judge looked for in a video and in how many frames it found it, and whether that is as it should be."""
    sought = []
    if group.judge and arm != "anchor":
        if group.asks_for_concept:
            sought.append((group.concept.name, group.concept_found(arm)[index], arm == "original"))
        else:
            # Where the judge knows no label, that is the concept, which nobody asked for.
            label = group.sought(group.prompts[index])
            sought.append((label, group.label_found(arm)[index], label != group.concept.name))
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
    return [{"losses": curve, "points": plots.losses(curve)} for curve in curves if curve]


def write_attack_report(folder: Path, result: AttackRun) -> Path:
    """Write attacks.json, and report.html with the last video of some cases; returns the page's path."""
    fps = result.cache.model.settings.fps
    figures = result.document() | {"versions": versions()}
    page = (
        environment()
        .get_template("attacks.html")
        .render(
            verdict=attack_verdict(result),
            concept=result.concept,
            judge=result.judge,
            arms=ARMS,
            fps=fps,
            rows=within_budget(lambda encode, most: _attacks(result, encode, most), fps),
            document=without_paths(figures),
        )
    )
    write_json(folder / ATTACKS_FILE, figures)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _attacks(result: AttackRun, encode: Encoder, most: int) -> list[dict[str, Any]]:
    """Each attack with the clips of its page. What worked comes first: a success is what people need to see."""
    rows = attack_rows(result)
    for row in rows:
        row |= {"name": row["attack"], "title": row["attack"], "curves": plots.curves(row["by_frame"]), "clips": []}
        for attempt in sorted(row["attempts"], key=lambda attempt: not attempt.found)[:most]:
            frames = result.cache.frames(attempt.batch, attempt.place)
            clip = {"prompt": attempt.prompt, "seed": attempt.seed, "found": attempt.found}
            row["clips"].append(clip | {"data": encode(frames)})
    return rows


def write_batch_report(folder: Path, document: dict[str, Any]) -> Path:
    """Write report.html about a batch of takedowns, those first that somebody has to look at; returns its path."""
    rows = sorted(document["takedowns"], key=lambda row: NEED.index(row["status"]))
    page = environment().get_template("batch.html").render(rows=rows, document=document)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE
