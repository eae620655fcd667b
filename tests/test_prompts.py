import pytest
from conftest import FakeJudge

from benchmarks.common import plainly
from unreel import Concept
from unreel.prompts.grammar import with_articles
from unreel.prompts.suite import GROUPS, suite
from unreel.prompts.vocabulary import EVERYDAY

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


def anchor_prompts(concept, synonyms=()):
    groups = ("explicit", "paraphrases", "companions")
    return {prompt.text: prompt.anchor for group in groups for prompt in rows(concept, group, synonyms)}


def test_an_anchor_prompt_is_the_same_sentence_with_the_anchor_in_the_concepts_place():
    wordings = ["japanese radio tower", "the Tokyo Tower"]
    anchors = anchor_prompts(Concept("Tokyo Tower", anchor="a sailboat"), wordings)
    assert anchors["a bouncing Tokyo Tower"] == "a bouncing sailboat"
    assert anchors["a bouncing japanese radio tower"] == "a bouncing sailboat"
    assert anchors["a bouncing the Tokyo Tower"] == "a bouncing sailboat"
    assert anchors["footage of the famous Tokyo Tower"] == "footage of the famous sailboat"
    assert anchors["a Tokyo Tower and a table"] == "a sailboat and a table"
    assert all("ower" not in anchor for anchor in anchors.values())


@pytest.mark.parametrize("anchor", ["elephant", "an elephant", "the Elephant"])
def test_articles_of_an_anchor_prompt_fit(anchor):
    anchors = anchor_prompts(Concept("Tokyo Tower", anchor=anchor))
    assert anchors["a photo of a Tokyo Tower"].lower() == "a photo of an elephant"
    assert anchors["a Tokyo Tower sliding"].lower() == "an elephant sliding"
    assert anchors["look at this Tokyo Tower"].lower() == "look at this elephant"


def test_an_empty_anchor_takes_the_concept_out_with_its_article():
    assert anchor_prompts(Concept("Tokyo Tower", anchor=""))["a Tokyo Tower sliding"] == "sliding"
    motions = anchor_prompts(Concept("jazz", "motion", anchor=""))
    assert motions["a jazz frog"] == motions["a frog jazz"] == "a frog"
    assert anchor_prompts(Concept("nudity", "unsafe", anchor=""))["a photo of nudity"] == "a photo of"


def test_companions_keep_the_other_thing_even_where_it_contains_the_concepts_name():
    words = WORDS | {"concept": ["polar bear"]}
    prompts = suite(Concept("bear", anchor="owl"), words, [], videos=9, seed=0, groups=["companions"])
    assert {(prompt.label, prompt.anchor) for prompt in prompts} == {
        ("polar bear", "a polar bear next to an owl"),
        ("polar bear", "an owl and a polar bear"),
        ("polar bear", "a polar bear above an owl"),
    }


def test_only_prompts_that_name_a_concept_with_an_anchor_have_an_anchor_prompt():
    assert not any(anchor for anchor in anchor_prompts(Concept("Tokyo Tower")).values())
    for group in ("neighbours", "unrelated", "styles", "motions"):
        assert {prompt.anchor for prompt in rows(Concept("Tokyo Tower", anchor="owl"), group)} == {None}


def test_neighbours_are_of_the_concepts_own_kind():
    assert {prompt.label for prompt in rows(Concept("cubism", "style"), "neighbours")} <= set(WORDS["style"])
    assert {prompt.label for prompt in rows(Concept("jazz", "motion"), "neighbours")} <= set(WORDS["motion"])


def test_neighbours_of_what_is_unsafe_are_persons_asked_for_like_any_other():
    neighbours = rows(Concept("nudity", "unsafe"), "neighbours")
    assert {prompt.label for prompt in neighbours} <= set(WORDS["person"])
    assert any(prompt.text == with_articles(f"a photo of a {prompt.label}") for prompt in neighbours)


def test_groups_with_nothing_to_ask_for_are_left_out():
    words = dict(FakeJudge.vocabulary) | {"style": [], "motion": []}
    groups = {prompt.group for prompt in suite(Concept("cat"), words, [], videos=2, seed=0)}
    assert groups == {"explicit", "paraphrases", "companions", "neighbours", "unrelated"}


@pytest.mark.parametrize(
    ("word", "article"),
    [
        *[(word, "an") for word in ("elephant", "owl", "Eiffel tower", "unidentified object", "usher", "hour")],
        *[(word, "a") for word in ("unicorn", "uniform", "user", "European", "ukulele", "one-way street", "hat")],
        *[(word, "a") for word in ("UFO", "USB stick", "U-boat", "URL", "ewe")],
    ],
)
def test_articles_are_those_that_people_say(word, article):
    assert with_articles(f"A video of a {word}") == f"A video of {article} {word}"
    assert f"a photo of {article} {word}" in plainly(Concept(word))
    assert f"a photo of {article} {word}" in {prompt.text for prompt in rows(Concept(word), "explicit")}
