"""What text encoders are called with: tokens, and which of them count.

Knows shapes; knows no encoder and no tokenizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Tokens:
    """What a text encoder is called with for some prompts: token `ids` (batch, tokens), all other arguments in `call`."""

    ids: torch.Tensor
    call: dict[str, Any]

    @property
    def mask(self) -> torch.Tensor:
        """Which tokens the encoder attends to: (batch, tokens) bool. Of a prompt that is only padding all of them: who
        attends to nothing else attends to all of it alike.
        """
        mask = self.call.get("attention_mask")
        return (
            torch.ones_like(self.ids, dtype=torch.bool) if mask is None else mask.bool() | ~mask.bool().any(1, keepdim=True)
        )

    def trimmed(self) -> "Tokens":
        """Without the columns at the end that the encoder sees of no prompt, which change nothing. Those at the start of
        prompts that a pipeline pads on the left stay: places are counted from there.
        """
        columns = self.mask.any(0).nonzero()
        return self._cut(int(columns.max()) + 1 if len(columns) else 0)

    def placed(self, places: Sequence[Sequence[int]]) -> "Tokens":
        """The same at other places in the sentence than one after the other: (batch, tokens)."""
        # Without a mask, transformers takes a place left out for the start of another text.
        call = {"attention_mask": torch.ones_like(self.ids), **self.call}
        return Tokens(self.ids, {**call, "position_ids": torch.tensor(places, device=self.ids.device)})

    def shortened(self, spare: int) -> "Tokens":
        """With at most `spare` columns in which all prompts are only padding still, where the encoder sees padding. What is
        before them stays as it is only if the encoder reads from left to right.
        """
        padding = self.ids[:, -1:]
        columns = (self.ids != padding).any(0).nonzero()
        width, most = self.ids.shape[1], (int(columns.max()) if len(columns) else 0) + 1 + spare
        if most >= width or not bool((padding == padding[0]).all()):
            return self
        return self._cut(most)

    def to(self, device: torch.device) -> "Tokens":
        return self._with(lambda value: value.to(device), lambda shape: True)

    def rows(self, some: slice) -> "Tokens":
        """Those of some of the prompts."""
        return self._with(lambda value: value[some], lambda shape: shape[:1] == self.ids.shape[:1])

    def repeated(self, times: int) -> "Tokens":
        """That of one prompt, so many times."""
        return self._with(lambda value: value.repeat(times, *[1] * (value.ndim - 1)), lambda shape: shape[:1] == (1,))

    def _cut(self, most: int) -> "Tokens":
        return self._with(lambda value: value[:, :most], lambda shape: shape[1:] == self.ids.shape[1:])

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor], concerned: Callable[[torch.Size], bool]) -> "Tokens":
        """With ids, and those arguments whose shape says that they are `concerned`, changed."""
        call = {
            name: change(value) if isinstance(value, torch.Tensor) and concerned(value.shape) else value
            for name, value in self.call.items()
        }
        return Tokens(change(self.ids), call)
