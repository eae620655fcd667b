"""The fields of an intervention's record, its `provenance`: checked once, where a record is read, so that nobody else has
to.

Knows names and types; knows nothing about what they mean.
"""

from typing import Any

from unreel.errors import is_text
from unreel.prompts.spelling import says_something

KIND = "intervention"  # the kind of an intervention that is no erasure
CHECK = "check"  # the result of a self-check
CHANGES = "changes"  # in a part of a sum: the component that it changes, text encoder or network
ROUNDED_AWAY = "rounded_away"  # the share of the changes that is rounded away, if it is large
DIGEST = "images_digest"  # in a part that was learned from given images: which those were

LARGEST = 1e300  # figures are smaller in size

# A type; a list of shapes, one of which all items have; or a dictionary of the shapes that values have, by name.
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
    """Raises ValueError, naming the field, if one is missing or of another type, or if the record has no concept."""
    _require(record, _RECORD, _ALSO_IN_RECORD)
    if not record["parts"]:
        raise ValueError("its record names no concept")
    for part in record["parts"]:
        _require(part, _PART, _ALSO_IN_PART)
        if not all(map(says_something, (part["concept"], *part["synonyms"]))):
            raise ValueError("its record names a concept that says nothing")


def _require(values: dict[str, Any], needed: dict[str, Shape], optional: dict[str, Shape]) -> None:
    for name, shape in (needed | optional).items():
        if name in needed and name not in values:
            raise ValueError(f"its record has no {name}")
        if name in values and not _has(values[name], shape):
            raise ValueError(f"its record has no sound {name}")


def _has(value: Any, shape: Shape) -> bool:
    """Whether a value is of the shape. A whole number counts as a float; a truth value, NaN or infinity does not."""
    if isinstance(shape, list):
        return isinstance(value, list) and any(all(_has(each, one) for each in value) for one in shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(name in value and _has(value[name], of) for name, of in shape.items())
    if shape is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST
    if shape is str:
        return isinstance(value, str) and is_text(value)
    return isinstance(value, shape)
