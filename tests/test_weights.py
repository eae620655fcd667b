"""An erasure fits the same weights whatever holds them, and takes off what is its own and nothing else."""

import contextlib
import copy
import pickle
import threading
from dataclasses import replace
from types import SimpleNamespace

import accelerate
import pytest
import torch
import transformers
from conftest import make_pair, same, weights
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from peft import LoraConfig
from readers import t5, words_tokenizer

from unreel import Concept, Erasure, Pair, TextAblationConfig, UnreelError, active_interventions, generate, unlearn
from unreel.interventions.erasure import NETWORK, ComponentDelta
from unreel.interventions.export import export
from unreel.methods import configure
from unreel.models import applied
from unreel.models.adapter import cross_attention, cross_attention_outputs, outside_cross_attention
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import LowRank, rounded_away
from unreel.models.fingerprint import Fingerprint
from unreel.models.memory import device_of
from unreel.models.pipelines import TextModel
from unreel.models.weights import held_weights, learning, own_modules, portable, quantization, set_to

MATRICES = ("q_proj", "fc1", "fc2")


def random_erasure(encoder, seed=0, concept="cat", ends=tuple(f"{name}.weight" for name in MATRICES)):
    """Of low rank, of some matrices."""
    draw = torch.Generator().manual_seed(seed)
    deltas = {
        name: LowRank(torch.randn(len(it), 2, generator=draw), 0.1 * torch.randn(2, it.shape[1], generator=draw))
        for name, it in held_weights(encoder).items()
        if name.endswith(ends)
    }
    part = {"concept": concept, "kind": "object", "synonyms": [], "method": "text-ablation", "settings": {}}
    provenance = {"encoder": "tiny", "versions": {"unreel": "0"}, "parts": [part]}
    return Erasure((ComponentDelta(deltas, Fingerprint.of(encoder)),), provenance)


@pytest.fixture
def erasure(pair):
    return random_erasure(pair.t2i.text_encoder)


@torch.no_grad()
def read(pipeline, prompt="a photo of a cat"):
    tokens = pipeline.tokenizer(prompt, padding="max_length", max_length=20, return_tensors="pt").input_ids
    return pipeline.text_encoder(tokens)[0]


def with_lora(pipeline, fused=False, seed=3):
    """As `load_lora_weights` leaves it; fused, as `fuse_lora` and `unload_lora_weights` do."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=0.1, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    pipeline.text_encoder.add_adapter(config)
    if fused:
        for module in list(pipeline.text_encoder.modules()):
            if hasattr(module, "base_layer") and hasattr(module, "merge"):
                module.merge()
        from diffusers.utils import recurse_remove_peft_layers

        recurse_remove_peft_layers(pipeline.text_encoder)
        if hasattr(pipeline.text_encoder, "peft_config"):
            del pipeline.text_encoder.peft_config
    return pipeline


# Precision


def test_what_is_stored_in_less_is_the_same_and_with_a_little_noise_in_everything_another(pair):
    encoder = pair.t2i.text_encoder
    with torch.no_grad():
        for weight in encoder.parameters():  # as after training: no ones and zeros
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    rounded = copy.deepcopy(encoder).bfloat16().float()
    for a, b in ((encoder, rounded), (rounded, encoder)):
        assert Fingerprint.of(a).stored_precision == (torch.bfloat16 if a is rounded else torch.float32)
        assert Fingerprint.of(a).fits(b) and Fingerprint.of(a).fits(copy.deepcopy(b).bfloat16())
    with torch.no_grad():
        for weight in rounded.parameters():  # some so small that float16 has no room for all of their digits
            weight.view(-1)[::7] = torch.linspace(1e-6, 7e-6, len(weight.view(-1)[::7])).bfloat16().float()
    assert Fingerprint.of(rounded).fits(copy.deepcopy(rounded).half()) and Fingerprint.of(rounded.half()).fits(
        rounded.float()
    )
    rounded = copy.deepcopy(encoder).bfloat16().float()
    noisy = copy.deepcopy(encoder)
    with torch.no_grad():
        for weight in noisy.parameters():
            weight *= 1 + 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    assert not Fingerprint.of(rounded).fits(noisy) and not Fingerprint.of(noisy).fits(rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("low_rank", [True, False])
def test_how_much_of_a_change_a_precision_has_room_for(dtype, low_rank):
    """Against what is lost when it is added, and told from some rows alone."""
    torch.manual_seed(0)
    module = torch.nn.Linear(300, 200).to(dtype)
    for size in (1e-6, 1e-4, 1e-1):
        change = LowRank(torch.randn(200, 1) * size, torch.randn(1, 300)) if low_rank else torch.randn(200, 300) * size
        exact = module.weight.detach().double() + (change.dense() if low_rank else change.double())
        lost = (exact.to(dtype).double() - exact).norm() / (exact - module.weight.detach()).norm()
        assert rounded_away(module, {"weight": change}) == pytest.approx(
            0 if dtype == torch.float32 else float(lost), rel=0.2
        )


@pytest.mark.parametrize(
    ("made", "used"), [(torch.float32, torch.float16), (torch.float16, torch.float32), (torch.bfloat16, torch.float16)]
)
def test_t5_whose_output_stays_in_float32_in_half_precision_is_the_same_encoder(made, used):
    """transformers keeps `wo` in float32 when it loads T5 in half precision, so that precisions are mixed."""

    def loaded(dtype):
        torch.manual_seed(0)
        conditioner = t5(words_tokenizer())
        for name, weight in conditioner.text_encoder.named_parameters():
            if dtype != torch.float16 or ".wo." not in name:
                weight.data = weight.data.to(dtype)
        return TextModel(conditioner.tokenizer, conditioner.text_encoder)

    erasure, model = random_erasure(loaded(made).text_encoder, ends=("wo.weight", "q.weight")), loaded(used)
    before = weights(model.text_encoder)
    erasure.apply(model)
    assert not same(before, weights(model.text_encoder))
    erasure.remove(model)
    assert same(before, weights(model.text_encoder))


def test_another_model_of_the_same_build_is_refused_and_what_differs_is_said(pair, erasure):
    with pytest.raises(UnreelError, match="another text encoder than this pipeline's: text_encoder is another model: give"):
        erasure.apply(make_pair(seed=3).t2i)
    with torch.no_grad():
        pair.t2i.text_encoder.get_input_embeddings().weight[::2] += 1
    with pytest.raises(
        UnreelError, match=r"text_encoder has other weights in embeddings\.token_embedding\.weight: unlearn"
    ):
        erasure.apply(pair.t2i)


# Names


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("text_model.encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.weight"),
        ("_orig_mod.text_model.final_layer_norm.bias", "final_layer_norm.bias"),
        ("encoder.layers.0.self_attn.q_proj.base_layer.weight", "encoder.layers.0.self_attn.q_proj.weight"),
        ("my_text_model.weight", "my_text_model.weight"),
        ("text_projection.weight", "text_projection.weight"),
    ],
)
def test_names_are_those_without_what_libraries_put_around(raw, name):
    assert portable(raw) == name


class Older(torch.nn.Module):
    """As transformers before 5.6 built CLIP's text model, with everything inside `text_model`."""

    def __init__(self, encoder):
        super().__init__()
        self.text_model, self.config = encoder, encoder.config

    def get_input_embeddings(self):
        return self.text_model.get_input_embeddings()

    def forward(self, *args, **kwargs):
        return self.text_model(*args, **kwargs)


def test_an_erasure_of_one_release_of_transformers_fits_the_other(pair, erasure, tmp_path):
    older = TextModel(pair.t2i.tokenizer, Older(copy.deepcopy(pair.t2i.text_encoder)))
    before, expected = weights(older.text_encoder), read(erasure.apply(pair.t2i))
    erasure.apply(older)
    assert torch.equal(read(older), expected)
    erasure.remove(older)
    assert same(before, weights(older.text_encoder))
    erasure.remove(pair.t2i)
    back = random_erasure(older.text_encoder)
    assert back == erasure
    assert torch.equal(read(back.apply(pair.t2i)), expected)


def test_an_erasure_stored_under_older_names_loads(pair, erasure, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = erasure.save_pretrained(tmp_path / "cat")
    file = folder / "erasure.safetensors"
    old = {name if name == "fingerprint" else f"text_model.{name}": it for name, it in load_file(file).items()}
    save_file(old, file)
    loaded = Erasure.from_pretrained(folder)
    assert loaded == erasure
    loaded.apply(pair.t2i)


# Adapters


def test_an_erasure_goes_onto_an_encoder_with_a_lora_and_comes_off_either_way(pair, erasure):
    plain = weights(pair.t2i.text_encoder)
    with_lora(pair.t2i)
    adapted, before = weights(pair.t2i.text_encoder), read(pair.t2i)
    erasure.apply(pair.t2i)
    both = read(pair.t2i)
    assert not torch.equal(both, before)
    erasure.remove(pair.t2i)
    assert same(adapted, weights(pair.t2i.text_encoder)) and torch.equal(read(pair.t2i), before)
    other = make_pair()
    erasure.apply(other.t2i)
    with_lora(other.t2i)
    torch.testing.assert_close(read(other.t2i), both)
    other.t2i.text_encoder.delete_adapter("default")
    erasure.remove(other.t2i)
    assert {portable(name) for name in weights(other.t2i.text_encoder)} >= plain.keys()
    assert all(torch.equal(it, plain[name]) for name, it in held_weights(other.t2i.text_encoder).items())


def test_a_lora_is_no_part_of_what_methods_change(pair):
    """Of the encoder, nor of the network that denoises."""
    plain, adapted = make_pair(), with_lora(pair.t2i)
    pair.t2v.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for find in (cross_attention, outside_cross_attention, cross_attention_outputs):
        own, found = find(plain.t2v.unet), find(pair.t2v.unet)
        assert list(found) == list(own) and len(own) > 1
        assert all(type(found[name]) is type(own[name]) for name in own)
    reader, bare = Conditioner.of(adapted), Conditioner.of(plain.t2i)
    names = [own_modules(each.text_encoder) for each in (reader, bare)]
    for layer in range(len(bare.layers)):
        found = [
            {part: name for name, part in own.items()}[each.attention_output(each.layers[layer])]
            for own, each in zip(names, (reader, bare), strict=True)
        ]
        assert found[0] == found[1]
    for method in ("diff-quick-fix", "hirm", "uce"):
        learned = unlearn(Concept("castle", anchor="house"), pair, configure(method, {}))
        assert not any("lora" in name or "base_layer" in name for each in learned.components for name in each.deltas)
        learned.apply(make_pair().t2v)


@pytest.mark.parametrize("format", ["text-encoder", "peft", "lora", "comfyui"])
def test_nothing_is_exported_that_would_be_saved_without_the_erasure(pair, erasure, format, tmp_path):
    with_lora(pair.t2i)
    with pytest.raises(UnreelError, match="a LoRA is on this model, and would be saved in place of the erasure"):
        export(erasure, pair.t2i, tmp_path / "made", format=format)
    half = make_pair().t2i
    for quantize in QUANTIZED:
        quantize(half.text_encoder)
        if format == "text-encoder":
            with pytest.raises(UnreelError, match="a quantized text encoder holds no erasure when it is saved"):
                export(erasure, half, tmp_path / "made", format=format)
        half = make_pair().t2i
    assert not (tmp_path / "made").exists()


def test_what_is_learned_while_a_lora_is_on_fits_without_it(pair):
    with_lora(pair.t2i)
    erasure = random_erasure(pair.t2i.text_encoder)
    assert not any("base_layer" in name or "lora" in name for name in erasure.components[0].deltas)
    plain = make_pair()
    erasure.apply(plain.t2v)
    assert active_interventions(plain.t2v) == [erasure]


def test_on_a_fused_lora_it_goes_on_with_a_warning_and_the_order_makes_no_difference(pair, erasure):
    with_lora(pair.t2i, fused=True)
    before = weights(pair.t2i.text_encoder)
    with pytest.warns(
        UserWarning, match="matrices of this text_encoder are not quite those that the erasure of cat was made for"
    ):
        erasure.apply(pair.t2i)
    both = read(pair.t2i)
    erasure.remove(pair.t2i)
    assert same(before, weights(pair.t2i.text_encoder))
    other = make_pair()
    erasure.apply(other.t2i)
    with_lora(other.t2i, fused=True)
    torch.testing.assert_close(read(other.t2i), both, rtol=1e-4, atol=1e-5)


def test_taking_an_erasure_off_leaves_a_lora_that_was_fused_meanwhile(pair, erasure):
    other, second = make_pair(), random_erasure(pair.t2i.text_encoder, seed=5, concept="robot")
    with_lora(other.t2i, fused=True)
    expected = weights(other.t2i.text_encoder)
    erasure.apply(pair.t2i)
    second.apply(pair.t2i)
    with_lora(pair.t2i, fused=True)
    second.remove(pair.t2i)
    erasure.remove(pair.t2i)
    left = weights(pair.t2i.text_encoder)
    for name, weight in expected.items():
        torch.testing.assert_close(left[name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:matrices of this text_encoder")
def test_an_erasure_that_goes_on_after_a_lora_was_fused_under_another_adds_to_both(pair, erasure):
    other, second = make_pair(), random_erasure(pair.t2i.text_encoder, seed=5, concept="robot")
    with_lora(other.t2i, fused=True)
    expected = weights(other.t2i.text_encoder)
    second.apply(other.t2i)
    with_second = weights(other.t2i.text_encoder)
    erasure.apply(pair.t2i)
    with_lora(pair.t2i, fused=True)
    second.apply(pair.t2i)
    for one, wanted in ((erasure, with_second), (second, expected)):
        one.remove(pair.t2i)
        for name, weight in weights(pair.t2i.text_encoder).items():
            torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("when", ["before", "after"])
def test_added_tokens_are_no_other_encoder(pair, erasure, when, tmp_path):
    """As `load_textual_inversion` adds them."""
    plain = weights(pair.t2i.text_encoder)
    erasure = Erasure.from_pretrained(erasure.save_pretrained(tmp_path / "cat"))
    if when == "after":
        erasure.apply(pair.t2i)
    pair.t2i.load_textual_inversion({"<toy>": torch.ones(16)}, token="<toy>")
    assert len(pair.t2i.text_encoder.get_input_embeddings().weight) > len(plain["embeddings.token_embedding.weight"])
    if when == "before":
        erasure.apply(pair.t2i)
    assert active_interventions(pair.t2i) == [erasure]
    erasure.remove(pair.t2i)
    for name, weight in weights(pair.t2i.text_encoder).items():
        assert torch.equal(weight[: len(plain[name])], plain[name])


# Compiled, offloaded, quantized


def test_a_compiled_encoder_is_the_same_encoder(pair, erasure):
    before = weights(pair.t2i.text_encoder)
    expected = read(erasure.apply(pair.t2i))
    erasure.remove(pair.t2i)
    pair.t2i.text_encoder = torch.compile(pair.t2i.text_encoder, backend="eager")
    erasure.apply(pair.t2i)
    torch.testing.assert_close(read(pair.t2i), expected)
    erasure.remove(pair.t2i)
    assert same(before, weights(pair.t2i.text_encoder._orig_mod))


def test_an_encoder_that_is_offloaded_part_by_part_is_erased_and_restored(pair, erasure):
    before, plain = weights(pair.t2i.text_encoder), read(pair.t2i)
    expected = read(erasure.apply(pair.t2i))
    erasure.remove(pair.t2i)
    accelerate.cpu_offload(pair.t2i.text_encoder, torch.device("cpu"))
    assert next(pair.t2i.text_encoder.parameters()).device.type == "meta"
    erasure.apply(pair.t2i)
    assert torch.equal(read(pair.t2i), expected)
    erasure.remove(pair.t2i)
    assert torch.equal(read(pair.t2i), plain)
    assert all(torch.equal(it, before[name]) for name, it in held_weights(pair.t2i.text_encoder).items())


def test_weights_on_disk_are_refused_where_a_change_would_be_lost(pair, erasure, tmp_path):
    accelerate.disk_offload(pair.t2i.text_encoder, tmp_path, torch.device("cpu"))
    with pytest.raises(UnreelError, match="read from disk whenever they are used"):
        erasure.apply(pair.t2i)
    assert not active_interventions(pair.t2i)


def test_what_diffusers_offloads_in_groups_computes_where_it_is_loaded_to(pair):
    apply_group_offloading(pair.t2i.text_encoder, torch.device("cuda"), offload_type="leaf_level")
    assert device_of(pair.t2i.text_encoder) == torch.device("cuda")


def test_weights_that_are_nowhere_are_said_to_be(pair, erasure):
    pair.t2i.text_encoder.to("meta")
    with pytest.raises(UnreelError, match="not in memory"):
        erasure.apply(pair.t2i)


class Packed(torch.nn.Linear):
    """Holds its weight as bitsandbytes holds four bits: as bytes of another shape, which it unpacks to compute."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__(linear.in_features, linear.out_features)
        self.scale = linear.weight.detach().abs().max() / 127
        whole = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(whole.view(torch.uint8).reshape(-1, 1), requires_grad=False)
        self.bias = linear.bias

    def forward(self, given):
        whole = self.weight.view(torch.int8).reshape(self.out_features, self.in_features) * self.scale
        return torch.nn.functional.linear(given, whole.to(given), self.bias)


def packed(encoder):
    for module in list(encoder.modules()):
        for name, part in list(module.named_children()):
            if type(part) is torch.nn.Linear:
                setattr(module, name, Packed(part))


def in_float8(encoder):
    apply_layerwise_casting(encoder, torch.float8_e4m3fn, torch.float32, skip_modules_classes=(torch.nn.Embedding,))


QUANTIZED = [packed, in_float8]


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_on_a_quantized_encoder_low_rank_changes_stand_beside_its_weights(pair, erasure, quantize):
    """They do there what they do to the original, and the quantized weights stay as they are."""
    plain = read(pair.t2i)
    expected = read(erasure.apply(pair.t2i)) - plain
    erasure.remove(pair.t2i)
    quantize(pair.t2i.text_encoder)
    before, own = weights(pair.t2i.text_encoder), read(pair.t2i)
    assert not torch.equal(own, plain)
    erasure.apply(pair.t2i)
    assert active_interventions(pair.t2i) == [erasure] and same(before, weights(pair.t2i.text_encoder))
    done = read(pair.t2i) - own
    assert float((done - expected).norm() / expected.norm()) < 0.2
    with pytest.raises(UnreelError, match="already on this pipeline"):
        erasure.apply(pair.t2i)
    other = random_erasure(make_pair().t2i.text_encoder, seed=1, concept="dog")
    other.apply(pair.t2i)
    erasure.remove(pair.t2i)
    assert active_interventions(pair.t2i) == [other]
    other.remove(pair.t2i)
    assert torch.equal(read(pair.t2i), own) and same(before, weights(pair.t2i.text_encoder))


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_what_torch_has_compiled_sees_what_stands_beside(pair, erasure, quantize):
    quantize(pair.t2i.text_encoder)
    own = read(pair.t2i)
    expected = read(erasure.apply(pair.t2i))
    erasure.remove(pair.t2i)
    pair.t2i.text_encoder = torch.compile(pair.t2i.text_encoder, backend="eager")
    torch.testing.assert_close(read(pair.t2i), own)
    torch.testing.assert_close(read(erasure.apply(pair.t2i)), expected)
    erasure.remove(pair.t2i)
    torch.testing.assert_close(read(pair.t2i), own)


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_an_erasure_that_was_quantized_along_with_its_encoder_does_not_come_off(pair, erasure, quantize):
    erasure.apply(pair.t2i)
    quantize(pair.t2i.text_encoder)
    before = read(pair.t2i)
    with pytest.raises(UnreelError, match="quantized while an erasure was in it"):
        erasure.remove(pair.t2i)
    assert torch.equal(read(pair.t2i), before)


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_the_configuration_of_a_quantized_encoder_does_not_say_what_no_file_holds(pair, erasure, quantize):
    quantize(pair.t2i.text_encoder)
    erasure.apply(pair.t2i)
    assert not hasattr(pair.t2i.text_encoder.config, "unreel_erased")
    erasure.remove(pair.t2i)


def test_how_weights_are_quantized_tells_models_apart():
    encoders = [make_pair().t2i.text_encoder for _ in range(3)]
    for quantize, encoder in zip(QUANTIZED, encoders[1:], strict=True):
        quantize(encoder)
    assert len({quantization(encoder) for encoder in encoders}) == 3 and quantization(encoders[0]) == ""


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_a_quantized_encoder_of_another_model_is_refused(pair, erasure, quantize):
    other = make_pair(seed=5).t2i
    quantize(other.text_encoder)
    with pytest.raises(UnreelError, match="another text encoder than this pipeline's: text_encoder is quantized"):
        erasure.apply(other)


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_changes_of_full_rank_and_learning_are_refused_where_weights_are_quantized(pair, erasure, quantize):
    deltas = {name: change.dense().float() for name, change in erasure.components[0].deltas.items()}
    whole = Erasure((ComponentDelta(deltas, erasure.components[0].fingerprint),), erasure.provenance)
    quantize(pair.t2i.text_encoder)
    before, own = weights(pair.t2i.text_encoder), read(pair.t2i)
    with pytest.raises(UnreelError, match="is quantized, and its change is of full rank") as raised:
        whole.apply(pair.t2i)
    assert "\n" not in str(raised.value) and "export" in str(raised.value)
    network = Erasure((replace(whole.components[0], of=NETWORK),), erasure.provenance)
    pair.t2i.unet = pair.t2i.text_encoder
    with pytest.raises(UnreelError, match=r"cannot stand beside it: apply the erasure before quantizing$"):
        network.apply(pair.t2i)
    with pytest.raises(UnreelError, match="CLIPTextModel is quantized, and learns nothing exactly"):
        unlearn("cat", Pair(pair.t2i, pair.t2i, "tiny", "tiny"), TextAblationConfig(steps=1))
    negative = unlearn("cat", Pair(pair.t2i, pair.t2i, "tiny", "tiny"), configure("negative-prompt", {}))
    assert negative.identity == "negative prompt: cat", "which learns nothing"
    assert same(before, weights(pair.t2i.text_encoder)) and torch.equal(read(pair.t2i), own)


# Made, loaded or held in other ways


def under_inference_mode(encoder):
    with torch.inference_mode():
        for name, weight in list(encoder.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            setattr(encoder.get_submodule(owner), leaf, torch.nn.Parameter(weight.clone()))


def assigned(encoder):
    encoder.load_state_dict({name: it.clone() for name, it in encoder.state_dict().items()}, assign=True)


def transposed_in_memory(encoder):
    for weight in encoder.parameters():
        weight.data = weight.data.t().contiguous().t() if weight.ndim == 2 else weight.data


@pytest.mark.parametrize(
    "held",
    [
        under_inference_mode,
        assigned,
        transposed_in_memory,
        torch.nn.Module.share_memory,
        torch.nn.Module.train,
        lambda encoder: encoder.compile(backend="eager"),
        lambda encoder: apply_group_offloading(encoder, torch.device("cpu"), offload_type="leaf_level"),
    ],
)
def test_an_erasure_goes_on_and_off_however_weights_are_held(pair, erasure, held):
    expected = read(erasure.apply(pair.t2i))
    erasure.remove(pair.t2i)
    plain, before = read(pair.t2i), weights(pair.t2i.text_encoder)
    held(pair.t2i.text_encoder)
    erasure.apply(pair.t2i)
    torch.testing.assert_close(read(pair.t2i), expected)
    erasure.remove(pair.t2i)
    assert same(before, weights(pair.t2i.text_encoder)) and torch.equal(read(pair.t2i), plain)


def test_what_was_loaded_under_inference_mode_is_not_learned_on(pair):
    under_inference_mode(pair.t2i.text_encoder)
    with pytest.raises(UnreelError, match=r"moved, under torch\.inference_mode, where nothing learns: load it outside"):
        unlearn("cat", Pair(pair.t2i, pair.t2i, "tiny", "tiny"), TextAblationConfig(steps=1))
    assert unlearn("cat", Pair(pair.t2i, pair.t2i, "tiny", "tiny"), configure("negative-prompt", {})).concepts == ["cat"]


@pytest.mark.parametrize("quantize", QUANTIZED)
@pytest.mark.parametrize("method", ["uce", "esd", "refusal-vector", "t2v-unlearning"])
def test_a_quantized_denoiser_is_not_edited(quantize, method):
    pair = make_pair()
    quantize(pair.t2v.unet)
    with pytest.raises(UnreelError, match="UNetMotionModel is quantized, and learns nothing exactly"):
        unlearn("cat", pair, configure(method, {}))


def test_original_weights_that_are_loaded_while_an_erasure_is_on_stay(pair, erasure):
    before = weights(pair.t2i.text_encoder)
    other = random_erasure(pair.t2i.text_encoder, seed=1, concept="dog")
    for worn in ([erasure], [erasure, other]):
        for one in worn:
            one.apply(pair.t2i)
        pair.t2i.text_encoder.load_state_dict(before)
        for one in worn:
            one.remove(pair.t2i)
        assert same(before, weights(pair.t2i.text_encoder))


def test_whatever_is_loaded_in_place_of_the_weights_while_an_erasure_is_on_stays(pair, erasure):
    rounded = {name: it.half().float() for name, it in weights(pair.t2i.text_encoder).items()}
    for loaded in (rounded, weights(make_pair(seed=5).t2i.text_encoder)):
        erasure.apply(pair.t2i)
        pair.t2i.text_encoder.load_state_dict(loaded)
        erasure.remove(pair.t2i)
        assert same(loaded, weights(pair.t2i.text_encoder))
        pair.t2i.text_encoder.load_state_dict(weights(make_pair().t2i.text_encoder))


def added_meanwhile(pair, erasure, shares, size=3.0):
    """While the erasure is on, `shares` of its changes and something else of that size, by matrix in turn, are added to the
    weights, as a LoRA is fused; returns what was added.
    """
    held, draw = held_weights(pair.t2i.text_encoder), torch.Generator().manual_seed(1)
    added = {}
    for index, (name, change) in enumerate(erasure.components[0].deltas.items()):
        change = change.dense()
        other = torch.randn(change.shape, generator=draw, dtype=change.dtype)
        other -= (other * change).sum() / change.square().sum() * change  # goes neither with the erasure nor against it
        added[name] = shares[index % len(shares)] * change + size * change.norm() / other.norm() * other
        with torch.no_grad():
            held[name] += added[name].to(held[name])
    return added


@pytest.mark.parametrize("shares", [(0.3, -0.4), (-1.0, 0.1, 0.1), (-2.0, 1.5)])
def test_of_a_lora_that_goes_against_an_erasure_in_some_matrices_all_is_left(pair, erasure, shares):
    original = {name: weight.double() for name, weight in held_weights(pair.t2i.text_encoder).items()}
    erasure.apply(pair.t2i)
    added = added_meanwhile(pair, erasure, shares)
    erasure.remove(pair.t2i)
    for name, weight in held_weights(pair.t2i.text_encoder).items():
        torch.testing.assert_close(weight.double(), original[name] + added.get(name, 0), rtol=1e-5, atol=1e-5)


def test_what_takes_an_erasure_back_as_a_whole_is_taken_for_other_weights_and_stays(pair, erasure):
    """Nothing tells a LoRA that undoes it from a model that was put in place: what is there is left alone."""
    erasure.apply(pair.t2i)
    added_meanwhile(pair, erasure, (-1.0,))
    there = weights(pair.t2i.text_encoder)
    erasure.remove(pair.t2i)
    assert same(there, weights(pair.t2i.text_encoder)) and active_interventions(pair.t2i) == []


def test_of_two_encoders_one_that_differs_is_not_left_out_silently(pair):
    """It goes on with a warning where a LoRA may have been fused, and the whole erasure is refused where it is another."""
    one, other = (make_pair(seed=seed).t2i.text_encoder for seed in (0, 5))
    components = (random_erasure(one).components[0], random_erasure(other).components[0])
    both = Erasure(components, random_erasure(one).provenance)
    model = SimpleNamespace(text_encoder=one, text_encoder_2=other)
    fused, another = copy.deepcopy(other), make_pair(seed=6).t2i.text_encoder
    with torch.no_grad():
        next(it for name, it in fused.named_parameters() if name.endswith("fc1.weight")).mul_(1.01)
    model.text_encoder_2 = fused
    before = [weights(encoder) for encoder in (one, fused)]
    with pytest.warns(UserWarning, match="text_encoder_2 are not quite those"):
        both.apply(model)
    assert active_interventions(SimpleNamespace(text_encoder=fused)) == [both]
    both.remove(model)
    assert all(map(same, before, [weights(encoder) for encoder in (one, fused)]))
    model.text_encoder_2 = another
    with pytest.raises(UnreelError, match="another text encoder than this pipeline's: text_encoder_2 is another model"):
        both.apply(model)
    assert same(before[0], weights(one))
    both.apply(SimpleNamespace(text_encoder=one))  # a model that has but one of the two


def test_a_pipeline_without_text_encoder_is_told_so(pair, erasure):
    pair.t2i.text_encoder = None
    with pytest.raises(UnreelError, match="this StableDiffusionPipeline has no text encoder"):
        erasure.apply(pair.t2i)


def test_a_token_table_that_is_copied_rather_than_tied_is_the_same_encoder():
    """So transformers has loaded UMT5, which Wan reads with, in some releases."""
    encoder = t5(words_tokenizer()).text_encoder
    erasure = random_erasure(encoder, ends=(".wo.weight",))
    untied = copy.deepcopy(encoder)
    untied.encoder.embed_tokens = torch.nn.Embedding.from_pretrained(encoder.shared.weight.detach().clone())
    assert len(held_weights(untied)) == len(held_weights(encoder)) + 1
    erasure.apply(TextModel(words_tokenizer(), untied))
    table = {"shared.weight": torch.ones_like(encoder.shared.weight)}
    of_table = Erasure(
        (ComponentDelta(table, erasure.components[0].fingerprint),), random_erasure(encoder, seed=3).provenance
    )
    of_table.apply(TextModel(words_tokenizer(), untied))
    assert torch.equal(untied.encoder.embed_tokens.weight, untied.shared.weight)
    assert torch.equal(untied.shared.weight, encoder.shared.weight + 1)
    of_table.remove(TextModel(words_tokenizer(), untied))
    with torch.no_grad():
        untied.encoder.embed_tokens.weight.add_(1)
    with pytest.raises(UnreelError, match="another text encoder"):
        random_erasure(encoder, seed=2, ends=(".wo.weight",)).apply(TextModel(words_tokenizer(), untied))


# Copies, files, threads


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_a_copy_knows_what_is_on_it_and_takes_it_off(pair, erasure, copied):
    before = weights(pair.t2i.text_encoder)
    erasure.apply(pair.t2i)
    other = TextModel(pair.t2i.tokenizer, copied(pair.t2i.text_encoder))
    assert active_interventions(other) == [erasure]
    erasure.remove(other)
    assert same(before, weights(other.text_encoder)) and active_interventions(pair.t2i) == [erasure]
    erasure.remove(pair.t2i)
    assert same(before, weights(pair.t2i.text_encoder))


def test_an_encoder_that_was_saved_with_an_erasure_in_it_says_so_when_loaded(pair, erasure, tmp_path):
    erasure.apply(pair.t2i)
    pair.t2i.text_encoder.save_pretrained(tmp_path / "worn")
    erasure.remove(pair.t2i)
    pair.t2i.text_encoder.save_pretrained(tmp_path / "plain")
    worn, plain = (transformers.CLIPTextModel.from_pretrained(tmp_path / name) for name in ("worn", "plain"))
    with pytest.raises(UnreelError, match="text_encoder was saved with an erasure of cat in it: load the original"):
        erasure.apply(TextModel(pair.t2i.tokenizer, worn))
    erasure.apply(TextModel(pair.t2i.tokenizer, plain))


def test_the_same_erasure_goes_on_once_wherever_it_was_loaded_from(pair, erasure, tmp_path):
    folder = erasure.save_pretrained(tmp_path / "cat")
    first, second = Erasure.from_pretrained(folder), Erasure.from_pretrained(folder)
    assert first == second == erasure and len({first, second, erasure}) == 1
    first.apply(pair.t2i)
    with pytest.raises(UnreelError, match="already on"):
        second.apply(pair.t2i)
    second.remove(pair.t2i)
    assert not active_interventions(pair.t2i)
    with pytest.raises(UnreelError, match="the same erasure"):
        first + second


@pytest.mark.parametrize("bad", ["shape", "name"])
def test_a_change_that_does_not_fit_changes_nothing(pair, erasure, bad):
    before, (component,) = weights(pair.t2i.text_encoder), erasure.components
    last = list(component.deltas)[-1]
    change = component.deltas[last]
    wrong = {last: LowRank(change.up[:-1], change.down)} if bad == "shape" else {"nowhere.weight": change}
    broken = Erasure((ComponentDelta({**component.deltas, **wrong}, component.fingerprint),), erasure.provenance)
    with pytest.raises(UnreelError, match="does not fit"):
        broken.apply(pair.t2i)
    assert same(before, weights(pair.t2i.text_encoder)) and not active_interventions(pair.t2i)


def test_what_does_not_fit_one_of_two_encoders_goes_onto_neither(pair):
    first, second = pair.t2i.text_encoder, make_pair(seed=4).t2i.text_encoder
    model = SimpleNamespace(text_encoder=first, text_encoder_2=second, tokenizer=None, tokenizer_2=None)
    good, (component,) = random_erasure(first), random_erasure(second).components
    wrong = ComponentDelta({**component.deltas, "nowhere.weight": torch.ones(1)}, component.fingerprint)
    before = weights(first)
    with pytest.raises(UnreelError, match="does not fit"):
        Erasure((*good.components, wrong), good.provenance).apply(model)
    assert same(before, weights(first)) and not active_interventions(model)


def test_an_interrupted_apply_changes_nothing(pair, erasure, monkeypatch):
    before, seen = weights(pair.t2i.text_encoder), []
    dense = LowRank.dense

    def interrupted(self):
        seen.append(self)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return dense(self)

    monkeypatch.setattr(LowRank, "dense", interrupted)
    with pytest.raises(KeyboardInterrupt):
        erasure.apply(pair.t2i)
    assert same(before, weights(pair.t2i.text_encoder)) and not active_interventions(pair.t2i)


@pytest.mark.parametrize("comes_off", [False, True])
def test_where_memory_is_short_for_going_on_and_back_nothing_is_called_on_that_is_not(pair, comes_off, monkeypatch):
    encoder, other = pair.t2i.text_encoder, random_erasure(pair.t2i.text_encoder, 1, "dog")
    erasure, before, sums = random_erasure(encoder), weights(encoder), []
    other.apply(pair.t2i)
    if comes_off:
        erasure.apply(pair.t2i)
    set_weight = applied.set_weight

    def short(weight, value):
        sums.append(value)
        if len(sums) > 1 and not any(value is base for base in vars(encoder)["_unreel_applied"].base.values()):
            raise torch.OutOfMemoryError
        set_weight(weight, value)

    with monkeypatch.context() as patch:
        patch.setattr(applied, "set_weight", short)
        with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="all erasures were taken off"):
            (erasure.remove if comes_off else erasure.apply)(pair.t2i)
    assert not active_interventions(pair.t2i) and same(before, weights(encoder))
    assert not hasattr(encoder.config, "unreel_erased")
    with other.on(pair.t2i), erasure.on(pair.t2i):
        assert active_interventions(pair.t2i) == [other, erasure]
    assert same(before, weights(encoder))


def test_where_one_of_two_encoders_has_no_memory_left_no_erasure_stays_on_the_other(pair, monkeypatch):
    first, second = pair.t2i.text_encoder, make_pair(seed=4).t2i.text_encoder
    model = SimpleNamespace(text_encoder=first, text_encoder_2=second, tokenizer=None, tokenizer_2=None)
    cat, dog = (
        Erasure(
            (*(one := random_erasure(first, seed, name)).components, *random_erasure(second, seed).components),
            one.provenance,
        )
        for seed, name in enumerate(("cat", "dog"))
    )
    before, renew = [weights(first), weights(second)], applied._renew
    cat.apply(model)

    def short(on, held, *rest, **options):
        if any(weight is held[name] for name, weight in held_weights(second).items()):
            raise torch.OutOfMemoryError
        renew(on, held, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(applied, "_renew", short)
        with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="all erasures were taken off"):
            dog.apply(model)
    assert not active_interventions(model) and same(before[0], weights(first)) and same(before[1], weights(second))


def test_an_erasure_of_the_denoiser_leaves_the_mark_of_a_text_encoder_that_was_saved_with_one(pair):
    pair.t2v.text_encoder.config.unreel_erased = ["dog"]
    with unlearn("cat", pair, configure("uce", {})).on(pair.t2v):
        assert pair.t2v.text_encoder.config.unreel_erased == ["dog"]
    assert pair.t2v.text_encoder.config.unreel_erased == ["dog"]


def test_what_becomes_of_its_file_changes_nothing_of_an_erasure_that_was_loaded(pair, erasure, tmp_path):
    folder = erasure.save_pretrained(tmp_path / "cat")
    loaded = Erasure.from_pretrained(folder)
    file = folder / "erasure.safetensors"
    file.write_bytes(b"\0" * file.stat().st_size)  # in place, as cp does
    with loaded.on(pair.t2i):
        there = weights(pair.t2i.text_encoder)
    with erasure.on(pair.t2i):
        assert same(there, weights(pair.t2i.text_encoder))


@pytest.mark.parametrize("method", ["uce", "video-eraser"])
def test_a_compiled_denoiser_is_changed_as_one_that_is_not(method):
    """Compiled modules may pass over hooks, which methods find with what to change, or guide with."""
    made, videos = [], []
    for compiled in (False, True):
        pair = make_pair()
        if compiled:
            pair.t2v.unet = torch.compile(pair.t2v.unet, backend="eager")
            generate(pair.t2v, ["a cat"], [0], pair.settings)
        made.append(unlearn("cat", pair, configure(method, {})))
        with made[-1].on(pair.t2v):
            videos.append(generate(pair.t2v, ["a cat"], [0], pair.settings))
    assert made[0] == made[1] and (videos[0] == videos[1]).all()


def test_threads_that_apply_and_remove_see_whole_erasures_only(pair):
    erasures = [random_erasure(pair.t2i.text_encoder, seed, name) for seed, name in enumerate(("cat", "dog", "owl"))]
    plain, before = read(pair.t2i), weights(pair.t2i.text_encoder)
    expected, wrong = {}, []
    for erasure in erasures:
        with erasure.on(pair.t2i):
            expected[erasure.identity] = read(pair.t2i)
    assert len({str(it) for it in expected.values()} | {str(plain)}) == 4

    def serve(erasure):
        try:
            for _ in range(15):
                with erasure.on(pair.t2i) as pipeline:
                    if not torch.equal(read(pipeline), expected[erasure.identity]):
                        wrong.append(erasure.concepts)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=serve, args=(erasure,)) for erasure in erasures * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and same(before, weights(pair.t2i.text_encoder)) and not active_interventions(pair.t2i)


def test_a_generation_waits_for_its_turn(pair, erasure, monkeypatch):
    order = []
    monkeypatch.setattr("unreel.models.sampling._batches", lambda *_, **__: order.append("made") or [])

    def other():
        with contextlib.suppress(Exception):
            generate(pair.t2v, ["a cat"], [0], pair.settings)

    with erasure.on(pair.t2v):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("off")
    thread.join()
    assert order == ["off", "made"]


def test_a_failed_request_takes_its_erasure_off(pair, erasure):
    before = weights(pair.t2i.text_encoder)
    with pytest.raises(KeyboardInterrupt), erasure.on(pair.t2i):
        raise KeyboardInterrupt
    assert same(before, weights(pair.t2i.text_encoder))


# Learning


def compiled(pipeline):
    pipeline.text_encoder = torch.compile(pipeline.text_encoder, backend="eager")


def offloaded(pipeline):
    accelerate.cpu_offload(pipeline.text_encoder, torch.device("cpu"))


def with_tokens(pipeline):
    pipeline.load_textual_inversion({"<toy>": torch.ones(16)}, token="<toy>")


def with_idle_lora(pipeline):
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])  # adds nothing before it has learned
    pipeline.text_encoder.add_adapter(config)


@pytest.mark.parametrize("held", [compiled, offloaded, with_tokens, with_idle_lora])
def test_what_is_learned_does_not_depend_on_how_the_encoder_is_held(pair, held):
    config = TextAblationConfig(layers=2, rank=2, steps=3, forget=20, retain=20, solve_retain=30)
    expected = unlearn(Concept("cat", anchor="dog"), pair, config)
    other = make_pair()
    before = weights(other.t2i.text_encoder)
    held(other.t2i)
    made = unlearn(Concept("cat", anchor="dog"), Pair(other.t2i, other.t2i, "held", "held", other.settings), config)
    assert made.components[0].deltas.keys() == expected.components[0].deltas.keys()
    for name, change in expected.components[0].deltas.items():
        torch.testing.assert_close(made.components[0].deltas[name].dense(), change.dense(), rtol=1e-4, atol=1e-7)
    made.apply(pair.t2v)
    encoder = getattr(other.t2i.text_encoder, "_orig_mod", other.t2i.text_encoder)
    assert all(torch.equal(it[: len(before[name])], before[name]) for name, it in held_weights(encoder).items())


def test_what_learns_is_copied_once_and_stands_as_it_was_wherever_that_is_asked_for(pair):
    reader = pair.t2v.text_encoder.requires_grad_(False)
    own = dict(reader.named_parameters())
    names = [name for name in own if name.endswith("q_proj.weight")]
    found = weights(reader)
    with learning({name: own[name] for name in names}) as before:
        assert same(before, {name: found[name] for name in names}) and all(own[name].requires_grad for name in names)
        own[names[0]].data += 1
        with torch.no_grad(), set_to({name: own[name] for name in names}, before):
            assert same(weights(reader), found)
        assert torch.equal(own[names[0]], before[names[0]] + 1)
    assert same(weights(reader), found) and not any(weight.requires_grad for weight in own.values())
