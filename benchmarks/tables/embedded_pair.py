"""Tables of docs/embedded-pair.md, and those of any embedded pair."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.tables._format import interval, load, percent

DOCUMENTS = ("docs/embedded-pair.md", "src/unreel/embedded/README.md")
MEASURED = {
    "judge_concept": "judge finds the concept of a held-out render",
    "judge_style": "judge names the style of a held-out render",
    "judge_two_objects": "judge finds both concepts of a held-out render",
    "judge_motion": "judge names the motion of a held-out rendered clip",
    "render_concept": "judge finds the concept in a rendered video, mean over frames",
    "image_concept": "generated image shows the concept asked for",
    "image_style": "generated image has the style asked for",
    "two_objects": "generated image shows both objects asked for",
    "new_wordings": "generated image shows what a wording never trained on asks for",
    "known_wordings": "the same, of those wordings that the reader itself knows",
    "video_concept": "generated video shows the concept, mean over frames",
    "video_style": "generated video has the style, mean over frames",
    "video_motion": "generated video makes the motion asked for",
}
# What the first pair is held to.
BARS = {
    "judge_concept": 0.97,
    "judge_style": 0.97,
    "image_concept": 0.90,
    "image_style": 0.90,
    "two_objects": 0.60,
    "video_concept": 0.85,
    "video_style": 0.85,
    "video_motion": 0.80,
}
RECORDS = Path(__file__).parents[2] / "training" / "records"


def quality(of: str = "embedded_pair", bars: Mapping[str, float] = BARS) -> str:
    result = load(of)
    lines = ["| | share | 95 % interval | samples | bar |", "|---|---|---|---|---|"]
    for key, what in MEASURED.items():
        if key not in result["quality"]:
            continue
        bar = bars.get(key)
        share, n, (low, high) = (result[field][key] for field in ("quality", "n", "ci"))
        goal = f"{100 * bar:.0f} %{'' if share >= bar else ' (missed)'}" if bar else ""
        lines.append(f"| {what} | {percent(share)} | {100 * low:.1f} to {100 * high:.1f} | {n} | {goal} |")
    classes = ", ".join(f"{count} {name}s" for name, count in result["classes"].items())
    floor = 100 * result["judge_false_positive"]
    return (
        "\n".join(lines) + f"\n\nClasses: {classes}. The judge finds a concept that is not there in {floor:.2f} % of cases."
    )


def motions(of: str = "embedded_pair") -> str:
    result = load(of)
    head = ["motion", "made as asked", "concept found, mean over frames", "the same in renders"]
    looks = [result["video_concept_by_motion"], result.get("render_concept_by_motion", {})]
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|"]
    for motion, share in result["video_motion_by_motion"].items():
        concept = [percent(shares[motion]) if motion in shares else "" for shares in looks]
        lines.append(f"| {motion} | {percent(share)} | {' | '.join(concept)} |")
    return "\n".join(lines)


def judge_floor() -> str:
    lines = ["| picture without a concept | judge finds one | of |", "|---|---|---|"]
    for name, share in load("judge_floor")["any_concept_found"].items():
        lines.append(f"| {name} | {interval(share)} | {share['n']} |")
    return "\n".join(lines)


def training(records: Path = RECORDS, stages: Iterable[str] = ("autoencoder", "image", "video", "judge")) -> str:
    lines = ["| stage | steps | batch | minutes | device |", "|---|---|---|---|---|"]
    for stage in stages:
        record = json.loads((records / f"{stage}.json").read_text())
        steps, batch = record["schedule"]["steps"], record["schedule"]["batch"]
        lines.append(f"| {stage} | {steps} | {batch} | {record['seconds'] / 60:.0f} | {record['device']} |")
    return "\n".join(lines)


TABLES = {
    "quality": quality,
    "motions": motions,
    "judge_floor": judge_floor,
    "training": training,
}
