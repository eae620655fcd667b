"""Ways to need less memory change nothing else, and where it runs out one line says so."""

import sys
import weakref
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SETTINGS, FakeJudge, same, weights
from pipelines import build, load_settings, size

from unreel import Concept, FewShotConfig, TextAblationConfig, UnreelError, active_interventions, attack, generate, unlearn
from unreel.attacks import Case, video_inversion
from unreel.attacks.embedding_inversion import inverted
from unreel.cost import Cost
from unreel.methods.few_shot import few_shot
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.memory import enough_memory
from unreel.models.pair import load_video_model
from unreel.models.pipelines import move

pytestmark = pytest.mark.usefixtures("hasty")
CONCEPT = Concept("Tokyo Tower")
LOW_RANK = FewShotConfig(epochs=1, rank=2)
TEXT = TextAblationConfig(steps=3, forget=20, retain=20, solve_retain=30)
NO_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
]


def kept_for_the_way_back(pair, config) -> int:
    """Bytes."""
    kept: dict[int, int] = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        unlearn(CONCEPT, pair, config)
    return sum(kept.values())


@pytest.mark.parametrize("config", [replace(LOW_RANK, shots=2, batch_size=2), TEXT], ids=["few-shot", "text ablation"])
def test_checkpointing_keeps_less_and_restores_what_it_changed(pair, config):
    forwards = {name: type(part).forward for name, part in pair.t2i.text_encoder.named_modules()}
    whole = kept_for_the_way_back(pair, config)
    assert kept_for_the_way_back(pair, replace(config, gradient_checkpointing=True)) < 0.7 * whole
    assert not pair.t2i.unet.is_gradient_checkpointing
    for name, part in pair.t2i.text_encoder.named_modules():
        assert "forward" not in vars(part) and type(part).forward is forwards[name]


def test_checkpointing_leaves_what_others_put_in_place_of_a_forward(pair):
    calls = []
    layer = Conditioner.of(pair.t2i).layers[0]
    own = layer.forward
    layer.forward = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    theirs = layer.forward
    unlearn(CONCEPT, pair, replace(TEXT, gradient_checkpointing=True))
    assert layer.forward is theirs and calls


def test_text_ablation_learns_the_same_with_checkpointing_bit_for_bit(pair):
    deltas = [unlearn(CONCEPT, pair, replace(TEXT, gradient_checkpointing=on)).components[0].deltas for on in (False, True)]
    assert same(*({name: change.dense() for name, change in learned.items()} for learned in deltas))


@pytest.mark.parametrize("offload", [True, False])
def test_offloaded_text_encoders_leave_nothing_behind_while_the_network_works(pair, offload):
    """Weights that a graph holds would stay on the device whatever is moved. Not offloaded is the control."""
    move(pair.t2i, "tiny", "cpu", offload=offload)
    kept, reading, alive = weakref.WeakSet(), [], []

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # with its graph it would hold itself
            if reading:
                kept.add(self)

    pair.t2i.text_encoder.register_forward_pre_hook(lambda *_: reading.append(True))
    pair.t2i.text_encoder.register_forward_hook(lambda *_: reading.clear())
    pair.t2i.unet.register_forward_hook(lambda *_: alive.append(bool(kept)) if torch.is_grad_enabled() else None)
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda it: it.tensor):
        unlearn(CONCEPT, pair, LOW_RANK)
    assert alive == [not offload] * 2


def test_offloading_changes_no_video_and_comes_off_again(embedded):
    model = load_video_model()
    settings, prompt = replace(model.settings, steps=2), ["a castle"]
    expected = generate(model.pipeline, prompt, [3], settings)
    move(model.pipeline, model.source, "cpu", offload=True)
    assert Denoiser.of(model.pipeline).offloaded
    assert (generate(model.pipeline, prompt, [3], settings) == expected).all()
    move(model.pipeline, model.source, "cpu")
    assert not Denoiser.of(model.pipeline).offloaded
    assert (generate(model.pipeline, prompt, [3], settings) == expected).all()
    assert not Denoiser.of(model.pipeline).offloaded  # pipelines offload again after every call, if they ever did


def test_what_learns_is_not_offloaded(pair):
    before = weights(pair.t2i.text_encoder)
    move(pair.t2i, "tiny", "cpu", offload=True)
    with pytest.raises(UnreelError, match="low-rank changes, with --rank 16"):
        unlearn(CONCEPT, pair, FewShotConfig())
    assert same(before, weights(pair.t2i.text_encoder))


def test_learning_from_text_moves_text_encoders_only(pair):
    move(pair.t2i, "tiny", "meta", text_only=True)
    assert pair.t2i.text_encoder.device.type == "meta"
    assert pair.t2i.unet.device.type == pair.t2i.vae.device.type == "cpu"


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda it: type(it).__name__)
def test_running_out_of_memory_is_one_line_that_says_what_helps(pair, monkeypatch, error):
    def fail(*_, **__):
        raise error

    before = weights(pair.t2i.text_encoder)
    monkeypatch.setattr(Denoiser, "loss", fail)
    said = str(error).split(". GPU")[0] or "MemoryError"
    with pytest.raises(UnreelError) as refused:
        unlearn(CONCEPT, pair, FewShotConfig())
    assert str(refused.value) == (
        f"unlearning does not fit into the memory of cpu ({said}): try --dtype bfloat16 or --batch-size 1 or "
        "--gradient-checkpointing or --rank 16"
    )
    assert same(before, weights(pair.t2i.text_encoder))
    monkeypatch.setattr(type(pair.t2v), "__call__", wraps(type(pair.t2v).__call__)(fail))
    with pytest.raises(
        UnreelError,
        match=r"generating does not fit .*: try --dtype bfloat16 or --tiling or fewer --frames or a smaller --size$",
    ):
        generate(pair.t2v, ["a cat"], [0], SETTINGS)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("embedding_inversion", "--dtype bfloat16 or other attacks, with --attack"),
        ("video_inversion", "--dtype bfloat16 or fewer --frames or a smaller --size or other attacks, with --attack"),
    ],
)
def test_a_search_that_runs_out_of_memory_is_one_line_and_leaves_nothing_on(pair, monkeypatch, error, name, ways):
    def fail(*_, **__):
        raise error

    erasure = unlearn(CONCEPT, pair, LOW_RANK)
    monkeypatch.setattr(Denoiser, "loss", fail)
    monkeypatch.setattr(FakeJudge, "knows", lambda judge, label: True)
    with pytest.raises(UnreelError) as refused:
        attack(pair, erasure, FakeJudge(), attacks=[name], cases=1, budgets=[1], steps=1)
    said = str(error).split(". GPU")[0] or "MemoryError"
    assert str(refused.value) == f"searching by {name} does not fit into the memory of cpu ({said}): try {ways}"
    assert not active_interventions(pair.t2v) and not pair.t2v.unet.is_gradient_checkpointing


@pytest.mark.parametrize("name", ["AnimateDiffPipeline", "WanPipeline", "TextToVideoSDPipeline"])
def test_video_inversion_finds_the_same_with_checkpointing_where_a_network_has_it(name, monkeypatch):
    model = build(name)
    reader, settings = Conditioner.of(model), load_settings(model, steps=2, frames=5, size=size(model)).settings
    denoiser = Denoiser.of(model, settings.size, settings.frames)
    clip = denoiser.finished("a photo of a cat", 1, settings)
    case = Case(Concept("cat"), "a photo of a cat", "cat", (), reader, reader, denoiser, clip, 1)
    able, loss = [], Denoiser.loss
    monkeypatch.setattr(
        Denoiser, "loss", lambda of, *rest: able.append(of.network.is_gradient_checkpointing) or loss(of, *rest)
    )
    found = [inverted(case, 0, 0, video_inversion.DRAWS), video_inversion.attempt(case, 0, 0)]
    assert torch.equal(*found) and not denoiser.network.is_gradient_checkpointing
    half = len(able) // 2
    assert half and able == [False] * half + [name != "TextToVideoSDPipeline"] * half


@pytest.mark.parametrize("name", ["promote_types", "clone"])
def test_weights_are_as_they_were_where_memory_runs_out_before_the_first_step(pair, monkeypatch, name):
    """While they are made precise, and while they are copied."""
    encoder, owner = pair.t2i.to(torch.bfloat16).text_encoder, torch.Tensor if name == "clone" else torch
    before, whole, calls = weights(encoder), getattr(owner, name), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) > 3:
            raise MemoryError
        return whole(*args, **kwargs)

    def few_shot_alone(*args):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            return few_shot(*args)

    monkeypatch.setattr("unreel.methods.few_shot.few_shot", few_shot_alone)
    with pytest.raises(UnreelError, match="does not fit into the memory"):
        unlearn(CONCEPT, pair, FewShotConfig())
    assert len(calls) == 4 and same(before, weights(encoder))
    assert all(tensor.dtype == torch.bfloat16 for tensor in encoder.parameters())


def test_the_peak_is_that_of_the_card_that_is_asked_about(monkeypatch):
    asked = []
    for name in ("reset_peak_memory_stats", "synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None, name=name: asked.append((name, str(device))) or 3 * 2**30)
    with Cost("cuda:1") as cost:
        pass
    assert cost.peak_memory_gib == 3
    assert asked == [(name, "cuda:1") for name in ("reset_peak_memory_stats", "synchronize", "max_memory_allocated")]


@pytest.mark.parametrize(("platform", "counted"), [("darwin", 3 * 2**30), ("freebsd", 3 * 2**20)])
def test_where_there_is_no_proc_the_peak_is_what_the_system_counts_in_its_own_unit(monkeypatch, platform, counted):
    monkeypatch.setattr("unreel.cost.Path", lambda file: Path("nowhere") / file.strip("/"))
    monkeypatch.setattr("unreel.cost.sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=counted))
    with Cost() as cost:
        pass
    assert cost.peak_memory_gib == 3


def test_where_the_system_does_not_count_there_is_no_peak_and_nothing_fails(monkeypatch):
    """As on Windows."""
    monkeypatch.setattr("unreel.cost.Path", lambda file: Path("nowhere") / file.strip("/"))
    monkeypatch.setitem(sys.modules, "resource", None)
    with Cost() as cost:
        pass
    assert cost.peak_memory_gib == 0


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("this", torch.device("cpu"), []):
        raise RuntimeError("shapes do not fit")
