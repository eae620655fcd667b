"""Which other words a model draws a concept from, and that they are forgotten with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_pair
from pipelines import CALLS, PIPELINES, build

from unreel import Concept, Pair, UnreelError, find_wordings, load_intervention
from unreel.batch import BatchJob, batch
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Settings
from unreel.models.shipped import world_of
from unreel.wordings import ALIKE, drawn_apart
from unreel.workflow import UnlearnJob, WordingsJob, learning, unlearn, wordings

READERS = ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "PixArtSigmaPipeline", "CogVideoXPipeline"]
READERS += ["SanaVideoPipeline", "HunyuanVideoPipeline", "LattePipeline", "Kandinsky5T2VPipeline"]
PADDED = "Kandinsky5T2VPipeline"  # whose network looks at padding, of which there is less where all phrases are short


@pytest.fixture(scope="module")
def words():
    """What the captions of the embedded pair call some of its concepts, by concept."""
    known = world_of("embedded")["concepts"]
    return {name: known[name]["wordings"] for name in ("castle", "snowman", "guitar", "owl", "rocket")}


def test_it_finds_a_concepts_other_words_among_those_of_others_and_no_others(embedded, words):
    mixed = [word for name in sorted(words) for word in words[name]]
    concepts = [Concept("castle"), Concept("owl"), Concept("snowman", "character")]
    found = find_wordings(concepts, embedded, mixed)
    assert list(found) == ["castle", "owl", "snowman"]
    for concept in concepts:
        rows = found[concept.name]
        own = {word for word in words[concept.name] if not concept.is_named_in(word)}
        assert own and {row.text for row in rows} == own
        assert [row.distance for row in rows] == sorted(row.distance for row in rows)
        assert all(0 <= row.distance < ALIKE for row in rows)


def test_concepts_looked_at_together_find_what_each_finds_alone(embedded, words):
    mixed = words["castle"] + words["owl"]
    together = find_wordings([Concept("castle"), Concept("owl")], embedded, mixed)
    for name, rows in together.items():
        (alone,) = find_wordings([Concept(name)], embedded, mixed).values()
        assert [row.text for row in alone] == [row.text for row in rows]
        assert [row.distance for row in alone] == pytest.approx([row.distance for row in rows], abs=1e-4)


def test_the_name_is_no_distance_away_and_nothing_is_found_twice_or_by_its_name(embedded):
    concept = Concept("castle", synonyms=("fortress",))
    ((same, other),) = drawn_apart([concept], embedded, ["castle", "rocket"])
    assert same == pytest.approx(0, abs=1e-6) and other > ALIKE
    (rows,) = find_wordings([concept], embedded, ["castles", "Castle", "fortress", "palace", " palace ", "palace"]).values()
    assert [row.text for row in rows] == ["palace"]


def test_what_could_not_be_forgotten_as_a_name_is_not_looked_at(embedded):
    odd = ["", "  ", "...", "the", "<|endoftext|>", "palace " * 90]
    assert find_wordings([Concept("castle")], embedded, odd) == {"castle": []}
    (rows,) = find_wordings([Concept("castle")], embedded, [*odd, "palace"]).values()
    assert [row.text for row in rows] == ["palace"]


@pytest.mark.parametrize("given", [("castle", ["palace"]), (Concept("castle"), ["palace"]), (["castle"], "palace")])
def test_a_text_in_place_of_a_list_is_refused(embedded, given):
    concepts, phrases = given
    with pytest.raises(UnreelError, match="concepts are a list"):
        find_wordings(concepts, embedded, phrases)


def test_numbers_that_break_down_are_said_to(pair, monkeypatch):
    predict = Denoiser.predict
    monkeypatch.setattr(Denoiser, "predict", lambda self, noisy, *more: predict(self, noisy, *more) * float("nan"))
    with pytest.raises(UnreelError, match="stopped being a number"):
        find_wordings(["dog"], pair, ["cat"])


def test_without_a_list_everyday_words_of_the_kind_are_looked_at(pair, monkeypatch):
    seen = []
    monkeypatch.setattr("unreel.wordings.everyday_of_kind", lambda concept: seen.append(concept.kind) or ["cat", "house"])
    find_wordings([Concept("dog"), Concept("nun", "character"), Concept("car")], pair)
    assert seen == ["object", "character"]


def test_motions_and_models_without_pictures_are_refused(embedded, minilm):
    with pytest.raises(UnreelError, match="no picture shows 'spinning', a motion"):
        find_wordings([Concept("castle"), Concept("spinning", "motion")], embedded, ["turning"])
    with pytest.raises(UnreelError, match="has no network to learn from images with"):
        find_wordings([Concept("castle")], Pair(minilm, minilm, "minilm", "minilm", Settings()), ["palace"])


def test_a_name_that_the_model_draws_nothing_for_is_refused(pair, monkeypatch):
    monkeypatch.setattr(Denoiser, "predict", lambda self, noisy, *_: torch.zeros_like(noisy))
    with pytest.raises(UnreelError, match="it does not know it"):
        find_wordings([Concept("dog")], pair, ["cat"])


@pytest.mark.parametrize("name", READERS)
def test_a_phrase_is_as_far_whatever_it_is_read_with_and_the_name_no_distance_away(name):
    pipeline, call = build(name), CALLS[name]
    pair = Pair(pipeline, pipeline, "tiny", "tiny", Settings(steps=2, size=(call["height"], call["width"])))
    phrases = ["castle", "cat", "cat on a table in the rain", "cat on a table in the sun"]
    ((same, cat, rain, sun),) = drawn_apart([Concept("castle")], pair, phrases)
    assert same == pytest.approx(0, abs=1e-6)
    assert rain != sun, "the end of a phrase is read too"
    ((alone,),) = drawn_apart([Concept("castle")], pair, ["cat"])
    assert (cat == pytest.approx(alone, rel=0.05, abs=1e-3)) == (name != PADDED)


def test_a_phrase_is_as_far_however_many_are_predicted_at_once(pair, monkeypatch):
    phrases = ["castle", "cat", "owl", "robot"]
    at_once = drawn_apart([Concept("castle")], pair, phrases)
    monkeypatch.setattr("unreel.wordings.PREDICTED", 2)
    np.testing.assert_allclose(drawn_apart([Concept("castle")], pair, phrases), at_once, rtol=1e-3, atol=1e-5)


def test_only_pipelines_whose_network_is_told_what_is_padding_are_read_briefly():
    sana = Denoiser.of(PIPELINES["SanaPipeline"]())
    usual, brief = sana.conditioning(["a cat"]), sana.reading_briefly(24, "a cat").conditioning(["a cat"])
    assert brief.arguments["encoder_hidden_states"].shape[1] < usual.arguments["encoder_hidden_states"].shape[1]
    assert sana.reading_briefly(3, "a cat on a table in the rain") is sana, "it would be cut off"
    plain = Denoiser.of(PIPELINES["StableDiffusionPipeline"]())
    assert plain.reading_briefly(24, "a cat") is plain


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job that forgets three phrases with a concept, whatever they draw."""
    folder, pair = tmp_path / "models", make_pair()
    pair.t2i.save_pretrained(folder / "t2i")
    pair.t2v.save_pretrained(folder / "t2v")
    monkeypatch.setattr("unreel.wordings.ALIKE", 1e9)  # networks with random weights draw nothing alike
    models = {"t2i": str(folder / "t2i"), "t2v": str(folder / "t2v")}
    return UnlearnJob(
        ["cat"],
        wordings=["kitten", "house", "tiger"],
        synonyms=["pussycat"],
        out=tmp_path / "made",
        videos=0,
        accept_weak=True,
        **models,
    )


def test_what_is_found_is_forgotten_with_the_name_and_written_down(hasty, job):
    said = []
    done = unlearn(replace(job, keep=["a red house"], anchor="a tiger"), lambda sort, news: said.append((sort, news)))
    (part,) = load_intervention(done.folder).provenance["parts"]
    assert part["synonyms"] == ["pussycat", "kitten"], "neither what is kept nor what is made instead"
    assert part["wordings"]["found"] == ["kitten"]
    assert "**cat** (object, and as pussycat, kitten)" in (done.folder / "README.md").read_text()
    assert ("wordings", "of cat: kitten") in said
    assert any("that stay" in news and "house" in news and "tiger" in news for _, news in said)


def test_it_goes_on_with_what_was_found(hasty, job, monkeypatch):
    first = unlearn(job)
    (part,) = first.intervention.provenance["parts"]
    assert set(part["synonyms"]) == {"pussycat", "kitten", "house", "tiger"}
    monkeypatch.setattr("unreel.workflow.wording_search.find_wordings", None)  # to look again would fail
    monkeypatch.setattr("unreel.workflow.learning.unlearn_concepts", None)
    again = unlearn(replace(job, resume=True))
    (recorded,) = again.intervention.provenance["parts"]
    assert recorded["synonyms"] == part["synonyms"] and recorded["losses"] == part["losses"]
    for other in ({"synonyms": ["tomcat"]}, {"wordings": ["kitten", "house"]}, {"wordings": "everyday"}, {"seed": 1}):
        with pytest.raises(UnreelError, match="holds another erasure"):
            unlearn(replace(job, resume=True, **other))
    with pytest.raises(UnreelError, match="holds another erasure"):
        unlearn(replace(job, resume=True, wordings=()))


def test_a_first_look_that_goes_on_asks_for_what_it_asked_for_before(hasty, job, monkeypatch):
    looks = []

    def stops(job, learned, concepts, *models_and_more):
        (job.folder / learning.CACHE_FOLDER).mkdir(exist_ok=True)
        looks.append(list(concepts))
        raise KeyboardInterrupt

    monkeypatch.setattr(learning, "_first_look", stops)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            unlearn(replace(job, videos=1, resume=resume))
    assert looks[0] == looks[1] and "kitten" in looks[1][0].synonyms


def test_a_batch_finds_each_takedowns_words_in_one_list_says_so_and_notices_another_list(hasty, job, tmp_path):
    table = tmp_path / "takedowns.csv"
    table.write_text("concept,keep\ncat,a red house\ndog,\n")
    each = replace(job, concepts=(), synonyms=(), out=tmp_path / "all")
    made, _ = batch(BatchJob(table, each), lambda *_: None)
    assert made.complete
    told = [set(outcome.says.split("they draw it: ")[1].split(", ")) for outcome in made.outcomes]
    assert told == [{"kitten", "tiger"}, {"house", "kitten", "tiger"}]
    again, _ = batch(BatchJob(table, replace(each, wordings=["kitten"])), lambda *_: None)
    assert all("holds another erasure" in outcome.says for outcome in again.outcomes)


def test_a_text_in_place_of_a_list_is_named_as_it_was_given():
    with pytest.raises(UnreelError, match="phrases is a list, for example"):
        WordingsJob("castle", phrases="palace")
    with pytest.raises(UnreelError, match="wordings is a list, for example"):
        UnlearnJob(["castle"], wordings="palace")


def test_a_name_is_looked_for_whatever_the_spaces_within():
    """Of what draws it alone, here nothing."""
    assert wordings(WordingsJob("tokyo  tower", "object", ["snow"])) == []
