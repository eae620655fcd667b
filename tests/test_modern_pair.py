"""The second embedded pair as it ships, read by a real language model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import same, weights

from benchmarks.common import shows
from unreel import Concept, TextAblationConfig, UnreelError, attack, generate, load_judge, load_pair, unlearn
from unreel.attacks import Case, embedding_inversion
from unreel.attacks._objective import read
from unreel.models import readers
from unreel.models.adapter import usual_call
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.sampling import generate_images
from unreel.models.shipped import EMBEDDED_FOLDER, preset_of

NAME = "embedded:modern"
CONCEPTS = ("tokyo tower", "polar bear", "teddy bear", "pizza", "santa claus", "sunflower", "guitar", "clown")


@pytest.fixture(scope="module")
def modern():
    try:
        return load_pair(t2v=NAME)
    except UnreelError as missing:
        if "unreel fetch" not in str(missing):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def judge():
    return load_judge(preset_of(NAME)["judge"])


def test_it_says_what_gets_its_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "FOLDER", tmp_path)
    with pytest.raises(UnreelError, match="`unreel fetch smollm2` gets it once for all"):
        load_pair(t2v=NAME)


def test_the_reader_is_no_part_of_it():
    files = list((EMBEDDED_FOLDER / "modern").rglob("*"))
    assert not [file for file in files if file.parent.name in ("text_encoder", "tokenizer")]
    index = json.loads((EMBEDDED_FOLDER / "modern" / "video" / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "LlamaModel"]


def test_both_models_read_alike_and_are_models_of_their_own(modern):
    assert modern.shared() == {"text_encoder": []}
    assert usual_call(modern.t2i) == usual_call(modern.t2v) != {}
    ids = [Conditioner.of(model).tokenize(["a photo of a Tokyo Tower"]).ids for model in (modern.t2i, modern.t2v)]
    assert torch.equal(*ids) and modern.t2i.tokenizer.decode(ids[0][0]) == "Picture: a photo of a tokyo tower"
    still, moving = modern.t2i.transformer.state_dict(), modern.t2v.transformer.state_dict()
    alike = [
        name for name in still.keys() & moving.keys() if still[name].shape == moving[name].shape and still[name].ndim > 1
    ]
    assert len(alike) > 50 and not any(torch.equal(still[name], moving[name]) for name in alike)


def test_it_makes_what_it_is_asked_for(modern, judge):
    pictures = generate_images(modern.t2i, [f"a {name}" for name in CONCEPTS], list(range(8)), modern.settings)
    assert shows(judge, pictures[:, None], list(CONCEPTS)).mean() >= 0.9
    moving = list(zip(CONCEPTS[:6], ("rising", "sliding", "dancing", "rising", "sliding", "dancing"), strict=True))
    videos = generate(modern.t2v, [f"a {motion} {name}" for name, motion in moving], list(range(6)), modern.settings)
    assert videos.shape == (6, 8, 64, 64, 3)
    assert shows(judge, videos, [name for name, _ in moving]).mean() >= 0.75
    moved = judge.everything(videos)["motion"][:, 0].argmax(-1)
    assert np.mean([judge.motions[m] == motion for m, (_, motion) in zip(moved, moving, strict=True)]) >= 0.8


def test_the_same_seed_is_the_same_picture_alone_and_among_others(modern):
    one = generate_images(modern.t2i, ["a guitar"], [5], modern.settings).astype(int)
    three = generate_images(modern.t2i, ["a cat", "a guitar", "two words"], [4, 5, 6], modern.settings)
    assert np.abs(one[0] - three[1]).mean() < 2


def test_inversion_starts_from_the_name_as_it_is_read_within_the_sentence(modern):
    """Its tokens have the space before a word in them: without it the name is other tokens, and of other meaning."""
    reader, denoiser = Conditioner.of(modern.t2i), Denoiser.of(modern.t2i)
    asked = "a photo of a clown by night"
    case = Case(Concept("clown"), asked, "clown", (), reader, reader, denoiser, torch.empty(0), steps=0)
    torch.testing.assert_close(embedding_inversion.attempt(case, 0, 0), read(case, asked).embeddings[0])


def test_an_erasure_goes_on_and_comes_off_bit_for_bit_and_is_attacked_by_who_holds_the_weights(modern, judge, hasty):
    before = {name: weights(getattr(modern.t2v, name)) for name in ("text_encoder", "transformer")}
    few = TextAblationConfig(steps=1, forget=10, forget_batch=5, retain=8, solve_retain=16)
    erasure = unlearn(Concept("Tokyo Tower"), modern, few)
    assert erasure.provenance["check"]["away"] < 0.001  # else whatever is made changes with it
    with erasure.on(modern.t2v):
        assert not same(before["text_encoder"], weights(modern.t2v.text_encoder))
        assert same(before["transformer"], weights(modern.t2v.transformer))
    assert same(before["text_encoder"], weights(modern.t2v.text_encoder))
    attacks = ["plain", "embedding_inversion"]
    brief = replace(modern, settings=replace(modern.settings, steps=2))
    result = attack(brief, erasure, judge, attacks=attacks, cases=1, budgets=(1,), steps=1)
    entries = result.document()["attacks"]
    assert set(entries) == set(attacks)
    assert all(len(entry["original_by_frame"]) == len(entry["edited_by_frame"]) == 8 for entry in entries.values())
    assert same(before["text_encoder"], weights(modern.t2i.text_encoder))
