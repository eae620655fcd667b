"""Interventions that leave all weights alone and change what a pipeline is asked for: a negative prompt, and rewriting.

They guard less than an erasure does: nothing reaches another model, and whoever runs the model may leave them out.
Embeddings that are given in place of words go through untouched.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from unreel.errors import UnreelError
from unreel.files import write_folder, write_json, write_text
from unreel.interventions.base import RECORD_FILE, Intervention
from unreel.interventions.card import CARD_FILE, card
from unreel.interventions.record import KIND
from unreel.models.adapter import encoding_signature, guides, own_negative_prompt, undisturbed
from unreel.models.standins import hiding
from unreel.prompts import spelling
from unreel.prompts.grammar import bare

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_HTML = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|\w+);")
_ON = "_unreel_on_prompts"  # a pipeline's attribute: the interventions on its prompts, and how to undo them


@dataclass(frozen=True, eq=False, repr=False)
class PromptIntervention(Intervention):
    """An intervention that changes the arguments of a pipeline's `encode_prompt`."""

    provenance: dict[str, Any]

    KIND = ""  # in the record
    NEEDS_GUIDANCE: ClassVar[bool] = False  # whether it changes only what guidance leads away from
    STACKS: ClassVar[bool] = True  # whether others can be on the same pipeline

    @abstractmethod
    def change(self, arguments: dict[str, Any]) -> None:
        """Change the arguments of `encode_prompt` in place, after the interventions that were put on before."""

    def prepare(self, pipeline: "DiffusionPipeline", undo: ExitStack) -> Callable[[dict[str, Any]], AbstractContextManager]:
        """Set up what else it does on the pipeline, and let `undo` take that away. Returns a function from the arguments of
        `encode_prompt` to the context that this runs in. Raises UnreelError if it cannot go on the pipeline.
        """
        return lambda arguments: nullcontext()

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def about(self) -> str:
        return f"A {self.KIND.replace('-', ' ')}, which asks pipelines for something else and changes no weight"

    @property
    def limits(self) -> str:
        return (
            "No weight changes: the model knows the concept as before. This protects a service that hosts the model and "
            "puts it on every pipeline, against prompts in words that it knows, as far as its figures go. It does not "
            "withstand whoever runs the model, nor prompts that say the concept in other words"
        )

    @property
    def wordings(self) -> list[str]:
        """The names of the concepts and their synonyms."""
        return [wording for part in self.provenance["parts"] for wording in (part["concept"], *part["synonyms"])]

    def require_matching(self, pipeline: "DiffusionPipeline") -> None:
        if not hasattr(pipeline, "encode_prompt"):
            raise UnreelError(
                f"a {self.KIND} changes what pipelines are asked for, and a {type(pipeline).__name__} is none"
            )

    def require_felt(self, pipeline: "DiffusionPipeline", guidance: float) -> None:
        if self.NEEDS_GUIDANCE and not guides(pipeline, guidance):
            raise UnreelError(
                f"a {self.KIND} needs guidance, and at --guidance {guidance:g} a {type(pipeline).__name__} leads away from "
                "nothing: ask for more than 1, or choose a method that changes weights"
            )

    def apply(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        self.require_matching(pipeline)
        with undisturbed(pipeline):
            others = on_prompts(pipeline)
            if self in others:
                raise UnreelError(f"this {self.KIND} is already on this pipeline")
            alone = [each for each in (self, *others) if not each.STACKS]
            if others and alone:
                raise UnreelError(
                    f"a {others[0].KIND} is already on this pipeline, and a {alone[0].KIND} goes on alone: take that off"
                )
            if others:
                getattr(pipeline, _ON)[0].append(self)
            else:
                self._begin(pipeline)
        return pipeline

    def _begin(self, pipeline: "DiffusionPipeline") -> None:
        """Replace the pipeline's `encode_prompt` by one whose prompts this intervention changes, and those put on later."""
        encode, signature = pipeline.encode_prompt, encoding_signature(pipeline)
        # Some pipelines encode their own negative prompt as another prompt, in which no anchor is to be put.
        led_away_from = own_negative_prompt(pipeline)
        on: list[PromptIntervention] = [self]
        with ExitStack() as undo:
            inside = self.prepare(pipeline, undo)

            @wraps(encode)
            def encode_prompt(*args: Any, **options: Any) -> Any:
                arguments = signature.bind(*args, **options).arguments
                if not led_away_from or set(_texts(arguments.get("prompt"))) != {led_away_from}:
                    for each in on:
                        each.change(arguments)
                with inside(arguments):
                    return encode(**arguments)

            undo.enter_context(hiding(pipeline, "encode_prompt", encode_prompt))
            setattr(pipeline, _ON, (on, undo.pop_all()))

    def remove(self, pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
        with undisturbed(pipeline):
            if self not in on_prompts(pipeline):
                raise UnreelError(f"this {self.KIND} is not on this pipeline")
            on, undo = getattr(pipeline, _ON)
            on.remove(self)
            if not on:
                undo.close()
                delattr(pipeline, _ON)
        return pipeline

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        def fill(partial: Path) -> None:
            write_json(partial / RECORD_FILE, {KIND: self.KIND, **self.provenance})
            write_text(partial / CARD_FILE, card(self))

        return write_folder(Path(folder), fill, RECORD_FILE, overwrite=overwrite)


def on_prompts(pipeline: Any) -> list[PromptIntervention]:
    """The interventions that change the pipeline's prompts, in the order in which they were put on."""
    return list(vars(pipeline).get(_ON, ([], None))[0])


def _texts(prompt: str | Sequence[str] | None) -> Sequence[str]:
    return [prompt] if isinstance(prompt, str) else prompt or ()


def count_of(arguments: dict[str, Any]) -> int:
    """How many prompts `encode_prompt` is called with."""
    prompt = arguments.get("prompt")
    return 1 if isinstance(prompt, str) else len(arguments["prompt_embeds"] if prompt is None else prompt)


def made_of(arguments: dict[str, Any]) -> int:
    """How many pictures or videos are made of the prompts that `encode_prompt` is called with."""
    each = (arguments.get(f"num_{what}_per_prompt") for what in ("videos", "images"))
    return count_of(arguments) * next((number for number in each if number), 1)


class NegativePrompt(PromptIntervention):
    """Classifier-free guidance away from the concepts' wordings (Ho & Salimans, arXiv 2207.12598, with the wordings in the
    place of the empty prompt). The model forgets nothing.

    The caller's or the pipeline's own negative prompt comes after the wordings, because a text encoder with little room
    cuts off the end. Does nothing at guidance 1 or below, where pipelines do not guide.
    """

    KIND = "negative-prompt"
    NEEDS_GUIDANCE = True

    @property
    def text(self) -> str:
        return ", ".join(self.wordings)

    @property
    def identity(self) -> str:
        return f"negative prompt: {self.text}"

    def require_matching(self, pipeline: "DiffusionPipeline") -> None:
        super().require_matching(pipeline)
        if "negative_prompt" not in encoding_signature(pipeline).parameters:
            raise UnreelError(
                f"a {type(pipeline).__name__} takes no negative prompt: choose another method, such as text-ablation"
            )

    def change(self, arguments: dict[str, Any]) -> None:
        negative = arguments.get("negative_prompt") or ""  # if nobody gave one, some pipelines pass an empty text
        # Pipelines require as many as prompts, and a text if the prompt is a text.
        texts = [negative] * count_of(arguments) if isinstance(negative, str) else negative
        texts = [", ".join(filter(None, (self.text, text))) for text in texts]
        arguments["negative_prompt"] = texts[0] if isinstance(arguments.get("prompt"), str) else texts


class PromptRewrite(PromptIntervention):
    """Rewriting of prompts that name a concept: the anchor takes the name's place, as by a filter in front of a service.
    The model forgets nothing.

    This is what text ablation aims for: the original model, asked for the anchor.
    """

    KIND = "prompt-rewrite"

    @property
    def identity(self) -> str:
        pairs = [f"{', '.join([p['concept'], *p['synonyms']])} as {p['anchor']!r}" for p in self.provenance["parts"]]
        return f"prompt rewrite: {'; '.join(pairs)}"

    def require_matching(self, pipeline: "DiffusionPipeline") -> None:
        """As the protocol says; raises UnreelError also for an anchor that names what a rewriting forgets which is on
        already: that will have run by then.
        """
        super().require_matching(pipeline)
        others = [each for each in on_prompts(pipeline) if isinstance(each, PromptRewrite) and each != self]
        for anchor in (part["anchor"] for part in self.provenance["parts"]):
            if any(other.rewritten(anchor) != anchor for other in others):
                raise UnreelError(
                    f"it puts {anchor!r} into prompts, which another that is on forgets: choose another anchor"
                )

    def change(self, arguments: dict[str, Any]) -> None:
        for name in ("prompt", "prompt_2", "prompt_3"):  # one for each text encoder, if there are several
            prompt = arguments.get(name)
            if prompt is not None:
                arguments[name] = self.rewritten(prompt) if isinstance(prompt, str) else [self.rewritten(p) for p in prompt]

    def rewritten(self, prompt: str) -> str:
        """The prompt with the anchor wherever it names a concept, in any spelling that `Concept.is_named_in` knows. HTML's
        names of characters count as these: some pipelines read them so, twice.
        """
        plain = _HTML.sub(lambda name: unescape(name[0]), prompt)
        text, folded, starts = spelling.folded(_HTML.sub(lambda name: unescape(name[0]), plain))
        out, end = [], 0
        for match in _finding(tuple(name for name, _ in self._anchors)).finditer(folded):
            out += [text[end : starts[match.start()]], self._instead(match)]
            end = starts[match.end()]
        return " ".join("".join([*out, text[end:]]).split()) if out else prompt  # an empty anchor leaves two spaces

    @cached_property
    def _anchors(self) -> list[tuple[str, str]]:
        """What is to be replaced, and by what; longer names first: one may stand in another."""
        pairs = [
            (wording, part["anchor"])
            for part in self.provenance["parts"]
            for wording in (part["concept"], *part["synonyms"])
        ]
        return sorted(pairs, key=lambda each: len(each[0]), reverse=True)

    def _instead(self, match: re.Match[str]) -> str:
        name, anchor = self._anchors[(match.lastindex or 0) - 1]
        if match[0] == spelling.fold(spelling.pluralised(name)):
            return spelling.pluralised(bare(anchor)) or bare(anchor)
        return anchor


@lru_cache(maxsize=8)  # of a thousand names it takes seconds
def _finding(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds names in folded texts, with a group for each."""
    return re.compile("|".join(f"({spelling.pattern((name,)).pattern})" for name in names))
