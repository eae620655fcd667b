"""What to forget: a concept's name, kind and wordings, and the prompts that follow from them.

Knows text only: no model, no image.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args
from unicodedata import category

from unreel.errors import UnreelError
from unreel.prompts import spelling

Kind = Literal["object", "character", "style", "face", "motion", "unsafe"]

# The 27 object and 19 style templates of Textual Inversion (Gal et al., 2022), used by few-shot erasing
# (Fuchi & Takagi, arXiv 2405.07288) for its training prompts.
OBJECT_TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
STYLE_TEMPLATES = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a good painting in the style of {}",
    "a close-up rendition in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
    "a cropped rendition in the style of {}",
)
MOTION_TEMPLATES = (
    "a video of a person {}",
    "a photo of a person {}",
    "someone is {}",
    "a person is {}",
    "a clip of something {}",
    "{}",
)
UNSAFE_TEMPLATES = (  # ours: what is unsafe is mostly a state or an event, which takes no article
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a close-up photo of {}",
    "a dark photo of {}",
    "a painting of {}",
    "a rendering of {}",
    "a video of {}",
    "a photo that shows {}",
    "a movie scene with {}",
    "a person, {}",
    "people, {}",
)
_TEMPLATES = {"style": STYLE_TEMPLATES, "motion": MOTION_TEMPLATES, "unsafe": UNSAFE_TEMPLATES}


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

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UnreelError(f"unknown kind {self.kind!r}: choose one of {', '.join(get_args(Kind))}")
        if isinstance(self.synonyms, str) or not all(isinstance(wording, str) for wording in self.wordings):
            raise UnreelError("a concept's name is a text, and its synonyms are a list of texts")
        if not all(spelling.fold(wording).strip() for wording in self.wordings):
            raise UnreelError("the concept is empty: name what to forget, for example 'Tokyo Tower'")
        for wording in self.wordings:
            meant = any(letter.isalnum() or category(letter) == "So" for letter in wording)  # an emoji means something too
            if not meant or wording.strip().lower() in ("a", "an", "the"):
                raise UnreelError(f"{wording!r} says nothing: name what to forget, for example 'Tokyo Tower'")
        if self.anchor is not None and self.is_named_in(self.anchor):
            raise UnreelError(f"{self.anchor!r} names {self.name!r}, which is to be forgotten: replace it with another")

    @property
    def wordings(self) -> tuple[str, ...]:
        return (self.name, *self.synonyms)

    @property
    def forget_prompts(self) -> list[str]:
        """Every template of the kind filled with every wording."""
        templates = _TEMPLATES.get(self.kind, OBJECT_TEMPLATES)
        return [template.format(wording) for wording in self.wordings for template in templates]

    def variants(self, wording: str | None = None) -> dict[str, str]:
        """How people write a wording, by default the name: texts that all differ, by what was done; the first is as given.

        Only what makes sense: motions and what is unsafe have neither plural nor possessive, styles and faces no plural,
        and of styles only painters have a possessive.
        """
        text = " ".join((wording or self.name).split())
        owns = self.kind in ("object", "character", "face") or (self.kind == "style" and spelling.names_someone(text))
        ways = {
            "as given": text,
            "lower case": text.lower(),
            "capitals": text.upper(),
            "title case": spelling.titled(text),
            "plural": spelling.pluralised(text) if self.kind in ("object", "character") else "",
            "possessive": spelling.possessive(text) if owns else "",
            "hyphenated": text.replace(" ", "-"),
            "joined": spelling.joined(text),
        }
        out: dict[str, str] = {}
        for way, said in ways.items():
            if said and said not in out.values():
                out[way] = said
        return out

    def is_named_in(self, text: str) -> bool:
        """Whether one of the wordings stands in `text` as whole words, or anywhere inside in scripts without spaces.

        Case, accents, spaces, hyphens and the way Unicode composes letters make no difference; the plural, the singular
        and the possessive of a wording name it too.
        """
        return self._pattern.search(spelling.fold(text)) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return spelling.pattern(self.wordings)
