"""One self-contained HTML page about an unlearning run, and the same figures for programs.

Knows how to lay out; computes nothing but the loss curve's points.
"""

import base64
import json
from pathlib import Path
from typing import Any

from unreel.erasure import Erasure
from unreel.evaluation import Clip, Evaluation
from unreel.unlearning import versions
from unreel.video import encode_mp4, write_bytes

METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
SHOWN = 6  # clips of each group on the page


def metrics(erasure: Erasure, evaluation: Evaluation) -> dict[str, Any]:
    """The run's figures: shares from 0 to 1 with n and 95 % interval, seconds, GiB, seed, versions."""
    part = erasure.provenance["parts"][-1]
    judge = evaluation.judge
    return {
        "concept": part["concept"],
        "kind": part["kind"],
        "method": part["method"],
        **evaluation.metrics(),
        "judge": {"name": judge.name, "error": judge.error} if judge else None,
        "seconds": part["seconds"],
        "peak_memory_gib": part["peak_memory_gib"],
        "seed": part["settings"]["seed"],
        "evaluation_seeds": [clip.seed for clip in evaluation.groups["target"].clips],
        "versions": versions(),
    }


def write_text(file: Path, text: str) -> None:
    """Write atomically."""
    write_bytes(file, text.encode())


def write_report(folder: Path, erasure: Erasure, evaluation: Evaluation, fps: int) -> Path:
    """Write metrics.json, videos/ and report.html into an existing erasure folder; returns the page's path."""
    from jinja2 import Environment, PackageLoader

    (folder / "videos").mkdir(exist_ok=True)
    groups = []
    for name, group in evaluation.groups.items():
        rows = [_row(folder / "videos", f"{name}-{i:02d}", clip, fps) for i, clip in enumerate(group.clips[:SHOWN])]
        groups.append({"name": name, "rows": rows})
    figures = metrics(erasure, evaluation)
    part = erasure.provenance["parts"][-1]
    environment = Environment(loader=PackageLoader("unreel", "templates"), autoescape=True)
    page = environment.get_template("report.html").render(
        concept=part["concept"],
        part=part,
        provenance=erasure.provenance,
        metrics=figures,
        groups=groups,
        points=loss_points(part["losses"]),
        judge=evaluation.judge,
    )
    write_text(folder / METRICS_FILE, json.dumps(figures, indent=2) + "\n")
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _row(folder: Path, stem: str, clip: Clip, fps: int) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": clip.prompt, "seed": clip.seed}
    for when, frames, found in (
        ("before", clip.before, clip.found_before),
        ("after", clip.after, clip.found_after),
    ):
        content = encode_mp4(frames, fps)
        write_bytes(folder / f"{stem}-{when}.mp4", content)
        row[when] = {
            "data": base64.b64encode(content).decode(),
            "found": None if found is None else f"found in {int(found.sum())} of {len(found)} frames",
            "yes": found is not None and found.mean() >= 0.5,
        }
    return row


def loss_points(losses: list[float], width: int = 600, height: int = 120) -> str:
    """The loss curve as points of an SVG polyline."""
    low, high = min(losses), max(losses)
    span, last = (high - low) or 1.0, max(1, len(losses) - 1)
    return " ".join(f"{i * width / last:.1f},{height - (loss - low) * height / span:.1f}" for i, loss in enumerate(losses))
