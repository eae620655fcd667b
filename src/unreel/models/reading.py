"""How a text encoder reads prompts, as numbers to aim at and to compare: what it writes for each token, how far that is
from what it should be, and which names it takes to be alike.

Knows encoders and sentences; knows nothing about how an encoder is changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate, zip_longest

import torch
from torch.nn.functional import pad

from unreel.models.conditioner import Conditioner
from unreel.models.tokens import Tokens
from unreel.progress import track
from unreel.prompts.pairs import PromptPair

Meanings = dict[str, torch.Tensor]  # what a text encoder makes of texts: vectors (width)

BATCH = 64  # names read at once
SPARE = 4  # tokens of padding to learn from: encoders that read from left to right write nearly the same for all of them


@dataclass(frozen=True)
class Aim:
    """Prompts as `tokens`, and what the encoder is to write for them: `states` (prompts, tokens, width). `counted`
    (prompts, tokens) masks the tokens that matter.
    """

    tokens: Tokens
    states: torch.Tensor
    counted: torch.Tensor

    def distances(self, written: torch.Tensor) -> torch.Tensor:
        """Squared distance of what was `written` (prompts, tokens, width) from the aim, for each prompt: (prompts,)."""
        return ((written - self.states).float().square().sum(-1) * self.counted).sum(-1)

    def rows(self, some: slice) -> "Aim":
        """The aim of some of the prompts."""
        return Aim(self.tokens.rows(some), self.states[some], self.counted[some])

    def parts(self, sizes: Sequence[int]) -> list["Aim"]:
        """The aim cut into parts of so many prompts each, one after the other."""
        return [self.rows(slice(end - size, end)) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    @property
    def squares(self) -> torch.Tensor:
        """The squared norm of the aim for each prompt: (prompts,)."""
        return (self.states.float().square().sum(-1) * self.counted).sum(-1)


@torch.no_grad()
def as_read(conditioner: Conditioner, prompts: Sequence[str], *, short: bool = False) -> Aim:
    """An aim that makes the encoder read the prompts as it reads them now; `short` leaves out most of the padding."""
    tokens = tokens_of(conditioner, prompts, short=short)
    return Aim(tokens, conditioner.token_states(tokens), conditioner.seen(prompts, tokens))


@torch.no_grad()
def as_anchors(
    conditioner: Conditioner, pairs: Sequence[PromptPair], *, short: bool = False, from_name: bool | None = None
) -> Aim:
    """An aim that makes the encoder read the prompts of `pairs` as it reads their anchor prompts now.

    If it can be told positions, anchor tokens are read at the positions of what they stand for; else all that follows a
    name of another length would have to move for that alone. If it reads from left to right, the first words of a name
    are read without the rest and mean the same elsewhere, so only the name's last token and what follows count.
    `from_name` sets whether that is so; by default it is so for encoders that read from left to right.
    """
    tokens, anchors, aligned, counted = side_by_side(conditioner, pairs, short=short, from_name=from_name)
    states = conditioner.token_states(anchors)
    return Aim(tokens, at_places(states, aligned), counted)


def at_places(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The `states` (prompts, tokens, width) at `places` (prompts, tokens)."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def side_by_side(
    conditioner: Conditioner, pairs: Sequence[PromptPair], *, short: bool = False, from_name: bool | None = None
) -> tuple[Tokens, Tokens, torch.Tensor, torch.Tensor]:
    """The tokens of the prompts; those of their anchor prompts, at the positions of what they stand for; for every
    prompt token, the anchor column whose meaning it takes on; and whether it counts. The last two are (prompts, tokens).
    """
    prompts = [pair.prompt for pair in pairs]
    tokens = tokens_of(conditioner, prompts, short=short)
    anchors = _anchor_tokens(conditioner, pairs, tokens, short)
    rows = list(zip(tokens.ids.tolist(), anchors.ids.tolist(), strict=True))
    aligned = [align(*ids) for ids in rows]
    if conditioner.takes_places:
        anchors = anchors.placed([_counterparts(p, *ids) for p, ids in zip(aligned, rows, strict=True)])
    counted = conditioner.seen(prompts, tokens)
    if conditioner.causal if from_name is None else from_name:
        first = [end_of_name(conditioner, pair.wording, *ids) for pair, ids in zip(pairs, rows, strict=True)]
        counted = counted & (torch.arange(counted.shape[1]) >= torch.tensor(first)[:, None]).to(counted.device)
    return tokens, anchors, torch.tensor(aligned, device=tokens.ids.device), counted


@torch.no_grad()
def together(conditioner: Conditioner, prompts: Sequence[str], aims: Sequence[Aim]) -> Aim:
    """Several `short` aims as one, whose `prompts` are theirs one after the other: reading many prompts at once takes
    less time.
    """
    tokens = tokens_of(conditioner, prompts, short=True)
    more = [tokens.ids.shape[1] - aim.counted.shape[1] for aim in aims]
    states = torch.cat([pad(aim.states, (0, 0, 0, by)) for aim, by in zip(aims, more, strict=True)])
    counted = torch.cat([pad(aim.counted, (0, by)) for aim, by in zip(aims, more, strict=True)])
    return Aim(tokens, states, counted)


def beginnings(conditioner: Conditioner, tokens: Tokens, pairs: Sequence[PromptPair]) -> torch.Tensor:
    """A mask (prompts, tokens): in the first rows, the prompts of `pairs`, the tokens before the name, where prompt and
    anchor prompt agree; False elsewhere.
    """
    anchors = conditioner.tokenize([pair.anchor for pair in pairs]).ids
    count, width = len(pairs), min(tokens.ids.shape[1], anchors.shape[1])
    alike = (tokens.ids[:count, :width] == anchors[:, :width]).cumprod(1).bool()
    whole = torch.zeros_like(tokens.mask)
    whole[:count, :width] = alike
    whole[:count] &= conditioner.seen([pair.prompt for pair in pairs], tokens.rows(slice(count)))
    return whole


def tokens_of(conditioner: Conditioner, prompts: Sequence[str], *, short: bool) -> Tokens:
    """The tokens of prompts. `short` leaves out most of the padding, if the encoder reads from left to right and so
    reads the other tokens as before.
    """
    tokens = conditioner.tokenize(list(prompts))
    return tokens.shortened(SPARE) if short and conditioner.causal else tokens


def _anchor_tokens(conditioner: Conditioner, pairs: Sequence[PromptPair], prompts: Tokens, short: bool) -> Tokens:
    """The tokens of the anchor prompts of `pairs`. Those that begin with another token than their prompts get the token
    that ends texts before them: the very first token means next to nothing to encoders that read from left to right
    (arXiv 2309.17453), and that of an anchor should mean something.
    """
    texts = [pair.anchor for pair in pairs]
    plain = tokens_of(conditioner, texts, short=short)
    first = getattr(conditioner.tokenizer, "eos_token", None)
    begins_alike = (prompts.ids[:, 0] == plain.ids[:, 0]).tolist()
    if not first or all(begins_alike) or not conditioner.causal:
        return plain
    texts = [text if alike else first + text for text, alike in zip(texts, begins_alike, strict=True)]
    return tokens_of(conditioner, texts, short=short)


def end_of_name(conditioner: Conditioner, wording: str, prompt: Sequence[int], anchor: Sequence[int]) -> int:
    """The position of the last token of the name `wording` in a prompt's tokens; a template before the prompt may hold
    the name too. If tokens run across the ends of the name, it is the end of the first difference between prompt and
    anchor prompt.
    """
    differ = next((i for i, (a, b) in enumerate(zip_longest(prompt, anchor)) if a != b), 0)
    for text in (f" {wording}", wording, f" {wording.lower()}", wording.lower()):  # some pipelines read nothing else
        name = conditioner.tokenizer(text, add_special_tokens=False).input_ids
        for start in range(max(0, differ + 1 - len(name)), len(prompt) - len(name) + 1):
            if name and list(prompt[start : start + len(name)]) == name:
                return start + len(name) - 1
    changed = (b for tag, _, b, _, _ in _opcodes(prompt, anchor) if tag != "equal" and b > 0)
    return next(changed, 1) - 1


def align(prompt: Sequence[int], anchor: Sequence[int]) -> list[int]:
    """For every token of `prompt`, the place in `anchor` whose meaning it is to take on.

    Tokens that both share keep theirs; of the words exchanged, the last token takes the last one's, and so on backwards,
    because the last token of a name means the whole of it where encoders read from left to right.
    """
    places: list[int] = []
    for tag, a, b, c, d in _opcodes(prompt, anchor):
        if tag == "equal":
            places += range(c, d)
        else:
            first = c if d > c else max(c - 1, 0)  # left out: what stood before, if anything
            places += [max(first, d - (b - i)) for i in range(a, b)]
    return places


def _counterparts(places: Sequence[int], prompt: Sequence[int], anchor: Sequence[int]) -> list[int]:
    """For every anchor token, the position of the prompt token that takes on its meaning: the same token, else the last
    of several; if there is none, the position of the next anchor token's.
    """
    counterpart = {place: i for i, place in enumerate(places)}
    counterpart |= {place: i for i, place in enumerate(places) if prompt[i] == anchor[place]}
    out, following = [], len(places) - 1
    for place in reversed(range(len(anchor))):
        following = counterpart.get(place, following)
        out.append(following)
    return out[::-1]


def _opcodes(prompt: Sequence[int], anchor: Sequence[int]) -> Sequence[tuple[str, int, int, int, int]]:
    return SequenceMatcher(None, prompt, anchor, autojunk=False).get_opcodes()


def nearest(conditioner: Conditioner, name: str, names: Sequence[str], known: Meanings | None = None) -> list[str]:
    """`names`, ordered from the most like `name` to the least, as the text encoder sees them. Their vectors are looked
    up in `known`, and added to it.
    """
    if not names:
        return []
    known = {} if known is None else known
    texts = [name, *names]
    unknown = [text for text in dict.fromkeys(texts) if text not in known]
    with torch.no_grad():
        for start in track(range(0, len(unknown), BATCH), "looking for what is near", brief=True):
            some = unknown[start : start + BATCH]
            known |= zip(some, _meanings(conditioner, some), strict=True)
        vectors = torch.stack([known[text] for text in texts])
        centred = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
        order = (centred[1:] @ centred[0]).argsort(descending=True)
    return [names[i] for i in order.tolist()]


def _meanings(conditioner: Conditioner, texts: list[str]) -> torch.Tensor:
    """The mean of the encoder's token states for each text, over the tokens that reach the network: (texts, width).

    To encoders that read from left to right, the very first token means next to nothing (arXiv 2309.17453). If that
    would be one of the text's own, the text is read in a sentence instead, and its last token, which has read all of it,
    stands for it.
    """
    if conditioner.causal and not conditioner.begins_alike:
        tokens = conditioner.tokenize([f"a photo of a {text}" for text in texts])
        last = tokens.mask.sum(1) - 1
        return conditioner.encode_tokens(tokens).float()[torch.arange(len(texts), device=last.device), last]
    tokens = conditioner.tokenize(texts)
    seen = conditioner.seen(texts, tokens)[..., None]
    return (conditioner.encode_tokens(tokens).float() * seen).sum(1) / seen.sum(1)
