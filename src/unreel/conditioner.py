"""Prompts to embeddings, with gradients, exactly as the pipelines do it; and which parts of the encoder may learn.

Knows tokenizers and text encoders; knows nothing about images, denoisers or losses.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from unreel.errors import UnreelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Trainable = Literal["mlp-final-attn", "mlp", "attn", "mlp-attn", "all"]


@dataclass(frozen=True)
class Conditioner:
    """One tokenizer and text encoder, used the way the pipeline that holds them uses them."""

    tokenizer: Any
    text_encoder: nn.Module

    @classmethod
    def of(cls, pipeline: "DiffusionPipeline") -> "Conditioner":
        return cls(pipeline.tokenizer, pipeline.text_encoder)

    @property
    def device(self) -> torch.device:
        return next(self.text_encoder.parameters()).device

    def tokenize(self, prompts: list[str]) -> torch.Tensor:
        """Prompts -> token ids (batch, tokens), as `encode` feeds them to the text encoder.

        Padded to the tokenizer's full length without an attention mask, as CLIP pipelines do: the denoiser attends to
        the padding too, so it belongs to the conditioning.
        """
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return tokens.input_ids.to(self.device)

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Prompts -> embeddings (batch, tokens, width), differentiable in the text encoder's weights."""
        return self.encode_ids(self.tokenize(prompts))

    def encode_ids(self, input_ids: torch.Tensor, token_embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Token ids (batch, tokens) -> embeddings (batch, tokens, width).

        `token_embeddings` (batch, tokens, width) stand in for the rows of `token_table` that the ids pick, so that one can
        differentiate in them or feed tokens that no vocabulary has.
        """
        if token_embeddings is None:
            return self.text_encoder(input_ids)[0]
        given = token_embeddings.to(self.token_table.weight.dtype)
        # CLIP text encoders take ids only.
        handle = self.token_table.register_forward_hook(lambda *_: given)
        try:
            return self.text_encoder(input_ids)[0]
        finally:
            handle.remove()

    @property
    def token_table(self) -> nn.Embedding:
        """One row (width) for every token of the vocabulary."""
        return self.text_encoder.get_input_embeddings()  # type: ignore[operator]

    @property
    def layers(self) -> list[nn.Module]:
        """The encoder's layers, first to last, whatever its class: its longest list of modules.

        Raises UnreelError for an encoder that has none.
        """
        lists = [list(module) for module in self.text_encoder.modules() if isinstance(module, nn.ModuleList)]
        if not lists:
            raise UnreelError(f"{type(self.text_encoder).__name__} has no list of layers: it is not supported")
        return max(lists, key=len)

    def mlp_output(self, layer: nn.Module) -> nn.Linear:
        """The matrix through which a layer's MLP writes: the widest one that comes down to the layer's own width.

        `fc2` in CLIP, `wo` in T5, `down_proj` in Llama, Gemma and Qwen. Raises UnreelError if there is none.
        """
        width = self.token_table.weight.shape[1]
        found = [m for m in layer.modules() if isinstance(m, nn.Linear) and m.out_features == width < m.in_features]
        if not found:
            raise UnreelError(f"{type(layer).__name__} has no MLP that unreel knows: this text encoder is not supported")
        return max(found, key=lambda linear: linear.in_features)

    def has_room_for(self, prompt: str) -> bool:
        """Whether the tokenizer reads all of `prompt`."""
        return self._length(prompt) <= self.tokenizer.model_max_length

    def require_room_for(self, prompts: list[str]) -> None:
        """Raises UnreelError if a prompt is longer than the tokenizer's limit, so that words would be cut off."""
        for prompt in prompts:
            if not self.has_room_for(prompt):
                raise UnreelError(
                    f"the prompt {prompt!r} has {self._length(prompt)} tokens but the text encoder reads "
                    f"{self.tokenizer.model_max_length}, so the concept would be cut off: name it in fewer words"
                )

    def _length(self, prompt: str) -> int:
        return len(self.tokenizer(prompt).input_ids)

    def trainable(self, which: Trainable = "mlp-final-attn") -> dict[str, nn.Parameter]:
        """The parameters to train, by name, in the encoder's own order.

        `mlp-final-attn` is few-shot erasing's choice: every MLP and the last layer's self-attention (arXiv 2405.07288,
        section 3). Modules are found by type, so any depth works.
        """
        from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention

        if which not in get_args(Trainable):
            raise UnreelError(f"unknown trainable set {which!r}: choose one of {', '.join(get_args(Trainable))}")
        mlps = [m for m in self.text_encoder.modules() if isinstance(m, CLIPMLP)]
        attentions = [m for m in self.text_encoder.modules() if isinstance(m, CLIPAttention)]
        if not mlps or not attentions:
            raise UnreelError(f"{type(self.text_encoder).__name__} has no CLIP layers: this text encoder is not supported")
        choices: dict[str, list[nn.Module]] = {
            "mlp-final-attn": [*mlps, attentions[-1]],
            "mlp": mlps,
            "attn": attentions,
            "mlp-attn": [*mlps, *attentions],
            "all": [self.text_encoder],
        }
        wanted = {id(parameter) for module in choices[which] for parameter in module.parameters()}
        return {name: p for name, p in self.text_encoder.named_parameters() if id(p) in wanted}


@lru_cache(maxsize=2)  # a full CLIP vocabulary takes a second
def whole_words(tokenizer: Any) -> dict[str, int]:
    """The words that one can type, are one token each and are read back as that token: text -> id."""
    ids = sorted(i for token, i in tokenizer.get_vocab().items() if token.endswith("</w>"))
    words = [text.strip() for text in tokenizer.batch_decode([[i] for i in ids])]
    read_back = tokenizer(words, add_special_tokens=False).input_ids
    rows = zip(words, ids, read_back, strict=True)
    return {word: i for word, i, back in rows if back == [i] and word.isprintable()}
