"""Several evaluations on one page: methods, settings or erasures beside each other, on the same prompts and seeds.

Knows finished runs, as their folders hold them; makes and measures nothing.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unreel.errors import UnreelError, summarise
from unreel.evaluation.estimate import Estimate, mcnemar
from unreel.evaluation.run import Run
from unreel.files import write_json, write_text
from unreel.interventions.base import EVALUATION_FOLDER, METRICS_FILE, REPORT_FILE
from unreel.models.sampling import read_mp4
from unreel.report import plots
from unreel.report.page import BUDGET, INDEX_FILE, VIDEOS, environment, within_budget
from unreel.report.table import COLUMNS, TITLES, cell
from unreel.report.verdict import ABOUT, verdict

ALIKE = ("concept", "kind", "judge", "model", "sampling", "dtype")  # what has to be the same for figures to be compared
COMPARISON_FILE = "comparison.json"  # in the folder of every comparison, and in no other
DEFAULT_FPS = 8.0
LARGEST = 50_000_000  # bytes of a video file that is looked at


@dataclass(frozen=True)
class Compared:
    """One run under a name of its own, with its page's videos: (group, prompt, seed, arm) -> file."""

    title: str
    run: Run
    videos: Mapping[tuple[str, str, int, str], Path]

    @staticmethod
    def load(folder: Path) -> "Compared":
        """Raises UnreelError if there is no finished run, or if there are several."""
        home = _home(folder)
        run = Run.load(home)
        around = home.absolute().parent
        if home.name == EVALUATION_FOLDER:
            name = around.name
        else:
            name = f"{around.parent.name}/{home.name}" if around.name == EVALUATION_FOLDER else folder.absolute().name
        return Compared(f"{name} ({', '.join(dict.fromkeys(run.methods))})", run, _videos(home))

    @property
    def found(self) -> Estimate | None:
        return _edited(self.run, "concept_found", "explicit")

    def kept(self, groups: Sequence[str]) -> Estimate | None:
        """The share of videos in `groups` that show what else was asked for; None if none of the groups was judged."""
        shares = [share for group in groups if (share := _edited(self.run, "label_found", group))]
        if not shares:
            return None
        hits = sum(round(share.value * share.n) for share in shares)
        return Estimate.share(np.arange(sum(share.n for share in shares)) < hits)


def _home(folder: Path) -> Path:
    """The folder of the run: `folder` itself, or the one that it holds. Raises UnreelError if it holds the runs of several
    concepts.
    """
    evaluation = folder / EVALUATION_FOLDER
    if (evaluation / METRICS_FILE).is_file():
        return evaluation
    of_each = sorted(file.parent for file in evaluation.glob(f"*/{METRICS_FILE}"))
    if len(of_each) > 1:
        raise UnreelError(f"{folder} was evaluated on several concepts: choose {' or '.join(map(str, of_each))}")
    return of_each[0] if of_each else folder


def _edited(run: Run, metric: str, group: str) -> Estimate | None:
    return next((f.edited for f in run.figures if (f.metric, f.group) == (metric, group)), None)


def _videos(home: Path) -> dict[tuple[str, str, int, str], Path]:
    """The files that the index names and that are in the folder of videos itself, without those too large to look at; none
    if the index is broken.
    """
    try:
        entries = json.loads((home / VIDEOS / INDEX_FILE).read_text(encoding="utf-8"))
        named = {(e["group"], e["prompt"], int(e["seed"]), e["arm"]): home / VIDEOS / Path(e["file"]).name for e in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {key: file for key, file in named.items() if file.is_file() and file.stat().st_size < LARGEST}


def write_comparison(runs: Sequence[Compared], out: Path) -> Path:
    """Write comparison.json and report.html into `out`; returns the page's path. Raises UnreelError unless there are two
    runs at least.
    """
    if len(runs) < 2 or len({compared.title for compared in runs}) < len(runs):
        raise UnreelError("give at least two evaluations, in folders of different names")
    groups = [group for group in ABOUT if all(_edited(each.run, "label_found", group) for each in runs)]
    fps = _fps(runs[0])
    points = [plots.point(each.title, each.found, kept) for each in runs if each.found and (kept := each.kept(groups))]
    page = (
        environment()
        .get_template("comparison.html")
        .render(
            concept=runs[0].run.concept,
            unlike=differences([each.run for each in runs]),
            runs=[{"title": each.title, "verdict": verdict(each.run)} for each in runs],
            points=points,
            side=plots.SIDE,
            rows=_rows(runs),
            paired=[
                {**row, "title": TITLES.get(row["group"], row["group"])} for row in paired([each.run for each in runs])
            ],
            groups=_clips(runs, fps),
            fps=fps,
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / COMPARISON_FILE, document(runs))
    write_text(out / REPORT_FILE, page)
    return out / REPORT_FILE


def document(runs: Sequence[Compared]) -> dict[str, Any]:
    """The comparison as plain data."""
    return {
        "differ": differences([each.run for each in runs]),
        "paired": paired([each.run for each in runs]),
        "runs": {each.title: each.run.document() for each in runs},
    }


def differences(runs: Sequence[Run]) -> str:
    """In words, what was not the same for all runs, and may be why their figures differ; empty if nothing was."""
    unlike = [name for name in ALIKE if not all(_alike(runs[0], run, name) for run in runs)]
    asked = [{(f.metric, f.group): f.edited.n for f in run.figures if f.edited and f.unit == "%"} for run in runs]
    if any(counts.get(key, n) != n for counts in asked for key, n in asked[0].items()):
        unlike.append("number of videos")
    if any(run.groups != runs[0].groups for run in runs):
        unlike.append("groups of prompts")
    if not {"concept", "kind"} & set(unlike):  # from these, other prompts follow
        unlike += [what for what in ("prompts", "seeds") if any(_asked_otherwise(runs[0], run, what) for run in runs)]
    return summarise(unlike, len(unlike))


def _alike(run: Run, other: Run, name: str) -> bool:
    """Whether the two have the same value of that name, one of ALIKE. Identities of judges count only if both have one."""
    one, two = getattr(run, name), getattr(other, name)
    if name == "judge" and one and two and not ("identity" in one and "identity" in two):
        one, two = ({key: value for key, value in each.items() if key != "identity"} for each in (one, two))
    return one == two


def _asked_otherwise(run: Run, other: Run, what: str) -> bool:
    """Whether a group with as many videos in both runs has other prompts, or seeds (`what`), as far as both say."""
    first, second = run.asked or {}, other.asked or {}
    both = [(first[group], second[group]) for group in first.keys() & second.keys()]
    return any(a["videos"] == b["videos"] and a[what] != b[what] for a, b in both)


def paired(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The other runs beside the first, on videos of the same prompts and seeds: a row for each group that asks for the
    concept alone, or for what the judge knows. For each other run, it says on how many of its `videos` that does `better`
    and `worse` than the first, and how likely this is if both are equally good (`p`); None if they cannot be compared.
    """
    first, *others = runs
    rows = []
    for group in first.by_video or ():
        metric = "concept_found" if group in (first.asking or ()) else "label_found"
        if _edited(first, metric, group):
            cells = [_disagreement(first, other, metric, group) for other in others]
            if any(cells):
                rows.append({"group": group, "metric": metric, "beside_first": cells})
    return rows


def _disagreement(first: Run, other: Run, metric: str, group: str) -> dict[str, Any] | None:
    if group not in (first.by_video or {}) or group not in (other.by_video or {}):
        return None
    alike = all(_alike(first, other, name) for name in ALIKE)
    if not alike or (first.asked or {}).get(group) != (other.asked or {}).get(group) or not _edited(other, metric, group):
        return None
    one, two = (run.by_video[group][metric]["edited"] for run in (first, other))  # type: ignore[index]
    wanted = "0" if metric == "concept_found" else "1"
    better, worse = (sum(a != b and (b == wanted) == up for a, b in zip(one, two, strict=True)) for up in (True, False))
    return {"better": better, "worse": worse, "videos": len(one), "p": mcnemar(better, worse)}


def _fps(compared: Compared) -> float:
    """Frames a second, from the first of its videos that is not broken."""
    import av

    for file in compared.videos.values():
        with suppress(OSError, av.FFmpegError, IndexError), av.open(file) as container:
            return float(container.streams.video[0].average_rate or 0) or DEFAULT_FPS
    return DEFAULT_FPS


def _rows(runs: Sequence[Compared]) -> list[dict[str, Any]]:
    """A row for each figure that people read first, of each group."""
    groups = dict.fromkeys(figure.group for each in runs for figure in each.run.figures if figure.group)
    out = []
    for group in groups:
        for metric, title in COLUMNS:
            figures = [next((f for f in e.run.figures if (f.metric, f.group) == (metric, group)), None) for e in runs]
            if any(figures):
                cells = [cell(figure) if figure else "" for figure in figures]
                out.append({"group": TITLES.get(group, group), "title": title, "cells": cells})
    return out


def _clips(runs: Sequence[Compared], fps: float) -> list[dict[str, Any]]:
    """By group, the prompts that all runs have a video of with the same seed: the original model's, then each run's.

    If a page has room for all files, they are shown as they are; else they are made smaller, and each group has as many as
    then fit.
    """
    first = runs[0].videos
    shared = [key for key in first if key[3] == "edited" and all(key in each.videos for each in runs)]
    groups: dict[str, list[tuple[str, int, dict[str, Path]]]] = {}
    for group, prompt, seed, _ in sorted(key for key in shared if (*key[:3], "original") in first):
        files = {each.title: each.videos[group, prompt, seed, "edited"] for each in runs}
        files = {"original": first[group, prompt, seed, "original"], **files}
        groups.setdefault(group, []).append((prompt, seed, files))
    everything = [file for rows in groups.values() for _, _, files in rows for file in files.values()]
    if sum(file.stat().st_size for file in everything) <= BUDGET:
        return _laid_out(groups, lambda file: base64.b64encode(file.read_bytes()).decode())
    return within_budget(
        lambda encode, most: _laid_out(
            {group: rows[:most] for group, rows in groups.items()}, lambda file: encode(read_mp4(file))
        ),
        round(fps),
    )


def _laid_out(
    groups: Mapping[str, Sequence[tuple[str, int, Mapping[str, Path]]]], data: Callable[[Path], str]
) -> list[dict[str, Any]]:
    """Groups of prompts, seeds and files as the page shows them; `data` gives a file's content in base64."""
    out = []
    for group, rows in groups.items():
        shown = []
        for prompt, seed, files in rows:
            with suppress(UnreelError):  # a row with a broken file is left out
                clips = [{"caption": title, "data": data(file)} for title, file in files.items()]
                shown.append({"prompt": prompt, "seed": seed, "clips": clips})
        out.append({"name": group, "title": TITLES.get(group, group), "rows": shown})
    return [group for group in out if group["rows"]]
