"""The pairs that ship with unreel: `embedded` is the first, `embedded:NAME` another. Each is a folder, which is all that is
to be added for one: its two pipelines, its world, the judge of its videos, and `preset.json`, what comes with it.

Knows files; knows no pipelines.
"""

import json
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded"
PRESET_FILE, WORLD_FILE = "preset.json", "world.json"
PARTS = ("image", "video")


def names() -> list[str]:
    """What they are called, the first one first."""
    others = sorted(file.parent.name for file in EMBEDDED_FOLDER.glob(f"*/{PRESET_FILE}"))
    return [EMBEDDED, *(f"{EMBEDDED}:{name}" for name in others)]


def shipped(source: str | None) -> Path | None:
    """The folder of the pair that is called `source`; None for what is no pair of unreel's. Raises UnreelError for a name
    that none of them has.
    """
    if source is None or source.partition(":")[0] != EMBEDDED:
        return None
    if source not in names():
        raise UnreelError(f"no pair ships as {source!r}: there is {', '.join(names())}")
    return EMBEDDED_FOLDER / source.partition(":")[2]


def preset_of(t2v: str | None) -> dict[str, Any]:
    """What comes with a pair, the first one by default: the judge of its videos, how to sample from it, and what methods
    have instead of their own settings. Empty for pairs that do not ship with unreel.
    """
    folder = shipped(EMBEDDED if t2v is None else t2v)
    return json.loads((folder / PRESET_FILE).read_text(encoding="utf-8")) if folder else {}


def world_of(t2v: str | None) -> dict[str, Any] | None:
    """All that there is in the world of a pair, the first one by default; None for pairs that know the world at large."""
    folder = shipped(EMBEDDED if t2v is None else t2v)
    return json.loads((folder / WORLD_FILE).read_text(encoding="utf-8")) if folder else None
