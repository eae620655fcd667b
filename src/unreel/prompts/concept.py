"""What to forget: a concept's name, kind and wordings, and the prompts that follow from them.

Knows text only: no model, no image.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, get_args

from unreel.errors import UnreelError
from unreel.prompts import spelling
from unreel.prompts.kinds import TRAITS, Kind, Traits


@dataclass(frozen=True)
class Concept:
    """A concept to forget.

    `synonyms` are further wordings that are to be forgotten with the name; the paper uses none. `anchor` is what to make
    instead: None leaves the choice to the method, an empty one asks for the scene without the concept.
    Raises UnreelError for a name or synonym that is no text, is empty or says nothing, for an unknown kind and for an
    anchor that names the concept.
    """

    name: str
    kind: Kind = "object"
    synonyms: tuple[str, ...] = ()
    anchor: str | None = None

    @classmethod
    def recorded(cls, part: Mapping[str, Any]) -> "Concept":
        """As an intervention's record tells of it."""
        return cls(part["concept"], part["kind"], tuple(part["synonyms"]), part.get("anchor"))

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UnreelError(f"unknown kind {self.kind!r}: choose one of {', '.join(get_args(Kind))}")
        if isinstance(self.synonyms, str) or not all(isinstance(wording, str) for wording in self.wordings):
            raise UnreelError("a concept's name is a text, and its synonyms are a list of texts")
        if not all(spelling.fold(wording).strip() for wording in self.wordings):
            raise UnreelError("the concept is empty: name what to forget, for example 'Tokyo Tower'")
        for wording in self.wordings:
            if not spelling.says_something(wording):
                raise UnreelError(f"{wording!r} says nothing: name what to forget, for example 'Tokyo Tower'")
        if self.anchor is not None and self.is_named_in(self.anchor):
            raise UnreelError(f"{self.anchor!r} names {self.name!r}, which is to be forgotten: replace it with another")

    @property
    def traits(self) -> Traits:
        """All that depends on its kind."""
        return TRAITS[self.kind]

    @property
    def wordings(self) -> tuple[str, ...]:
        return (self.name, *self.synonyms)

    @property
    def forget_prompts(self) -> list[str]:
        """Every template of the kind filled with every wording."""
        return [template.format(wording) for wording in self.wordings for template in self.traits.templates]

    def variants(self, wording: str | None = None) -> dict[str, str]:
        """How people write a wording, by default the name: texts that all differ, by what was done; the first is as given.

        Only what makes sense: motions and what is unsafe have neither plural nor possessive, styles and faces no plural,
        and of styles only painters have a possessive.
        """
        text = " ".join((wording or self.name).split())
        owns = self.traits.possessive == "always" or (self.traits.possessive == "names" and spelling.names_someone(text))
        ways = {
            "as given": text,
            "lower case": text.lower(),
            "capitals": text.upper(),
            "title case": spelling.titled(text),
            "plural": spelling.pluralised(text) if self.traits.plural else "",
            "possessive": spelling.possessive(text) if owns else "",
            "hyphenated": text.replace(" ", "-"),
            "joined": spelling.joined(text),
        }
        out: dict[str, str] = {}
        for way, spelled in ways.items():
            if spelled and spelled not in out.values():
                out[way] = spelled
        return out

    def is_spelled(self, text: str) -> bool:
        """Whether `text` is one of the wordings and no more, however that is spelled."""
        return self._pattern.fullmatch(spelling.fold(text)) is not None

    def is_named_in(self, text: str) -> bool:
        """Whether one of the wordings stands in `text` as whole words, or anywhere inside in scripts without spaces.

        Case, accents, spaces, hyphens and the way Unicode composes letters make no difference; the plural, the singular
        and the possessive of a wording name it too.
        """
        return self._pattern.search(spelling.fold(text)) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return spelling.pattern(self.wordings)


def naming(concepts: Iterable[Concept]) -> Callable[[str], bool]:
    """Whether a text names one of `concepts`, as `is_named_in` has it; of thousands it takes little longer than of one."""
    pattern = _pattern_of(tuple(wording for concept in concepts for wording in concept.wordings))
    return lambda text: pattern.search(spelling.fold(text)) is not None


@lru_cache(maxsize=8)
def _pattern_of(wordings: tuple[str, ...]) -> re.Pattern[str]:
    return spelling.pattern(wordings)
