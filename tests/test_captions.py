"""Captions: always with their gap, never with a hole, and never twice the same."""

import random
import re

import pytest

from unreel.prompts.captions import GAPS, KINDS, everyday, frames, write

COUNT = 3000


def caption(rng, kind):
    return write(rng, rng.choice(frames(kind)), kind)


@pytest.fixture(scope="module")
def captions():
    rng = random.Random(0)
    return {kind: [caption(rng, kind) for _ in range(COUNT)] for kind in KINDS}


def test_the_same_seed_writes_the_same():
    first, second = ([caption(rng, kind) for kind in KINDS] for rng in (random.Random(7), random.Random(7)))
    assert first == second


def test_there_are_many_frames():
    assert len(frames("object")) > 70 and len(frames("animal")) > 100
    assert len(frames("style")) > 25 and len(frames("motion")) > 25
    assert all(len(set(frames(kind))) == len(frames(kind)) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_leaves_the_gap(kind):
    rng, gap = random.Random(0), GAPS.get(kind, "[concept]")
    for frame in frames(kind):
        for _ in range(30):
            text = write(rng, frame, kind)
            assert gap in text and not set(text.replace(gap, "")) & set("[]{}<>|@^"), frame


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_empty_or_doubled(captions, kind):
    holes = re.compile(r"  | [,.?!]|[,.]{2}|\b(an?|the) (an?|the)\b|\b(an?|the)([,.?!]|$)|\b[Aa] [aeio](?!ne|u)|^[,. ]")
    wrong = [text for text in captions[kind] if holes.search(text) or text != text.strip()]
    assert not wrong


def test_few_are_alike_and_they_are_short_and_long(captions):
    lengths = {len(text.split()) for texts in captions.values() for text in texts}
    assert {1, 2, 3, 5, 8, 13, 21, 34, 55} <= lengths and 60 < max(lengths) < 160
    assert all(len(set(texts)) > 0.85 * COUNT for texts in captions.values())


def test_what_has_a_name_stands_without_an_article():
    rng = random.Random(0)
    for frame in frames("object"):
        if "@" in frame and "[concept]" not in frame:
            assert not re.search(r"\b(a|the) \[concept\]", write(rng, frame, "object", named=True), re.IGNORECASE)
    thing = [write(rng, "@", "object", named=False) for _ in range(50)]
    assert all(re.match(r"(a|the) \[concept\]", text, re.IGNORECASE) for text in thing)


def test_words_of_all_categories_are_used(captions):
    said = re.sub(r"\W+", " ", " ".join(text for texts in captions.values() for text in texts).lower())
    for category, words in everyday().items():
        plain = [re.sub(r"\W+", " ", word.lower()) for word in words]
        used = [word for word in plain if f" {word} " in said]
        assert len(used) > 0.5 * len(words), category


def test_words_are_many_and_none_stands_twice():
    words = [word for words in everyday().values() for word in words]
    assert len(words) == len(set(words)) > 2500
    assert all(word == " ".join(word.split()) for word in words)
