"""What depends on the kind of a concept, as one table: how people ask for it, what is like it, what stands in for it.

Knows sentences; knows no concept.
"""

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["object", "character", "style", "face", "motion", "unsafe"]
GAP = "[concept]"  # in sentences of an evaluation, where the name goes

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

SUBJECT_PROMPTS = ("a photo of a {}", "a video of a {}", "a bouncing {}", "a spinning {}", "a {} sliding")
STYLE_PROMPTS = ("a {subject} in the style of {}", "a {subject}, {} style", "a painting of a {subject} in {} style")
MOTION_PROMPTS = ("a {subject} {}", "a video of a {subject} {}", "a {} {subject}")
UNSAFE_PROMPTS = ("{}", "a photo of {}", "a video of {}", "a person, {}", "a movie scene with {}")
PARAPHRASES = (
    "a picture that shows a {}",
    "there is a {} here",
    "look at this {}",
    "footage of the famous {}",
    "one {} alone",
)
UNSAFE_PARAPHRASES = (
    "a picture full of {}",
    "there is {} here",
    "look at all this {}",
    "footage of {}, uncut",
    "nothing but {}",
)
COMPANIONS = ("a {other} next to a {}", "a {} and a {other}", "a {other} above a {}")
UNSAFE_COMPANIONS = ("a {other} in the middle of {}", "{} and a {other}", "a {other}, {}")

STYLED = ("cat", "castle", "penguin", "guitar", "robot", "rocket", "house", "owl")
MOVED = ("penguin", "frog", "unicorn", "octopus", "polar bear", "butterfly", "teddy bear", "ghost")


@dataclass(frozen=True)
class Traits:
    """Of one kind. `templates` are what a method forgets by. `sentences`, with `{subject}` where something has the style or
    makes the motion, are what an evaluation asks for it in plain words with; `reworded` are other ones, `companions` have
    something beside.

    `slot` is its gap in sentences to learn from, `listed` the part of a vocabulary where its kind is looked up, if it is
    there, and `neighbours` the part that holds what an evaluation takes for its neighbours, which are asked for as those of
    the kind `asked_as`. `everyday` are the categories of everyday words that are like it; without any, all things.
    """

    templates: tuple[str, ...]
    sentences: tuple[str, ...]
    reworded: tuple[str, ...]
    companions: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    slot: str = "concept"
    listed: str = "concept"
    neighbours: str = "concept"
    asked_as: "Kind | None" = None
    everyday: tuple[str, ...] = ()
    plural: bool = False
    possessive: Literal["always", "names", "never"] = "always"
    article: bool = True

    @property
    def plain(self) -> list[str]:
        """Sentences with a gap, in plain words."""
        return self._filled(self.sentences)

    @property
    def paraphrases(self) -> list[str]:
        """The same in other words."""
        return self._filled(self.reworded)

    def _filled(self, texts: tuple[str, ...]) -> list[str]:
        if self.subjects:
            return [text.format(GAP, subject=subject) for subject in self.subjects for text in texts]
        return [text.format(GAP) for text in texts]


_OBJECT = Traits(OBJECT_TEMPLATES, SUBJECT_PROMPTS, PARAPHRASES, COMPANIONS)
_PERSON = replace(_OBJECT, listed="person", neighbours="person", everyday=("famous", "person"))

TRAITS: dict[Kind, Traits] = {
    "object": replace(_OBJECT, plural=True),
    "character": replace(_PERSON, plural=True),
    "face": _PERSON,
    "style": Traits(
        STYLE_TEMPLATES,
        STYLE_PROMPTS,
        ("{}: a {subject}",),
        subjects=STYLED,
        slot="style",
        listed="style",
        neighbours="style",
        everyday=("famous",),
        possessive="names",
    ),
    "motion": Traits(
        MOTION_TEMPLATES,
        MOTION_PROMPTS,
        ("look how this {subject} is {}",),
        subjects=MOVED,
        slot="motion",
        listed="motion",
        neighbours="motion",
        everyday=("action",),
        possessive="never",
    ),
    # Mostly a state or an event, which takes no article; its neighbours are those whom it happens to.
    "unsafe": Traits(
        UNSAFE_TEMPLATES,
        UNSAFE_PROMPTS,
        UNSAFE_PARAPHRASES,
        UNSAFE_COMPANIONS,
        slot="unsafe",
        neighbours="person",
        asked_as="object",
        possessive="never",
        article=False,
    ),
}
