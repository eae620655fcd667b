"""SAFREE's projection: the states of the tokens that carry most of the concept in a prompt are projected away from it.

Yoon et al., "SAFREE: Training-Free and Adaptive Guard" (arXiv 2410.12761). With c_k one vector for each wording of the
concept, C = [c_1 .. c_K], p_-i one for the prompt without its token i, S = [p_-1 .. p_-N], P_X = X (X'X)^+ X' and p_i the
states of a prompt's tokens, token i is replaced by

    (I - P_C) P_S p_i    where    || (I - P_C) p_-i ||  >=  (1 + alpha) mean_j!=i || (I - P_C) p_-j ||

since a prompt without it is farther from the concept than without most others. This is what the authors' code for ZeroScope
does: it projects at every step and in this order (the paper prints the other), without the filter of steps and the
re-attention that it has for images.

Ours: the vector of a text is the state after its last word if the encoder is causal (CLIP's pooled output), else the mean
over its words, since T5 has no pooled output.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.models.adapter import arguments_of, encode_prompt
from unreel.models.conditioner import Conditioner
from unreel.models.standins import hiding
from unreel.models.tokens import Tokens

PROBES = ("a photo", "two cats")  # they begin and end alike only in what a pipeline puts around prompts
AT_ONCE = 64  # prompts that are encoded at once


@dataclass
class Projection:
    """The projection of a text encoder's output away from `phrases`. `begins` and `ends` are the tokens that the pipeline
    by default puts around a prompt, without the tokenizer's special tokens.
    """

    conditioner: Conditioner
    phrases: Tokens
    begins: list[int]
    ends: list[int]
    alpha: float
    causal: bool  # whether words are read without those that follow
    waits: bool = False  # whether the next prompts that the encoder reads are to be projected

    @classmethod
    def of(cls, pipeline: Any, phrases: Sequence[str], alpha: float) -> "Projection":
        """The projection for a pipeline. Raises UnreelError if it has several text encoders, or reads a hidden layer."""
        conditioners = list(Conditioner.all_of(pipeline).values())
        if len(conditioners) != 1:
            raise UnreelError(
                f"SAFREE's projection is for one text encoder, and a {type(pipeline).__name__} has {len(conditioners)}"
            )
        (conditioner,) = conditioners
        whole = cls(conditioner, conditioner.tokenize(list(phrases)), [], [], alpha, conditioner.causal)
        probes = [conditioner.tokenize([probe]) for probe in PROBES]
        one, other = (tokens.ids[0, whole.words(tokens, 0)].tolist() for tokens in probes)
        ends = _alike(one[::-1], other[::-1])
        whole = replace(whole, begins=one[: _alike(one, other)], ends=one[len(one) - ends :])
        if not whole.reaches(pipeline):
            raise UnreelError(
                f"a {type(pipeline).__name__} reads a hidden layer of its text encoder, and SAFREE changes the last one"
            )
        return whole

    def words(self, tokens: Tokens, row: int) -> list[int]:
        """The places of a prompt's own words among its tokens."""
        special = set(self.conditioner.tokenizer.all_special_ids)
        places = [i for i in tokens.mask[row].nonzero().flatten().tolist() if int(tokens.ids[row, i]) not in special]
        ids = tokens.ids[row, places].tolist()
        first, last = _around(ids, self.begins), _around(ids[::-1], self.ends[::-1])
        return places[first : len(places) - last]

    @torch.no_grad()
    def vectors(self, tokens: Tokens, places: Sequence[list[int]], without: Sequence[int | None]) -> torch.Tensor:
        """One vector for each prompt, encoded without the token at `without`, or with all of them if that is None; `places`
        are those of the prompt's words: (prompts, width).
        """
        ids, mask = tokens.ids.clone(), tokens.mask.clone()
        for row, place in enumerate(without):
            if place is not None:
                ids[row, place], mask[row, place] = 0, False
        call = dict(tokens.call)
        if call.get("attention_mask") is not None:
            call["attention_mask"] = mask.to(call["attention_mask"].dtype)
        fewer = Tokens(ids, call)
        states = torch.cat([self.read(fewer.rows(slice(i, i + AT_ONCE))) for i in range(0, len(ids), AT_ONCE)])
        if self.causal:
            after = [min(words[-1] + 1, int(tokens.mask[row].nonzero().max())) for row, words in enumerate(places)]
            return states[range(len(ids)), after]
        kept = [
            [place for place in words if place != omitted or len(words) == 1]
            for words, omitted in zip(places, without, strict=True)
        ]
        return torch.stack([states[row, words].mean(0) for row, words in enumerate(kept)])

    def read(self, tokens: Tokens) -> torch.Tensor:
        """The encoder's own output, without the projection: (prompts, tokens, width)."""
        with hiding(self, "waits", False):
            return self.conditioner.encode_tokens(tokens).float()

    def projected(self, tokens: Tokens, states: torch.Tensor) -> torch.Tensor:
        """The states (prompts, tokens, width) with those of the tokens that carry most of the concept projected;
        differentiable in the states.
        """
        phrases = self.phrases.to(tokens.ids.device)
        own = [self.words(phrases, row) for row in range(len(phrases.ids))]
        concept = self.vectors(phrases, own, [None] * len(own))
        out = states.clone()
        for row in range(len(tokens.ids)):
            words = self.words(tokens, row)
            if not words:
                continue
            one = tokens.rows(slice(row, row + 1)).repeated(len(words))
            masked = self.vectors(one, [words] * len(words), words)
            distances = (masked - _onto(masked, concept)).norm(dim=1)
            others = (distances.sum() - distances) / max(1, len(words) - 1)
            most = torch.tensor(words)[(distances >= (1 + self.alpha) * others).cpu()]
            inside = _onto(states[row, most].float(), masked)
            out[row, most] = (inside - _onto(inside, concept)).to(out.dtype)
        return out

    def reaches(self, pipeline: Any) -> bool:
        """Whether the last layer's output makes a difference to what the pipeline gives to its denoiser."""

        def first() -> torch.Tensor:
            made = encode_prompt(pipeline, [PROBES[0]])
            return made[0] if isinstance(made, (tuple, list)) else made

        with torch.no_grad():
            before = first()
            with self.hooked(lambda _, states: states.flip(-1)), self.waiting():
                return not torch.equal(before, first())

    def waiting(self) -> AbstractContextManager[None]:
        """Inside, the first prompts that the encoder reads are projected."""
        return hiding(self, "waits", True)

    def hooked(self, change: Any = None) -> AbstractContextManager:
        """Inside, `change` (by default the projection) is applied to the encoder's output for the first prompts that it
        reads while `waiting`: pipelines encode the prompt before what guidance leads away from.
        """
        change = change or self.projected

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            if not self.waits:
                return None
            self.waits = False
            call = arguments_of(module, args, kwargs)
            output.last_hidden_state = change(Tokens(call.pop("input_ids"), call), output.last_hidden_state)
            return output

        return self.conditioner.text_encoder.register_forward_hook(hook, with_kwargs=True)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many items the two have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _around(ids: Sequence[int], around: Sequence[int]) -> int:
    """How many tokens at a text's beginning are those that are put around it: all of `around`, of which the last may have
    merged with what follows, or none.
    """
    return len(around) if _alike(ids, around) >= len(around) - 1 else 0


def _onto(rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """P_X of rows (n, width), X being the vectors (m, width)."""
    return rows @ torch.linalg.pinv(vectors) @ vectors
