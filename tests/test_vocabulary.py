"""What can be asked for, and what lies nearest."""

import json
from itertools import pairwise

import pytest
import torch
from conftest import same, weights
from pipelines import PIPELINES

from unreel import Concept
from unreel.models.anchors import anchor_for
from unreel.models.conditioner import Conditioner
from unreel.models.reading import nearest
from unreel.models.shipped import EMBEDDED_FOLDER, WORLD_FILE
from unreel.prompts.vocabulary import EVERYDAY, KINDS, kind_of, of_world, spelled_alike

WORLD = json.loads((EMBEDDED_FOLDER / WORLD_FILE).read_text())


def test_every_vocabulary_has_every_kind_and_says_nothing_twice(pair, embedded):
    assert pair.vocabulary == EVERYDAY
    for vocabulary in (EVERYDAY, embedded.vocabulary):
        labels = [label for labels in vocabulary.values() for label in labels]
        assert set(KINDS) <= vocabulary.keys() and all(vocabulary.values())
        assert len(set(labels)) == len(labels) and all(label == label.strip().lower() != "" for label in labels)


def test_an_embedded_world_can_be_asked_for_all_it_shows_but_motions_that_take_two(embedded):
    assert embedded.vocabulary == of_world(WORLD)
    assert embedded.vocabulary["concept"] == list(WORLD["concepts"])
    assert embedded.vocabulary["style"] == list(WORLD["styles"])
    assert "spinning" in embedded.vocabulary["motion"] and "flying over" not in embedded.vocabulary["motion"]


def test_the_nearest_come_first_in_whatever_order_they_are_given(pair):
    conditioner, names = Conditioner.of(pair.t2i), EVERYDAY["concept"]
    before = weights(conditioner.text_encoder)
    order = nearest(conditioner, "castle", names)
    assert order[0] == "castle"  # nothing is nearer than the word itself
    assert sorted(order) == sorted(names)
    assert nearest(conditioner, "castle", names[::-1]) == order
    vectors = {name: conditioner.encode([name])[0].mean(0) for name in names}
    middle = torch.stack([vectors["castle"], *vectors.values()]).mean(0)
    alike = [torch.cosine_similarity(vectors["castle"] - middle, vectors[name] - middle, dim=0).item() for name in order]
    assert all(a >= b - 1e-5 for a, b in pairwise(alike))
    assert same(before, weights(conditioner.text_encoder))


def test_among_nothing_there_is_no_nearest(pair):
    assert nearest(Conditioner.of(pair.t2i), "castle", []) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("spinning", "motion"), ("Surfing", "motion"), ("Anime", "style"), ("cat", "object"), ("Tokyo Tower", "object")],
)
def test_a_name_is_of_the_kind_it_is_listed_as(name, kind):
    assert kind_of(name, EVERYDAY) == kind


def test_in_a_world_of_its_own_only_its_words_count():
    world = {"concept": ["santa claus", "owl"], "style": ["ink"], "motion": ["sliding"]}
    assert kind_of("sliding", world) == "motion" and kind_of("surfing", world) == "object"
    assert spelled_alike("Santa Clause", world) == ["santa claus"] and spelled_alike("Darth Vader", world) == []


def test_no_word_is_read_twice_to_find_what_is_near(pair, monkeypatch):
    conditioner, read, known = Conditioner.of(pair.t2i), [], {}
    nearest(conditioner, "boat", ["train"])  # which finds out how the encoder reads
    tokenize = Conditioner.tokenize
    monkeypatch.setattr(Conditioner, "tokenize", lambda self, texts: read.extend(texts) or tokenize(self, texts))
    orders = [nearest(conditioner, name, ["dog", "tree", "house"], known) for name in ("cat", "castle", "cat")]
    assert sorted(read) == ["castle", "cat", "dog", "house", "tree"] == sorted(known)
    assert orders[0] == orders[2] == nearest(conditioner, "cat", ["dog", "tree", "house"])


def test_what_is_near_does_not_depend_on_what_is_read_beside_it():
    """Kandinsky pads to the longest prompt, lets its encoder see that, and gives its network none of it."""
    conditioner, known = Conditioner.of(PIPELINES["Kandinsky5T2VPipeline"]()), {}
    nearest(conditioner, "cat", ["a very old golden temple near the river and the sea"], known)
    alone: dict[str, torch.Tensor] = {}
    nearest(conditioner, "cat", ["dog"], alone)
    assert torch.allclose(known["cat"], alone["cat"], atol=1e-5) and not torch.allclose(
        known["cat"], alone["dog"], atol=1e-3
    )


def test_a_language_model_alone_finds_what_is_near_in_meaning(smollm2):
    """Its first token means next to nothing, and a word that is read alone begins with it."""
    conditioner, elephant = Conditioner.of(smollm2), Concept("elephant")
    assert anchor_for(elephant, [elephant], conditioner, EVERYDAY) == "cat"
    assert conditioner.causal and not conditioner.begins_alike
    near = {"elephant": {"lion", "bear", "monkey"}, "guitar": {"piano", "violin", "drum"}}
    for name, like in near.items():
        others = ["citadel", "emperor", "tsunami", "doorbell", "skirt", "tent", "beach", "bathhouse", "rocket"]
        assert set(nearest(conditioner, name, [*others, *like])[: len(like)]) == like
