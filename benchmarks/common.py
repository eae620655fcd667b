"""What every benchmark needs: where results go, and contact sheets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unreel.report import write_text
from unreel.unlearning import versions

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "images"


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json with the versions it was measured with."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    write_text(file, json.dumps({**result, "versions": versions()}, indent=2) + "\n")
    print(f"wrote {file}")
    return file


def contact_sheet(name: str, rows: list[tuple[str, np.ndarray]], *, label: int = 150, scale: int = 1) -> None:
    """Write docs/images/NAME.png: a row of pictures (n, height, width, 3) uint8 beside each label."""
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
    sheet.save(PICTURES / f"{name}.png", optimize=True)
    print(f"wrote {PICTURES / name}.png")
