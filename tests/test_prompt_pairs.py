"""What is measured on was never learned from, what is near is said without the name, and every prompt fits."""

import re

import pytest

from unreel import Concept
from unreel.prompts import captions
from unreel.prompts import pairs as prompt_pairs
from unreel.prompts.captions import everyday
from unreel.prompts.corpus import Corpus
from unreel.prompts.pairs import Prompts, own_words
from unreel.prompts.suite import ERASED, suite
from unreel.prompts.vocabulary import EVERYDAY

TOWER = Concept("Tokyo Tower")


def prompts(*concepts: Concept, anchor="a windmill", fits=lambda _: True, seed=0, held_out=False) -> Prompts:
    anchors = {concept.name: anchor for concept in concepts}
    own = [words for concept in concepts for words in own_words(concept)]
    return Prompts(concepts, anchors, Corpus(EVERYDAY, seed=seed), fits, held_out, own)


def said(some: Prompts, near=("Eiffel Tower", "lighthouse"), count=60) -> list[str]:
    """Everything that there is to say."""
    pairs = some.pairs(count)
    texts = [text for pair in pairs for text in (pair.prompt, pair.anchor)]
    return [*texts, *some.neighbours(near, count), *some.everyday(count)]


CONCEPTS = [
    TOWER,
    Concept("tiger"),
    Concept("Snoopy", "character"),
    Concept("Elon Musk", "face"),
    Concept("Van Gogh", "style"),
    Concept("waving", "motion"),
    Concept("nudity", "unsafe"),
]


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.kind + " " + concept.name)
def test_no_frame_of_a_caption_is_both_learned_from_and_measured_on(concept, monkeypatch):
    used, write = [], captions.write

    def note(rng, frame, *arguments):
        used.append(frame)
        return write(rng, frame, *arguments)

    monkeypatch.setattr(captions, "write", note)
    found = {}
    for held_out in (False, True):
        used.clear()
        said(prompts(concept, held_out=held_out), count=150)
        found[held_out] = set(used)
    assert len(found[False]) > len(found[True]) > 10
    assert not found[False] & found[True]


@pytest.mark.parametrize("kind", captions.KINDS)
def test_every_frame_is_of_one_of_the_two_sorts(kind):
    learned, held_out = (prompts(TOWER, held_out=held_out)._frames(kind) for held_out in (False, True))
    assert sorted([*learned, *held_out]) == sorted(captions.frames(kind))
    assert len(held_out) >= len(learned) / prompt_pairs.HELD_OUT


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.kind + " " + concept.name)
@pytest.mark.parametrize("held_out", [False, True])
def test_every_prompt_names_the_concept_and_its_anchor_prompt_does_not(concept, held_out):
    pairs = prompts(concept, anchor="everyday life", held_out=held_out).pairs(80)
    assert len(pairs) > 60 and len(set(pairs)) == len(pairs)
    for pair in pairs:
        assert concept.is_named_in(pair.prompt) and pair.wording.lower() in pair.prompt.lower()
        assert not concept.is_named_in(pair.anchor) and "[" not in pair.prompt + pair.anchor


def test_of_several_concepts_none_is_named_where_it_is_not_to_be():
    """Everyday words among them, which other sentences would be full of."""
    concepts = [Concept("dog"), Concept("castle", synonyms=("fortress",)), Concept("car")]
    some = prompts(*concepts)
    pairs, others = some.pairs(90), [*some.neighbours(["cat", "dog", "old car"], 60), *some.everyday(90)]
    wordings = [wording for concept in concepts for wording in concept.wordings]
    assert all(any(wording in pair.wording for pair in pairs) for wording in wordings)
    for text in (*(pair.anchor for pair in pairs), *others):
        assert not any(concept.is_named_in(text) for concept in concepts)


def test_the_anchor_that_belongs_to_the_concept_is_what_is_said_instead():
    cat, robot = Concept("cat"), Concept("robot")
    some = Prompts([cat, robot], {"cat": "a fox", "robot": "a statue"}, Corpus(EVERYDAY), lambda _: True)
    for pair in some.pairs(80):
        assert ("fox" in pair.anchor.lower()) == cat.is_named_in(pair.prompt)
        assert ("statue" in pair.anchor.lower()) == robot.is_named_in(pair.prompt)


def test_the_name_is_spelled_as_people_spell_it_and_mostly_as_given():
    found = [pair.wording for pair in prompts(TOWER).pairs(300)]
    ways = TOWER.variants()
    assert {"as given", "lower case", "plural", "possessive", "joined"} <= ways.keys()
    assert set(ways.values()) <= set(found)
    assert found.count(ways["as given"]) > len(found) / 3


def test_the_anchor_takes_the_form_of_the_name():
    pairs = prompts(Concept("castle"), anchor="a house").pairs(300)
    for name, form in (("castles", "houses"), ("castle's", "house's")):
        some = [pair for pair in pairs if pair.wording == name]
        assert some and all(form in pair.anchor for pair in some)


def test_without_an_anchor_the_scene_is_said_without_the_name():
    for pair in prompts(TOWER, anchor="").pairs(60):
        assert len(pair.anchor) < len(pair.prompt) and "tower" not in pair.anchor.lower()


def test_words_of_a_name_are_kept_in_other_company():
    assert own_words(TOWER) == ["Tokyo", "Tower"]
    texts = prompts(TOWER).neighbours([], 200)
    assert len(texts) > 150
    assert not any(TOWER.is_named_in(text) for text in texts)
    assert all("tokyo" in text.lower() or "tower" in text.lower() for text in texts)
    words = [text.lower().split() for text in texts]
    nouns = {word for category, listed in everyday().items() if category != "action" for word in listed}
    for own in ("tokyo", "tower"):
        following = {row[i + 1] for row in words for i, word in enumerate(row[:-1]) if word == own}
        assert len(following & nouns) > 10


@pytest.mark.parametrize(
    ("concept", "words"),
    [
        (Concept("castle"), []),
        (Concept("Leaning Tower of Pisa"), ["Leaning", "Leaning Tower", "Pisa", "Tower"]),
        (Concept("Spider-Man", "character"), ["Spider", "Man"]),
        (Concept("Vincent van Gogh", "style"), ["Vincent", "Vincent van", "van", "Gogh"]),
        (Concept("Mickey Mouse", "character", ("Mickey",)), ["Mouse"]),
    ],
)
def test_own_words_are_runs_of_a_name_that_do_not_name_it_and_do_not_go_with_everything(concept, words):
    assert sorted(own_words(concept)) == sorted(words)


def test_without_neighbours_or_words_of_its_own_nothing_is_said_about_what_is_near():
    assert prompts(Concept("castle")).neighbours([], 20) == []


@pytest.mark.parametrize("held_out", [False, True])
def test_every_prompt_fits(held_out):
    def fits(text: str) -> bool:
        return len(text.split()) <= 7

    some = prompts(TOWER, fits=fits, held_out=held_out)
    texts = said(some)
    assert len(texts) > 100 and all(map(fits, texts))
    assert len(some.pairs(30)) > 20


def test_where_nothing_fits_there_is_nothing_to_say():
    assert said(prompts(TOWER, fits=lambda _: False)) == []


def test_the_empty_prompt_is_an_everyday_one():
    assert prompts(TOWER).everyday(10)[0] == ""


def test_the_same_seed_says_the_same_and_another_something_else():
    first, again, other = (said(prompts(TOWER, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert len(set(first) & set(other)) < len(set(first)) / 2


def test_several_concepts_have_as_many_prompts_however_many_wordings_each_has():
    many = Concept("castle", synonyms=tuple(f"fortress {number}" for number in range(12)))
    pairs = prompts(many, Concept("pizza")).pairs(200)
    about = [sum(concept.is_named_in(pair.prompt) for pair in pairs) for concept in (many, Concept("pizza"))]
    assert abs(about[0] - about[1]) <= 0.2 * len(pairs) and min(about) >= 0.35 * len(pairs)


def test_hundreds_of_concepts_are_all_learned_about_and_few_sentences_are_written_in_vain(monkeypatch):
    names = [word for words in captions.everyday().values() for word in words]
    concepts = [Concept(name) for name in dict.fromkeys(map(str.lower, names))][:400]
    written, sentence = [], Corpus._sentence

    def note(self, *arguments):
        written.append(arguments)
        return sentence(self, *arguments)

    monkeypatch.setattr(Corpus, "_sentence", note)
    pairs = prompts(*concepts, anchor="a quokka").pairs(1600)
    assert len(pairs) in range(1600, 1650) and {pair.concept for pair in pairs} == {concept.name for concept in concepts}
    assert len(written) <= prompt_pairs.TRIES * len(pairs)  # not for each of the concepts


@pytest.mark.parametrize("near", [("lighthouse", "windmill"), ()])
def test_half_of_what_is_near_is_about_what_was_asked_to_be_kept(near):
    texts = prompts(TOWER).neighbours(near, 120, ["umbrella"])
    share = sum("umbrella" in text.lower() for text in texts) / len(texts)
    assert len(texts) == 120 and 0.35 < share < 0.65
    assert prompts(TOWER).neighbours(near, 120, []) == prompts(TOWER).neighbours(near, 120)


def test_a_name_that_stands_for_another_takes_no_article():
    pairs = prompts(Concept("Santa Claus", "character"), anchor="Mickey Mouse").pairs(60)
    assert any("Mickey Mouse" in pair.anchor for pair in pairs)
    for pair in pairs:
        if re.search(r"\ba Mickey Mouse", pair.anchor, re.IGNORECASE):
            assert re.search(rf"\b(a|the) {pair.wording}", pair.prompt, re.IGNORECASE)


@pytest.mark.parametrize("name", ["J A Evans", "The A Team", "Vuelta a España", "U.S.A", "Plan A", "Serie A"])
def test_what_looks_like_an_article_within_a_name_stays(name):
    concept = Concept(name, anchor="a lighthouse")
    pairs = prompts(concept).pairs(300)
    assert len(pairs) == 300 and all(concept.is_named_in(pair.prompt) for pair in pairs)
    assert all(concept.is_named_in(row.text) for row in suite(concept, EVERYDAY, [], videos=40, seed=0, groups=ERASED))


@pytest.mark.parametrize("anchor", ["mountains", "glasses", "people", "東京タワー"])
def test_an_anchor_that_has_no_plural_of_its_own_leaves_no_hole(anchor):
    said = prompts(Concept("Tokyo Tower", anchor=anchor), anchor=anchor).pairs(400)
    assert len(said) == 400 and all(anchor in pair.anchor for pair in said)


@pytest.mark.parametrize("name", ["X-Men", "Village People", "the 90s"])
def test_what_is_plural_already_has_no_further_one(name):
    assert "plural" not in Concept(name).variants(name)
