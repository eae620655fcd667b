"""Unlearn: what it refuses, what it makes instead, what its erasure records, and what image models then make."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_pair, same, weights

from benchmarks.common import plainly
from unreel import Concept, FewShotConfig, Pair, TextAblationConfig, UnreelError, unlearn
from unreel.judges import load_judge
from unreel.methods import configure
from unreel.models.adapter import modules_of
from unreel.models.anchors import anchor_for
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Settings
from unreel.models.reading import nearest
from unreel.models.sampling import generate_images
from unreel.prompts.captions import everyday
from unreel.prompts.kinds import UNSAFE_COMPANIONS
from unreel.prompts.vocabulary import EVERYDAY

CONFIG = TextAblationConfig(layers=2, rank=3, steps=4, forget=20, retain=20, solve_retain=60)
CASTLE = Concept("castle")


@pytest.fixture(scope="module")
def tiny():
    return make_pair()


@pytest.fixture(scope="module")
def conditioner(tiny):
    return Conditioner.of(tiny.t2i)


def test_several_concepts_make_one_erasure_with_a_part_for_each(pair):
    concepts = [CASTLE, "owl", Concept("running", "motion"), Concept("anime", "style", ("manga",), "watercolor")]
    erasure = unlearn(concepts, pair, CONFIG)
    assert erasure.concepts == ["castle", "owl", "running", "anime"]
    parts = erasure.provenance["parts"]
    assert [part["kind"] for part in parts] == ["object", "object", "motion", "style"]
    assert [part["synonyms"] for part in parts] == [[], [], [], ["manga"]]
    assert [part["anchor"] for part in parts][2:] == ["standing", "watercolor"]
    assert not {"castle", "owl"} & {part["anchor"] for part in parts}
    assert len({part["seconds"] for part in parts}) == 1
    apart = [unlearn(concept, pair, CONFIG) for concept in concepts]
    assert erasure.nbytes < sum(each.nbytes for each in apart)


@pytest.mark.parametrize("config", [CONFIG, FewShotConfig(shots=1, epochs=1), configure("uce", {})])
def test_weights_take_gradients_afterwards_as_before(config):
    """Who trains the pipeline themselves goes on."""
    pair = make_pair()
    pair.t2v.vae.requires_grad_(False)
    takes = [[weight.requires_grad for weight in part.parameters()] for part in parts_of(pair)]
    unlearn("cat", pair, config)
    assert takes == [[weight.requires_grad for weight in part.parameters()] for part in parts_of(pair)]


def parts_of(pair):
    return [part for model in (pair.t2i, pair.t2v) for part in modules_of(model).values()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, {}), "at least one concept"),
        (("cat", None, {"images": "anywhere"}), "takes no images"),
        (("cat", None, {"keep": ["a black cat"]}), "'a black cat' is both to be forgotten and to be kept"),
        ((Concept("dog", synonyms=("puppy",)), None, {"keep": ["owl", "Puppy"]}), "'Puppy' is both"),
        (("cat", FewShotConfig(), {"keep": ["dog"]}), "keep nothing by name"),
        ((["cat", "dog"], FewShotConfig(), {}), "unlearn one concept and keep nothing"),
        ((["cat", "xylophone " * 12], None, {}), "cut off"),
    ],
)
def test_what_a_method_cannot_do_is_refused_and_changes_nothing(tiny, arguments, message):
    concepts, config, options = arguments
    before = weights(tiny.t2i.text_encoder)
    with pytest.raises(UnreelError, match=message):
        unlearn(concepts, tiny, config, **options)
    assert same(before, weights(tiny.t2i.text_encoder))


def test_an_anchor_that_is_too_long_is_refused_as_such(tiny):
    with pytest.raises(UnreelError, match="cut off"):
        unlearn(Concept("castle", anchor="word " * 40), tiny, CONFIG)


def test_an_anchor_that_is_to_be_forgotten_too_is_refused(tiny):
    with pytest.raises(UnreelError, match="dog"):
        unlearn([Concept("cat", anchor="a dog"), Concept("dog")], tiny, CONFIG)


def test_the_anchor_is_the_one_given_standing_for_a_motion_or_near_but_not_too_near(conditioner):
    def anchor(*concepts, vocabulary=EVERYDAY):
        return anchor_for(concepts[0], concepts, conditioner, vocabulary)

    order = nearest(conditioner, "castle", [name for name in EVERYDAY["concept"] if name != "castle"])
    assert anchor(Concept("castle", anchor="a tent")) == "a tent"
    assert anchor(Concept("castle", anchor="")) == ""
    running, standing = Concept("running", "motion"), Concept("standing", "motion")
    assert anchor(running) == "standing" and anchor(standing) == anchor(running, standing) == ""
    world = {"concept": ["castle"], "motion": ["running", "spinning"]}  # whose captions leave out what stands still
    assert anchor(running, vocabulary=world) == ""
    assert anchor(Concept("nudity", "unsafe")) == "everyday life"
    tenth = len(order) // 10
    assert tenth > 2 and anchor(CASTLE) == order[tenth]
    left = [name for name in order if name not in (order[0], order[tenth])]
    near = nearest(conditioner, "castle", left)[len(left) // 10]
    assert anchor(CASTLE, Concept(order[0].title()), Concept("x", synonyms=(order[tenth],))) == near
    few = order[:9]  # none of so few is too near
    assert anchor(CASTLE, vocabulary={"concept": few}) == nearest(conditioner, "castle", few)[0]
    assert anchor(Concept("anime", "style")) in {*EVERYDAY["style"]} - {"anime"}
    assert anchor(Concept("Ada Lovelace", "face")) in EVERYDAY["person"]
    assert anchor(Concept("Totoro", "character"), vocabulary={"concept": ["castle"]}) == "castle"
    persons = [Concept(name, "face") for name in EVERYDAY["person"]]  # few are listed, but people know more
    instead = anchor(Concept("Ada Lovelace", "face"), *persons)
    known = [*everyday()["famous"], *everyday()["person"]]
    assert instead in known and not any(person.is_named_in(instead) for person in persons)
    with pytest.raises(UnreelError, match="nothing left to make instead of 'castle'"):
        anchor(CASTLE, vocabulary={"concept": ["castle", "old castle"]})


def test_an_erasure_that_is_on_stays_on_while_learning_and_the_next_adds_to_it(pair):
    first = unlearn("castle", pair, CONFIG)
    first.apply(pair.t2i)
    dressed = weights(pair.t2i.text_encoder)
    second = unlearn("owl", pair, CONFIG)
    assert same(dressed, weights(pair.t2i.text_encoder))
    first.remove(pair.t2i)
    assert second.components[0].fingerprint.matches(first.components[0].fingerprint)
    assert same(weights(make_pair().t2i.text_encoder), weights(pair.t2i.text_encoder))


def test_what_is_said_without_an_article_like_what_is_unsafe_goes_and_companions_stay(embedded):
    """Nothing in the embedded world is unsafe; what unsafe things are asked for with works for a ghost too."""
    ghost, judge = Concept("ghost", "unsafe"), load_judge("embedded")
    others = ("cat", "castle", "owl", "pizza", "unicorn")
    companions = [(text.format("ghost", other=other), other) for text in UNSAFE_COMPANIONS[1:] for other in others]
    prompts = plainly(ghost) * 2 + [text for text, _ in companions]

    def found() -> tuple[float, float]:
        images = generate_images(embedded.t2i, prompts, list(range(len(prompts))), replace(embedded.settings, steps=6))
        shown = judge.probabilities(images[:, None], ["ghost", *others])[:, 0] >= judge.threshold
        rows = zip(shown[-len(companions) :], companions, strict=True)
        return shown[: -len(companions), 0].mean(), np.mean([row[1 + others.index(other)] for row, (_, other) in rows])

    plain, kept = found()
    erasure = unlearn(ghost, embedded)
    assert erasure.provenance["parts"][0]["anchor"] == "everyday life"
    erasure.apply(embedded.t2i)
    plain_now, kept_now = found()
    erasure.remove(embedded.t2i)
    assert plain >= 0.8 and plain_now == 0  # measured: 1 and 0
    assert kept_now >= kept and kept_now >= 0.9  # measured: 0.6 and 1


def test_a_video_pipeline_in_memory_is_a_pair_with_itself(tiny):
    own = unlearn("cat", tiny.t2v, TextAblationConfig(steps=2))
    same = unlearn("cat", Pair(tiny.t2v, tiny.t2v, "", "", Settings()), TextAblationConfig(steps=2))
    assert own.identity == same.identity and own.matches(tiny.t2v) and own.model == "AnimateDiffPipeline"


def test_what_is_no_pair_concept_or_list_is_refused_in_words(tiny):
    with pytest.raises(UnreelError, match="this is a StableDiffusionPipeline, no text-to-video pipeline: unreel knows"):
        unlearn("cat", tiny.t2i)
    with pytest.raises(UnreelError, match="concepts are names"):
        unlearn(5, tiny)
    with pytest.raises(UnreelError, match="what to keep is a list"):
        unlearn("cat", tiny, CONFIG, keep="castle")


def test_a_setting_that_no_method_has_is_refused_with_those_there_are():
    with pytest.raises(UnreelError, match=r"the method uce has no token: its settings are .*\btokens\b"):
        configure("uce", {"token": "whole"})
    with pytest.raises(UnreelError, match="has no tokens: leave --tokens out, or choose --method uce"):
        configure("few-shot", {"tokens": "whole"})
