"""Everything runs on another device than the CPU: no tensor is left behind, and seeds mean the same there."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from another_device import Backend, another_device
from conftest import FakeJudge, make_pair, same, weights

from unreel import ConceptAblationConfig, FewShotConfig, TextAblationConfig, attack, evaluate, generate, unlearn
from unreel.batch import BatchJob, batch
from unreel.methods.uce import UCEConfig
from unreel.models.deltas import LowRank
from unreel.models.denoiser import Denoiser
from unreel.models.pipelines import move, moved
from unreel.workflow import Place, UnlearnJob
from unreel.workflow import unlearn as run

pytestmark = pytest.mark.usefixtures("hasty")
TEXT = TextAblationConfig(steps=3, forget=20, retain=20, solve_retain=30)
METHODS = {
    "text-ablation": (TEXT, False),
    "text-ablation, offloaded": (TEXT, True),
    "few-shot": (FewShotConfig(epochs=1), False),
    "few-shot of low rank, checkpointing": (FewShotConfig(epochs=1, rank=2, gradient_checkpointing=True), False),
    "few-shot of low rank, offloaded": (FewShotConfig(epochs=1, rank=2), True),
    "concept-ablation": (ConceptAblationConfig(steps=3), False),
}
ROOMLESS = "text-ablation", "few-shot", "concept-ablation"
WITH_TENSORS = [
    "plain",
    "embedding_inversion",
    "mma_diffusion",
    "prefix_search",
    "prompt_weighting",
    "published_embeddings",
]
WITH_TENSORS += ["replacement_search", "ring_a_bell"]
VIDEO = {"uce": {}, "esd": {"steps": 2}, "refusal-vector": {"pairs": 2, "neutral": 2}, "t2v-unlearning": {"steps": 2}}


def placed(device: str, offload: bool = False):
    pair = make_pair()
    for model in (pair.t2i, pair.t2v):
        move(model, "tiny", device, offload=offload)
    return pair


@pytest.fixture(params=[False, True], ids=["whole", "offloaded"])
def offload(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def erasure():
    return unlearn("cat", make_pair(), TEXT)


def test_what_mixes_devices_fails_here_as_on_a_gpu():
    with another_device() as device:
        layer = torch.nn.Linear(3, 4).to(device)
        out = layer(torch.ones(2, 3, device=device)).square().sum()
        out.backward()
        assert out.device.type == layer.weight.grad.device.type == "elsewhere"
        for mixed in (lambda: layer(torch.ones(2, 3)), lambda: torch.randn(2, generator=torch.Generator(), device=device)):
            with pytest.raises(RuntimeError, match="Expected a"):
                mixed()
        with pytest.raises(RuntimeError, match="numpy"):
            layer.weight.detach().numpy()


@pytest.mark.parametrize(("name", "room"), [*((name, True) for name in METHODS), *((name, False) for name in ROOMLESS)])
def test_every_method_learns_the_same(name, room, monkeypatch):
    """Also where what weights were has no room beside them."""
    monkeypatch.setattr(Backend, "free", room)
    config, offload = METHODS[name]
    expected = unlearn("castle", make_pair(), config)
    with another_device() as device:
        pair = placed(device, offload)
        before = weights(pair.t2v.text_encoder)
        learned = unlearn("castle", pair, config)
        learned.apply(pair.t2v)
        assert not same(before, weights(pair.t2v.text_encoder))
        learned.remove(pair.t2v)
        assert same(before, weights(pair.t2v.text_encoder))
    assert_about_equal(learned, expected)


def assert_about_equal(learned, expected):
    for part, other in zip(learned.components, expected.components, strict=True):
        for weight, change in part.deltas.items():
            ours, theirs = (it.dense() if isinstance(it, LowRank) else it for it in (change, other.deltas[weight]))
            if "k_proj.bias" not in weight:  # attention ignores what it adds, so all that it learns is rounding
                assert (ours - theirs).norm() <= 0.01 * theirs.norm()


# Where a method learns is not its own to say: all ways with one of them, and all of them in one way.
@pytest.mark.parametrize(
    ("method", "alone", "offload"),
    [*((name, False, False) for name in VIDEO), ("uce", True, False), ("uce", False, True), ("uce", True, True)],
)
def test_what_needs_the_video_model_learns_where_it_is_to_compute(method, alone, offload, tmp_path):
    """Whether it is a pair with itself or not; afterwards it waits in main memory again."""
    made, seen = [], []
    for place in (nullcontext("cpu"), another_device(same_weights=True)):
        with place as device:
            pair = make_pair().video.alone if alone else make_pair()
            pair.t2v.unet.register_forward_pre_hook(
                lambda _, __, given: seen.append(given["encoder_hidden_states"].device.type), with_kwargs=True
            )
            options = {"videos": 0, "settings": VIDEO[method], "out": tmp_path / f"made-{torch.device(device).type}"}
            there = Place(device, offload=offload and device != "cpu")
            job = UnlearnJob(["cat"], method=method, place=there, **options)
            made.append(run(job, load=lambda *_, it=pair, **__: it).intervention)
    assert set(seen) == {"cpu", "elsewhere"} and seen == sorted(seen)
    assert_about_equal(made[1], made[0])
    assert {pair.t2v.unet.device.type, pair.t2v.vae.device.type} == {"cpu"}
    assert pair.t2i.text_encoder.device.type == "elsewhere"


def test_what_was_offloaded_is_offloaded_again():
    pair = make_pair()
    with another_device() as device:
        for offloaded in (False, True):
            move(pair.t2v, "tiny", device if offloaded else "cpu", offload=offloaded)
            with moved(pair.t2v, "tiny", device):
                assert pair.t2v.unet.device.type == "elsewhere" and not Denoiser.of(pair.t2v).offloaded
            assert pair.t2v.unet.device.type == "cpu" and Denoiser.of(pair.t2v).offloaded == offloaded


@pytest.mark.parametrize("alone", [False, True], ids=["pair", "alone"])
def test_the_video_model_is_there_for_what_goes_on_top_alone(alone, tmp_path, monkeypatch):
    where = []

    def noted(concepts, pair, config, **options):
        where.append((type(config), pair.t2v.unet.device.type))
        return unlearn(concepts, pair, config, **options)

    monkeypatch.setattr("unreel.workflow.learning.unlearn_concepts", noted)
    with another_device(same_weights=True) as device:
        pair = make_pair().video.alone if alone else make_pair()
        options = {"videos": 0, "accept_weak": True, "out": tmp_path / "made", "place": Place(device)}
        run(UnlearnJob(["cat"], on_top="uce", **options), load=lambda *_, **__: pair)
    assert where == [(UCEConfig, "elsewhere"), (TextAblationConfig, "cpu")]


@pytest.mark.parametrize(("alone", "offload"), [(False, False), (True, True)], ids=["pair", "alone, offloaded"])
def test_no_takedown_of_a_table_learns_beside_the_video_model_of_the_one_before(alone, offload, tmp_path, monkeypatch):
    where = []

    def noted(concepts, pair, *arguments, **options):
        where.append((pair.t2i.text_encoder.device.type, pair.t2v.unet.device.type, Denoiser.of(pair.t2v).offloaded))
        return unlearn(concepts, pair, *arguments, **options)

    table = tmp_path / "takedowns.csv"
    table.write_text("concept\ncat\ndog\n")
    pair = make_pair().video.alone if alone else make_pair()
    monkeypatch.setattr("unreel.workflow.learning.unlearn_concepts", noted)
    monkeypatch.setattr("unreel.batch._kept_pair", lambda *_, **__: pair)
    with another_device(same_weights=True) as device:
        place = Place(device, offload=offload)
        each = UnlearnJob((), videos=1, judge="none", accept_weak=True, out=tmp_path / "made", place=place)
        made, _ = batch(BatchJob(table, each), lambda *_: None)
    assert made.complete and where == [("elsewhere", "cpu", False)] * 2


def test_the_same_seeds_make_the_same_videos(erasure, offload):
    made = []
    for place in (nullcontext("cpu"), another_device()):
        with place as device:
            pair = placed(device, offload and device != "cpu")
            made.append(generate(erasure.apply(pair.t2v), ["a cat", "a dog"], [0, 1], pair.settings))
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1


def test_an_evaluation_measures_the_same(erasure, offload):
    figures = []
    for place in (nullcontext("cpu"), another_device()):
        with place as device:
            run = evaluate(placed(device, offload and device != "cpu").video, erasure, FakeJudge(), videos=2)
            figures.append([figure for figure in run.figures if "seconds" not in figure.metric])
    for here, there in zip(*figures, strict=True):
        assert (here.metric, here.group) == (there.metric, there.group)
        for when, estimate in here.estimates.items():
            assert there.estimates[when].value == pytest.approx(estimate.value, rel=1e-2, abs=1e-4)


def test_attacks_find_the_same(erasure):
    found = []
    for place in (nullcontext("cpu"), another_device()):
        with place as device:
            run = attack(placed(device), erasure, FakeJudge(), attacks=WITH_TENSORS, cases=1, steps=2, budgets=(1,))
            found.append(run.document()["attacks"])
    assert found[0] == found[1]
