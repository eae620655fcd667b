"""What can be asked for, and what lies nearest."""

import json
from itertools import pairwise

import pytest
import torch
from conftest import same, weights

from unreel.models.conditioner import Conditioner
from unreel.models.shipped import EMBEDDED_FOLDER, WORLD_FILE
from unreel.prompts.vocabulary import EVERYDAY, KINDS, kind_of, nearest, of_world, spelled_alike

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
