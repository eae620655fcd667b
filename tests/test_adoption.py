"""Weights that other code changed become an erasure that does what they do, and comes off again."""

import copy
import json
import warnings

import pytest
import torch
from conftest import make_pair, same, weights
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from unreel import Concept, Erasure, UnreelError, adopt, unlearn
from unreel.adoption import changed_components
from unreel.interventions.export import export
from unreel.methods.uce import UCEConfig
from unreel.models.adapter import networks, text_encoders
from unreel.models.deltas import LowRank
from unreel.models.weights import held_weights

CONCEPT = Concept("Tokyo Tower", anchor="castle")


def nudged(module, share=0.1, only="", seed=0):
    """Change weights of a module as somebody's training might; returns the names of those."""
    generator, names = torch.Generator().manual_seed(seed), []
    with torch.no_grad():
        for name, weight in held_weights(module).items():
            if only in name:
                weight.add_(share * weight.abs().mean() * torch.randn(weight.shape, generator=generator))
                names.append(name)
    return names


def close(a, b):
    return all(torch.allclose(a[name], b[name], rtol=1e-6, atol=1e-7) for name in b)


def goes_on_and_comes_off(erasure, pipeline, wanted):
    """Whether it makes of the pipeline's parts the `wanted` weights, and goes again bit for bit."""
    parts = {**text_encoders(pipeline), **networks(pipeline)}
    before = {name: weights(part) for name, part in parts.items()}
    erasure.apply(pipeline)
    reached = all(close(weights(parts[name]), wanted[name]) for name in parts)
    erasure.remove(pipeline)
    return reached and all(same(weights(part), before[name]) for name, part in parts.items())


@pytest.fixture
def theirs():
    """The video model after somebody's code changed its text encoder and what attends to the text in its network."""
    other = make_pair().t2v
    nudged(other.text_encoder, only="layers.0.")
    nudged(other.unet, only="attn2.to_k")
    return other


def held(pipeline):
    return {name: weights(part) for name, part in {**text_encoders(pipeline), **networks(pipeline)}.items()}


@pytest.mark.usefixtures("hasty")
def test_a_whole_pipeline_becomes_an_erasure_that_makes_of_the_model_what_it_is(pair, theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    erasure = adopt(tmp_path / "theirs", CONCEPT, pair.t2v, method="somebody's")
    assert goes_on_and_comes_off(erasure, pair.t2v, held(theirs))
    by_part = {component.of: set(component.deltas) for component in erasure.components}
    assert all("layers.0." in name for name in by_part["text encoder"])
    assert all("attn2.to_k" in name for name in by_part["network"])
    erasure.save_pretrained(tmp_path / "out")
    assert Erasure.from_pretrained(tmp_path / "out") == erasure
    card = (tmp_path / "out" / "README.md").read_text()
    assert "somebody's (adopted)" in card and "Self-check" in card and str(tmp_path) not in card
    assert f"{len(by_part['network'])} of {len(held_weights(pair.t2v.unet))} weights of the unet, by " in card


@pytest.mark.usefixtures("hasty")
def test_the_way_left_is_known_where_it_is_said_what_is_made_instead(pair, theirs, tmp_path):
    theirs.text_encoder.save_pretrained(tmp_path / "encoder")
    with_anchor, without = (adopt(tmp_path / "encoder", each, pair.t2v) for each in (CONCEPT, "Tokyo Tower"))
    assert with_anchor.provenance["check"]["residual"] > 0
    assert without.provenance["check"]["residual"] is None
    assert without.provenance["check"]["moved"] == with_anchor.provenance["check"]["moved"] > 0


@pytest.mark.usefixtures("hasty")
def test_what_unreel_learned_and_somebody_saved_is_adopted_as_what_it_was(pair, tmp_path):
    learned = unlearn(CONCEPT, pair)
    for format in ("text-encoder", "lora"):
        export(learned, pair.t2v, tmp_path / format, format=format, tolerance=0.0)
    wanted = held(learned.apply(make_pair().t2v))
    whole, lora = (
        adopt(tmp_path / "text-encoder" / "text_encoder", CONCEPT, pair.t2v),
        adopt(tmp_path / "lora", CONCEPT, pair.t2v),
    )
    for adopted in (whole, lora):
        assert goes_on_and_comes_off(adopted, pair.t2v, wanted)
        assert set(adopted.components[0].deltas) == set(learned.components[0].deltas)
    assert all(isinstance(change, LowRank) for change in lora.components[0].deltas.values())


@pytest.mark.parametrize("before", ["", "unet.", "module.unet."])
def test_a_file_of_changed_weights_alone_is_placed_by_their_names(pair, theirs, tmp_path, before):
    changed = {f"{before}{name}": weight for name, weight in weights(theirs.unet).items() if "attn2.to_k" in name}
    save_file(changed, tmp_path / "esd.safetensors")
    erasure = adopt(tmp_path / "esd.safetensors", CONCEPT, pair.t2v, method="esd")
    wanted = held(pair.t2v) | {"unet": weights(theirs.unet)}
    assert goes_on_and_comes_off(erasure, pair.t2v, wanted)
    assert not erasure.edits_text_encoder and "check" not in erasure.provenance


def test_what_changes_a_denoiser_is_adopted_as_what_it_was(pair, tmp_path):
    learned = unlearn(Concept("Tokyo Tower", anchor="castle"), pair, UCEConfig())
    learned.apply(pair.t2v)
    pair.t2v.unet.save_pretrained(tmp_path / "unet")
    wanted = held(pair.t2v)
    learned.remove(pair.t2v)
    assert goes_on_and_comes_off(adopt(tmp_path / "unet", CONCEPT, pair.t2v), pair.t2v, wanted)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_what_rounding_did_is_no_change(pair, tmp_path, stored):
    other = copy.deepcopy(pair.t2v.text_encoder).to(stored)
    other.save_pretrained(tmp_path / "rounded")
    with pytest.raises(UnreelError, match="changes nothing of this model in text_encoder"):
        adopt(tmp_path / "rounded", CONCEPT, pair.t2v)
    names = nudged(other, 0.5, only="layers.1.mlp.fc1.weight")
    other.save_pretrained(tmp_path / "changed")
    erasure = adopt(tmp_path / "changed", CONCEPT, pair.t2v)
    assert set(erasure.components[0].deltas) == set(names) and len(names) == 1


@pytest.mark.usefixtures("hasty")
def test_an_image_models_changes_are_those_of_the_video_model_that_shares_what_changed(pair, tmp_path):
    other, wanted = make_pair(), held(pair.t2v)
    nudged(other.t2i.text_encoder, only="layers.0.")
    other.t2i.save_pretrained(tmp_path / "encoder-only")
    erasure = adopt(tmp_path / "encoder-only", CONCEPT, pair.t2v)
    assert [component.of for component in erasure.components] == ["text encoder"]
    assert erasure.matches(pair.t2i)
    assert goes_on_and_comes_off(erasure, pair.t2v, wanted | {"text_encoder": weights(other.t2i.text_encoder)})
    nudged(other.t2i.unet, only="attn2.to_v")  # which the video model has too, with motion modules between
    other.t2i.save_pretrained(tmp_path / "both")
    erasure = adopt(tmp_path / "both", CONCEPT, pair.t2v)
    assert [component.of for component in erasure.components] == ["text encoder", "network"]
    assert set(erasure.components[1].deltas) == set(nudged(copy.deepcopy(pair.t2i.unet), only="attn2.to_v"))


@pytest.mark.usefixtures("hasty")
def test_what_is_built_otherwise_is_left_out_and_said(pair, tmp_path):
    other = make_pair().t2i
    other.unet = UNet2DConditionModel(**{**other.unet.config, "cross_attention_dim": 8})
    other.save_pretrained(tmp_path / "unet")
    with pytest.warns(UserWarning, match="unet of .* is built otherwise than in this model, and left out"):
        refused("changes nothing of this model in text_encoder", tmp_path / "unet", pair.t2v)
    other.text_encoder = CLIPTextModel(CLIPTextConfig(**{**other.text_encoder.config.to_dict(), "intermediate_size": 8}))
    other.save_pretrained(tmp_path / "both")
    refused("is of another model", tmp_path / "both", pair.t2v)


@pytest.mark.usefixtures("hasty")
def test_another_models_weights_are_no_change_unless_it_is_named_as_the_base(pair, tmp_path):
    base = make_pair(seed=1).t2v
    base.save_pretrained(tmp_path / "base")
    names = nudged(base.unet, only="attn2.to_k")
    base.save_pretrained(tmp_path / "theirs")
    message = r"of .* differs from this model by \d+ %: it was changed from another model, which you can name as the base"
    refused(message, tmp_path / "theirs", pair.t2v)
    save_file({name: weights(base.unet)[name] for name in names}, tmp_path / "few.safetensors")
    refused(message, tmp_path / "few.safetensors", pair.t2v)
    erasure = adopt(tmp_path / "theirs", CONCEPT, pair.t2v, base=tmp_path / "base")
    assert set(erasure.components[0].deltas) == set(names) and erasure.matches(pair.t2v)
    assert erasure.provenance["parts"][0]["settings"]["base"] == "base"
    own, changed = held(pair.t2v)["unet"], held(erasure.apply(pair.t2v))["unet"]
    nudge = weights(base.unet)[names[0]] - weights(make_pair(seed=1).t2v.unet)[names[0]]
    assert torch.allclose(changed[names[0]] - own[names[0]], nudge, atol=1e-6)
    with pytest.raises(UnreelError, match=r"is not what .* was changed from: it has no"):
        adopt(tmp_path / "theirs", CONCEPT, make_pair().t2v, base=tmp_path / "theirs" / "text_encoder")


def test_of_two_components_that_fit_one_part_the_one_that_is_called_like_it_counts(pair, theirs, tmp_path):
    """As of a model with two networks, on one that has the first alone."""
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "unet").rename(tmp_path / "theirs" / "transformer")
    pair.t2v.unet.save_pretrained(tmp_path / "theirs" / "unet")
    with pytest.warns(UserWarning, match="transformer of .* is built otherwise|transformer of .* left out"):
        components, _ = changed_components(tmp_path / "theirs", pair.t2v)
    assert [component.of for component in components] == ["text encoder"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"scale": 0.0}, "a number other than 0, not 0"),
        ({"scale": float("nan")}, "a number other than 0, not nan"),
        ({"base": "nowhere.safetensors"}, "nowhere.safetensors does not exist"),
        ({"concepts": [Concept("cat"), Concept("Cat")]}, "named twice"),
        ({"concepts": Concept("cat", anchor="a dog"), "weights": "missing.safetensors"}, "does not exist"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_compared(pair, theirs, tmp_path, monkeypatch, asked, message):
    theirs.text_encoder.save_pretrained(tmp_path / "encoder")
    monkeypatch.setattr("unreel.adoption._difference", None)  # to compare would fail
    asked = {"weights": tmp_path / "encoder", "concepts": CONCEPT} | asked
    with pytest.raises(UnreelError, match=message):
        adopt(asked.pop("weights"), asked.pop("concepts"), pair.t2v, **asked)


def test_so_much_of_a_change_as_is_asked_for(pair, theirs, tmp_path):
    theirs.unet.save_pretrained(tmp_path / "unet")
    once, back = (adopt(tmp_path / "unet", CONCEPT, pair.t2v, scale=scale) for scale in (1.0, -0.5))
    for name, change in once.components[0].deltas.items():
        assert torch.equal(back.components[0].deltas[name], -0.5 * change)


@pytest.mark.usefixtures("hasty")
def test_rounding_is_told_weight_by_weight(pair, tmp_path):
    """Trained in float32 after the model was loaded in float16, which is what many scripts save."""
    other = copy.deepcopy(pair.t2v.text_encoder).half().float()
    names = nudged(other, 0.5, only="mlp.")  # more than a tenth of all numbers
    other.save_pretrained(tmp_path / "mixed")
    erasure = adopt(tmp_path / "mixed", CONCEPT, pair.t2v)
    # Biases are zero here, and so are their changes.
    assert set(erasure.components[0].deltas) == {name for name in names if name.endswith("weight")}


@pytest.mark.usefixtures("hasty")
def test_weights_that_are_no_numbers_or_too_coarse_are_refused(pair, tmp_path):
    tensors = {name: weight.clone() for name, weight in weights(pair.t2v.text_encoder).items() if "fc1.weight" in name}
    name = next(iter(tensors))
    save_file({name: tensors[name].to(torch.float8_e4m3fn)}, tmp_path / "coarse.safetensors")
    refused("holds weights as F8_E4M3", tmp_path / "coarse.safetensors", pair.t2v)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    refused("is not made of numbers", tmp_path / "nan.safetensors", pair.t2v)


def refused(message, weights, pipeline):
    with pytest.raises(UnreelError, match=message):
        adopt(weights, CONCEPT, pipeline)


def test_what_is_no_change_of_this_model_is_refused(pair, theirs, tmp_path):
    pair.t2v.unet.save_pretrained(tmp_path / "same")
    refused("changes nothing of this model in unet", tmp_path / "same", pair.t2v)
    save_file({"elsewhere.weight": torch.ones(3)}, tmp_path / "other.safetensors")
    refused(
        r"no part of this model has all of its weights \(elsewhere.weight\)",
        tmp_path / "other.safetensors",
        pair.t2v,
    )
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file({name: torch.ones(3, 3)}, tmp_path / "shape.safetensors")
    refused("is of another model", tmp_path / "shape.safetensors", pair.t2v)
    both = {name: theirs.unet.get_parameter(name).detach(), "elsewhere.weight": torch.ones(3)}
    save_file(both, tmp_path / "both.safetensors")
    refused("is of another model", tmp_path / "both.safetensors", pair.t2v)
    refused("does not exist", tmp_path / "missing", pair.t2v)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    refused("broken or cut short", tmp_path / "broken.safetensors", pair.t2v)
    torch.save({name: both[name]}, tmp_path / "esd.pt")
    refused("is a pickle, .*docs/guide/researcher.md", tmp_path / "esd.pt", pair.t2v)
    (tmp_path / "empty").mkdir()
    refused("has no weights", tmp_path / "empty", pair.t2v)


def test_what_other_code_writes_beside_weights_is_passed_over(pair, theirs, tmp_path):
    """As ComfyUI does of CLIP's text encoder."""
    changed = {name: weight.clone() for name, weight in weights(theirs.text_encoder).items()}
    more = {"logit_scale": torch.ones(()), "text_projection.weight": torch.ones(4, 16), "spiece_model": torch.ones(9)}
    for before in ("", "text_encoder."):
        save_file(more | {f"{before}{name}": weight for name, weight in changed.items()}, tmp_path / "clip.safetensors")
        components, told = changed_components(tmp_path / "clip.safetensors", pair.t2v)
        assert [component.of for component in components] == ["text encoder"] and "weights of the text_encoder" in told


def test_a_part_of_which_every_weight_differs_is_said_to_be_of_another_model(pair, tmp_path):
    other = make_pair().t2v.unet
    nudged(other, 0.01)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1e-3)  # biases of zeros too
    other.save_pretrained(tmp_path / "unet")
    with pytest.warns(UserWarning, match="every weight of the unet differs.*, which you can name as the base"):
        adopt(tmp_path / "unet", CONCEPT, pair.t2v)
    with pytest.warns(UserWarning, match="was changed from another model than the base"):
        pair.t2v.unet.save_pretrained(tmp_path / "base" / "unet")
        adopt(tmp_path / "unet", CONCEPT, pair.t2v, base=tmp_path / "base" / "unet")
    pair.t2v.unet.conv_in.bias.data.copy_(other.conv_in.bias)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adopt(tmp_path / "unet", CONCEPT, pair.t2v)  # one is the same


def test_what_is_no_change_of_weights_is_refused_with_the_way_that_there_is(pair, tmp_path):
    (tmp_path / "receler").mkdir()
    (tmp_path / "receler" / "eraser_config.json").write_text("{}")
    refused("adapters with a function between their matrices", tmp_path / "receler", pair.t2v)
    way = "; these are CompVis' names: give the file that its code writes for diffusers"
    for block, said in (("input_blocks", way), ("blocks", "")):
        save_file({f"model.diffusion_model.{block}.1.1.weight": torch.ones(2)}, tmp_path / "other.safetensors")
        refused(rf"is of another model.*\){said}$", tmp_path / "other.safetensors", pair.t2v)


@pytest.mark.usefixtures("hasty")
def test_what_is_on_the_pipeline_is_not_taken_for_its_own_weights(pair, theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    erasure = adopt(tmp_path / "theirs", CONCEPT, pair.t2v)
    erasure.apply(pair.t2v)
    refused("take it off first", tmp_path / "theirs", pair.t2v)


FITTING = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def lora(file, *modules, more=None, metadata=None, rank=2):
    """A LoRA file as diffusers writes it; returns where it is."""
    shapes = {FITTING: (8, 16)}
    tensors = {}
    for module in modules:
        out, into = shapes.get(module, (8, 16))
        tensors[f"{module}.lora_A.weight"] = torch.full((rank, into), 0.01)
        tensors[f"{module}.lora_B.weight"] = torch.full((out, rank), 0.01)
    save_file(tensors | (more or {}), file, metadata={"format": "pt"} | (metadata or {}))
    return file


@pytest.mark.usefixtures("hasty")
def test_a_lora_counts_as_it_is_loaded_with_its_scale_and_its_bias(pair, tmp_path):
    settings = {
        "unet.r": 2,
        "unet.lora_alpha": 6,
        "unet.lora_bias": True,
        "unet.target_modules": [FITTING.removeprefix("unet.")],
    }
    bias = {f"{FITTING}.lora_B.bias": torch.ones(8)}
    told = {"lora_adapter_metadata": json.dumps(settings)}
    pair.t2v.unet.requires_grad_(True)
    with pytest.raises(UnreelError, match=r"adds a bias to .*to_k, which has none"):
        adopt(lora(tmp_path / "bias.safetensors", FITTING, more=bias, metadata=told), CONCEPT, pair.t2v).apply(pair.t2v)
    settings["unet.lora_bias"] = False
    file = lora(tmp_path / "plain.safetensors", FITTING, metadata={"lora_adapter_metadata": json.dumps(settings)})
    erasure = adopt(file, CONCEPT, pair.t2v)
    (change,) = erasure.components[0].deltas.values()
    assert torch.allclose(change.dense(), torch.full((8, 16), 3 * 2 * 1e-4, dtype=torch.float64))
    assert all(weight.requires_grad for weight in pair.t2v.unet.parameters())


@pytest.mark.parametrize("settings", [{}, {"unet.r": 2, "unet.lora_alpha": 2}])
def test_a_lora_that_does_not_say_how_it_is_scaled_is_taken_as_it_stands(pair, tmp_path, recwarn, settings):
    """And that is said."""
    settings = settings and settings | {"unet.target_modules": [FITTING.removeprefix("unet.")]}
    told = {"lora_adapter_metadata": json.dumps(settings)} if settings else None
    file = lora(tmp_path / "plain.safetensors", FITTING, metadata=told)
    (change,) = adopt(file, CONCEPT, pair.t2v).components[0].deltas.values()
    assert torch.allclose(change.dense(), torch.full((8, 16), 2 * 1e-4, dtype=torch.float64))
    said = [str(one.message) for one in recwarn if "how its changes are scaled" in str(one.message)]
    assert bool(said) is not bool(settings)


def test_a_lora_whose_matrices_are_scaled_differently_is_refused(pair, tmp_path):
    names = [f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_{which}" for which in "kv"]
    tensors = {f"{name}.lora_down.weight": torch.full((2, 16), 0.01) for name in names}
    tensors |= {f"{name}.lora_up.weight": torch.full((8, 2), 0.01) for name in names}
    tensors |= {f"{name}.alpha": torch.tensor(float(i)) for i, name in enumerate(names, 1)}
    save_file(tensors, tmp_path / "kohya.safetensors")
    refused("scales its matrices differently", tmp_path / "kohya.safetensors", pair.t2v)
    passed_over = lora(tmp_path / "dotted.safetensors", FITTING, more={f"{FITTING}.alpha": torch.tensor(1.0)})
    refused(r"diffusers cannot load .*: it would pass over unet\..*to_k\.alpha", passed_over, pair.t2v)


@pytest.mark.parametrize(
    ("modules", "more", "metadata", "message"),
    [
        (["unet.elsewhere"], {}, {}, "diffusers"),
        ([FITTING, "unet.elsewhere"], {}, {}, "finds 1 of its 2 matrices"),
        (["base_model.model.text_model.encoder.layers.0.mlp.fc1"], {}, {}, "finds 0 of its 1 matrices"),
        ([FITTING], {f"{FITTING}.dora_scale": torch.ones(8)}, {}, "more than a plain LoRA"),
        ([FITTING], {"unet.conv_in.diff_b": torch.ones(8)}, {}, "more than a plain LoRA"),
        ([FITTING], {}, {"lora_adapter_metadata": '{"unet.init_lora_weights": "pissa"}'}, "more than a plain LoRA"),
        ([FITTING], {}, {"lora_adapter_metadata": '{"unet.hover": true, "unet.r": 2}'}, "diffusers cannot load"),
        ([FITTING], {}, {"lora_adapter_metadata": "["}, "no JSON object"),
    ],
)
def test_a_lora_that_would_be_loaded_in_part_is_refused_and_leaves_nothing_behind(
    pair, tmp_path, modules, more, metadata, message
):
    before = held(pair.t2v)
    refused(message, lora(tmp_path / "lora.safetensors", *modules, more=more, metadata=metadata), pair.t2v)
    after = held(pair.t2v)
    assert after.keys() == before.keys() and all(same(after[name], before[name]) for name in before)


def test_a_lora_of_another_size_leaves_nothing_behind(pair, tmp_path):
    before = held(pair.t2v)
    wide = {f"{FITTING}.lora_A.weight": torch.ones(2, 99), f"{FITTING}.lora_B.weight": torch.ones(8, 2)}
    save_file(wide, tmp_path / "wide.safetensors")
    refused("diffusers cannot load", tmp_path / "wide.safetensors", pair.t2v)
    assert all(same(now, before[name]) for name, now in held(pair.t2v).items())


@pytest.mark.usefixtures("hasty")
def test_the_command_writes_an_erasure_that_the_others_take(command, models, theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    asked = ["adopt", tmp_path / "theirs", "Tokyo Tower", "--t2v", models / "t2v", "--method", "theirs", "--quiet"]
    code, out, err = command(*asked, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["erasure"] == "runs/tokyo-tower" and said["concepts"][0]["method"] == "theirs (adopted)"
    assert "weights of the text_encoder, by " in err and "unreel evaluate runs/tokyo-tower" in err
    assert command(*asked)[0] == 2  # it exists
    code, out, _ = command(
        "generate", "a photo", "--erasure", "runs/tokyo-tower", "--t2v", models / "t2v", "--steps", 1, "--frames", 2
    )
    assert code == 0 and out.strip().endswith(".mp4")
    code, _, err = command("adopt", tmp_path / "nowhere", "Tokyo Tower", "--t2v", models / "t2v", "--out", tmp_path / "new")
    assert (code, err.count("\n")) == (2, 1) and not (tmp_path / "new").exists()
