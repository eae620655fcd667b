"""Guarantees of the embedded pair as shipped: it works, it transfers, and nothing is left behind."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common import shows
from unreel import Concept, Erasure, UnreelError, evaluate, generate, unlearn
from unreel.batch import BatchJob, batch
from unreel.interventions.record import CHECK
from unreel.judges import load_judge
from unreel.methods import configure
from unreel.models.sampling import generate_images
from unreel.models.shipped import EMBEDDED_FOLDER
from unreel.report.page import write_report
from unreel.service import Policy, Service, Shelf, Wish
from unreel.workflow import UnlearnJob


@pytest.fixture(scope="module")
def judge():
    return load_judge("embedded")


@pytest.fixture(scope="module")
def erasure(embedded):
    return unlearn("Tokyo Tower", embedded)


@pytest.fixture(scope="module")
def castle(embedded):
    """Of a castle, which becomes a house."""
    return unlearn(Concept("castle", anchor="house"), embedded)


@pytest.fixture(scope="module")
def evaluated(embedded, judge, tmp_path_factory):
    """How erasures do on the same prompts and seeds, for which the original model makes its videos once; in half as many
    steps as it usually takes, which makes nothing easier.
    """
    model = replace(embedded.video, settings=replace(embedded.settings, steps=6))
    options = {"videos": 6, "groups": ["explicit", "unrelated"], "clips": tmp_path_factory.mktemp("clips")}
    return lambda erasure: evaluate(model, erasure, judge, **options)


@pytest.fixture(scope="module")
def run(evaluated, erasure):
    return evaluated(erasure)


def test_both_models_see_the_same_text_encoder_yet_are_models_of_their_own(embedded):
    assert embedded.shared() == {"text_encoder": []}
    still, moving = embedded.t2i.unet.state_dict(), embedded.t2v.unet.state_dict()
    spatial = [name for name in still.keys() & moving.keys() if still[name].ndim > 1]
    assert len(spatial) > 50
    assert not any(torch.equal(still[name], moving[name]) for name in spatial)


def test_weights_are_small_fp16_safetensors():
    sizes = {file: file.stat().st_size for file in EMBEDDED_FOLDER.rglob("*.safetensors")}
    assert sum(size for file, size in sizes.items() if EMBEDDED_FOLDER / "modern" not in file.parents) <= 40e6
    assert sum(sizes.values()) <= 60e6  # of all pairs
    assert not [file for file in EMBEDDED_FOLDER.rglob("*") if file.suffix in (".bin", ".pt", ".ckpt")]


def test_unlearning_in_the_image_model_reaches_the_video_model(run):
    concept, unrelated = run.figure("concept_found", "explicit"), run.figure("label_found", "unrelated")
    assert concept.original.value >= 0.8
    assert concept.edited.value == 0
    assert unrelated.original.value >= 0.8
    assert unrelated.edited.value >= unrelated.original.value - 0.17  # one video
    assert run.figure("judge_accuracy").original.value >= 0.8
    assert run.figure("judge_floor").original.value <= 0.1


def test_the_encoder_goes_to_the_anchor_on_prompts_it_never_saw_and_keeps_the_rest(erasure, castle):
    for found in (erasure.provenance[CHECK], castle.provenance[CHECK]):
        assert found["residual"] < 0.6 and found["everyday"] < 0.06 and found["neighbours"] < 0.25
        assert found["moved"] > found["everyday"]


def test_the_image_model_makes_the_anchor_instead_and_all_else_as_before(embedded, judge, castle):
    prompts = ["a castle", "a photo of a castle", "a cat", "a house"]
    before = generate_images(embedded.t2i, prompts, [1, 2, 3, 4], embedded.settings)
    with castle.on(embedded.t2i):
        after = generate_images(embedded.t2i, prompts, [1, 2, 3, 4], embedded.settings)
    found, now = (judge.probabilities(it[:, None], ["castle", "cat", "house"])[:, 0] > 0.5 for it in (before, after))
    assert found.tolist() == [[True, False, False], [True, False, False], [False, True, False], [False, False, True]]
    assert now.tolist() == [[False, False, True], [False, False, True], [False, True, False], [False, False, True]]


def test_the_papers_method_reaches_the_video_model_too(embedded, evaluated):
    run = evaluated(unlearn("Tokyo Tower", embedded, configure("few-shot", {}, embedded.settings)))
    concept, unrelated = run.figure("concept_found", "explicit"), run.figure("label_found", "unrelated")
    assert concept.original.value >= 0.8
    assert concept.edited.value <= 0.3
    # It promises nothing about neighbours; this says that the model has not collapsed.
    assert unrelated.edited.value >= 0.6


def test_taken_off_again_the_videos_are_the_same_to_the_last_bit(embedded, erasure):
    first = generate(embedded.t2v, ["tokyo tower"], [3], embedded.settings)
    erasure.apply(embedded.t2v)
    changed = generate(embedded.t2v, ["tokyo tower"], [3], embedded.settings)
    erasure.remove(embedded.t2v)
    assert not np.array_equal(first, changed)
    assert np.array_equal(first, generate(embedded.t2v, ["tokyo tower"], [3], embedded.settings))


def test_the_judge_finds_what_was_asked_for_and_nothing_where_nothing_is(embedded, judge):
    names = ["cat", "rocket", "santa claus", "clown", "penguin"]
    fewer = replace(embedded.settings, steps=6)
    videos = generate(embedded.t2v, [f"a photo of a {name}" for name in names], list(range(5)), fewer)
    shown = shows(judge, videos, names).mean(1)
    assert (shown >= 0.5).sum() >= 4
    rng = np.random.default_rng(0)
    soft = rng.normal(128, 20, (4, 8, 64, 64, 3)).clip(0, 255).astype(np.uint8)
    hard = rng.integers(0, 256, (4, 8, 64, 64, 3), dtype=np.uint8)
    plain = np.array([*judge.world["backgrounds"].values(), *rng.integers(0, 256, (20, 3))], np.uint8)
    plain = plain[:, None, None, None].repeat(8, 1).repeat(64, 2).repeat(64, 3)
    labels = judge.vocabulary["concept"] + judge.vocabulary["style"]
    for empty in (soft, hard, plain):
        assert judge.probabilities(empty, labels).max() < judge.threshold
    with pytest.raises(UnreelError, match="does not know"):
        judge.probabilities(videos, ["a submarine"])


def test_the_judge_understands_names_and_their_other_wordings(judge):
    assert all(judge.knows(label) for label in ("Santa Claus", "Father Christmas", "openmoji", "outlined", "jazz dancing"))
    assert not judge.knows("a submarine")
    assert "father christmas" in judge.wordings("Santa Claus") and "santa claus" in judge.wordings("Father Christmas")
    assert judge.wordings("a submarine") == []


def test_metrics_file_holds_what_programs_need(erasure, run, tmp_path):
    folder = erasure.save_pretrained(tmp_path / "run")
    write_report(folder, run)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["concept"], metrics["kind"], metrics["methods"]) == ("Tokyo Tower", "object", ["text-ablation"])
    assert metrics["judge"]["error"]["concept_accuracy"] > 0.9 and metrics["versions"]["torch"]
    for group, metric in (("explicit", "concept_found"), ("unrelated", "label_found")):
        for when in ("original", "edited"):
            share = metrics["figures"][group][metric][when]
            assert share["n"] == 6 and 0 <= share["ci"][0] <= share["value"] <= share["ci"][1] <= 1
    for cost in ("unlearning_seconds", "peak_memory", "artifact_size", "generation_seconds"):
        assert metrics["figures"]["all"][cost]["edited"]["value"] > 0
    assert Erasure.from_pretrained(folder).concepts == ["Tokyo Tower"]


def test_the_table_and_the_policy_of_the_documents_can_be_used_as_they_stand(embedded, tmp_path):
    tables = {block for page in ("using.md", "guide/hosting.md") for block in blocks(page, "csv")}
    policies = [block for block in blocks("using.md", "json") if '"tenants"' in block]
    assert len(tables) == len(policies) == 1
    (tmp_path / "takedowns.csv").write_text(*tables)
    (tmp_path / "policy.json").write_text(*policies)
    made, _ = batch(BatchJob(tmp_path / "takedowns.csv", UnlearnJob((), videos=0, out=tmp_path / "out")), lambda *_: None)
    assert made.complete and {outcome.status for outcome in made.outcomes} == {"passed"}
    service = Service(embedded.video, Shelf(tmp_path / "out"), Policy(tmp_path / "policy.json"))
    assert [on.concepts for on in service.wanted(Wish("a cat", tenant="acme"))] == [["Santa Claus"], ["Tokyo Tower"]]


def blocks(page, language):
    """The blocks of code of a page of the documentation."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
