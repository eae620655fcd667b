"""What the record of an erasure, its `provenance`, holds, checked once where it is read, so that nobody else has to.

Knows names and types; knows nothing about what they mean.
"""

from typing import Any

from unreel.errors import is_text

KIND = "intervention"  # of what changes no weights, what it is
CHECK = "check"  # what a self-check said
CHANGES = "changes"  # of a part of a sum, whether it is of what reads or of what denoises
ROUNDED_AWAY = "rounded_away"  # the share of the changes that the precision has no room for, where it is much
DIGEST = "images_digest"  # of a part that was learned from given images

LARGEST = 1e300  # what is no smaller is no figure

# A type, a list of what all in a list may be, or what must be in a dictionary by name.
Shape = type | list["Shape"] | dict[str, "Shape"]

_PART: dict[str, Shape] = {
    "concept": str,
    "kind": str,
    "synonyms": [str],
    "method": str,
    "settings": dict,
}
_ALSO_IN_PART: dict[str, Shape] = {
    "anchor": str,
    "losses": [float, [float]],
    "stopped": str,
    "images": str,
    DIGEST: str,
    "seconds": float,
    "peak_memory_gib": float,
    "wordings": {"among": str, "found": [str]},
}
_RECORD: dict[str, Shape] = {"encoder": str, "versions": {"unreel": str}, "parts": [dict]}
_ALSO_IN_RECORD: dict[str, Shape] = {
    "model": str,
    "device": str,
    "dtype": str,
    CHECK: {"summary": str, "shortfalls": [str]},
}


def require_record(record: dict[str, Any]) -> None:
    """Raises ValueError, naming what is missing or of another type, unless a record says what every erasure's does."""
    _require(record, _RECORD, _ALSO_IN_RECORD)
    if not record["parts"]:
        raise ValueError("its record names no concept")
    for part in record["parts"]:
        _require(part, _PART, _ALSO_IN_PART)


def _require(values: dict[str, Any], needed: dict[str, Shape], optional: dict[str, Shape]) -> None:
    for name, shape in (needed | optional).items():
        if name in needed and name not in values:
            raise ValueError(f"its record has no {name}")
        if name in values and not _has(values[name], shape):
            raise ValueError(f"its record has no sound {name}")


def _has(value: Any, shape: Shape) -> bool:
    """Whether a value is of the shape; a whole number is a float too, what is no number is none."""
    if isinstance(shape, list):
        return isinstance(value, list) and any(all(_has(each, one) for each in value) for one in shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(name in value and _has(value[name], of) for name, of in shape.items())
    if shape is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST
    if shape is str:
        return isinstance(value, str) and is_text(value)
    return isinstance(value, shape)
