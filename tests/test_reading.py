"""What an encoder is to write instead, and where that counts: by places, by who reads ahead, and by hand."""

import copy
import dataclasses
import random

import pytest
import torch
from conftest import make_pair
from readers import bert, bytes_tokenizer, llama, t5, words_tokenizer

from unreel.models import reading
from unreel.models.conditioner import Conditioner
from unreel.models.reading import Aim, align, as_anchors, as_read, beginnings, together
from unreel.models.tokens import Tokens
from unreel.prompts.pairs import PromptPair

PAIRS = [
    PromptPair("a photo of a castle by night", "a photo of a dog by night", "castle"),
    PromptPair("tokyo tower next to a cat", "a castle next to a cat", "tokyo tower"),
    PromptPair("a castle", "", "castle"),
]


def causal():
    """Reads from left to right, and every letter is a token."""
    return llama(bytes_tokenizer(), max_position_embeddings=512)


def clip():
    """Reads from left to right, and padding is something to read."""
    pipeline = make_pair().t2i
    return Conditioner(pipeline.tokenizer, pipeline.text_encoder)


def both_ways(make=bert):
    return make(words_tokenizer())


@pytest.mark.parametrize(
    ("prompt", "anchor", "places"),
    [
        ("a b c", "a b c", [0, 1, 2]),
        ("a X c", "a Y c", [0, 1, 2]),
        ("a X Y Z c", "a W c", [0, 1, 1, 1, 2]),  # a name of three tokens, an anchor of one
        ("a X c", "a V W c", [0, 2, 3]),  # a name of one: it takes on the last one's meaning
        ("a X Y c", "a U V W c", [0, 2, 3, 4]),
        ("a X Y c", "a c", [0, 0, 0, 1]),  # left out: what stood before
        ("X c", "c", [0, 0]),
        ("a X", "a", [0, 0]),
        ("a c", "a W c", [0, 2]),  # only said of the anchor
        ("a X b X c", "a W b W c", [0, 1, 2, 3, 4]),
    ],
)
def test_align(prompt, anchor, places):
    assert align(list(map(ord, prompt.replace(" ", ""))), list(map(ord, anchor.replace(" ", "")))) == places


@pytest.mark.parametrize(
    ("prompt", "anchor", "places"),
    [
        ([1, 7, 2, 2, 2], [1, 2, 2, 2, 2], [0, 0, 1, 2, 3]),  # padded with the token that ends
        ([1, 7, 8, 9, 2, 0], [1, 5, 6, 2, 0, 0], [0, 1, 1, 2, 3, 4]),  # several for several, from the last backwards
        ([0, 0, 1, 7, 2], [0, 1, 5, 6, 2], [0, 0, 1, 3, 4]),  # padded on the left
    ],
)
def test_align_beside_padding(prompt, anchor, places):
    assert align(prompt, anchor) == places


def test_every_token_has_a_place_and_what_both_share_stays_with_itself():
    rng = random.Random(0)
    for _ in range(300):
        before, after = ([rng.randrange(9) for _ in range(rng.randint(0, 5))] for _ in range(2))
        name, other = ([20 + rng.randrange(5) for _ in range(rng.randint(1, 3))] for _ in range(2))
        prompt, anchor = [*before, *name, *after], [*before, *[10 + it for it in other], *after]
        places = align(prompt, anchor)
        assert len(places) == len(prompt) and all(0 <= place < len(anchor) for place in places)
        assert places[: len(before)] == list(range(len(before)))
        assert places[len(places) - len(after) :] == list(range(len(anchor) - len(after), len(anchor)))
        assert places[len(before) + len(name) - 1] == len(before) + len(other) - 1


def test_who_reads_ahead_is_found_out():
    assert causal().causal and clip().causal
    assert not both_ways().causal and not both_ways(t5).causal


@pytest.mark.parametrize("make", [causal, clip])
def test_where_words_are_read_without_those_that_follow_a_name_counts_from_its_end(make):
    conditioner = make()
    aim = as_anchors(conditioner, PAIRS)
    for pair, ids, seen, counted in zip(PAIRS, aim.tokens.ids, aim.tokens.mask, aim.counted, strict=True):
        until = conditioner.tokenizer(pair.prompt[: pair.prompt.index(pair.wording) + len(pair.wording)]).input_ids
        end = len(until) - 1 - (until[-1] == conditioner.tokenizer.eos_token_id)
        assert ids[: end + 1].tolist() == until[: end + 1]
        assert not counted[:end].any()
        assert torch.equal(counted[end:], seen[end:]) and counted[end]


@pytest.mark.parametrize("make", [bert, t5])
def test_where_all_words_are_read_together_every_one_counts_but_padding(make):
    conditioner = both_ways(make)
    aim = as_anchors(conditioner, PAIRS)
    assert torch.equal(aim.counted, aim.tokens.mask) and not aim.counted.all()


def test_either_can_be_asked_for():
    whole = as_anchors(causal(), PAIRS, from_name=False)
    assert torch.equal(whole.counted, whole.tokens.mask)
    cut = as_anchors(both_ways(), PAIRS, from_name=True)
    assert (cut.counted.sum(1) < cut.tokens.mask.sum(1)).all()


def test_where_tokens_run_over_the_ends_of_a_name_the_first_difference_ends():
    aim = as_anchors(causal(), [PromptPair("a cat", "a dog", "something else")])
    assert aim.counted.tolist() == [[False] * 4 + [True]]
    assert as_anchors(causal(), [PromptPair("a cat", "a cat", "something else")]).counted.all()


def standing_for(prompt, anchor):
    """Where each token of the anchor prompt is read: where it stands in the prompt, else at the last place that is to mean
    it, or at the next such place.
    """
    places = align(prompt.tolist(), anchor.tolist())
    means = [[i for i, place in enumerate(places) if place == j] for j in range(len(anchor))]
    itself = [[i for i in those if prompt[i] == anchor[j]] for j, those in enumerate(means)]
    own = [max(same or those, default=None) for same, those in zip(itself, means, strict=True)]
    return [next((i for i in own[j:] if i is not None), len(prompt) - 1) for j in range(len(own))]


def test_who_can_be_told_places_is_found_out():
    assert clip().takes_places and both_ways().takes_places and causal().takes_places
    assert not both_ways(t5).takes_places


@pytest.mark.parametrize("masked", [True, False])
def test_a_place_left_out_does_not_begin_another_text(masked):
    """transformers takes it for that where there is no mask."""
    conditioner = dataclasses.replace(causal(), masked=masked)
    one, other = (conditioner.tokenize([text]) for text in ("a cat", "b cat"))
    places = [[0, 1, *range(4, one.ids.shape[1] + 2)]]
    with torch.no_grad():
        written = [conditioner.encode_tokens(tokens.placed(places))[0, 4] for tokens in (one, other)]
    assert not torch.allclose(*written)  # what comes behind the gap still knows what stands before it


def test_no_anchor_is_the_first_token_of_all():
    """That means next to nothing to encoders that read from left to right: a token that ends texts stands there."""
    conditioner, end = causal(), "<|endoftext|>"
    pair = PromptPair("Tokyo Tower by night", "cats by night", "Tokyo Tower")
    aim = as_anchors(conditioner, [pair])
    anchor = conditioner.tokenize([f"{end}{pair.anchor}"])
    places = standing_for(aim.tokens.ids[0], anchor.ids[0])
    with torch.no_grad():
        written = conditioner.encode_tokens(anchor.placed([places]))[0]
    torch.testing.assert_close(aim.states[0, -1], written[-1])
    torch.testing.assert_close(aim.states[0, len("Tokyo Tower") - 1], written[len("cats")])
    alike = as_anchors(conditioner, [PromptPair("a Tokyo Tower", "a cat", "Tokyo Tower")])
    with torch.no_grad():
        plain = conditioner.encode_tokens(conditioner.tokenize(["a cat"]))[0]
    torch.testing.assert_close(alike.states[0, 1], plain[1])  # what begins alike needs none


def test_what_comes_behind_a_name_of_another_length_stays_where_it_is():
    """So that only the name's tokens have to move in the first place: the words behind it add up with the same places."""
    conditioner = clip()
    pair = PromptPair("a castle tower with a cat", "a house with a cat", "castle tower")
    aim, seen = as_anchors(conditioner, [pair]), []
    table = next(m for m in conditioner.text_encoder.modules() if getattr(m, "num_embeddings", 0) == conditioner.room)
    hook = table.register_forward_hook(lambda _, args, __: seen.append(args[0].flatten().tolist()))
    as_anchors(conditioner, [pair])
    hook.remove()
    prompt, anchor = aim.tokens.ids[0].tolist(), conditioner.tokenize([pair.anchor]).ids[0].tolist()
    behind = len(conditioner.tokenizer("with a cat", add_special_tokens=False).input_ids)
    end, stop = prompt.index(conditioner.tokenizer.eos_token_id), anchor.index(conditioner.tokenizer.eos_token_id)
    assert end > stop  # the name is longer
    assert seen[0][stop - behind : stop + 1] == list(range(end - behind, end + 1))


@pytest.mark.parametrize("make", [causal, clip, both_ways, lambda: both_ways(t5)])
def test_a_prompt_aims_at_what_is_written_for_its_anchor_prompt_at_the_aligned_places(make):
    conditioner = make()
    aim = as_anchors(conditioner, PAIRS)
    begun = [ids[0] for ids in conditioner.tokenize([pair.anchor for pair in PAIRS]).ids]
    alone = [conditioner.causal and bool(first != ids[0]) for first, ids in zip(begun, aim.tokens.ids, strict=True)]
    ends = conditioner.tokenizer.eos_token or ""
    anchors = conditioner.tokenize([ends * first + pair.anchor for first, pair in zip(alone, PAIRS, strict=True)])
    if conditioner.takes_places:
        anchors = anchors.placed([standing_for(*ids) for ids in zip(aim.tokens.ids, anchors.ids, strict=True)])
    with torch.no_grad():
        written = conditioner.encode_tokens(anchors)
    assert not aim.states.requires_grad
    for states, prompt, anchor, own in zip(aim.states, aim.tokens.ids, anchors.ids, written, strict=True):
        torch.testing.assert_close(states, own[align(prompt.tolist(), anchor.tolist())])


def test_distances_and_squares_by_hand():
    generator = torch.Generator().manual_seed(0)
    states, written = (torch.randn(2, 4, 3, generator=generator) for _ in range(2))
    counted = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    aim = Aim(Tokens(torch.zeros(2, 4), {}), states, counted)
    for i, found, square in zip(range(2), aim.distances(written), aim.squares, strict=True):
        away = [((written[i, n] - states[i, n]) ** 2).sum() for n in range(4) if counted[i, n]]
        size = [(states[i, n] ** 2).sum() for n in range(4) if counted[i, n]]
        assert float(found) == pytest.approx(float(sum(away)), rel=1e-5)
        assert float(square) == pytest.approx(float(sum(size)), rel=1e-5)


def test_as_read_now_is_no_distance_away_and_padding_does_not_count():
    for conditioner in (causal(), clip(), both_ways()):
        aim = as_read(conditioner, ["a castle", "", "a photo of a cat"])
        assert torch.equal(aim.counted, aim.tokens.mask)
        with torch.no_grad():
            again = conditioner.encode_tokens(aim.tokens)
        assert not aim.distances(again).any() and aim.squares.all()
        unseen = again + 100.0 * ~aim.tokens.mask[..., None]
        assert not aim.distances(unseen).any()


def test_shortened_prompts_read_the_same_where_nothing_reads_ahead():
    conditioner, prompts = clip(), [*(pair.prompt for pair in PAIRS), ""]
    whole, short = (as_read(conditioner, prompts, short=short) for short in (False, True))
    width = short.tokens.ids.shape[1]
    said = max(int((row != row[-1]).nonzero().max()) + 1 for row in whole.tokens.ids)
    assert width == said + reading.SPARE < whole.tokens.ids.shape[1]
    assert torch.equal(short.tokens.ids, whole.tokens.ids[:, :width])
    torch.testing.assert_close(short.states, whole.states[:, :width], rtol=1e-5, atol=1e-6)
    anchored, whole = (as_anchors(conditioner, PAIRS, short=short) for short in (True, False))
    shared = anchored.counted & whole.counted[:, : anchored.counted.shape[1]]
    assert torch.equal(anchored.counted, shared)


def test_prompts_are_not_shortened_where_padding_is_read_first():
    conditioner = both_ways()
    both = Conditioner(conditioner.tokenizer, copy.deepcopy(conditioner.text_encoder))  # sees its padding
    assert not both.causal and not both.masked
    long, short = (as_read(both, ["a cat", "a castle by night"], short=short).tokens.ids for short in (False, True))
    assert torch.equal(long, short)


def test_what_is_not_padding_is_never_cut():
    ids = torch.tensor([[1, 5, 6, 7, 8], [1, 5, 6, 9, 4]])
    assert torch.equal(Tokens(ids, {}).shortened(1).ids, ids)  # their last tokens differ: no padding
    mask = torch.ones(2, 6, dtype=torch.long)
    padded = Tokens(torch.tensor([[1, 5, 0, 0, 0, 0], [1, 5, 6, 0, 0, 0]]), {"attention_mask": mask, "flag": True})
    cut = padded.shortened(1)
    assert cut.ids.tolist() == [[1, 5, 0, 0], [1, 5, 6, 0]]
    assert cut.call["attention_mask"].shape == (2, 4) and cut.call["flag"] is True
    assert torch.equal(padded.shortened(9).ids, padded.ids)


@pytest.mark.parametrize("make", [causal, clip, both_ways])
def test_several_aims_as_one_are_what_each_was(make):
    conditioner = make()
    pairs, texts = PAIRS[:2], ["a dog", "a cat next to a castle by night"]
    parts = [as_anchors(conditioner, pairs, short=True), as_read(conditioner, texts, short=True)]
    whole = together(conditioner, [*(pair.prompt for pair in pairs), *texts], parts)
    start = 0
    for part in parts:
        rows, width = slice(start, start + len(part.states)), part.states.shape[1]
        assert torch.equal(whole.states[rows, :width], part.states)
        assert torch.equal(whole.counted[rows, :width], part.counted) and not whole.counted[rows, width:].any()
        with torch.no_grad():  # read together they are read the same
            torch.testing.assert_close(
                whole.distances(conditioner.encode_tokens(whole.tokens))[rows],
                part.distances(conditioner.encode_tokens(part.tokens)),
                rtol=1e-3,
                atol=1e-3,
            )
        start = rows.stop


@pytest.mark.parametrize("make", [causal, clip])
def test_what_prompts_begin_with_is_what_stands_before_the_name_and_has_itself_to_aim_at(make):
    conditioner = make()
    aim = as_anchors(conditioner, PAIRS)
    texts = [*(pair.prompt for pair in PAIRS), "a photo of a cat and a tower", "a dog"]
    tokens = conditioner.tokenize(texts)
    found = beginnings(conditioner, tokens, PAIRS)
    assert found.shape == tokens.ids.shape and not found[len(PAIRS) :].any()
    own = as_read(conditioner, [pair.prompt for pair in PAIRS])
    for i, pair in enumerate(PAIRS):
        before = pair.prompt[: pair.prompt.index(pair.wording)]
        words = conditioner.tokenizer(before, add_special_tokens=False).input_ids if before.strip() else []
        count = int(found[i].sum())
        least = len(words) - 1 if pair.anchor else 0  # of nothing there is nothing to begin with
        assert least <= count <= len(words) + 2 and found[i, :count].all()  # the start may be a token too
        assert not (found[i, : aim.counted.shape[1]] & aim.counted[i]).any()
        torch.testing.assert_close(aim.states[i, :count], own.states[i, :count], rtol=1e-4, atol=1e-4)
