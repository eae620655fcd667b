"""What every benchmark needs: result files, which results may be kept, and contact sheets."""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from unreel.files import write_json
from unreel.judges import Judge
from unreel.models.fingerprint import Fingerprint
from unreel.models.pair import Pair, Settings
from unreel.prompts.concept import Concept
from unreel.prompts.grammar import fill
from unreel.prompts.kinds import GAP
from unreel.versions import versions

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "images"
FOLDER = Path("runs") / "benchmarks"


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json with the versions it was measured with."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    write_json(file, {**result, "versions": versions()})
    print(f"wrote {file}")
    return file


def stored_entries(name: str) -> dict[str, Any]:
    """What `write_entry` has put into benchmarks/results/NAME.json."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def write_entry(name: str, key: str, entry: dict[str, Any]) -> None:
    """Put one entry, with the versions it was measured with, beside those of other devices and settings in
    benchmarks/results/NAME.json.
    """
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    write_json(file, stored_entries(name) | {key: {**entry, "versions": versions()}})
    print(f"wrote {file}")


def machine(device: str) -> str:
    """The GPU or processor that figures are measured on."""
    return torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine()


def resume(name: str, pair: Pair, judge: Any, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stored result if it was made with the same pair, judge and options, else {}; and what to store with the result
    so that this can be told.
    """
    encoder, network = (Fingerprint.of(module).identity for module in (pair.t2i.text_encoder, judge.network))
    same = {"pair": _stored_settings(pair), "encoder": encoder, "judge": network, **options}
    file = RESULTS / f"{name}.json"
    stored = json.loads(file.read_text()) if file.is_file() else {}
    comparable = json.loads(json.dumps(same))
    return (stored if all(stored.get(key) == value for key, value in comparable.items()) else {}), same


def _stored_settings(pair: Pair) -> dict[str, Any]:
    """The pair's settings as result files name them."""
    settings = recorded_settings(pair.settings)
    return settings | {name.replace("-", "_"): values for name, values in settings.pop("methods").items()}


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """Settings as result files record them: those that came later than the first files only if they differ from their
    defaults.
    """
    usual = {"negative_prompt": None}
    return {name: value for name, value in asdict(settings).items() if name not in usual or value != usual[name]}


def plainly(concept: Concept, wording: str | None = None) -> list[str]:
    """Prompts that ask for the concept in plain words."""
    return [fill(sentence, {GAP[1:-1]: wording or concept.name}) for sentence in concept.traits.plain]


def shows(judge: Judge, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Whether each video shows the label that stands beside it, frame by frame: (n, frames) bool."""
    pairs = zip(videos, labels, strict=True)
    return np.stack([judge.probabilities(video[None], [label])[0, :, 0] >= judge.threshold for video, label in pairs])


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def of_pair(name: str, pair: str) -> str:
    """The name of a result about a pair; for the first pair, it is `name` itself."""
    return slug(f"{name} {pair.partition(':')[2]}".strip()).replace("-", "_")


def contact_sheet(name: str, rows: list[tuple[str, np.ndarray]], *, label: int = 150, scale: int = 1) -> None:
    """Write docs/images/NAME.jpg: a row of pictures (n, height, width, 3) uint8 beside each label."""
    height = rows[0][1].shape[1] * scale
    width = max(sum(picture.shape[1] for picture in pictures) for _, pictures in rows) * scale + label
    sheet = Image.new("RGB", (width, height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, pictures) in enumerate(rows):
        strip = Image.fromarray(np.concatenate(list(pictures), axis=1))
        sheet.paste(
            strip.resize((strip.width * scale, strip.height * scale), Image.Resampling.NEAREST), (label, i * height)
        )
        draw.multiline_text((4, i * height + height // 2 - 12), text, fill="black")
    PICTURES.mkdir(parents=True, exist_ok=True)
    sheet.save(PICTURES / f"{name}.jpg", quality=90)
    print(f"wrote {PICTURES / name}.jpg")
