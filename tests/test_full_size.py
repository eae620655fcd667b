"""The full-size benchmark measures what it says: the real model's size, and loops that learn the same."""

import sys

import numpy as np
import pytest
import torch
from conftest import same, weights
from PIL import Image

from unreel import Concept, FewShotConfig
from unreel.models.shipped import EMBEDDED_FOLDER

sys.path.insert(0, str(EMBEDDED_FOLDER.parents[2]))

from benchmarks.full_size import CHOICES, apart, measured, plain, stable_diffusion, unreels

CONCEPT = Concept("Tokyo Tower")


@pytest.fixture
def images(tmp_path):
    for i, pixels in enumerate(np.random.default_rng(0).integers(256, size=(4, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def test_the_model_has_as_many_parameters_as_stable_diffusion_15():
    with torch.device("meta"):
        pipeline = stable_diffusion()
    sizes = [sum(p.numel() for p in part.parameters()) for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae)]
    assert sizes == [859_520_964, 123_060_480, 83_653_863]


@pytest.mark.parametrize("naive", [False, True])
def test_unreels_loop_learns_what_a_plain_loop_does(pair, images, naive):
    """Asserts that after ten steps the two changes differ by at most 1e-3 of their norm, and leave the model as found."""
    before = {name: weights(getattr(pair.t2i, name)) for name in ("text_encoder", "unet", "vae")}
    learns = [p.requires_grad for name in before for p in getattr(pair.t2i, name).parameters()]
    config = FewShotConfig(learning_rate=1e-3)
    ours = unreels(pair, CONCEPT, config, images)
    assert learns == [p.requires_grad for name in before for p in getattr(pair.t2i, name).parameters()]
    theirs = plain(pair, CONCEPT, config, images, naive=naive)
    assert len(theirs[1]) == 10 and ours[1] == pytest.approx(theirs[1], rel=1e-4)
    assert ours[0].keys() == theirs[0].keys()
    assert apart(ours[0], theirs[0], config.learning_rate)["relative"] < 1e-3
    assert all(same(weights(getattr(pair.t2i, name)), tensors) for name, tensors in before.items())
    assert all(p.grad is None for name in before for p in getattr(pair.t2i, name).parameters())


@pytest.mark.parametrize("choice", [name for name in CHOICES if "compile" not in name])  # which takes half a minute
def test_choices_learn_the_same_and_are_taken_back(pair, images, choice):
    config, found = FewShotConfig(learning_rate=1e-3), pair.t2i.unet.state_dict()
    processors = {name: type(each) for name, each in pair.t2i.unet.attn_processors.items()}
    expected, _ = unreels(pair, CONCEPT, config, images)
    with CHOICES[choice](pair.t2i.unet):
        learned, _ = unreels(pair, CONCEPT, config, images)
    assert apart(learned, expected, config.learning_rate)["relative"] < 1e-3
    after = pair.t2i.unet.state_dict()
    assert all(torch.equal(after[name], t) and after[name].stride() == t.stride() for name, t in found.items())
    assert {name: type(each) for name, each in pair.t2i.unet.attn_processors.items()} == processors
    assert not pair.t2i.unet.is_gradient_checkpointing


def test_two_different_results_are_apart(pair, images):
    one, other = (unreels(pair, CONCEPT, FewShotConfig(seed=seed), images)[0] for seed in (0, 1))
    assert apart(one, one, 1e-5) == {"relative": 0, "most_in_learning_rates": 0}
    assert apart(one, other, 1e-5)["relative"] > 0.1


def test_encoding_and_steps_are_timed_apart(pair, images):
    row, (_, losses) = measured(pair, images, unreels, FewShotConfig())
    assert row["fits"] and len(losses) == 10
    for clock in ("seconds", "processor_seconds"):
        assert 0 < row["encoding"][clock] < row["total"][clock]
        assert 0 < row["a_step"][clock] < row["total"][clock]
