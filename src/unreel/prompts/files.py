"""Rows of files that a user brings, and prompts among them: of published prompt sets, and our own simple ones.

Knows files and the names of their fields; knows nothing about models or judges, and downloads nothing.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.files import parse_json
from unreel.prompts.suite import GROUPS


@dataclass(frozen=True)
class PromptRow:
    """One prompt to make a video of."""

    text: str
    group: str  # the set's own category, or "given"
    label: str | None  # what a judge should find in the video; None: the concept that was erased; "": nothing it is told
    seed: int | None  # a seed the set prescribes, else None


@dataclass(frozen=True)
class Format:
    """The fields a set is told by, and which of its fields mean what. Dots lead into nested objects."""

    name: str
    told_by: tuple[str, ...]
    prompt: str = "prompt"
    group: str = "group"
    label: str = "label"
    seed: str = "seed"
    unlabelled: str | None = None  # the label of rows that have none


OWN = Format("unreel", ("prompt", "group", "label", "seed"))  # all but the prompt are optional
TAKEN = (*GROUPS, "all")
FORMATS = (  # docs/prompt-sets.md has their sources
    Format(
        "VBench", ("prompt_en", "dimension"), "prompt_en", "dimension", "auxiliary_info.object_class.object", unlabelled=""
    ),
    Format("I2P", ("prompt", "categories", "sd_seed"), group="categories", seed="sd_seed"),
    Format("I2P, renamed", ("prompt", "categories", "evaluation_seed"), group="categories", seed="evaluation_seed"),
    Format("of classes", ("prompt", "case_number", "evaluation_seed", "class"), label="class", seed="evaluation_seed"),
    Format("of artists", ("prompt", "case_number", "evaluation_seed", "artist"), label="artist", seed="evaluation_seed"),
    Format("of captions", ("prompt", "case_number", "evaluation_seed", "source"), seed="evaluation_seed", unlabelled=""),
    Format("Ring-A-Bell", ("prompt", "case_number", "evaluation_seed"), seed="evaluation_seed"),
)


def read_prompts(file: str | Path) -> list[PromptRow]:
    """Every prompt of a .json, .csv or .txt file in its order, exact repetitions once.

    Raises UnreelError, naming file and row, for anything that cannot be read: no row is left out silently.
    """
    rows = []
    for number, record in read_records(file, "prompts"):
        try:
            rows.append(_row({"prompt": record} if isinstance(record, str) else record))
        except ValueError as error:
            raise UnreelError(f"{file}, row {number}: {error}") from None
    return list(dict.fromkeys(rows))


def read_records(file: str | Path, what: str, suffixes: Sequence[str] = ()) -> list[tuple[int, Any]]:
    """The rows of a table of `what`, numbered: objects of a .json or .csv file, lines of a .txt file; of `suffixes` only,
    if there are any. Raises UnreelError, naming the file, if it cannot be read.
    """
    file, wanted = Path(file), {suffix: READERS[suffix] for suffix in suffixes or READERS}
    try:
        data = file.read_bytes()
        if file.suffix.lower() not in wanted:
            raise UnreelError(f"{file} has an unknown suffix: {what} are read from {', '.join(wanted)}")
        return wanted[file.suffix.lower()](data.decode("utf-8-sig"), what)
    except OSError as error:
        raise UnreelError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UnreelError(f"{file} is not UTF-8 text: it breaks at byte {error.start + 1}") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise UnreelError(f"cannot read {file}: {error}") from None


def _json(text: str, what: str) -> list[tuple[int, Any]]:
    records = parse_json(text)
    if not isinstance(records, list) or not records:
        raise ValueError(f"its JSON is not a list of {what}, or an empty one")
    return list(enumerate(records, 1))


def _csv(text: str, what: str) -> list[tuple[int, Any]]:
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    records = []
    try:
        names = [name for name in table.fieldnames or () if name]  # spreadsheets leave empty ones behind
        for name in names:
            if names.count(name) > 1:
                raise csv.Error(f"it has more than one column {name}, of which the last would count: keep one of them")
        for number, record in enumerate(table, 1):
            if None in record or None in record.values():
                raise csv.Error(f"row {number} does not have as many fields as there are columns")
            records.append((number, record))
    except csv.Error as error:
        raise csv.Error(f"{error} (line {table.reader.line_num})") from None
    if not records:
        raise ValueError("it has no row 1: nothing follows the column names")
    return records


def _txt(text: str, what: str) -> list[tuple[int, Any]]:
    lines = enumerate(io.StringIO(text, newline=None), 1)
    records = [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]
    if not records:
        raise ValueError("from line 1 on, every line is blank or a # comment")
    return records


READERS = {".json": _json, ".csv": _csv, ".txt": _txt}


def _row(record: Any) -> PromptRow:
    if not isinstance(record, dict):
        raise ValueError("it is neither a text nor an object")
    form = next((form for form in FORMATS if record.keys() >= set(form.told_by)), OWN)
    if form is OWN and not {"prompt"} <= record.keys() <= set(OWN.told_by):  # a misspelt label is not overlooked
        known = "; ".join(f"{form.name}: {', '.join(form.told_by)}" for form in (OWN, *FORMATS))
        raise ValueError(f"the fields {', '.join(map(repr, record)) or '(none)'} are of no known format ({known})")
    text, seed = _text(record, form.prompt), _text(record, form.seed)
    if not text:
        raise ValueError("the prompt is empty")
    if seed and not (seed.isdecimal() and len(seed) <= 20 and int(seed) < 2**64):  # what a torch generator takes
        raise ValueError(f"{seed!r} is no seed: a whole number from 0 to 2^64 - 1")
    group = _text(record, form.group) or "given"
    if group in TAKEN:
        raise ValueError(f"its {form.group} is {group!r}, as unreel calls a group of its own: call it otherwise")
    return PromptRow(text, group, _text(record, form.label) or form.unlabelled, int(seed) if seed else None)


def _text(record: dict[str, Any], path: str) -> str:
    value: Any = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if path == "dimension" and isinstance(value, list):  # a VBench prompt can serve several
        value = ", ".join(map(str, value))
    if type(value) not in (str, int, type(None)):
        raise ValueError(f"its {path} is neither text nor a whole number: {value!r}")
    return "" if value is None else str(value).strip()
