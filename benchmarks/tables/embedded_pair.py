"""Tables of docs/embedded-pair.md."""

import json
from pathlib import Path

from benchmarks.tables._format import interval, load, percent

DOCUMENTS = ("docs/embedded-pair.md", "src/unreel/embedded/README.md")
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
RECORDS = Path(__file__).parents[2] / "training" / "records"


def quality() -> str:
    result = load("embedded_pair")
    lines = ["| | share | 95 % interval | samples | bar |", "|---|---|---|---|---|"]
    for key, (bar, what) in BARS.items():
        share, n, (low, high) = (result[field][key] for field in ("quality", "n", "ci"))
        goal = f"{100 * bar:.0f} %{'' if share >= bar else ' (missed)'}" if bar else ""
        lines.append(f"| {what} | {percent(share)} | {100 * low:.1f} to {100 * high:.1f} | {n} | {goal} |")
    classes = ", ".join(f"{count} {name}s" for name, count in result["classes"].items())
    floor = 100 * result["judge_false_positive"]
    return (
        "\n".join(lines) + f"\n\nClasses: {classes}. The judge finds a concept that is not there in {floor:.2f} % of cases."
    )


def motions() -> str:
    result = load("embedded_pair")
    lines = ["| motion | made as asked | concept found, mean over frames |", "|---|---|---|"]
    for motion, share in result["video_motion_by_motion"].items():
        concept = result["video_concept_by_motion"].get(motion)
        lines.append(f"| {motion} | {percent(share)} | {'' if concept is None else percent(concept)} |")
    return "\n".join(lines)


def judge_floor() -> str:
    lines = ["| picture without a concept | judge finds one | of |", "|---|---|---|"]
    for name, share in load("judge_floor")["any_concept_found"].items():
        lines.append(f"| {name} | {interval(share)} | {share['n']} |")
    return "\n".join(lines)


def training() -> str:
    lines = ["| stage | steps | batch | minutes | device |", "|---|---|---|---|---|"]
    for stage in ("autoencoder", "image", "video", "judge"):
        record = json.loads((RECORDS / f"{stage}.json").read_text())
        steps, batch = record["schedule"]["steps"], record["schedule"]["batch"]
        lines.append(f"| {stage} | {steps} | {batch} | {record['seconds'] / 60:.0f} | {record['device']} |")
    return "\n".join(lines)


TABLES = {
    "quality": quality,
    "motions": motions,
    "judge_floor": judge_floor,
    "training": training,
}
