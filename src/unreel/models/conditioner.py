"""Prompts to embeddings, with gradients, exactly as the pipelines do it; and which weights of the encoder may be
trained.

Knows tokenizers and text encoders, and asks the pipeline itself what it feeds to them; knows nothing about images,
denoisers or losses.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isinf
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from unreel.errors import UnreelError
from unreel.models.adapter import (
    Outlines,
    calls_of,
    encode_prompt,
    first_call,
    ids_of,
    mapped,
    own_negative_prompt,
    reading_part,
    seen_in,
    tensors_in,
    text_encoders,
    tokenizer_of,
)
from unreel.models.memory import device_of
from unreel.models.precision import brisk, upcast
from unreel.models.standins import hiding
from unreel.models.tokenizer import NO_LENGTH, whole_words
from unreel.models.tokens import Tokens
from unreel.models.weights import doubled, held_weights, learning, own_modules, portable

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FIRST_ROWS = 64  # rows of a token table that show how its outputs are scaled
ROWS = 4096  # rows of it that are in float64 at a time
TOO_LONG = 5000  # words in one prompt: more than any pipeline with a limit reads

Change = Callable[[torch.Tensor], torch.Tensor]
Trainable = Literal["mlp-final-attn", "mlp", "attn", "mlp-attn", "first-layer", "all"]


@dataclass(frozen=True)
class Conditioner:
    """One tokenizer and text encoder, used the way the pipeline that holds them uses them.

    Without a pipeline, prompts have no chat template. They are padded on the right to the tokenizer's full length, or to
    the longest of them if it has none. All tokens count, as in CLIP pipelines: the denoiser attends to padding too, so
    it belongs to the conditioning. If `masked`, the encoder does not see padding, and it does not count.
    """

    tokenizer: Any
    text_encoder: nn.Module
    pipeline: Any = None
    called: nn.Module | None = None  # the module that the pipeline calls, if the text encoder is a part of it
    masked: bool = False
    # Caches of what is asked for again and again while sentences are put together.
    _lengths: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seen_by_length: dict[tuple[int, int], torch.Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, pipeline: "DiffusionPipeline", component: str = "text_encoder") -> "Conditioner":
        tokenizer = tokenizer_of(pipeline, component)
        whole = getattr(pipeline, component)
        if hasattr(pipeline, "encode_prompt"):
            return cls(tokenizer, reading_part(whole), pipeline, whole)
        return cls(tokenizer, reading_part(whole), called=whole, masked="CLIP" not in type(whole).__name__)

    @classmethod
    def all_of(cls, pipeline: "DiffusionPipeline") -> dict[str, "Conditioner"]:
        """One for every text encoder that reads an ordinary prompt, by the name of its component.

        A glyph encoder, which reads only what stands in quotation marks, does not.
        """
        conditioners = {name: cls.of(pipeline, name) for name in text_encoders(pipeline)}
        return {name: conditioner for name, conditioner in conditioners.items() if conditioner._reads_prompts()}

    @property
    def device(self) -> torch.device:
        """Where the text encoder computes."""
        return device_of(self._reader)

    @property
    def _reader(self) -> nn.Module:
        """The module that is called to encode, without torch's compiler around it, so that hooks inside work."""
        return self.text_encoder if self.called is None else getattr(self.called, "_orig_mod", self.called)

    def tokenize(self, prompts: list[str]) -> Tokens:
        """What `encode` feeds to the text encoder. Raises UnreelError if the pipeline does not give prompts to it."""
        return (self._alone(prompts) if self.pipeline is None else self._asked(prompts)).trimmed()

    def _alone(self, prompts: list[str]) -> Tokens:
        """The tokens of an encoder without a pipeline. If its tokenizer has no padding token, the one that ends texts is
        used; that token also stands for an empty prompt that has no tokens, because there must be one.
        """
        most = None if isinf(self.room) else int(self.room)
        rows = self.tokenizer(prompts, truncation=most is not None, max_length=most).input_ids
        ends = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        filler = next((token for token in ends if token is not None), 0)
        read = [torch.as_tensor(row if len(row) else [filler]) for row in rows]
        ids = pad_sequence(read, batch_first=True, padding_value=filler).to(self.device)
        if self.masked:
            mask = pad_sequence([torch.ones_like(row) for row in read], batch_first=True).to(self.device)
            return Tokens(ids, {"attention_mask": mask})
        whole = ids.shape[1] if most is None or self.tokenizer.model_max_length > NO_LENGTH else most
        return Tokens(nn.functional.pad(ids, (0, whole - ids.shape[1]), value=filler), {})

    def _asked(self, prompts: list[str]) -> Tokens:
        """The arguments with which the pipeline calls this text encoder, padding included."""
        with torch.no_grad(), self._others.standing_in():
            called = self.text_encoder if self.called is None else self.called
            call = first_call(called, lambda: encode_prompt(self.pipeline, prompts))
        if call is None:
            raise UnreelError(
                f"{type(self.pipeline).__name__} does not give such prompts to its {type(self.text_encoder).__name__}"
            )
        return Tokens(call.pop("input_ids"), call)

    @cached_property
    def negative_prompt(self) -> str:
        """The negative prompt in the pipeline's own code, used if nobody gives one; empty if it has none."""
        return "" if self.pipeline is None else own_negative_prompt(self.pipeline)

    def guided_from(self) -> Tokens | None:
        """The tokens that this encoder gets for what guidance leads away from, if they differ from an empty prompt's: in
        words of the pipeline's own, or without template, instruction or mask. None if they do not differ, or there are
        none.
        """
        if self.pipeline is None:
            return None
        if self.negative_prompt:
            return self.tokenize([self.negative_prompt])
        called = self.text_encoder if self.called is None else self.called
        with torch.no_grad(), self._others.standing_in():
            calls = calls_of(called, lambda: encode_prompt(self.pipeline, ["a photo"], guided=True))
        if len(calls) < 2:  # it encodes the negative prompt like any other, if at all
            return None
        tokens, empty = Tokens(calls[-1].pop("input_ids"), calls[-1]).trimmed(), self.tokenize([""])
        same = torch.equal(tokens.ids, empty.ids) and torch.equal(tokens.mask, empty.mask)
        return None if same else tokens

    @cached_property
    def _others(self) -> Outlines:
        """Stand-ins for the pipeline's other text encoders, some of which it calls before this one: this one never reads
        what they write.
        """
        parts = [getattr(self.pipeline, name) for name in text_encoders(self.pipeline)]
        # Calls of a compiled module cannot be replaced.
        return Outlines(part for part in parts if part is not self.called and not hasattr(part, "_orig_mod"))

    @cached_property
    def _known_others(self) -> Outlines:
        """The same stand-ins after each encoder has run once, so that all return zeros and nothing of theirs is in the
        network's inputs.
        """
        if self._others.modules:
            with self._others.standing_in():
                encode_prompt(self.pipeline, ["a photo"])
        return self._others

    def _reads_prompts(self) -> bool:
        try:
            return self.pipeline is None or bool(self._asked(["a photo"]).ids.numel())
        except UnreelError:
            return False

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Prompts -> embeddings (batch, tokens, width), differentiable in the text encoder's weights."""
        return self.encode_tokens(self.tokenize(prompts))

    def encode_tokens(self, tokens: Tokens) -> torch.Tensor:
        """Tokens -> embeddings (batch, tokens, width)."""
        return self._last_read(self.write(tokens))

    def write(self, tokens: Tokens) -> Any:
        """The text encoder's output for tokens, as transformers names its parts, without the logits, which a language
        model gives for every word of its vocabulary.
        """
        written = self._reader(tokens.ids, **{**self._no_guesses, **tokens.call})
        if not self._no_guesses:
            return written
        return type(written)(**{name: value for name, value in written.items() if name != "logits"})

    @cached_property
    def _no_guesses(self) -> dict[str, int]:
        guesses = "logits_to_keep" in inspect.signature(type(self._reader).forward).parameters
        return {"logits_to_keep": 1} if guesses else {}

    def token_states(self, tokens: Tokens) -> torch.Tensor:
        """Tokens -> the token states (batch, tokens, width) that reach the network. They are those of `encode_tokens`,
        unless the last layers only reach it as one state per prompt, as in SDXL's and SD3's CLIP: then those of the last
        layer before.
        """
        written = self.write(tokens)
        pooling = 0 if getattr(written, "hidden_states", None) is None else len(self.layers) - len(self.token_layers)
        return written.hidden_states[-1 - self._unread - pooling] if pooling else self._last_read(written)

    def _last_read(self, written: Any) -> torch.Tensor:
        hidden = getattr(written, "hidden_states", None)
        if hidden is not None and self._unread:
            return hidden[-1 - self._unread]
        return written.last_hidden_state if hasattr(written, "last_hidden_state") else written.hidden_states[-1]

    @torch.no_grad()
    def network_inputs(self, prompts: Sequence[str], written: Any = None, change: Change | None = None) -> torch.Tensor:
        """What the network gets of this encoder's output for `prompts`, zero where it is not to look: (prompts,
        numbers). Some pipelines crop their template, read an earlier layer, or take one state per prompt.

        `written`, the output for other tokens, may replace this encoder's own; `change` is applied to its states
        (prompts, tokens, width).
        """
        asked = list(prompts)
        change = change or (lambda states: states)
        if written is None or self.pipeline is None:
            tokens = self.tokenize(asked)
            written = self.write(tokens) if written is None else written
            if self.pipeline is None:
                return (change(self._last_read(written)) * tokens.mask[..., None]).flatten(1)

        def stand_in(*args: Any, **options: Any) -> Any:
            width = ids_of(args, options).shape[1]

            def widened(states: torch.Tensor) -> torch.Tensor:
                if states.ndim < 3:
                    return states
                changed = change(states)
                return nn.functional.pad(changed, (0, 0, 0, width - changed.shape[1]))

            return mapped(written, widened, only_asked=True)

        with self._known_others.standing_in(), hiding(self._reader, "forward", stand_in):
            return seen_in(encode_prompt(self.pipeline, asked), len(asked))

    def seen(self, prompts: Sequence[str], tokens: Tokens) -> torch.Tensor:
        """A mask (prompts, tokens): tokens that the encoder attends to and the network gets something of. A template
        mostly does not count, nor does padding that only the encoder sees. If the network gets one state per prompt, all
        attended tokens count.
        """
        attended = tokens.mask
        if self.pipeline is None or self._all_seen:
            return attended
        seen = torch.zeros_like(attended)
        for row, prompt in enumerate(prompts):
            columns = self._seen_of(prompt, int(attended[row].sum()))[: attended.shape[1]]
            seen[row, : len(columns)] = columns
        seen &= attended
        return torch.where(seen.any(1, keepdim=True), seen, attended)

    @cached_property
    def _all_seen(self) -> bool:
        """Whether the network gets something of every token that the encoder attends to, or of none, but one state per
        prompt.
        """
        short, long = "a photo", "a photo of a cat at night"

        def seen(prompt: str) -> torch.Tensor:
            return self._seen_of(prompt, int(self.tokenize([prompt]).mask.sum()))

        return not seen(short).any() or all(bool(seen(prompt).all()) for prompt in (short, long))

    def _seen_of(self, prompt: str, attended: int) -> torch.Tensor:
        """Which tokens of a prompt, read alone, reach the network: (tokens,) bool. Cached by the prompt's written length
        and the number of attended tokens, which differ where a pipeline lower-cases prompts.
        """
        length = self.length(prompt), attended
        if length not in self._seen_by_length:
            self._seen_by_length[length] = self._tried(prompt)
        return self._seen_by_length[length]

    @torch.no_grad()
    def _tried(self, prompt: str) -> torch.Tensor:
        """As `_seen_of`, found by halving: for each binary digit of a token's place, the states of the tokens with a one
        there are changed, then of those with a zero. A number that depends on one token changes in one of the two each
        time, and so spells that token's place. If a number changes in both, it depends on several tokens, and all count
        as seen.
        """
        count = self.tokenize([prompt]).ids.shape[1]
        generator = torch.Generator("cpu").manual_seed(0)
        states = torch.randn(count, self.token_table.weight.shape[1], generator=generator)
        digits = torch.arange(max(1, (count - 1).bit_length()))[:, None]
        halves = torch.arange(count) >> digits & 1  # (digits, tokens)
        changed = torch.cat([torch.zeros_like(halves[:1]), halves, 1 - halves])  # the first is as it was
        given = self._network_inputs_of(prompt, states + changed[..., None])
        ones, zeros = (given[1:] != given[:1]).chunk(2)  # (digits, numbers)
        seen = torch.zeros(count, dtype=torch.bool, device=given.device)
        if (ones & zeros).any():
            return ~seen
        whose = (ones.int() << digits.to(given.device)).sum(0)
        seen[whose[(ones | zeros).any(0)]] = True
        return seen

    def _network_inputs_of(self, prompt: str, states: torch.Tensor) -> torch.Tensor:
        """What the network gets of `states` (times, tokens, width), each of which replaces the encoder's for the same
        prompt: (times, numbers).
        """
        ones = torch.ones((), device=self.device)  # in place of all else that it writes
        written = mapped(self._outline, lambda part: ones.to(part.dtype).expand(len(states), *part.shape[1:]))
        return self.network_inputs([prompt] * len(states), written, lambda usual: states.to(usual))

    @cached_property
    @torch.no_grad()
    def _outline(self) -> Any:
        """The text encoder's output for a prompt, as tensors with a shape and no values."""
        return mapped(self.write(self.tokenize(["a photo"])), lambda part: torch.empty_like(part, device="meta"))

    def reads_like(self, other: "Conditioner") -> bool:
        """Whether networks get the same from this text encoder here and in another pipeline, and guidance leads away
        from the same.
        """
        given = [reader.network_inputs(["a photo of a cat", "a dog"]).float().cpu() for reader in (self, other)]
        most = max(each.shape[1] for each in given)
        here, there = (nn.functional.pad(each, (0, most - each.shape[1])) for each in given)
        alike = torch.allclose(here, there, rtol=1e-2, atol=1e-2 * float(here.std()))
        away = [tokens.ids for reader in (self, other) if (tokens := reader.guided_from())]
        return alike and len(away) != 1 and all(torch.equal(ids.cpu(), away[0].cpu()) for ids in away)

    @contextmanager
    def learning(self, which: Trainable) -> Iterator[tuple[dict[str, nn.Parameter], dict[str, torch.Tensor]]]:
        """Gives the parameters that `trainable` chooses, in float32 at least and ready to learn, and their original
        values, by the same names. Afterwards all are as they were.
        """
        self.text_encoder.requires_grad_(False)
        with upcast(self._reader):  # all of it, since modules after the text encoder read its output
            weights = self.trainable(which)
            with learning(weights) as before:
                yield weights, before

    def brisk(self) -> AbstractContextManager[None]:
        """Inside, the encoder's layers compute faster and a little more coarsely on CPUs that can; see
        `precision.brisk`.
        """
        return brisk(self.layers if self.device.type == "cpu" else ())

    @cached_property
    def causal(self) -> bool:
        """Whether the encoder is causal: a token's state never depends on the tokens after it."""
        tokens = self.tokenize(["a photo of a cat"])
        last = int(tokens.mask[0].nonzero().max())
        other = tokens.ids.clone()
        other[0, last] = tokens.ids[0, 0] if tokens.ids[0, 0] != tokens.ids[0, last] else (tokens.ids[0, last] - 1).abs()
        with torch.no_grad():
            before, after = (self.encode_tokens(Tokens(ids, tokens.call))[0, :last].float() for ids in (tokens.ids, other))
        return torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))

    @cached_property
    def begins_alike(self) -> bool:
        """Whether all prompts begin with the same token: one that starts texts, or a template's."""
        first = self.tokenize(["a photo of a cat", "two dogs"]).ids[:, 0]
        return bool(first[0] == first[1])

    @cached_property
    def takes_places(self) -> bool:
        """Whether the encoder takes position ids, and reads words otherwise at other positions: encoders that add a
        vector to every position (CLIP, BERT) or turn by it (Llama, Gemma, Qwen) do, those that use distances (T5) do
        not.
        """
        if "position_ids" not in inspect.signature(self._reader.forward).parameters:
            return False
        tokens = self.tokenize(["a photo of a cat"])
        usual = list(range(tokens.ids.shape[1]))
        with torch.no_grad():
            read, told, apart = (
                self.encode_tokens(where).float()[tokens.mask]
                for where in (tokens, tokens.placed([usual]), tokens.placed([[max(0, place - 1) for place in usual]]))
            )
        alike = torch.allclose(read, told, rtol=1e-2, atol=1e-3 * float(read.abs().max()))
        return alike and not torch.equal(told, apart)

    def first_matrices(self, layers: int) -> dict[str, nn.Linear]:
        """The matrices of the first `layers` layers, or of all if there are fewer, by the names of their weights; none
        of an adapter's.
        """
        names = {id(module): portable(f"{name}.weight") for name, module in self.text_encoder.named_modules()}
        matrices = [module for layer in self.layers[:layers] for module in layer.modules() if isinstance(module, nn.Linear)]
        own = held_weights(self.text_encoder)
        return {names[id(matrix)]: matrix for matrix in matrices if names[id(matrix)] in own}

    @property
    def token_table(self) -> nn.Embedding:
        """The embedding table, one row (width) for every token of the vocabulary. If several modules hold the same rows,
        as in T5, it is the one that is called.
        """
        named = self.text_encoder.get_input_embeddings()  # type: ignore[operator]
        tables = [module for module in self.text_encoder.modules() if isinstance(module, nn.Embedding)]
        return [table for table in tables if table.weight.shape == named.weight.shape][-1]

    @torch.no_grad()
    def written_rows(self, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The output of `token_table` for the ids, (tokens, width) in float32, and the spread of all its outputs: their
        standard deviation over rows and width. That is the table's own, unless outputs are scaled as Gemma 2's are.
        """
        table = self.token_table
        some = torch.arange(min(FIRST_ROWS, len(table.weight)), device=table.weight.device)
        written, rows = table(some).float(), table.weight[some].float()
        return table(ids.to(some.device)).float(), self._spread * float(written.norm() / rows.norm())

    @cached_property
    def _spread(self) -> float:
        """The standard deviation of `token_table` when it is first asked for, summed over some rows at a time: large
        tables take gigabytes.
        """
        rows = held_weights(self.token_table)["weight"].detach()
        parts = [(doubled(some).sum(), doubled(some).square().sum()) for some in rows.split(ROWS)]
        whole, squares = (float(sum(sums)) for sums in zip(*parts, strict=True))
        return ((squares - whole**2 / rows.numel()) / (rows.numel() - 1)) ** 0.5

    @cached_property
    def layers(self) -> list[nn.Module]:
        """The encoder's layers that reach the denoiser, first to last, whatever the encoder's class.

        Some pipelines read a hidden layer and leave those above unread. Raises UnreelError for an encoder without
        layers.
        """
        layers = self._all_layers
        while layers and self.pipeline is not None and not self._changed_ranks(layers[-1]):
            layers = layers[:-1]
        if not layers:
            raise UnreelError(f"{type(self.text_encoder).__name__} has no layers that unreel knows: it is not supported")
        return layers

    @cached_property
    def token_layers(self) -> list[nn.Module]:
        """Those of `layers` whose token states reach the denoiser; all of `layers` if no token states do."""
        layers = self.layers
        if self.pipeline is None or 3 in self._changed_ranks(layers[-1]) or 3 not in self._changed_ranks(layers[0]):
            return layers
        return layers[: max(place + 1 for place, layer in enumerate(layers) if 3 in self._changed_ranks(layer))]

    @property
    def _all_layers(self) -> list[nn.Module]:
        lists = [list(module) for module in self.text_encoder.modules() if isinstance(module, nn.ModuleList)]
        return max((one for one in lists if all(map(self._mlp_outputs, one))), key=len, default=[])

    @cached_property
    def _unread(self) -> int:
        """How many of the last layers do not reach the denoiser."""
        layers = self._all_layers
        return len(layers) - len(self.layers) if layers else 0

    @torch.no_grad()
    def _changed_ranks(self, layer: nn.Module) -> set[int]:
        """The ranks of the tensors given to the denoiser that change when the layer's MLP output does: 3 for token
        states, 2 for a state per prompt.
        """
        with self._known_others.standing_in():
            before = tensors_in(encode_prompt(self.pipeline, ["a photo"]))
            with self.mlp_output(layer).register_forward_hook(lambda _, __, output: output.flip(-1)):
                after = tensors_in(encode_prompt(self.pipeline, ["a photo"]))
        return {a.ndim for a, b in zip(before, after, strict=True) if not torch.equal(a, b)}

    def mlp_output(self, layer: nn.Module) -> nn.Linear:
        """The output matrix of a layer's MLP: the widest one that comes down to the layer's own width.

        `fc2` in CLIP, `wo` in T5, `down_proj` in Llama, Gemma and Qwen, `output.dense` in BERT. Raises UnreelError if
        there is none.
        """
        outputs = self._mlp_outputs(layer)
        if not outputs:
            raise UnreelError(f"{type(layer).__name__} has no MLP that unreel knows: this text encoder is not supported")
        return max(outputs, key=lambda linear: linear.in_features)

    @torch.no_grad()
    def attention_output(self, layer: nn.Module) -> nn.Linear:
        """The output matrix of a layer's attention: the last one called before the MLP's own, of those as wide as the
        layer.

        `out_proj` in CLIP, `o` in T5, `o_proj` in Llama, Gemma and Qwen, `attention.output.dense` in BERT. Raises
        UnreelError if there is none.
        """
        width, called = self.token_table.weight.shape[1], []
        last = self.mlp_output(layer)
        with ExitStack() as hooks:
            for module in own_modules(layer).values():
                if isinstance(module, nn.Linear) and module.out_features == width:
                    hooks.enter_context(module.register_forward_hook(lambda matrix, *_: called.append(matrix)))
            self.encode(["a photo"])
        before = called[: called.index(last)] if last in called else []
        if not before:
            raise UnreelError(
                f"{type(layer).__name__} has no attention that unreel knows: this text encoder is not supported"
            )
        return before[-1]

    def _mlp_outputs(self, layer: nn.Module) -> list[nn.Linear]:
        width = self.token_table.weight.shape[1]
        return [m for m in layer.modules() if isinstance(m, nn.Linear) and m.out_features == width < m.in_features]

    def has_room_for(self, prompt: str, most: float = inf) -> bool:
        """Whether the text encoder reads all of `prompt`, and `prompt` has at most `most` tokens."""
        return self.length(prompt) <= min(self.room, most)

    def require_room_for(self, prompts: list[str]) -> None:
        """Raises UnreelError if a prompt is longer than the text encoder reads, so that words would be cut off."""
        for prompt in prompts:
            if not self.has_room_for(prompt):
                raise UnreelError(
                    f"the prompt {prompt!r} has {self.length(prompt)} tokens but the text encoder reads "
                    f"{self.room}, so the concept would be cut off: name it in fewer words"
                )

    def require_read(self, names: Sequence[str]) -> None:
        """Raises UnreelError for a name that the pipeline takes out of prompts before anything reads them: some remove
        what looks like the number of a file.
        """
        if self.pipeline is None or "clean_caption" not in inspect.signature(type(self.pipeline).__call__).parameters:
            return
        tokens = self.tokenize(["a photo of", *(f"a photo of {name}" for name in names)])
        nothing, *read = (row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask, strict=True))
        for name, ids in zip(names, read, strict=True):
            if name.strip() and ids == nothing:
                raise UnreelError(f"a {type(self.pipeline).__name__} takes {name!r} out of prompts: call it otherwise")

    def length(self, prompt: str) -> int:
        """How many tokens a prompt has, its start and end included, but no template."""
        if prompt not in self._lengths:
            self._lengths[prompt] = len(self.tokenizer(prompt, verbose=False).input_ids)  # too long is for us to say
        return self._lengths[prompt]

    @cached_property
    def room(self) -> float:
        """The length of the longest prompt that is read as a whole; infinite if neither tokenizer nor model has a limit."""
        length = self.tokenizer.model_max_length
        places = getattr(self.text_encoder.config, "max_position_embeddings", None)
        longest = min(inf if length > NO_LENGTH else length, places or inf)
        if self.pipeline is None:
            return longest
        asked = self._asked(["a"])
        padded, read = asked.ids.shape[1], int(asked.mask.sum())
        cut = self._asked([" ".join(["a"] * TOO_LONG)]).ids.shape[1]
        if padded < cut:  # not padded to a length
            return longest if cut > TOO_LONG else min(longest, cut - (padded - self.length("a")))
        template = read - self.length("a") if read < padded else 0
        return padded - template

    def trainable(self, which: Trainable = "mlp-final-attn") -> dict[str, nn.Parameter]:
        """The parameters to train, by name, in the encoder's own order.

        `mlp-final-attn` is few-shot erasing's choice: every MLP and the last layer's self-attention (arXiv 2405.07288,
        section 3). Modules are found by type, so any encoder and any depth works.
        """
        if which not in get_args(Trainable):
            raise UnreelError(f"unknown trainable set {which!r}: choose one of {', '.join(get_args(Trainable))}")
        mlps = [_holder(layer, self.mlp_output(layer)) for layer in self.layers]
        attentions = [_attention(layer) for layer in self.layers]
        choices: dict[str, list[nn.Module]] = {
            "mlp-final-attn": [*mlps, attentions[-1]],
            "mlp": mlps,
            "attn": attentions,
            "mlp-attn": [*mlps, *attentions],
            "first-layer": [module for module in self.layers[0].modules() if isinstance(module, nn.Linear)],
            "all": [self.text_encoder],
        }
        wanted = {id(parameter) for module in choices[which] for parameter in module.parameters()}
        own = held_weights(self.text_encoder)
        return {name: p for name, p in self.text_encoder.named_parameters() if id(p) in wanted and portable(name) in own}


def _holder(layer: nn.Module, part: nn.Module) -> nn.Module:
    """The module of `layer` that `part` is a direct part of."""
    return next(module for module in layer.modules() if any(child is part for child in module.children()))


def _attention(layer: nn.Module) -> nn.Module:
    """The self-attention of a layer, matrices and all. Raises UnreelError if there is none."""
    for module in layer.modules():
        own = any(isinstance(child, nn.Linear) for child in module.children())
        if own and type(module).__name__.endswith("Attention"):
            return module
    raise UnreelError(f"{type(layer).__name__} has no attention that unreel knows: this text encoder is not supported")


def unused_word(conditioner: Conditioner, before: str, after: str) -> tuple[str, int]:
    """A word that is one token between two texts, and that token, which neither the texts nor the pipeline's template
    have. It is in lower case, since some pipelines read nothing else. Raises UnreelError if there is none.
    """

    def ids(between: str) -> set[int]:
        return set(conditioner.tokenize([" ".join(f"{before} {between} {after}".split())]).ids[0].tolist())

    used = ids("")
    for word in whole_words(conditioner.tokenizer):
        if word.isalpha() and word == word.lower():
            # At a prompt's start it may be another token than within.
            for token in ids(word) - used:
                if conditioner.tokenizer.decode([token]).strip() == word:
                    return word, token
    raise UnreelError("this text encoder's vocabulary has no word to learn in place of")
