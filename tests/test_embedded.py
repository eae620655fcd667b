"""Guarantees of the embedded pair as shipped: it works, it transfers, and nothing is left behind."""

import json

import numpy as np
import pytest
import torch

from unreel import Concept, Erasure, UnreelError, evaluate, generate, unlearn
from unreel.judges.embedded import EmbeddedJudge
from unreel.pair import EMBEDDED_FOLDER
from unreel.report import write_report


@pytest.fixture(scope="module")
def judge():
    return EmbeddedJudge.load(EMBEDDED_FOLDER)


@pytest.fixture(scope="module")
def erasure(embedded):
    return unlearn("Tokyo Tower", embedded)


def test_both_models_see_the_same_text_encoder_yet_are_models_of_their_own(embedded):
    assert embedded.shared() == {"text_encoder": []}
    still, moving = embedded.t2i.unet.state_dict(), embedded.t2v.unet.state_dict()
    spatial = [name for name in still.keys() & moving.keys() if still[name].ndim > 1]
    assert len(spatial) > 50
    assert not any(torch.equal(still[name], moving[name]) for name in spatial)


def test_weights_are_small_fp16_safetensors():
    files = list(EMBEDDED_FOLDER.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert not [file for file in EMBEDDED_FOLDER.rglob("*") if file.suffix in (".bin", ".pt", ".ckpt")]


def test_unlearning_in_the_image_model_reaches_the_video_model(embedded, erasure, judge):
    evaluation = evaluate(embedded, erasure, Concept("Tokyo Tower"), judge, videos=10)
    before, after = (evaluation.groups["target"].share(when) for when in ("before", "after"))
    assert before.found >= 0.8
    assert after.found <= 0.3
    # The paper's recipe does hurt neighbours; this only says that the model has not collapsed.
    assert evaluation.groups["neighbours"].share("before").found >= 0.6
    assert evaluation.groups["neighbours"].share("after").found >= 0.3


def test_taken_off_again_the_videos_are_the_same_to_the_last_bit(embedded, erasure):
    first = generate(embedded.t2v, ["tokyo tower"], [3], embedded.settings)
    erasure.apply(embedded.t2v)
    changed = generate(embedded.t2v, ["tokyo tower"], [3], embedded.settings)
    erasure.remove(embedded.t2v)
    assert not np.array_equal(first, changed)
    assert np.array_equal(first, generate(embedded.t2v, ["tokyo tower"], [3], embedded.settings))


def test_the_judge_finds_what_was_asked_for_and_nothing_where_nothing_is(embedded, judge):
    names = ["cat", "rocket", "santa claus", "clown", "penguin"]
    videos = generate(embedded.t2v, [f"a photo of a {name}" for name in names], list(range(5)), embedded.settings)
    found = np.array([judge.found(video[None], name).mean() for video, name in zip(videos, names, strict=True)])
    assert (found >= 0.5).sum() >= 4
    noise = np.random.default_rng(0).normal(128, 20, (4, 8, 64, 64, 3)).clip(0, 255).astype(np.uint8)
    plain = np.array(list(judge.world["backgrounds"].values()), np.uint8)[:, None, None, None].repeat(8, 1)
    plain = plain.repeat(64, 2).repeat(64, 3)
    for empty in (noise, plain):
        assert judge.probabilities(empty)["concept"].max() < 0.5
    with pytest.raises(UnreelError, match="does not know"):
        judge.found(videos, "a submarine")


def test_the_judge_understands_names_and_their_other_wordings(judge):
    assert all(judge.knows(label) for label in ("Santa Claus", "Father Christmas", "openmoji", "outlined", "jazz dancing"))
    assert not judge.knows("a submarine")
    assert "robot" in judge.neighbours("Santa Claus") and "santa claus" not in judge.neighbours("Father Christmas")


def test_metrics_file_holds_what_programs_need(embedded, erasure, judge, tmp_path):
    folder = erasure.save_pretrained(tmp_path / "run")
    evaluation = evaluate(embedded, erasure, Concept("Tokyo Tower"), judge, videos=2)
    write_report(folder, erasure, evaluation, 8)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["concept"], metrics["kind"], metrics["method"], metrics["seed"]) == (
        "Tokyo Tower",
        "object",
        "few-shot",
        0,
    )
    for group in ("target", "neighbours"):
        for when in ("before", "after"):
            share = metrics[group][when]
            assert share["n"] == 2 and 0 <= share["ci"][0] <= share["found"] <= share["ci"][1] <= 1
    assert metrics["seconds"] > 0 and metrics["peak_memory_gib"] > 0 and metrics["versions"]["torch"]
    assert Erasure.from_pretrained(folder).concepts == ["Tokyo Tower"]
