"""Every family on tiny random pipelines of its real classes: text in, gradients out, an erasure on and off."""

import copy
import inspect
import itertools
import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from another_device import another_device
from conftest import FakeJudge, same, weights
from diffusers import WanVACEPipeline
from PIL import Image
from pipelines import CALLS, FRAMES, PIPELINES, QUICK, TextProcessor, alone, build, load_settings, sd2, size
from safetensors.torch import load_file

from unreel import (
    Concept,
    ConceptAblationConfig,
    Erasure,
    FewShotConfig,
    UnreelError,
    active_interventions,
    attack,
    evaluate,
    generate,
    unlearn,
)
from unreel.interventions.erasure import ComponentDelta
from unreel.interventions.export import export
from unreel.interventions.prompt import NegativePrompt
from unreel.methods.concept_ablation import _Material
from unreel.models.adapter import call_with, encode_prompt, frames_axis, made_by, network_of, text_encoders, usual_call
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import LowRank, changed
from unreel.models.denoiser import MARGIN, Conditioning, Denoiser
from unreel.models.families import FAMILIES, known
from unreel.models.fingerprint import Fingerprint
from unreel.models.pair import Pair, Settings, VideoModel, settings_of
from unreel.models.pipelines import TextModel, load_pipeline, move
from unreel.report.page import write_report
from unreel.report.verdict import attack_verdict
from unreel.workflow import Sampling

pytestmark = pytest.mark.usefixtures("hasty")
PROMPTS = ["a photo of a castle", "a cat on a table"]
DISTILLED = "SanaSprintPipeline"  # which predicts nothing that can be learned from
LEARN_FROM_SHOTS = [name for name in PIPELINES if name != DISTILLED]
VIDEO = [name for family in FAMILIES for name in family.t2v]
READERS = ("StableDiffusionPipeline", "AnimateDiffSDXLPipeline", "StableDiffusion3Pipeline", "CogVideoXPipeline")
READERS += ("LTXPipeline", "WanPipeline", "SanaVideoPipeline", "HunyuanVideoPipeline", "HunyuanVideo15Pipeline")
READERS += ("Kandinsky5T2VPipeline",)  # every way of reading there is: what learns with these learns with all


@pytest.fixture(scope="module", params=PIPELINES)
def pipeline(request):
    return build(request.param)


def tensors(pipeline, prompts=PROMPTS):
    with torch.no_grad():
        return [part for part in encode_prompt(pipeline, prompts) if isinstance(part, torch.Tensor)]


def test_every_class_of_the_table_has_a_tiny_twin_and_the_other_way_round():
    assert {name for family in FAMILIES for name in (*family.t2v, *family.t2i)} == set(PIPELINES)
    assert all(known(name) for name in PIPELINES) and not known("ShapEPipeline")


@pytest.fixture
def folder(pipeline, tmp_path, monkeypatch):
    """The pipeline, saved."""
    pipeline.save_pretrained(tmp_path / "saved")
    if "Kandinsky5" in type(pipeline).__name__:  # its processor of words and images needs torchvision: one of words alone
        index = tmp_path / "saved" / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"tokenizer": ["transformers", "Qwen2VLProcessor"]}))
        monkeypatch.setattr(transformers, "Qwen2VLProcessor", TextProcessor)
    return tmp_path / "saved"


def test_a_folder_of_every_class_loads_whole_and_with_text_encoders_only(pipeline, folder):
    whole, words = load_pipeline(folder), load_pipeline(folder, text_only=True)
    assert same(weights(network_of(pipeline)), weights(network_of(whole)))
    for loaded in (whole, words):
        assert all(torch.equal(a, b) for a, b in zip(tensors(pipeline), tensors(loaded), strict=True))


def read_with(conditioner, tokens, rows):
    """Tokens as they are read where these rows come out of the table, as attacks have it."""
    hook = conditioner.token_table.register_forward_hook(lambda *_: rows)
    try:
        return conditioner.encode_tokens(tokens)
    finally:
        hook.remove()


@torch.no_grad()
def test_token_embeddings_can_stand_in_for_those_of_the_table(pipeline):
    """Which is what attacks need that learn tokens."""
    for conditioner in Conditioner.all_of(pipeline).values():
        tokens, others = (conditioner.tokenize([text]) for text in ("a photo of a castle", "a photo of a fish"))
        rows, before = conditioner.token_table(tokens.ids), conditioner.encode_tokens(tokens)
        torch.testing.assert_close(read_with(conditioner, tokens, rows), before)
        if tokens.ids.shape == others.ids.shape:
            moved = read_with(conditioner, tokens, conditioner.token_table(others.ids)) - before
            assert moved.norm() > 1e-3 * before.norm()


def test_text_encoders_are_called_as_the_pipeline_calls_them_when_it_makes_something(pipeline):
    """Seen from outside: what each text encoder gets in a whole run."""
    seen = {}

    def spy(name):
        def note(_, args, kwargs):
            given = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | kwargs
            seen.setdefault(name, (given["input_ids"], given.get("attention_mask")))

        return note

    names = list(text_encoders(pipeline))
    hooks = [getattr(pipeline, name).register_forward_pre_hook(spy(name), with_kwargs=True) for name in names]
    options = {"num_inference_steps": 2, "output_type": "latent"} | CALLS[type(pipeline).__name__]
    pipeline(prompt="a photo of a castle", generator=torch.Generator().manual_seed(0), **options)
    for hook in hooks:
        hook.remove()
    conditioners = Conditioner.all_of(pipeline)
    assert set(conditioners) == set(seen)
    for name, conditioner in conditioners.items():
        tokens = conditioner.tokenize(["a photo of a castle"])
        ids, mask = seen[name]
        width = tokens.ids.shape[1]
        assert torch.equal(tokens.ids, ids[:1, :width])
        if mask is None:
            assert width == ids.shape[1] and tokens.mask.all()
        else:
            assert torch.equal(tokens.mask, mask[:1, :width].bool()) and not mask[:1, width:].any()


def test_unseen_padding_may_be_left_out(pipeline):
    for conditioner in Conditioner.all_of(pipeline).values():
        with torch.no_grad():
            trimmed, whole = conditioner.tokenize(PROMPTS), conditioner._asked(PROMPTS)
            short, long = conditioner.encode_tokens(trimmed), conditioner.encode_tokens(whole)
        torch.testing.assert_close(short[trimmed.mask], long[whole.mask], rtol=1e-4, atol=1e-5)


def given_to_network(pipeline, prompt):
    """Seen from outside: the numbers by which the pipeline tells its network what a prompt says."""
    with torch.no_grad():
        call = Denoiser.of(pipeline, size(pipeline)).conditioning([prompt])
    arguments = {name: value for name, value in call.arguments.items() if name not in (call.latents, call.time)}
    arguments |= arguments.pop("added_cond_kwargs", None) or {}
    seen = []
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and "mask" not in name:
            mask = arguments.get(name.replace("hidden_states", "attention_mask"))
            told = value if mask is None or mask is value else value.reshape(*mask.shape, -1)[mask.bool()]
            seen.append(told.float().flatten())
    return torch.cat(seen)


def test_what_is_checked_is_what_the_network_is_given(pipeline):
    """Not what a text encoder writes of which the pipeline passes on a part."""
    prompt, readers = PROMPTS[0], Conditioner.all_of(pipeline)
    read = [reader.network_inputs([prompt, "a cat"])[:1] for reader in readers.values()]
    before = given_to_network(pipeline, prompt)
    for reader, unchanged in zip(readers.values(), read, strict=True):
        rows = reader.token_table.weight.detach()
        word = reader.tokenize([prompt]).ids[0, -4:].unique()
        name = next(name for name, it in reader.text_encoder.named_parameters() if it is reader.token_table.weight)
        change = torch.zeros_like(rows).index_fill(0, word, float(rows.std()))
        with changed(reader.text_encoder, {name: change}):
            moved = given_to_network(pipeline, prompt) - before
            found = reader.network_inputs([prompt, "a cat"])[:1] - unchanged
        assert found.any()
        torch.testing.assert_close(found.float().norm(), moved.norm(), rtol=1e-3, atol=1e-5)


UNREAD = {  # how many of an encoder's last layers
    "StableDiffusionXLPipeline": {"text_encoder": 1},
    "AnimateDiffSDXLPipeline": {"text_encoder": 1},
    "HunyuanVideoPipeline": {"text_encoder": 2},
    "HunyuanVideo15Pipeline": {"text_encoder": 2},
    "HunyuanImagePipeline": {"text_encoder": 2},
}


def test_a_layer_that_a_pipeline_leaves_unread_is_neither_learned_nor_checked(pipeline):
    for name, reader in Conditioner.all_of(pipeline).items():
        unread = reader._all_layers[len(reader.layers) :]
        assert len(unread) == UNREAD.get(type(pipeline).__name__, {}).get(name, 0)
        tokens = reader.tokenize(PROMPTS)
        states, given = reader.encode_tokens(tokens).detach(), reader.network_inputs(PROMPTS)
        for layer in unread:
            hook = reader.mlp_output(layer).register_forward_hook(lambda _, __, output: 0 * output)
            assert torch.equal(reader.encode_tokens(tokens), states)
            assert torch.equal(reader.network_inputs(PROMPTS), given)
            hook.remove()


POOLING = {  # encoders whose last layer gives the network one state for a prompt, while those of tokens come from before it
    "StableDiffusionXLPipeline": {"text_encoder_2"},
    "AnimateDiffSDXLPipeline": {"text_encoder_2"},
    "StableDiffusion3Pipeline": {"text_encoder", "text_encoder_2"},
}


@torch.no_grad()
def test_states_of_tokens_are_learned_by_as_the_network_is_given_them(pipeline):
    """Not as a layer above makes them into something else."""
    for name, reader in Conditioner.all_of(pipeline).items():
        tokens = reader.tokenize(PROMPTS)

        def read(reader=reader, tokens=tokens):
            return [reader.token_states(tokens), *(part for part in tensors(pipeline) if part.ndim == 3)]

        before, given = read(), reader.network_inputs(PROMPTS)
        above = reader.layers[len(reader.token_layers) :]
        assert len(above) == (name in POOLING.get(type(pipeline).__name__, ()))
        for layer in above:
            hook = reader.mlp_output(layer).register_forward_hook(lambda _, __, output: 0 * output)
            assert all(map(torch.equal, before, read())) and not torch.equal(given, reader.network_inputs(PROMPTS))
            hook.remove()
        if not above:
            assert torch.equal(before[0], reader.encode_tokens(tokens))
        hook = reader.mlp_output(reader.token_layers[-1]).register_forward_hook(lambda _, __, output: 0 * output)
        assert not torch.equal(before[0], read()[0])
        hook.remove()


@pytest.mark.parametrize("pipeline", LEARN_FROM_SHOTS, indirect=True)
def test_gradients_of_the_loss_reach_exactly_the_chosen_layers(pipeline):
    encoders = {name: conditioner.text_encoder for name, conditioner in Conditioner.all_of(pipeline).items()}
    chosen = {}
    for name, encoder in encoders.items():
        encoder.requires_grad_(False)
        chosen[name] = Conditioner.of(pipeline, name).trainable("mlp-final-attn")
        for parameter in chosen[name].values():
            parameter.requires_grad_()
    denoiser = Denoiser.of(pipeline, size(pipeline))
    z = denoiser.sample(PROMPTS, [0, 1], steps=2)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    denoiser.loss(z, noise, torch.tensor([200, 700]), denoiser.conditioning(PROMPTS)).backward()
    for name, encoder in encoders.items():
        reached = {key for key, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}
        own = set(chosen[name])
        # Attention ignores what a key's bias adds, and T5's first layer learns the distances for all.
        assert (
            reached <= own and {key for key in own - reached if "k_proj.bias" not in key and "relative" not in key} == set()
        )
        encoder.zero_grad()
        encoder.requires_grad_(False)
    network = denoiser.network
    assert all(parameter.grad is None for parameter in network.parameters())


def embedded(pipeline, prompts):
    """What the pipeline's encode_prompt gives for prompts, without guidance, in its own order."""
    return encode_prompt(pipeline, prompts)


# What each pipeline's network makes of latents at a time, called as its documentation says, from what encode_prompt gives.
NETWORKS = {
    "StableDiffusionXLPipeline": lambda p, z, t, e: (
        p.unet(
            z,
            t,
            encoder_hidden_states=e[0],
            added_cond_kwargs={"text_embeds": e[2], "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)},
        ).sample
    ),
    "StableDiffusion3Pipeline": lambda p, z, t, e: p.transformer(z, e[0], e[2], t.float()).sample,
    "PixArtSigmaPipeline": lambda p, z, t, e: p.transformer(
        z,
        encoder_hidden_states=e[0],
        encoder_attention_mask=e[1],
        timestep=t,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample.chunk(2, dim=1)[0],
    "SanaPipeline": lambda p, z, t, e: (
        p.transformer(z, e[0], t * p.transformer.config.timestep_scale, encoder_attention_mask=e[1]).sample
    ),
    "CogVideoXPipeline": lambda p, z, t, e: p.transformer(z, e[0], t).sample,
    "LTXPipeline": lambda p, z, t, e: (
        p.transformer(
            z, e[0], t.float(), e[1], num_frames=1, height=1, width=1, rope_interpolation_scale=(8 / 25, 32, 32)
        ).sample
    ),
    "MochiPipeline": lambda p, z, t, e: p.transformer(z, e[0], t.float(), e[1]).sample,
    "LattePipeline": lambda p, z, t, e: p.transformer(
        z, timestep=t, encoder_hidden_states=e[0], enable_temporal_attentions=True
    ).sample.chunk(2, dim=1)[0],
    "WanPipeline": lambda p, z, t, e: p.transformer(z, t, e[0]).sample,
    "SkyReelsV2DiffusionForcingPipeline": lambda p, z, t, e: (
        p.transformer(z, t[:, None].expand(-1, z.shape[2]), e[0], enable_diffusion_forcing=True, fps=[1]).sample
    ),
    "HunyuanVideoPipeline": lambda p, z, t, e: (
        p.transformer(z, t.float(), e[0], e[2], e[1], guidance=torch.tensor([6000.0, 6000.0])).sample
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_equals_the_formula_written_out(name):
    pipeline = build(name)
    denoiser = Denoiser.of(pipeline, size(pipeline))
    z = denoiser.sample(PROMPTS, [0, 1], steps=2)
    noise, t = torch.randn(z.shape, generator=torch.Generator().manual_seed(3)), torch.tensor([150, 800])
    rank = (2, *[1] * (z.ndim - 1))
    config = pipeline.scheduler.config
    if "beta_start" in config and config.get("prediction_type") in ("epsilon", "v_prediction"):
        a = pipeline.scheduler.alphas_cumprod[t].reshape(rank).float()
        z_t = a.sqrt() * z + (1 - a).sqrt() * noise
        target = noise if config.prediction_type == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * z
    elif name == "MochiPipeline":  # its time runs from noise to data
        s = (t / 1000).reshape(rank)
        z_t, target = s * z + (1 - s) * noise, z - noise
    else:
        s = (t / 1000).reshape(rank)
        z_t, target = (1 - s) * z + s * noise, noise - z
    with torch.no_grad():
        expected = (NETWORKS[name](pipeline, z_t, t, embedded(pipeline, PROMPTS)) - target).square().mean()
        loss = denoiser.loss(z, noise, t, denoiser.conditioning(PROMPTS))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def learned(pipeline):
    """What one makes of a concept in the pipeline, learned once; learning leaves the encoders as they were."""

    @cache
    def learn(config):
        unedited = {name: weights(it) for name, it in text_encoders(pipeline).items()}
        erasure = unlearn("castle", alone(pipeline), config)
        assert all(same(unedited[name], weights(it)) for name, it in text_encoders(pipeline).items())
        return erasure

    return learn


BRIEFLY = ("LTXConditionPipeline", "MochiPipeline", "AllegroPipeline", "HunyuanVideoPipeline", "SanaVideoPipeline")
BRIEFLY += ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "SanaPipeline", "SanaSprintPipeline")  # which mask padding


def test_short_prompts_are_read_briefly_where_padding_is_masked_and_drawn_the_same(pipeline):
    denoiser = Denoiser.of(pipeline, size(pipeline))
    longest = max(PROMPTS, key=Conditioner.of(pipeline).length)
    brief = denoiser.reading_briefly(Conditioner.of(pipeline).length(longest) + MARGIN, longest)
    if type(pipeline).__name__ not in BRIEFLY:
        assert brief is denoiser
        return
    assert brief is not denoiser
    usual = denoiser.conditioning(PROMPTS)
    shape, t = usual.arguments[usual.latents].shape, torch.tensor([500, 500])
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made, same, other = (
            denoiser.predict(noisy, t, each)
            for each in (usual, brief.conditioning(PROMPTS), denoiser.conditioning(PROMPTS[::-1]))
        )
    torch.testing.assert_close(same, made, rtol=1e-3, atol=1e-4)
    assert (same - made).norm() < 0.01 * (other - made).norm(), "what is read is seen"


def test_an_erasure_from_text_alone_changes_what_the_denoiser_reads_and_comes_off_bit_for_bit(pipeline, learned):
    before, unedited = tensors(pipeline), {name: weights(it) for name, it in text_encoders(pipeline).items()}
    erasure = learned(QUICK)
    assert len(erasure.components) == len(Conditioner.all_of(pipeline))
    assert all(change.dense().any() for component in erasure.components for change in component.deltas.values())
    away, name = erasure.provenance["check"]["away"], type(pipeline).__name__
    if name in ("SanaPipeline", "SanaVideoPipeline"):  # which put no instruction before what guidance leads away from
        assert away < 1e-3
    else:
        assert (away is None) == (name != "Kandinsky5T2VPipeline")  # which leads away from words of its own
    erasure.apply(pipeline)
    during = tensors(pipeline)
    assert not torch.equal(before[0][0], during[0][0])
    erasure.remove(pipeline)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(pipeline), strict=True))
    assert all(same(unedited[name], weights(it)) for name, it in text_encoders(pipeline).items())


SHOTS = {
    "few-shot": FewShotConfig(shots=2, epochs=1, learning_rate=1e-3),
    "concept-ablation": ConceptAblationConfig(
        shots=2,
        steps=2,
        batch_size=2,
        learning_rate=1e-3,
        retain_batch=2,
        stop=0.0,
        bound=9.0,
        check=2,
        forget=6,
        retain=12,
    ),
}


@pytest.mark.parametrize("config", SHOTS.values(), ids=SHOTS)
def test_what_predicts_nothing_that_can_be_learned_from_is_refused_to_learn_from_shots(config):
    with pytest.raises(UnreelError, match="learn from text alone"):
        unlearn("castle", alone(build(DISTILLED)), config)


def learns_and_comes_off(pipeline, config):
    before = tensors(pipeline)
    erasure = unlearn("castle", alone(pipeline), config)
    assert all(
        change.any()
        for component in erasure.components
        for name, change in component.deltas.items()
        if name.endswith(".weight")
    )
    erasure.apply(pipeline)
    assert not torch.equal(before[0], tensors(pipeline)[0])
    erasure.remove(pipeline)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(pipeline), strict=True))


@pytest.mark.parametrize("pipeline", LEARN_FROM_SHOTS, indirect=True)
def test_shots_teach_every_family_that_predicts_what_can_be_learned_from(pipeline):
    learns_and_comes_off(pipeline, SHOTS["few-shot"])


@pytest.mark.parametrize("pipeline", READERS, indirect=True)
def test_concept_ablation_learns_in_whichever_way_a_pipeline_reads(pipeline):
    learns_and_comes_off(pipeline, SHOTS["concept-ablation"])


def everything(pipeline):
    """Weights, and buffers that no file holds, such as those that turn positions."""
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return [tensor.clone() for part in parts for tensor in (*part.parameters(), *part.buffers())]


@pytest.mark.parametrize("pipeline", READERS, indirect=True)
def test_half_precision_is_as_it_was_afterwards(pipeline, folder):
    mixed = type(pipeline).__name__ == "CogVideoXPipeline"  # in float16, T5 has some weights in float32
    half = load_pipeline(folder, dtype=torch.float16 if mixed else torch.bfloat16)
    assert not mixed or len({weight.dtype for weight in half.text_encoder.parameters()}) == 2
    before = everything(half)
    for config in (QUICK, FewShotConfig(shots=1, epochs=1, learning_rate=1e-3)):
        unlearn("castle", alone(half), config)
        for a, b in zip(before, everything(half), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


WITHOUT_CHECKPOINTING = "TextToVideoSDPipeline"
OF_EVERY_SORT = ("StableDiffusionPipeline", "AnimateDiffPipeline", "PixArtSigmaPipeline", "CogVideoXPipeline")
OF_EVERY_SORT += ("WanPipeline", "HunyuanVideoPipeline", "Kandinsky5T2VPipeline", WITHOUT_CHECKPOINTING)


@pytest.mark.parametrize("pipeline", OF_EVERY_SORT, indirect=True)
def test_saving_memory_changes_nothing(pipeline, learned):
    """Bit for bit the same erasure with gradient checkpointing, and offloaded."""
    name, config = type(pipeline).__name__, FewShotConfig(shots=1, epochs=1, learning_rate=1e-3, rank=2)
    expected = learned(config)
    ways = {}
    if name == WITHOUT_CHECKPOINTING:
        with pytest.raises(UnreelError, match="UNet3DConditionModel has no gradient checkpointing: leave it out"):
            unlearn("castle", alone(pipeline), replace(config, gradient_checkpointing=True))
    else:
        ways["checkpointing"] = unlearn("castle", alone(pipeline), replace(config, gradient_checkpointing=True))
    move(pipeline, name, "cpu", offload=True)
    ways["offload"] = unlearn("castle", alone(pipeline), config)
    move(pipeline, name, "cpu")
    for way, erasure in ways.items():
        assert erasure.identity == expected.identity, way
    assert any(change.up.any() for change in expected.components[0].deltas.values())


@pytest.mark.parametrize("pipeline", READERS, indirect=True)
def test_what_learns_on_another_device_learns_the_same(pipeline, learned):
    """From text with the pipeline there, and from images with its parts taking turns."""
    name, few_shot = type(pipeline).__name__, FewShotConfig(shots=1, epochs=1, learning_rate=1e-3, rank=2)
    for config in (QUICK, few_shot):
        expected = learned(config)
        with another_device() as device:
            model = move(build(name), name, device, offload=config is few_shot)
            there = unlearn("castle", alone(model), config)
            there.apply(model)
            assert active_interventions(model) == [there]
        for component, other in zip(there.components, expected.components, strict=True):
            for weight, change in component.deltas.items():
                dense = other.deltas[weight].dense()
                assert (change.dense() - dense).norm() <= 0.01 * dense.norm()


def test_a_network_for_the_noisy_half_learns_from_its_own_timesteps_only(monkeypatch):
    """Wan 2.2: below the boundary, another network makes the video."""
    one = build("WanPipeline")
    parts = one.components | {"transformer_2": copy.deepcopy(one.transformer)}
    two = type(one)(**parts, boundary_ratio=0.875)
    two.set_progress_bar_config(disable=True)
    assert Denoiser.of(one).first_timestep == 0 and Denoiser.of(two).first_timestep == 875
    drawn, loss = [], Denoiser.loss

    def note(self, z, noise, t, conditioning):
        drawn.append(t)
        return loss(self, z, noise, t, conditioning)

    monkeypatch.setattr(Denoiser, "loss", note)
    unlearn("castle", alone(two), FewShotConfig(shots=2, epochs=8, learning_rate=1e-3))
    assert all(875 <= t < 1000 for t in torch.cat(drawn).tolist()) and len(set(torch.cat(drawn).tolist())) > 8


EVERY_VIDEO_MODEL = pytest.mark.parametrize("pipeline", VIDEO, indirect=True)


@EVERY_VIDEO_MODEL
def test_a_share_of_noise_is_that_share_whichever_way_a_model_counts(pipeline):
    denoiser = Denoiser.of(pipeline)
    t = denoiser.timesteps_of(torch.linspace(0, 1, 5))
    signal, noise = torch.ones(5, 1), torch.zeros(5, 1)
    kept = denoiser.noisy(signal, noise, t).flatten()
    assert (kept.diff() < 0).all() and kept[0] > 0.9 and kept[-1] < 0.1
    assert denoiser.first_timestep <= t.min() and t.max() < denoiser.timesteps


def test_a_network_for_the_noisy_half_is_asked_about_no_less_noise_than_it_sees():
    one = build("WanPipeline")
    two = type(one)(**one.components | {"transformer_2": copy.deepcopy(one.transformer)}, boundary_ratio=0.875)
    assert Denoiser.of(two).timesteps_of(torch.tensor([0.1, 0.5, 1.0])).tolist() == [875, 875, 999]


@pytest.mark.parametrize(
    "name", ["AnimateDiffPipeline", "WanPipeline", "HeliosPipeline", "HunyuanVideo15Pipeline", "Kandinsky5T2VPipeline"]
)
def test_video_models_are_evaluated_with_the_settings_that_were_asked_for(name):
    model = build(name)
    frames, asked = FRAMES.get(name, 5), size(model)
    video = load_settings(model, steps=2, frames=frames, size=asked)
    erasure = unlearn("cat", alone(model), QUICK)
    clean = {part: weights(it) for part, it in text_encoders(model).items()}
    run = evaluate(video, erasure, FakeJudge(), videos=1, groups=["explicit", "neighbours"])
    (before,), (after,) = (list(run.groups["explicit"].videos(when)) for when in ("original", "edited"))
    assert before.shape == (frames, *asked, 3) and before.std() > 0
    assert not (before == after).all()  # it is on
    assert run.figure("embedding_shift").edited.value > 0
    assert all(same(clean[part], weights(it)) for part, it in text_encoders(model).items())
    again = generate(
        model, [run.groups["explicit"].prompts[0].text], [run.groups["explicit"].prompts[0].seed], video.settings
    )
    assert (again[0] == before).all()


TAKES_NO_NEGATIVE = ("HunyuanVideoPipeline", "HunyuanVideo15Pipeline", "Kandinsky5T2VPipeline")  # of an intervention
LEADS_NOWHERE = ("HunyuanVideoPipeline",)  # whose guidance is distilled


@EVERY_VIDEO_MODEL
def test_a_negative_prompt_reaches_every_video_model_that_takes_one_and_is_refused_by_others(pipeline):
    """As an intervention, and as what is asked for."""
    name, frames, asked = type(pipeline).__name__, FRAMES.get(type(pipeline).__name__, 5), size(pipeline)
    usual = load_settings(pipeline, steps=2, frames=frames, size=asked, guidance=3.0)
    own = generate(pipeline, PROMPTS[1:], [1], usual.settings)
    assert own.shape == (1, frames, *asked, 3)
    rival = NegativePrompt({"parts": [{"concept": "castle", "synonyms": []}]})
    if name in TAKES_NO_NEGATIVE:
        with pytest.raises(UnreelError, match="takes no negative prompt"):
            rival.apply(pipeline)
    else:
        with rival.on(pipeline):
            assert not (generate(pipeline, PROMPTS[1:], [1], usual.settings) == own).all()
    if name in LEADS_NOWHERE:
        with pytest.raises(UnreelError, match="--negative-prompt"):
            Sampling(negative_prompt="a red castle").onto(usual)
        return
    led = Sampling(negative_prompt="a red castle").onto(usual)
    made = generate(pipeline, PROMPTS[1:], [1], led.settings)
    assert made.shape == own.shape and not (made == own).all()
    assert usual.settings.sampling != led.settings.sampling
    with pytest.raises(UnreelError, match="--guidance 1 "):
        Sampling(negative_prompt="fog", guidance=1.0).onto(usual)


@pytest.mark.parametrize("name", ["MochiPipeline", "WanPipeline", "CogVideoXPipeline", "StableDiffusionPipeline"])
def test_concept_ablation_learns_where_there_is_more_noise_than_not(name):
    """Whichever way a model counts its timesteps."""
    denoiser = Denoiser.of(build(name))
    latents, levels = torch.zeros(1, 2, 4, 1, 8, 8), torch.linspace(0, 0.99, 20)
    z, t = _Material(None, denoiser, latents, [], []).noisy(levels, torch.Generator().manual_seed(0))
    (_, noise), (_, other) = (denoiser._scales(z, at) for at in (t, denoiser.timesteps - 1 - t))
    assert (noise > other).all() and t.min() >= 0 and t.max() < denoiser.timesteps and len(set(t.tolist())) == 20


@pytest.mark.parametrize("axis", [1, -1])
def test_what_a_network_is_given_beside_latents_stays_behind_them_on_whichever_axis(axis):
    """Kandinsky 5's published configuration has its channels last."""
    before = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6).float()
    small = before.narrow(axis, 0, before.shape[axis] - 2) + 1
    conditioning = Conditioning({"hidden_states": before, "timestep": torch.zeros(2)}, "hidden_states", "timestep", 1.0)
    given = conditioning.at(small, torch.ones(2))["hidden_states"]
    assert given.shape == before.shape and torch.equal(given.narrow(axis, 0, small.shape[axis]), small)
    rest = (axis, small.shape[axis], 2)
    assert torch.equal(given.narrow(*rest), before.narrow(*rest))
    assert torch.equal(conditioning.at(before + 1, torch.ones(2))["hidden_states"], before + 1)


def test_a_name_that_a_pipeline_cleans_out_of_prompts_is_refused(monkeypatch):
    """Where a package that need not be there helps it to."""
    model = build("AllegroPipeline")
    cleaned = lambda _, texts, **options: [text.lower().replace("r2d2", "").strip() for text in texts]  # noqa: E731
    monkeypatch.setattr(type(model), "_text_preprocessing", cleaned)
    with pytest.raises(UnreelError, match="a AllegroPipeline takes 'R2D2' out of prompts"):
        unlearn("R2D2", alone(model), QUICK)
    Conditioner.of(model).require_read(["castle", ""])
    Conditioner.of(build("WanPipeline")).require_read(["R2D2"])


def test_how_many_tokens_a_prompt_has_is_how_it_is_read_not_how_it_is_written():
    """Sana reads in lower case, where capitals may be spelled in more pieces."""
    plain, (reader, other) = "a photo of a castle", (Conditioner.of(build("SanaVideoPipeline")) for _ in range(2))
    read = reader.tokenize([plain])
    wanted = reader.seen([plain], read)
    starts = itertools.product(("", "a ", "the ", "a photo ", "one "), ("OWL", "CAT", "CASTLE", "A OWL"))
    as_long = [text for text in map("".join, starts) if other.length(text) == other.length(plain)]
    for text in as_long:
        other.seen([text], other.tokenize([text]))
    assert as_long and wanted.sum() < read.mask.sum() and torch.equal(other.seen([plain], read), wanted)


def test_pictures_are_encoded_in_full_where_the_autoencoder_overflows_in_half():
    model = build("StableDiffusionXLPipeline")
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = Denoiser.of(model).encode(images)
    model.to(torch.float16, silence_dtype_warnings=True)
    model.vae.register_to_config(force_upcast=True)
    before = weights(model.vae)
    latents = Denoiser.of(model).encode(images)
    assert latents.dtype == torch.float32 and torch.allclose(latents, whole, rtol=2e-2, atol=2e-3)
    assert model.vae.dtype == torch.float16 and same(before, weights(model.vae))


@pytest.mark.parametrize("name", ["Kandinsky5T2VPipeline", "HunyuanImagePipeline", "HunyuanVideo15Pipeline"])
def test_the_language_half_of_qwen_goes_into_files_as_other_tools_name_it(name, tmp_path):
    model = build(name)
    reader = Conditioner.of(model)
    deltas = {
        weight: LowRank(torch.randn(matrix.out_features, 1), torch.randn(1, matrix.in_features) / 10)
        for weight, matrix in reader.first_matrices(2).items()
    }
    component = ComponentDelta(deltas, Fingerprint.of(reader.text_encoder))
    part = {"concept": "cat", "kind": "object", "synonyms": [], "method": "m", "settings": {}}
    erasure = Erasure((component,), {"parts": [part], "encoder": "tiny", "versions": {"unreel": "0"}})
    for format in ("comfyui", "peft"):
        made = export(erasure, model, tmp_path / format, format=format)
        assert made.kept == pytest.approx(1, abs=1e-3) and not made.left_out
    keys = load_file(tmp_path / "comfyui" / "lora.safetensors")
    assert {key.rpartition(".lora_")[0] for key in keys if ".lora_" in key} == {
        f"text_encoders.qwen25_7b.transformer.model.{weight.removesuffix('.weight')}" for weight in deltas
    }
    with erasure.on(model):
        wanted = encode_prompt(model, ["a photo of a cat"])[0]
    homes = (tmp_path / "peft", tmp_path / "peft" / "text_encoder")  # of one text encoder, and of the first of several
    model.text_encoder.load_adapter(str(next(home for home in homes if (home / "adapter_config.json").is_file())))
    assert torch.allclose(encode_prompt(model, ["a photo of a cat"])[0], wanted, rtol=1e-3, atol=1e-3)


def test_a_report_tells_of_every_text_encoder(tmp_path):
    model = build("AnimateDiffSDXLPipeline")
    video = load_settings(model, steps=1, frames=1, size=size(model))
    run = evaluate(video, unlearn("cat", alone(model), QUICK), None, videos=1, groups=["explicit"])
    page = write_report(tmp_path, run).read_text()
    assert ", float32, 1 steps, 1 frames, 16 x 16 pixels.</p>" in page
    assert page.count("Text encoder 1. ") == page.count("Text encoder 2. ") == 1


BY_CHANCE = ("AllegroPipeline",)  # their schedulers add noise at every step


@EVERY_VIDEO_MODEL
def test_every_video_model_goes_on_from_the_video_it_starts_from(pipeline, monkeypatch):
    """Whose network says, of what it is given, exactly what was added to the video, comes to that video's way."""
    model, name = pipeline, type(pipeline).__name__
    if name == "SkyReelsV2DiffusionForcingPipeline":  # whose own scheduler remembers latents that the pipeline writes into
        kind, own = type(model.scheduler), model.scheduler.config
        plain = kind.from_config(own, solver_order=1, disable_corrector=[*range(8)])
        monkeypatch.setattr(model, "scheduler", plain)
    video = load_settings(model, steps=8, frames=FRAMES.get(name, 5), size=size(model), guidance=1.0)
    denoiser = Denoiser.of(model, video.settings.size, video.settings.frames)
    clip = denoiser.finished("a castle", 1, video.settings)
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(3))
    given, latents = [], "sample" if hasattr(model, "unet") else "hidden_states"

    def knowing(module, args, kwargs, out):
        given.append((kwargs[latents] if latents in kwargs else args[0]).clone())  # Kandinsky writes into it
        said = denoiser.target(clip, noise, model.scheduler.timesteps[len(given) - 1].expand(1))
        said = torch.cat([said, torch.zeros_like(said)], dim=1) if out[0].shape != said.shape else said
        return (said, *out[1:]) if isinstance(out, tuple) else type(out)(sample=said)

    hook = denoiser.network.register_forward_hook(knowing, with_kwargs=True)
    with denoiser.starting_from(clip, noise, 0.75):
        denoiser.finished("a dog", 2, video.settings)
    hook.remove()
    timesteps = model.scheduler.timesteps
    noisiness = (timesteps / denoiser.timesteps - int(denoiser.inverted)).abs()
    first = max(1, int((noisiness - 0.75).abs().argmin()))
    for at in range(first, first + 1 if name in BY_CHANCE else len(timesteps)):
        wanted = denoiser.noisy(clip, noise, timesteps[at].expand(1))
        seen = given[at][:, : wanted.shape[1]].float()  # some are given a first frame too
        torch.testing.assert_close(seen, wanted, rtol=2e-2, atol=2e-2)
    assert len(given) == len(timesteps) > first
    assert "step" not in vars(model.scheduler)


@EVERY_VIDEO_MODEL
def test_a_video_models_own_settings_are_those_of_its_call(pipeline):
    settings = settings_of("", pipeline)
    takes = {key: it.default for key, it in inspect.signature(type(pipeline).__call__).parameters.items()}
    assert settings.steps == takes["num_inference_steps"]
    assert settings.guidance == takes.get("guidance_scale", 6.0)  # a guider's, where there is one
    assert settings.frames == next(takes[key] for key in ("num_frames", "video_length", "frames") if key in takes)


@EVERY_VIDEO_MODEL
def test_videos_play_as_fast_as_in_the_example_of_their_pipeline(pipeline):
    kind = type(pipeline)
    told = re.search(r"export_to_video\(.*fps=(\d+)", inspect.getmodule(kind).EXAMPLE_DOC_STRING)
    assert settings_of("", pipeline).fps == (int(told[1]) if told else {"MochiPipeline": 30}.get(kind.__name__, 8))


def test_a_guider_guides_as_asked():
    model = build("HunyuanVideo15Pipeline")
    video = load_settings(model, steps=2, frames=1, size=size(model))
    videos = [
        generate(model, ["a castle"], [0], replace(video.settings, guidance=guidance)) for guidance in (6.0, 1.5, 6.0)
    ]
    assert (videos[0] == videos[2]).all() and not (videos[0] == videos[1]).all()
    assert model.guider.guidance_scale == 6.0


def test_tiles_are_for_autoencoders_that_know_them_and_come_off_again():
    model = build("WanPipeline")
    video = load_settings(model, steps=1, frames=1, size=size(model), tiling=True)
    assert generate(model, ["a castle"], [0], video.settings).std() > 0
    assert not model.vae.use_tiling
    del model.vae.use_tiling
    with pytest.raises(UnreelError, match="cannot work in tiles: leave --tiling out"):
        generate(model, ["a castle"], [0], video.settings)


@EVERY_VIDEO_MODEL
def test_what_a_pipeline_cannot_sample_is_refused_before_any_work(pipeline, monkeypatch):
    name, model = type(pipeline).__name__, VideoModel(pipeline, Settings(steps=1, guidance=2.0, frames=1))
    height, width = size(pipeline)
    assert Sampling(size=(height, width)).onto(model).settings.size == (height, width)
    odd = Sampling(size=(height + 1, width))
    if name == "HunyuanVideo15Pipeline":  # which makes something smaller of it
        assert generate(pipeline, ["a cat"], [0], odd.onto(model).settings).shape[2:4] == (height, width)
    else:
        with pytest.raises(UnreelError, match=f"{name} cannot generate with --size {height + 1} {width}: .*divisible by"):
            odd.onto(model)
    monkeypatch.setattr(pipeline.vae, "use_tiling", None, raising=False)
    with pytest.raises(UnreelError, match="cannot work in tiles: leave --tiling out"):
        Sampling(tiling=True).onto(model)


def test_a_sampling_that_says_nothing_of_tiles_leaves_them(embedded):
    tiled = replace(embedded.video, settings=replace(embedded.settings, tiling=True))
    assert Sampling().onto(tiled).settings.tiling and not Sampling().onto(embedded.video).settings.tiling


@EVERY_VIDEO_MODEL
def test_a_size_that_is_not_refused_can_be_made(pipeline):
    """The nearest to the smallest that is not, and the farthest of a few."""
    model = VideoModel(pipeline, Settings(steps=2, guidance=2.0, frames=1))
    (height, width), able = size(pipeline), {}
    for more in (2, 4, 8, 16, 32):
        try:
            able[more] = Sampling(size=(height + more, width)).onto(model).settings
        except UnreelError as refused:
            assert "divisible by" in str(refused)
    assert 32 in able
    for more in {min(able), 32}:
        made = generate(pipeline, ["a cat"], [0], able[more]).shape[2:4]
        smaller = type(pipeline).__name__ == "HunyuanVideo15Pipeline"  # is what it makes of it
        assert made == able[more].size or smaller


@pytest.mark.parametrize("pipeline", [name for name in PIPELINES if name not in VIDEO], indirect=True)
def test_an_image_has_no_frames(pipeline):
    assert frames_axis(pipeline) is None


@EVERY_VIDEO_MODEL
def test_where_frames_are_is_told(pipeline):
    name, written = type(pipeline).__name__, []
    hook = network_of(pipeline).register_forward_hook(lambda *call: written.append(call[-1][0].shape))
    for count in (1, FRAMES.get(name, 5)):
        settings = load_settings(pipeline, steps=2, frames=count, size=size(pipeline)).settings
        generate(pipeline, ["a cat"], [0], settings)
    hook.remove()
    one, several = written[0], written[-1]
    axis = frames_axis(pipeline)
    if len(one) < 5:
        assert axis is None
    elif name == "HeliosPipeline":  # whose network sees one chunk after the other
        assert one == several and one[axis] == 2
    else:
        assert one[axis] == 1 < several[axis] and (*one[:axis], *one[axis + 1 :]) == (*several[:axis], *several[axis + 1 :])


def test_an_erasure_goes_on_a_pipeline_that_is_not_in_the_table():
    wan = build("WanPipeline")
    erasure = unlearn("castle", alone(wan), QUICK)
    other = WanVACEPipeline(**{name: getattr(wan, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler")})
    before = encode_prompt(other, ["a castle"])[0]
    with erasure.on(other):
        assert not torch.equal(encode_prompt(other, ["a castle"])[0], before)
    assert torch.equal(encode_prompt(other, ["a castle"])[0], before)


def test_of_what_is_made_in_chunks_the_network_is_given_one():
    model = build("HeliosPipeline")
    denoiser = Denoiser.of(model, size(model), 9)
    z = denoiser.sample(["a cat"], [0], steps=2)
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    whole = made_by(model, prompt="a cat", **denoiser.shape, **options)[0]
    assert whole.shape[2] == 4 and torch.equal(z, whole[:, :, :2])
    frames = generate(model, ["a cat"], [0], load_settings(model, steps=1, frames=9, size=size(model)).settings)[0]
    assert len(frames) == 9
    loss = denoiser.loss(z, torch.randn_like(z), torch.tensor([500]), denoiser.conditioning(["a cat"]))
    assert loss.isfinite()


def test_attacks_by_hand_need_no_particular_model():
    model = build("WanPipeline")
    pair = replace(alone(model), settings=load_settings(model, steps=1, frames=1, size=size(model)).settings)
    erasure = unlearn("cat", pair, QUICK)
    found = attack(pair, erasure, FakeJudge(), attacks=["plain", "typos"], cases=1, budgets=(1,))
    assert {outcome.attack for outcome in found.outcomes} == {"plain", "typos"}
    with pytest.raises(UnreelError, match="prefix_search needs a text-to-image pipeline with one text encoder"):
        attack(pair, erasure, FakeJudge(), attacks=["prefix_search"], cases=1)


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["WanPipeline"], {}),
        (["LattePipeline"], {"published_embeddings": "gives embeddings, and a LattePipeline makes nothing of embeddings"}),
        (["FluxPipeline", "LTXPipeline"], {"published_embeddings": "and a FluxPipeline reads with several text encoders"}),
        (["StableDiffusionXLPipeline", "AnimateDiffSDXLPipeline"], {"published_embeddings": "reads with several"}),
    ],
    ids=lambda it: it[-1] if isinstance(it, list) else "",
)
def test_unasked_attacks_that_a_model_does_not_allow_are_left_out_and_said(names, left_out):
    image, video = build(names[0]), build(names[-1])
    sampling = load_settings(video, steps=2, frames=1, size=size(video)).settings
    pair = replace(alone(video), t2i=image if len(names) > 1 else video, settings=sampling)
    found = attack(pair, unlearn("cat", alone(image), QUICK), FakeJudge(), cases=1, budgets=(1,), steps=1)
    study = ("embedding_inversion", "mma_diffusion", "prefix_search", "prompt_weighting", "replacement_search")
    left_out = dict.fromkeys(study, "needs a text-to-image pipeline with one text encoder") | left_out
    assert found.left_out.keys() == left_out.keys() and all(why in found.left_out[name] for name, why in left_out.items())
    tried = {outcome.attack for outcome in found.outcomes}
    assert {"plain", "typos", "ring_a_bell"} <= tried and not tried & left_out.keys()
    assert found.document()["left_out"] == found.left_out
    said = str(attack_verdict(found))
    assert f"Left out: {', '.join(study)}, each of which needs" in said and all(name in said for name in left_out)


GROUPS = [(family, other) for family in FAMILIES for other in (*family.t2v[1:], *family.t2i)]


@cache
def first_of(family):
    """The first video pipeline of a family, and an erasure that it learned."""
    video = build(family.t2v[0])
    return video, unlearn("castle", alone(video), QUICK)


@pytest.mark.parametrize(("family", "other"), GROUPS, ids=lambda it: getattr(it, "name", it))
def test_one_erasure_fits_every_pipeline_of_its_family(family, other):
    video, erasure = first_of(family)
    second = sd2() if family.name == "Stable Diffusion 2.x" else build(other)
    assert [] in Pair(second, video, "second", "video").shared().values()
    before = tensors(second)
    erasure.apply(second)
    assert not all(torch.equal(a, b) for a, b in zip(before, tensors(second), strict=True))
    erasure.remove(second)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(second), strict=True))


def test_pipelines_of_different_families_share_nothing_and_are_told_why():
    wan, cog = build("WanPipeline"), build("CogVideoXPipeline")
    with pytest.raises(UnreelError, match="share no text encoder"):
        Pair(cog, wan, "cog", "wan").require_shared()
    erasure = unlearn("castle", alone(cog), QUICK)
    with pytest.raises(UnreelError, match="another text encoder"):
        erasure.apply(wan)
    other = build("CogVideoXPipeline")
    with torch.no_grad():
        other.text_encoder.encoder.final_layer_norm.weight[3] += 0.1
    with pytest.raises(UnreelError, match=r"encoder\.final_layer_norm\.weight"):
        Pair(other, cog, "other", "cog").require_shared()


def test_an_erasure_of_several_text_encoders_is_one_file_and_adds_up(tmp_path):
    from unreel import Erasure

    video = build("AnimateDiffSDXLPipeline")
    castle, cat = (unlearn(name, alone(video), QUICK) for name in ("castle", "cat"))
    loaded = Erasure.from_pretrained((castle + cat).save_pretrained(tmp_path / "both"))
    assert loaded.concepts == ["castle", "cat"] and len(loaded.components) == 2
    loaded.apply(video)
    summed = tensors(video)
    loaded.remove(video)
    cat.apply(video)
    castle.apply(video)
    for a, b in zip(summed, tensors(video), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_text_encoder_alone_is_enough_for_text_and_its_erasure_fits_the_pipeline():
    video = build("AnimateDiffPipeline")
    model = TextModel(video.tokenizer, copy.deepcopy(video.text_encoder))
    erasure = unlearn(Concept("castle"), Pair(model, model, "encoder", "encoder"), QUICK)
    before = tensors(video)
    erasure.apply(video)
    assert not torch.equal(before[0], tensors(video)[0])
    with pytest.raises(UnreelError, match="no network to learn from images"):
        unlearn("castle", Pair(model, model, "encoder", "encoder"), FewShotConfig())


def test_how_a_pipeline_is_called_is_saved_with_it_and_read_back(tmp_path):
    """As far as that is for a configuration to say: it may not choose what is made of what the pipeline makes."""
    model, other = build("SanaVideoPipeline"), build("SanaVideoPipeline")
    usual = {"complex_human_instruction": ["Picture: "], "max_sequence_length": 24, "use_resolution_binning": False}
    call_with(model, {**usual, "height": "tall", "output_type": "pil", "latents": [1], "unheard of": 1})
    assert usual_call(model) == usual and usual_call(other) == {}
    model.save_pretrained(tmp_path / "saved")
    loaded = load_pipeline(tmp_path / "saved")
    assert usual_call(loaded) == usual
    assert all(torch.equal(a, b) for a, b in zip(tensors(model), tensors(loaded), strict=True))
    assert tensors(loaded)[0].shape[1] == 24 != tensors(other)[0].shape[1]
    index = tmp_path / "saved" / "model_index.json"
    for wrong in ("none", ["a"], {"height": None}):
        index.write_text(json.dumps(json.loads(index.read_text()) | {"_usual_call": wrong}))
        assert usual_call(load_pipeline(tmp_path / "saved")) == {}


def test_few_shot_learns_from_given_images_wherever_latents_are_pictures(tmp_path):
    for i in range(2):
        Image.fromarray(np.full((40, 48, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
    for name in ("SanaPipeline", "PixArtSigmaPipeline"):
        model = build(name)
        denoiser = Denoiser.of(model, size(model))
        latents = denoiser.encode(torch.zeros(1, 3, *size(model)))
        assert latents.shape[1:] == denoiser.conditioning(["a cat"]).arguments["hidden_states"].shape[1:]
        config = FewShotConfig(epochs=1, learning_rate=1e-3)
        given = unlearn("cat", alone(model), config, images=tmp_path)
        assert given.provenance["parts"][0]["settings"]["shots"] == 2
        assert given != unlearn("cat", alone(model), config)
    with pytest.raises(UnreelError, match="learns from images that it makes itself: leave --images out"):
        unlearn("cat", alone(build("FluxPipeline")), config, images=tmp_path)
