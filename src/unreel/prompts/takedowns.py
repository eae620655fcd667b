"""Requests to make a model forget, as a table brings them: a row each.

Knows files and concepts; knows no models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from unreel.errors import UnreelError, summarise
from unreel.files import file_name
from unreel.prompts.concept import Concept
from unreel.prompts.files import read_records
from unreel.prompts.kinds import Kind
from unreel.prompts.vocabulary import Vocabulary, kind_of

COLUMNS = ("concept", "kind", "synonyms", "replace", "keep", "ticket")
SEPARATOR = ";"  # between the texts of a list
NOTHING = "nothing"  # in the column `replace`: the scene without the concept


@dataclass(frozen=True)
class Takedown:
    """One request. Without a `kind`, it is what a model's world lists the name as; without an `anchor`, a method chooses
    what to make instead.
    """

    concept: str
    kind: str | None = None
    synonyms: tuple[str, ...] = ()
    anchor: str | None = None
    keep: tuple[str, ...] = ()
    ticket: str = ""

    def __post_init__(self) -> None:
        Concept(self.concept, self.kind or "object", self.synonyms, self.anchor)  # type: ignore[arg-type]

    def as_concept(self, vocabulary: Vocabulary | None = None) -> Concept:
        """What is asked for, of the kind that it is given, or else listed as in the vocabulary."""
        kind = self.kind or (kind_of(self.concept, vocabulary) if vocabulary else "object")
        return Concept(" ".join(self.concept.split()), kind, self.synonyms, self.anchor)  # type: ignore[arg-type]

    @property
    def folder(self) -> str:
        """The name of a folder for it."""
        return file_name(f"{self.ticket} {self.concept}".strip())


def read_takedowns(file: str | Path) -> list[Takedown]:
    """Every row of a .csv file, or object of the list in a .json file, in its order.

    Raises UnreelError, naming file and row, for what cannot be read, for a field that is not known, and for two rows that
    would be one folder.
    """
    takedowns: list[Takedown] = []
    rows: dict[str, int] = {}
    for number, record in read_records(file, "takedowns", (".csv", ".json")):
        try:
            takedown = _takedown(record)
        except (UnreelError, ValueError) as error:
            raise UnreelError(f"{file}, row {number}: {error}") from None
        if takedown.folder in rows:
            raise UnreelError(
                f"{file}, rows {rows[takedown.folder]} and {number} are the same takedown: give each a ticket of its own"
            )
        rows[takedown.folder] = number
        takedowns.append(takedown)
    return takedowns


def _takedown(record: Any) -> Takedown:
    if not isinstance(record, dict):
        raise ValueError("it is no object with a concept")
    unknown = [str(name) for name in record if name not in COLUMNS]
    if unknown or "concept" not in record:
        what = f"{summarise(unknown)} is no column" if unknown else "it has no column concept"
        raise ValueError(f"{what}: there are {', '.join(COLUMNS)}")
    texts = {name: _texts(name, value) for name, value in record.items()}
    for name in ("concept", "kind", "replace", "ticket"):
        if len(texts.get(name, ())) > 1:
            raise ValueError(f"its {name} is one text, not {len(texts[name])}")
    one = {name: (texts.get(name) or [""])[0] for name in ("concept", "kind", "replace", "ticket")}
    if one["kind"] and one["kind"] not in get_args(Kind):
        raise ValueError(f"{one['kind']!r} is no kind: choose from {', '.join(get_args(Kind))}")
    anchor = "" if one["replace"].lower() == NOTHING else one["replace"] or None
    lists = {name: tuple(texts.get(name, ())) for name in ("synonyms", "keep")}
    return Takedown(one["concept"], one["kind"] or None, anchor=anchor, ticket=one["ticket"], **lists)


def _texts(name: str, value: Any) -> list[str]:
    """A field's texts: those of a list, or those between its separators, where it is one of several."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, (str, int, type(None))) for part in parts):
        raise ValueError(f"its {name} is neither a text nor a list of texts: {value!r}")
    if name in ("synonyms", "keep"):
        parts = [piece for part in parts for piece in str(part or "").split(SEPARATOR)]
    return [text for part in parts if (text := " ".join(str("" if part is None else part).split()))]
