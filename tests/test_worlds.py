"""The worlds that the embedded pairs are trained on say what they promise."""

import re

import numpy as np
import pytest

from training.world import FOLDERS, STILL, all_names, caption, load_world, sample_scene


@pytest.mark.parametrize("pair", FOLDERS)
def test_captions_are_of_scenes_that_the_world_has(pair):
    world, rng = load_world(pair), np.random.default_rng(0)
    motions = set()
    for i in range(600):
        scene = sample_scene(world, rng, motion=i % 2 == 0)
        assert (scene.motion != STILL) == (i % 2 == 0) and set(scene.concepts) <= set(world["concepts"])
        text = caption(world, scene, rng)
        assert text == text.lower() and "  " not in text and "{" not in text
        motions.add(scene.motion)
    assert motions == {STILL, *world["motions"]}


def test_the_modern_world_keeps_a_fifth_of_its_wordings_out_of_training():
    """Nor does any of those name what training names: they ask for a concept by what they mean."""
    concepts = load_world("modern")["concepts"]
    trained = [wording for concept in concepts.values() for wording in all_names(concept)]
    held_out = [wording for concept in concepts.values() for wording in concept["held_out"]]
    assert len(concepts) >= 60 and len(trained + held_out) == len({*trained, *held_out})
    assert all(len(each["held_out"]) >= len([*all_names(each), *each["held_out"]]) / 5 for each in concepts.values())
    names = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, trained))})(?!\w)")
    assert not [wording for wording in held_out if names.search(wording)]
