"""What holds for whatever goes in: alignment, sentences with gaps, erasures on top of each other, files of prompts."""

import itertools
import json
import re
import string

import pytest
import torch
from conftest import make_pair, same, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unreel import Erasure, UnreelError
from unreel.interventions.erasure import ComponentDelta
from unreel.models.deltas import LowRank
from unreel.models.fingerprint import Fingerprint
from unreel.models.reading import align
from unreel.models.weights import held_weights
from unreel.prompts.files import READERS, read_prompts
from unreel.prompts.grammar import bare, fill, with_articles
from unreel.prompts.spelling import fold, folded

IDS = st.lists(st.integers(0, 6), min_size=1, max_size=12)
ARTICLES = ("a", "an", "the")
WORD = st.text(string.ascii_lowercase, min_size=1, max_size=6).filter(lambda word: word not in ARTICLES)
WORDS = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(IDS, IDS)
def test_every_token_takes_a_place_of_the_anchor_prompt_and_none_goes_back(prompt, anchor):
    places = align(prompt, anchor)
    assert len(places) == len(prompt) and all(0 <= place < len(anchor) for place in places)
    assert places == sorted(places)


@QUICK
@given(IDS)
def test_a_prompt_is_aligned_with_itself_token_by_token(prompt):
    assert align(prompt, prompt) == list(range(len(prompt)))


@QUICK
@given(IDS, IDS, IDS, IDS)
def test_what_ends_alike_is_aligned_at_its_end(head, tail, name, anchor):
    end = [7, *tail]  # a token that nothing else has
    prompt, other = [8, *head, *name, *end], [8, *head, *anchor, *end]
    assert align(prompt, other)[-len(end) :] == list(range(len(other) - len(end), len(other)))


@QUICK
@given(st.sampled_from(["a photo of a {}", "the {} at night", "{}, a {}", "An {} and the {}"]), WORDS, WORDS)
def test_gaps_are_filled_with_one_article_that_fits(pattern, first, second):
    gaps = {"one": first, "two": second}
    text = fill(pattern.format("[one]", "[two]") if pattern.count("{}") == 2 else pattern.format("[one]"), gaps)
    words = text.lower().split(" ")
    assert "[" not in text and "" not in words
    for article, word in itertools.pairwise(words):
        assert article != "a" or with_articles(f"a {word}") == f"a {word}"  # as the word alone would have it
        assert not (article == "a" and re.match("[ai][bcdfgklmprstvz]", word))
        assert not (article in ARTICLES and word in ARTICLES)


@QUICK
@given(st.text(max_size=12))
def test_of_each_folded_character_it_is_known_where_it_comes_from(text):
    of, whole, starts = folded(text)
    assert whole == fold(of) == fold(text) and len(starts) == len(whole) + 1
    assert starts == sorted(starts) and starts[-1] == len(of)


@QUICK
@given(WORDS)
def test_words_lose_one_article(words):
    assert bare(f"the {words}") == words
    assert fill("a photo of a [x]", {"x": f"the {words}"}) == f"a photo of the {words}"


PAIR = make_pair()
PROVENANCE = {"method": "test", "settings": {}, "synonyms": [], "kind": "object"}


def made(number: int) -> Erasure:
    """Deltas of some matrices of the tiny encoder, of low rank and dense."""
    generator = torch.Generator().manual_seed(number)
    deltas = {}
    for name, weight in list(held_weights(PAIR.t2v.text_encoder).items())[number::5]:
        if weight.ndim == 2 and number % 2:
            deltas[name] = LowRank(
                torch.randn(len(weight), 2, generator=generator), torch.randn(2, weight.shape[1], generator=generator)
            )
        else:
            deltas[name] = torch.randn(weight.shape, generator=generator)
    part = {"concept": f"thing {number}", **PROVENANCE}
    return Erasure((ComponentDelta(deltas, Fingerprint.of(PAIR.t2v.text_encoder)),), {"parts": [part], "versions": {}})


@QUICK
@given(st.lists(st.integers(0, 3), max_size=10))
def test_erasures_go_on_and_off_in_any_order_and_leave_no_trace(steps):
    encoder, erasures = PAIR.t2v.text_encoder, [made(number) for number in range(4)]
    original, on = weights(encoder), []
    for number in steps:
        if number in on:
            erasures[number].remove(PAIR.t2v)
            on.remove(number)
        else:
            erasures[number].apply(PAIR.t2v)
            on.append(number)
    stacked = weights(encoder)
    for number in on:
        erasures[number].remove(PAIR.t2v)
    assert same(weights(encoder), original)
    for number in sorted(on):
        erasures[number].apply(PAIR.t2v)
    assert same(weights(encoder), stacked)
    for number in on:
        erasures[number].remove(PAIR.t2v)
    assert same(weights(encoder), original)


@QUICK
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200))
def test_whatever_a_file_holds_is_prompts_or_one_line(tmp_path, suffix, data):
    file = tmp_path / f"prompts{suffix}"
    file.write_bytes(data)
    try:
        rows = read_prompts(file)
    except UnreelError as error:
        assert "\n" not in str(error) and "prompts" in str(error)
    else:
        assert rows and all(row.text for row in rows)


SEEDS = st.one_of(st.none(), st.integers(0, 2**64 - 1))
TEXTS = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and text.isprintable())


@QUICK
@given(st.lists(st.tuples(TEXTS, SEEDS), min_size=1, max_size=5))
def test_prompts_that_are_written_are_read_again(tmp_path, prompts):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([{"prompt": text, "seed": seed} for text, seed in prompts]), encoding="utf-8")
    expected = list(dict.fromkeys((text.strip(), seed) for text, seed in prompts))
    assert [(row.text, row.seed) for row in read_prompts(file)] == expected


def test_a_seed_out_of_range_is_refused(tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps([{"prompt": "a cat", "seed": 2**64}]))
    with pytest.raises(UnreelError, match="is no seed"):
        read_prompts(tmp_path / "prompts.json")
