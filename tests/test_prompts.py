import pytest
from conftest import FakeJudge

from unreel import Concept
from unreel.prompts import GROUPS, suite
from unreel.vocabulary import EVERYDAY

WORDS = {kind: list(labels) for kind, labels in EVERYDAY.items()}


def rows(concept, group, synonyms=(), **options):
    prompts = suite(concept, WORDS, synonyms, videos=30, seed=7, **options)
    return [prompt for prompt in prompts if prompt.group == group]


@pytest.mark.parametrize(
    "concept",
    [
        Concept("Tokyo Tower"),
        Concept("Elon Musk", "face"),
        Concept("cubism", "style"),
        Concept("jazz", "motion"),
        Concept("nudity", "unsafe"),
    ],
)
def test_every_group_is_full_and_asks_for_what_it_says(concept):
    name = concept.name
    for group in GROUPS:
        assert len(rows(concept, group)) == 30
    for group in ("explicit", "paraphrases", "companions"):
        assert all(name in prompt.text for prompt in rows(concept, group))
    for group in ("neighbours", "unrelated", "styles", "motions"):
        assert not any(name.lower() in prompt.text.lower() for prompt in rows(concept, group))
    for group in ("companions", "neighbours", "unrelated", "styles", "motions"):
        assert all(prompt.label in prompt.text and prompt.label != name for prompt in rows(concept, group))


def test_seeds_are_never_used_twice_and_the_suite_is_always_the_same():
    prompts = suite(Concept("Tokyo Tower"), WORDS, [], videos=200, seed=7)
    assert len({prompt.seed for prompt in prompts}) == len(prompts)
    assert prompts == suite(Concept("Tokyo Tower"), WORDS, [], videos=200, seed=7)


def test_few_videos_still_span_a_group():
    assert len({prompt.label for prompt in rows(Concept("Tokyo Tower"), "neighbours")[:10]}) >= 5


def test_the_second_half_of_a_group_repeats_the_first_with_other_seeds():
    for group in GROUPS:
        prompts = rows(Concept("Tokyo Tower"), group)
        assert [(p.text, p.label) for p in prompts[:15]] == [(p.text, p.label) for p in prompts[15:]]


def test_synonyms_are_asked_for_among_the_paraphrases():
    texts = [prompt.text for prompt in rows(Concept("cat"), "paraphrases", ["kitten", "feline"])]
    assert any("kitten" in text for text in texts) and any("feline" in text for text in texts)
    assert all(prompt.label == "cat" for prompt in rows(Concept("cat"), "paraphrases", ["kitten"]))


def test_neighbours_are_of_the_concepts_own_kind():
    assert {prompt.label for prompt in rows(Concept("cubism", "style"), "neighbours")} <= set(WORDS["style"])
    assert {prompt.label for prompt in rows(Concept("jazz", "motion"), "neighbours")} <= set(WORDS["motion"])


def test_neighbours_of_what_is_unsafe_are_persons_asked_for_like_any_other():
    neighbours = rows(Concept("nudity", "unsafe"), "neighbours")
    assert {prompt.label for prompt in neighbours} <= set(WORDS["person"])
    assert any(prompt.text == f"a photo of a {prompt.label}" for prompt in neighbours)


def test_groups_with_nothing_to_ask_for_are_left_out():
    words = dict(FakeJudge.vocabulary) | {"style": [], "motion": []}
    groups = {prompt.group for prompt in suite(Concept("cat"), words, [], videos=2, seed=0)}
    assert groups == {"explicit", "paraphrases", "companions", "neighbours", "unrelated"}
