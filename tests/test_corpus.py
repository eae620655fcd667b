"""Sentences to unlearn on: what they name, what their anchor prompts name, and what no sentence may give away."""

import re

import pytest

from unreel import Concept
from unreel.attacks import synonyms
from unreel.prompts import corpus, kinds
from unreel.prompts.corpus import Corpus
from unreel.prompts.grammar import with_articles
from unreel.prompts.vocabulary import EVERYDAY

SMALL = {"concept": ["castle", "owl", "oak tree"], "style": ["ink", "oil painting"], "motion": ["running", "zooming in"]}
WORDS = ("of", "lovely", "a", "blue", "the", "zebra", "ing")
CASTLE, INK, RUNNING = Concept("castle"), Concept("ink", "style"), Concept("running", "motion")
BLOOD = Concept("blood", "unsafe")
CASES = [(CASTLE, "house"), (CASTLE, ""), (INK, "watercolor"), (INK, ""), (RUNNING, "zooming in"), (RUNNING, "")]
CASES += [(BLOOD, "everyday life"), (BLOOD, "")]


def bare(text: str) -> str:
    """Without articles, which may go or become "an" with the word that follows."""
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


@pytest.fixture
def quiet(monkeypatch):
    """No words drawn at random around the sentences."""
    monkeypatch.setattr(corpus, "CHATTER", 0)


@pytest.mark.parametrize("vocabulary", [SMALL, EVERYDAY])
@pytest.mark.parametrize(("concept", "anchor"), CASES)
def test_sentences_name_the_concept_and_anchor_prompts_say_the_same_about_the_anchor(concept, anchor, vocabulary):
    pairs = Corpus(vocabulary, WORDS).forget(concept, {concept.name: anchor}, 300)
    assert len(pairs) > 100
    for sentence, instead in pairs:
        assert concept.is_named_in(sentence)
        assert not concept.is_named_in(instead)
        assert bare(instead) == bare(re.sub(rf"\b{concept.name}\b", anchor, sentence))


@pytest.mark.parametrize(("name", "words"), [("castle", (*WORDS, "castle", "owl")), ("tree", WORDS)])
def test_an_anchor_prompt_names_no_erased_concept_by_chance(name, words):
    erased = [Concept(name), Concept("owl")]
    pairs = Corpus(SMALL, words).forget(erased[0], {name: "house", "owl": "cat"}, 300)
    assert len(pairs) > 50
    assert not [instead for _, instead in pairs if any(concept.is_named_in(instead) for concept in erased)]


def test_other_erased_concepts_are_replaced_by_their_own_anchors(quiet):
    anchors = {"castle": "house", "owl": "cat", "ink": "", "running": "swimming"}
    pairs = Corpus(SMALL).forget(CASTLE, anchors, 300)
    for name, anchor in anchors.items():
        met = [(sentence, instead) for sentence, instead in pairs if Concept(name).is_named_in(sentence)]
        assert met and all(anchor in instead and not Concept(name).is_named_in(instead) for _, instead in met)


@pytest.mark.parametrize("concept", [CASTLE, INK, RUNNING])
def test_an_empty_anchor_leaves_no_article_behind(quiet, concept):
    end = re.compile(r"\b(a|an|the)( (and|with|next to|beside|above|on top of|over|in|in front of|is|keeps)\b| ?,|$)")
    pairs = Corpus(SMALL).forget(concept, {concept.name: ""}, 300)
    assert not [instead for _, instead in pairs if end.search(instead)]


def test_a_motion_that_is_left_out_leaves_its_subject_as_it_was(quiet):
    pairs = dict(Corpus(SMALL).forget(RUNNING, {"running": ""}, 300))
    assert pairs["a running castle"] == "a castle"


@pytest.mark.parametrize("anchor", ["a castle", "an igloo", "the sea"])
def test_an_anchor_with_an_article_takes_the_place_of_the_sentences_own(quiet, anchor):
    pairs = [instead for _, instead in Corpus(SMALL).forget(Concept("house"), {"house": anchor}, 300)]
    assert not [instead for instead in pairs if re.search(r"\b(a|an|the) (a|an|the)\b", instead)]


def test_an_anchors_article_gives_way_to_the_sentences_own(quiet):
    pairs = [instead for _, instead in Corpus(SMALL).forget(Concept("house"), {"house": "a castle"}, 300)]
    assert not [
        instead for instead in pairs if re.search(r"\b(my|one|clean|cool|small|large|running|in) a castle", instead)
    ]


def test_what_is_unsafe_has_no_article_so_an_anchor_keeps_its_own(quiet):
    pairs = dict(Corpus(SMALL).forget(BLOOD, {"blood": "a bandaged person"}, 300))
    assert not [sentence for sentence in pairs if re.search(r"\b(a|an|the) blood", sentence)]
    assert all("a bandaged person" in instead for instead in pairs.values())
    assert "a video of a bandaged person" in {instead.split(",")[0] for instead in pairs.values()}


def test_all_wordings_appear_equally_often():
    concept = Concept("castle", synonyms=("fortress", "royal palace"))
    anchors = dict.fromkeys(concept.wordings, "house")
    pairs = Corpus(EVERYDAY, WORDS).forget(concept, anchors, 300)
    counts = [sum(wording in sentence for sentence, _ in pairs) for wording in concept.wordings]
    assert min(counts) > 80 and sum(counts) == len(pairs)
    assert not any(concept.is_named_in(instead) for _, instead in pairs)


def test_a_concept_in_capitals_is_written_as_given_and_replaced():
    concept = Concept("Tokyo Tower")
    pairs = Corpus(SMALL, WORDS).forget(concept, {"tokyo tower": "lamp"}, 60)
    assert all("Tokyo Tower" in sentence and re.search(r"\b(a|the) lamp", instead) for sentence, instead in pairs)


def test_styles_fill_the_place_of_a_style(quiet):
    style = re.compile(r"in ink style|in the style of ink|, ink style")
    for sentence, _ in Corpus(EVERYDAY).forget(INK, {"ink": "anime"}, 300):
        assert style.search(sentence) and len(re.findall(r"\bink\b", sentence)) == 1


def test_motions_fill_the_place_of_a_motion(quiet):
    one = {"concept": ["owl"], "style": ["ink"], "motion": ["spinning"]}
    ends = r"( in ink style| in the style of ink|, ink style)?(, \w+ background)?"
    moved = "owl running|a video of an? owl running|the owl is running|the owl keeps running|(a )?running owl"
    for sentence, _ in Corpus(one).forget(RUNNING, {"running": ""}, 300):
        assert re.fullmatch(f"(a |the )?({moved}|someone is running|running){ends}", sentence)


@pytest.mark.parametrize("kind", ["object", "character", "face"])
def test_everything_else_fills_the_place_of_a_thing(quiet, kind):
    for sentence, _ in Corpus(SMALL).forget(Concept("Ada Lovelace", kind), {"ada lovelace": "woman"}, 100):
        assert not re.search("Lovelace style|style of Ada|is Ada|keeps Ada", sentence)


def test_the_same_seed_says_the_same_and_another_seed_something_else():
    first, second, other = (Corpus(EVERYDAY, WORDS, seed) for seed in (1, 1, 2))
    for say in (
        lambda it: it.retain(90),
        lambda it: it.forget(CASTLE, {"castle": "house"}, 30),
    ):
        assert say(first) == say(second)
        assert say(first) != say(other)


def test_what_is_kept_holds_everything_by_name_and_the_empty_prompt_once_each():
    sentences = Corpus(EVERYDAY, WORDS).retain(900)
    assert len(set(sentences)) == len(sentences) > 900
    assert "" in sentences
    for label in (label for labels in EVERYDAY.values() for label in labels):
        assert label in sentences and with_articles(f"a {label}") in sentences
    assert any("zebra" in sentence for sentence in sentences)  # words at random belong to what is kept


@pytest.mark.parametrize("seed", range(3))
def test_articles_of_what_is_kept_by_name_change_no_draw(seed, monkeypatch):
    """Of what was drawn, in whatever order, published figures were measured."""
    said = Corpus(EVERYDAY, WORDS, seed).retain(900)
    monkeypatch.setattr(corpus, "with_articles", lambda text: text)
    drawn = Corpus(EVERYDAY, WORDS, seed).retain(900)
    changed = [(a, b) for a, b in zip(drawn, said, strict=True) if a != b]
    assert len(changed) > 5 and all(a.startswith("a ") and b == f"an {a[2:]}" for a, b in changed)
    assert "an owl" in said and "a owl" not in said


def test_sentences_that_measure_are_never_trained_on():
    """Paraphrases, and the frames of the synonym attack, would measure nothing if training had seen them."""
    frames = (*synonyms.SUBJECT_FRAMES, *synonyms.STYLE_FRAMES, *synonyms.MOTION_FRAMES, *kinds.PARAPHRASES)
    measured = {frame.format(label) for frame in frames for labels in EVERYDAY.values() for label in labels}
    measured |= {frame.format("blood") for frame in (*synonyms.UNSAFE_FRAMES, *kinds.UNSAFE_PARAPHRASES)}
    measured |= {f"look how this {subject} is {name}" for subject in kinds.MOVED for name in EVERYDAY["motion"]}
    it, anchors = Corpus(EVERYDAY, WORDS), {"castle": "house", "anime": "", "running": "", "blood": ""}
    trained = it.retain(1500)
    for concept in (CASTLE, Concept("anime", "style"), RUNNING, BLOOD):
        trained += [text for pair in it.forget(concept, anchors, 600) for text in pair]
    everything = "\n".join(trained)
    assert not [text for text in measured if text in everything]
