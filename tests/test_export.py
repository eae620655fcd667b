"""What is exported loads with the libraries it is for and does what the erasure does."""

import copy
import json
import re
import shutil
import sys
from fnmatch import fnmatch

import diffusers
import huggingface_hub
import pytest
import torch
from another_device import another_device
from conftest import bars, make_pair, same, weights
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, UMT5Config, UMT5EncoderModel

from unreel import (
    Concept,
    Erasure,
    FewShotConfig,
    TextAblationConfig,
    UnreelError,
    active_interventions,
    load_intervention,
    load_pair,
    unlearn,
)
from unreel.checking import check
from unreel.interventions.erasure import ComponentDelta
from unreel.interventions.export import EXPORT_FILE, export, low_rank, stored_name
from unreel.methods import configure
from unreel.models.adapter import text_encoders
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import LowRank
from unreel.models.fingerprint import Fingerprint
from unreel.models.pipelines import TextModel, load_text_model
from unreel.models.shipped import EMBEDDED_FOLDER

PROMPTS = ["a photo of a cat", "the cat is running next to a house", "a castle"]
DOCUMENT = EMBEDDED_FOLDER.parents[2] / "docs" / "using.md"
LOW = ("peft", "lora", "comfyui")


@pytest.fixture(scope="module")
def made():
    """An erasure of low rank and one that changes whole matrices and biases, of the same encoder."""
    low = unlearn("cat", make_pair(), TextAblationConfig(layers=2, rank=3, steps=8, forget=20, retain=20, solve_retain=30))
    return {"text-ablation": low, "few-shot": unlearn("cat", make_pair(), FewShotConfig(learning_rate=1e-2))}


@pytest.fixture(params=["text-ablation", "few-shot"])
def erasure(made, request):
    return made[request.param]


@torch.no_grad()
def encode(pipeline):
    return Conditioner(pipeline.tokenizer, pipeline.text_encoder).encode(PROMPTS)


def erased(erasure, pipeline):
    erasure.apply(pipeline)
    out = encode(pipeline)
    erasure.remove(pipeline)
    return out


def left(erasure, pipeline, loaded):
    """The share of what the erasure does, squared, that is missing from the embeddings `loaded`."""
    full = erased(erasure, pipeline)
    return ((loaded - full).square().sum() / (encode(pipeline) - full).square().sum()).item()


def saved(pipeline, folder):
    """The same pipeline as `from_pretrained` makes it."""
    pipeline.save_pretrained(folder)
    return type(pipeline).from_pretrained(folder)


@pytest.mark.parametrize("from_files", [False, True])
def test_text_encoder_folders_load_and_are_the_erased_encoder_bit_for_bit(erasure, pair, tmp_path, from_files):
    pipeline = saved(pair.t2i, tmp_path / "t2i") if from_files else pair.t2i
    before = weights(pipeline.text_encoder)
    out = export(erasure, pipeline, tmp_path / "out")
    assert same(before, weights(pipeline.text_encoder)) and not active_interventions(pipeline)
    assert out.kept == 1 and out.moved[0] == out.moved[1] and not out.left_out
    file = tmp_path / "out" / "text_encoder" / "model.safetensors"
    assert all(name.startswith("text_model.") for name in load_file(file))
    loaded = CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    pipeline.save_pretrained(tmp_path / "base")
    whole = type(pipeline).from_pretrained(
        tmp_path / "base", text_encoder=loaded, tokenizer=CLIPTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    )
    erasure.apply(pipeline)
    assert same(weights(pipeline.text_encoder), weights(whole.text_encoder))
    assert torch.equal(encode(pipeline), encode(whole))
    alone = load_text_model(tmp_path / "out" / "text_encoder")
    assert same(weights(alone.text_encoder), weights(loaded))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_text_encoders_are_written_in_the_precision_they_are_stored_in(made, command, tmp_path, dtype):
    pair = make_pair()
    for name in ("t2i", "t2v"):
        getattr(pair, name).to(dtype).save_pretrained(tmp_path / name)
    made["text-ablation"].save_pretrained(tmp_path / "cat")
    code, out, err = command("export", "cat", "--format", "text-encoder", "--t2v", tmp_path / "t2v", "--out", "out")
    assert code == 0, err
    tensors = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert "kept     100.00 %" in out


@pytest.mark.parametrize("from_files", [False, True])
@pytest.mark.parametrize("how", ["load_adapter", "PeftModel"])
def test_peft_adapters_load_both_ways(erasure, pair, tmp_path, from_files, how):
    from peft import PeftModel

    pipeline = saved(pair.t2i, tmp_path / "t2i") if from_files else pair.t2i
    out = export(erasure, pipeline, tmp_path / "out", format="peft")
    other = copy.copy(pipeline)
    other.text_encoder = copy.deepcopy(pipeline.text_encoder)
    if how == "load_adapter":
        other.text_encoder.load_adapter(str(tmp_path / "out"))
    else:
        other.text_encoder = PeftModel.from_pretrained(other.text_encoder, str(tmp_path / "out"))
    assert left(erasure, pipeline, encode(other)) < (0.1 if out.left_out else 1e-8)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == config["rank_pattern"] == out.ranks["text_encoder"]


@pytest.mark.parametrize("which", ["t2i", "t2v"])
def test_lora_files_load_with_load_lora_weights_and_unload(erasure, pair, tmp_path, which):
    pipeline = getattr(pair, which)
    out = export(erasure, pipeline, tmp_path / "out", format="lora")
    plain, file = encode(pipeline), load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert all(name.startswith("text_encoder.text_model.encoder.layers.") for name in file)
    other = getattr(make_pair(), which)
    other.load_lora_weights(tmp_path / "out")
    assert left(erasure, pipeline, encode(other)) < (0.1 if out.left_out else 1e-8)
    other.unload_lora_weights()
    assert torch.equal(encode(other), plain)


def merged(encoder, file, named):
    """A copy of the encoder with up @ down * alpha / rank of every entry of a kohya file added, whatever unreel knows."""
    encoder, tensors = copy.deepcopy(encoder), load_file(file)
    for name in {key.split(".lora_")[0] for key in tensors if ".lora_" in key}:
        up, down, alpha = (tensors.pop(f"{name}.{end}") for end in ("lora_up.weight", "lora_down.weight", "alpha"))
        with torch.no_grad():
            encoder.get_parameter(named(name)).add_(up @ down * alpha / len(down))
    assert not tensors
    return encoder


def test_kohya_keys_read_by_their_definition_give_the_erased_weights(erasure, pair, tmp_path):
    out = export(erasure, pair.t2v, tmp_path / "out", format="comfyui", tolerance=0)
    names = {
        f"lora_te_text_model_encoder_layers_{i}_{part}_{matrix}": f"encoder.layers.{i}.{part}.{matrix}.weight"
        for i in range(3)
        for part, matrices in {"mlp": ("fc1", "fc2"), "self_attn": ("q_proj", "k_proj", "v_proj", "out_proj")}.items()
        for matrix in matrices
    }
    read = weights(merged(pair.t2v.text_encoder, tmp_path / "out" / "lora.safetensors", names.__getitem__))
    erasure.apply(pair.t2v)
    for name, tensor in weights(pair.t2v.text_encoder).items():
        if f"text_encoder.{name}" not in out.left_out:
            torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6)


def test_products_go_in_as_they_are_and_others_lose_no_more_than_the_tolerance(made, pair, tmp_path):
    exact = export(made["text-ablation"], pair.t2i, tmp_path / "exact", format="peft", tolerance=0.9)
    tensors = load_file(tmp_path / "exact" / "adapter_model.safetensors")
    for name, change in made["text-ablation"].components[0].deltas.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        assert torch.equal(tensors[f"{stem}.lora_B.weight"], change.up)
        assert torch.equal(tensors[f"{stem}.lora_A.weight"], change.down)
    assert exact.kept == pytest.approx(1, abs=1e-9)
    for tolerance in (0.0, 0.01, 0.3):
        for change in made["few-shot"].components[0].deltas.values():
            if change.ndim == 2:
                product = low_rank(change, tolerance)
                lost = (product.dense() - change).square().sum() / change.double().square().sum()
                assert lost <= tolerance + 1e-10
                rank = product.up.shape[1]
                fewer = product.up[:, : rank - 1].double() @ product.down[: rank - 1].double()
                assert rank == 1 or (fewer - change).square().sum() / change.double().square().sum() > tolerance
    sizes = [export(made["few-shot"], pair.t2i, tmp_path / str(t), format="peft", tolerance=t) for t in (0.0, 0.05, 0.5)]
    assert sizes[0].megabytes > sizes[1].megabytes > sizes[2].megabytes
    assert sizes[0].kept > sizes[2].kept


def test_what_does_not_change_is_a_product_of_zeros():
    product = low_rank(torch.zeros(3, 4), 0.05)
    assert product.up.shape == (3, 1) and not product.dense().any()


def test_what_is_left_out_is_named_and_its_effect_measured(made, pair, tmp_path):
    erasure = made["few-shot"]
    for format in LOW:
        out = export(erasure, pair.t2i, tmp_path / format, format=format, tolerance=0)
        assert set(out.left_out) == {
            f"text_encoder.{name}" for name in erasure.components[0].deltas if name.endswith(".bias")
        }
        assert 0 < 1 - out.kept < 0.2 and out.moved[1] == pytest.approx(out.moved[0], rel=0.2)
        assert json.loads((tmp_path / format / EXPORT_FILE).read_text())["kept"] == out.kept
        card = (tmp_path / format / "README.md").read_text()
        assert f"It keeps {100 * out.kept:.1f} %" in card and out.left_out[0] in card and erasure.concepts[0] in card


def two_clips(pair):
    """The tokenizers and text encoders of a pipeline with two CLIPs, as SDXL has them."""
    torch.manual_seed(1)
    first = pair.t2i.text_encoder
    second = CLIPTextModelWithProjection(copy.deepcopy(first.config)).eval()
    words = pair.t2i.tokenizer
    return diffusers.StableDiffusionXLPipeline(pair.t2i.vae, first, second, words, words, pair.t2i.unet, pair.t2i.scheduler)


def by_hand(encoders, layer="layers.1.mlp.fc2.weight"):
    """An erasure that changes one matrix in each of some text encoders."""
    components = []
    for encoder in encoders:
        name = next(name for name, _ in encoder.named_parameters() if name.endswith(layer))
        out, width = encoder.get_parameter(name).shape
        change = LowRank(torch.randn(out, 2), torch.randn(2, width))
        components.append(ComponentDelta({name: change}, Fingerprint.of(encoder)))
    parts = [{"concept": "cat", "kind": "object", "synonyms": [], "method": "by hand", "settings": {}}]
    return Erasure(tuple(components), {"encoder": "tiny", "versions": {"unreel": "0"}, "parts": parts})


def test_two_encoders_load_as_lora_adapters_and_folders_and_are_numbered_for_comfyui(pair, tmp_path):
    from peft import PeftModel

    pipeline = two_clips(pair)
    both = [pipeline.text_encoder, pipeline.text_encoder_2]
    erasure = by_hand(both)
    for format in ("text-encoder", *LOW):
        assert export(erasure, pipeline, tmp_path / format, format=format).kept == pytest.approx(1)
    ids = torch.tensor([[1, 5, 9, 2]])

    @torch.no_grad()
    def read(*encoders):
        return [encoder(input_ids=ids).last_hidden_state for encoder in encoders]

    plain = read(*both)
    erasure.apply(pipeline)
    wanted = read(*both)
    erasure.remove(pipeline)
    folders = [tmp_path / "text-encoder" / name for name in ("text_encoder", "text_encoder_2")]
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    whole = read(*(kind.from_pretrained(folder) for kind, folder in zip(kinds, folders, strict=True)))
    homes = [tmp_path / "peft" / name for name in ("text_encoder", "text_encoder_2")]
    adapted = read(*(PeftModel.from_pretrained(copy.deepcopy(e), str(h)) for e, h in zip(both, homes, strict=True)))
    pipeline.load_lora_weights(tmp_path / "lora")
    loaded = read(*both)
    pipeline.unload_lora_weights()
    for found in (whole, adapted, loaded):
        for a, b, c in zip(found, wanted, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(a, c, rtol=1e-2, atol=1e-2)
    names = {name.split(".")[0] for name in load_file(tmp_path / "comfyui" / "lora.safetensors")}
    assert names == {f"lora_te{i}_text_model_encoder_layers_1_mlp_fc2" for i in (1, 2)}


@pytest.fixture
def umt5(pair):
    torch.manual_seed(0)
    size = len(pair.t2i.tokenizer)
    config = UMT5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return TextModel(pair.t2i.tokenizer, UMT5EncoderModel(config).eval())


def test_other_encoders_get_the_generic_keys_of_comfyui_and_adapters_and_keep_their_tied_embeddings(umt5, tmp_path):
    erasure = by_hand([umt5.text_encoder], "block.1.layer.1.DenseReluDense.wo.weight")
    for format in ("text-encoder", "peft", "comfyui"):
        export(erasure, umt5, tmp_path / format, format=format)
    stem = "text_encoders.umt5xxl.transformer.encoder.block.1.layer.1.DenseReluDense.wo"
    tensors = load_file(tmp_path / "comfyui" / "lora.safetensors")
    assert set(tensors) == {f"{stem}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")}
    loaded = UMT5EncoderModel.from_pretrained(tmp_path / "text-encoder" / "text_encoder")
    assert loaded.shared.weight.data_ptr() == loaded.encoder.embed_tokens.weight.data_ptr()
    plain = copy.deepcopy(umt5.text_encoder)
    plain.load_adapter(str(tmp_path / "peft"))
    erasure.apply(umt5)
    assert same(weights(loaded), weights(umt5.text_encoder))
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids)[0], umt5.text_encoder(ids)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "module", "expected"),
    [
        ("T5EncoderModel", "encoder.block.2.layer.1.DenseReluDense.wo", "t5xxl.transformer.{}"),
        ("LlamaModel", "layers.3.mlp.down_proj", "llama.transformer.model.{}"),
        ("Gemma2Model", "layers.3.mlp.down_proj", "gemma2_2b.transformer.model.{}"),
    ],
)
def test_generic_names(kind, module, expected):
    model = type("Pipeline", (), {"text_encoder": type(kind, (), {})()})()
    assert stored_name("comfyui", model, "text_encoder", module) == f"text_encoders.{expected.format(module)}"
    assert stored_name("lora", model, "text_encoder", module) is None


@pytest.mark.parametrize(
    ("pipeline", "components"),
    [
        ("StableDiffusionPipeline", ["text_encoder"]),
        ("AnimateDiffPipeline", ["text_encoder"]),
        ("TextToVideoSDPipeline", ["text_encoder"]),
        ("StableDiffusionXLPipeline", ["text_encoder", "text_encoder_2"]),
        ("AnimateDiffSDXLPipeline", ["text_encoder", "text_encoder_2"]),
        ("StableDiffusion3Pipeline", ["text_encoder", "text_encoder_2"]),
        ("FluxPipeline", ["text_encoder"]),
        ("HunyuanVideoPipeline", []),
        ("Kandinsky5T2VPipeline", []),
    ],
)
def test_lora_is_offered_for_the_clips_that_diffusers_loads_it_into(pipeline, components):
    clip = type("CLIPTextModel", (), {})()
    parts = {f"text_encoder{end}": clip for end in ("", "_2", "_3")}
    model = type("Pipeline", (getattr(diffusers, pipeline),), {"__init__": lambda self: None, **parts})()
    taken = [name for name in parts if stored_name("lora", model, name, "encoder.layers.0.mlp.fc2")]
    assert taken == components


def test_what_the_documents_say_about_loading_runs(made, command, pair, tmp_path):
    pair.t2v.save_pretrained(tmp_path / "video-model")
    made["text-ablation"].save_pretrained(tmp_path / "runs" / "santa-claus")
    section = DOCUMENT.read_text().split("## Files that load elsewhere")[1].split("## Sharing")[0]
    for line in "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)).splitlines():
        code, _, err = command(*line.split()[1:])
        assert code == 0, err
    wanted, names = erased(made["text-ablation"], pair.t2v), {}
    loads = [part for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) for part in block.split("\n\n")]
    for part in loads:
        exec(part, names)
        if "pipeline" in names:
            torch.testing.assert_close(encode(names.pop("pipeline")), wanted, rtol=1e-4, atol=1e-4)
    assert len(loads) == 6


def test_refusals_name_what_works_and_write_nothing(made, umt5, pair, tmp_path):
    of_umt5 = by_hand([umt5.text_encoder], "wo.weight")
    with pytest.raises(UnreelError, match="no lora files: choose --format text-encoder or peft or comfyui"):
        export(of_umt5, umt5, tmp_path / "out", format="lora")
    biases = ComponentDelta({"encoder.layers.1.mlp.fc2.bias": torch.ones(16)}, made["few-shot"].components[0].fingerprint)
    with pytest.raises(UnreelError, match=r"choose --format text-encoder$"):
        export(Erasure((biases,), made["few-shot"].provenance), pair.t2i, tmp_path / "out", format="peft")
    with pytest.raises(UnreelError, match="another text encoder"):
        export(made["few-shot"], umt5, tmp_path / "out")
    made["text-ablation"].apply(pair.t2i)
    with pytest.raises(UnreelError, match="take it off first"):
        export(made["few-shot"], pair.t2i, tmp_path / "out")
    with pytest.raises(UnreelError, match="from 0 to below 1"):
        export(made["few-shot"], pair.t2v, tmp_path / "out", format="peft", tolerance=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx"], "unknown format 'onnx': choose from text-encoder, peft, lora, comfyui"),
        (["--format", "peft", "--tolerance", "2"], "a share from 0 to below 1"),
        (["--format", "peft", "--out", "taken"], "taken exists and is no export"),
        (["--format", "peft", "--t2v", "embedded"], "made for another text encoder"),
        (["--format", "peft", "--t2i", "embedded"], "made for another text encoder"),
        (["--format", "peft", "--t2i", "embedded:none"], "no pair ships as 'embedded:none'"),
        (["--format", "peft"], "this was made on tiny video model: add --t2v"),
        (["--format", "peft", "--t2v", "absent/at/all"], "does not exist"),
    ],
)
def test_bad_input_to_export_is_one_line_and_nothing_written(made, command, tmp_path, arguments, message):
    made["text-ablation"].save_pretrained(tmp_path / "cat")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command("export", "cat", "--out", "out", "--overwrite", *arguments)
    assert code == 2 and err.count(message) == 1 and "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_peft_the_extra_is_named(made, pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UnreelError, match=r"pip install -e '\.\[export\]'"):
        export(made["text-ablation"], pair.t2i, tmp_path / "out", format="peft")


def test_a_failed_export_leaves_nothing_and_the_erasure_off(made, pair, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = weights(pair.t2i.text_encoder)
    monkeypatch.setattr(pair.t2i.tokenizer, "save_pretrained", full)
    with pytest.raises(UnreelError, match="No space left"):
        export(made["text-ablation"], pair.t2i, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [] and same(before, weights(pair.t2i.text_encoder))


def test_the_command_says_what_it_kept_for_either_pipeline_and_replaces_only_exports(made, command, tiny, tmp_path):
    made["few-shot"].save_pretrained(tmp_path / "cat")
    for place in (tiny[:2], tiny[2:], tiny):
        code, out, err = command("export", "cat", "--format", "lora", "--out", "out", *place, "--overwrite")
        assert code == 0, err
        assert all(said in out for said in ("ranks    ", "kept     9", "moved    ", "left out ", " more", " MB"))
    code, _, err = command("export", "cat", "--format", "lora", "--out", "out", *tiny)
    assert code == 2 and "--overwrite" in err


def test_combined_erasures_do_what_both_do(made, command, tiny, pair, tmp_path):
    made["text-ablation"].save_pretrained(tmp_path / "a")
    made["few-shot"].save_pretrained(tmp_path / "b")
    code, out, err = command("combine", "a", "b", "--out", "both", *tiny[2:], "--accept-weak", "--json")
    assert code == 0 and re.search("erasure  both, of cat, [0-9.]+ MB", err), err
    assert [part["concept"] for part in json.loads(out)["concepts"]] == ["cat", "cat"]
    for erasure in made.values():
        erasure.apply(pair.t2v)
    assert active_interventions(pair.t2v) == list(made.values())
    wanted = weights(pair.t2v.text_encoder)
    for erasure in made.values():
        erasure.remove(pair.t2v)
    Erasure.from_pretrained(tmp_path / "both").apply(pair.t2v)
    for name, tensor in weights(pair.t2v.text_encoder).items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-6, atol=1e-6)
    for given in (["a"], ["a", "a"]):
        code, _, err = command("combine", *given, "--out", "again")
        assert code == 2 and "at least two erasures, each of them once" in err
    by_hand([make_pair(seed=3).t2i.text_encoder]).save_pretrained(tmp_path / "other")
    code, _, err = command("combine", "a", "other", "--out", "again")
    assert code == 2 and "different models" in err and not (tmp_path / "again").exists()


def test_a_weak_sum_is_written_only_when_that_is_accepted(made, command, tiny, tmp_path, monkeypatch):
    made["text-ablation"].save_pretrained(tmp_path / "a")
    made["few-shot"].save_pretrained(tmp_path / "b")
    arguments = ["combine", "a", "b", "--out", "both"]
    code, _, err = command(*arguments)
    assert code == 2 and "this was made on tiny video model: add --t2v" in err
    arguments += tiny[2:]
    bars(monkeypatch, -1.0)
    code, _, err = command(*arguments)
    (line,) = (line for line in err.splitlines() if line.startswith("unreel: "))
    assert code == 2 and "falls short on held-out prompts" in line and "Traceback" not in err
    assert not (tmp_path / "both").exists() and not list(tmp_path.glob(".both*"))
    code, out, err = command(*arguments, "--accept-weak")
    assert code == 0 and "weak     " in out, err
    written = Erasure.from_pretrained(tmp_path / "both").provenance["check"]
    assert written["shortfalls"] and written["residual"] is None  # few-shot aims at no anchor
    assert "Falls short" in (tmp_path / "both" / "README.md").read_text()
    bars(monkeypatch, float("inf"))
    (tmp_path / "both" / "evaluation").mkdir()
    code, out, err = command(*arguments, "--overwrite")
    assert code == 0 and "weak" not in out, err
    assert "replaces both, with its evaluation" in out and not (tmp_path / "both" / "evaluation").exists()
    assert "Falls short" not in (tmp_path / "both" / "README.md").read_text()


def test_a_sum_is_checked_where_it_is_asked_to_be(made, command, tiny, tmp_path, monkeypatch):
    for name, erasure in zip("ab", made.values(), strict=True):
        erasure.save_pretrained(tmp_path / name)
    arguments, where = ["combine", "a", "b", "--out", "both", "--accept-weak", *tiny[2:]], []

    def noted(erasure, pair):
        where.append((pair.t2v.text_encoder.device.type, pair.t2v.text_encoder.dtype))
        return check(erasure, pair)

    monkeypatch.setattr("unreel.workflow.artifacts.check", noted)
    code, _, err = command(*arguments, "--device", "abacus")
    assert code == 2 and err == "unreel: device 'abacus' is not available here: try --device cpu\n"
    assert not where and not (tmp_path / "both").exists()
    with another_device() as device:
        code, _, err = command(*arguments, "--device", device, "--dtype", "bfloat16")
    assert code == 0 and where == [("elsewhere", torch.bfloat16)], err


def test_a_sum_is_checked_on_no_model_that_nobody_but_its_file_names(made, command, models, monkeypatch):
    for name, erasure in zip("ab", made.values(), strict=True):
        record = erasure.provenance | {"encoder": str(models / "t2v"), "model": str(models / "t2v")}
        Erasure(erasure.components, record).save_pretrained(name)
    monkeypatch.setattr("unreel.workflow.artifacts.load_pair", None)  # to load anything would fail
    code, _, err = command("combine", "a", "b", "--out", "both", "--accept-weak")
    assert code == 2 and f"this was made on {models / 't2v'}: add --t2v" in err


def test_an_export_that_keeps_too_little_is_refused(made, command, tiny, tmp_path, monkeypatch):
    made["few-shot"].save_pretrained(tmp_path / "cat")
    arguments = ["export", "cat", "--format", "peft", "--out", "out", "--tolerance", "0.2", *tiny[2:]]
    monkeypatch.setattr("unreel.workflow.artifacts.LEAST_KEPT", 0.9999)
    code, _, err = command(*arguments)
    (line,) = (line for line in err.splitlines() if line.startswith("unreel: "))
    assert code == 2 and re.search(r"would keep \d+ % of what this erasure does \(bar: 100 %\)", line)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    code, out, err = command(*arguments, "--accept-weak")
    assert code == 0 and "kept     " in out, err
    document = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())
    assert document["kept"] < 0.9999
    code, out, _ = command(*arguments, "--accept-weak", "--overwrite", "--json")
    assert code == 0 and json.loads(out)["kept"] == document["kept"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of folders."""
    home = tmp_path / "hub"

    def upload_folder(*, repo_id, folder_path, commit_message, token, delete_patterns):
        there = home / repo_id
        for name in [str(file.relative_to(there)) for file in there.rglob("*") if file.is_file()]:
            if any(fnmatch(name, pattern) for pattern in delete_patterns):
                (there / name).unlink()
        shutil.copytree(folder_path, there, dirs_exist_ok=True)

    def create_repo(repo_id, *, private, token, exist_ok):
        assert exist_ok
        (home / repo_id).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, revision, allow_patterns: str(home / repo_id))
    return home


def test_pushed_and_loaded_again_it_is_the_same_and_its_card_says_what_was_measured(made, hub, tmp_path):
    erasure = Erasure(made["text-ablation"].components, {**made["text-ablation"].provenance, "encoder": "owner/base"})
    folder = erasure.save_pretrained(tmp_path / "cat")
    share = {"value": 0.02, "ci": [0.0, 0.1], "n": 50}
    figures = {"explicit": {"concept_found": {"original": share | {"value": 1.0}, "edited": share}}, "all": {}}
    document = {"figures": figures, "judge": {"name": "embedded judge"}, "model": "embedded"}
    (folder / "metrics.json").write_text(json.dumps(document))
    where = erasure.push_to_hub("owner/no-cats", folder=folder)
    assert where == "https://huggingface.co/owner/no-cats"
    assert Erasure.from_pretrained("owner/no-cats").identity == erasure.identity
    card = (hub / "owner" / "no-cats" / "README.md").read_text()
    assert "\nbase_model: owner/base\n---" in card and "concept-erasure" in card
    assert "| explicit | 100 → 2 [0, 10] |  |" in card and 'load_intervention("owner/no-cats")' in card
    assert "does not withstand" in card
    assert (
        "base_model"
        not in Erasure(erasure.components, {**erasure.provenance, "encoder": "embedded"})
        .save_pretrained(tmp_path / "local")
        .joinpath("README.md")
        .read_text()
    )


def test_an_export_says_what_was_measured_of_the_erasure(made, pair, tmp_path):
    erasure, share = made["text-ablation"], {"value": 0.02, "ci": [0.0, 0.1], "n": 50}
    folder = erasure.save_pretrained(tmp_path / "cat")
    export(erasure, pair.t2v, tmp_path / "plain", evaluated=folder)
    assert "Figures" not in (tmp_path / "plain" / "README.md").read_text()
    figures = {"explicit": {"concept_found": {"original": share | {"value": 1.0}, "edited": share}}}
    (folder / "evaluation").mkdir()
    told = folder / "evaluation" / "metrics.json"
    told.write_text(json.dumps({"figures": figures, "judge": {"name": "embedded judge"}, "model": "/home/somebody/video"}))
    export(erasure, pair.t2v, tmp_path / "told", evaluated=folder)
    card = (tmp_path / "told" / "README.md").read_text()
    assert "| explicit | 100 → 2 [0, 10] |  |" in card and "on video." in card and "somebody" not in card
    assert "These figures are of the erasure itself." in card
    told.write_text("{")
    with pytest.raises(UnreelError, match="is broken"):
        export(erasure, pair.t2v, tmp_path / "broken", evaluated=folder)
    assert not (tmp_path / "broken").exists()


def test_what_is_pushed_says_nothing_of_where_models_lie(made, hub, tmp_path):
    told = {"encoder": "/home/somebody/base", "model": "./projects/secret/video"}
    erasure = Erasure(made["text-ablation"].components, made["text-ablation"].provenance | told)
    folder = erasure.save_pretrained(tmp_path / "cat")
    document = {"figures": {"all": {}}, "judge": {"name": "embedded judge"}, "model": told["model"]}
    (folder / "metrics.json").write_text(json.dumps(document))
    erasure.push_to_hub("owner/no-cats", folder=folder)
    pushed = hub / "owner" / "no-cats"
    assert not any(private in file.read_text() for file in pushed.glob("*.json") for private in ("somebody", "secret"))
    assert json.loads((pushed / "metrics.json").read_text()) == document | {"model": "video"}
    here, there = Erasure.from_pretrained(folder), Erasure.from_pretrained("owner/no-cats")
    assert there.identity == erasure.identity
    assert there.provenance == here.provenance | {"encoder": "base", "model": "video"}
    assert here.provenance | told == here.provenance  # here it is still known what it was made on


def test_a_card_says_the_same_wherever_it_is_written_and_nothing_of_where_models_lie(made, hub, tmp_path, monkeypatch):
    """A folder may be called like a hub id, there or where the model was loaded from."""
    (tmp_path / "there" / "owner" / "base").mkdir(parents=True)
    lies = {"owner/base@v2": "owner/base@v2", "./owner/base": "base", "/home/somebody/base": "base", ".": "a folder"}
    for number, (source, told) in enumerate(lies.items()):
        erasure = Erasure(made["text-ablation"].components, {**made["text-ablation"].provenance, "encoder": source})
        folder, cards = erasure.save_pretrained(tmp_path / f"made {number}"), set()
        looked_at(folder, "cat", 0.5, source)
        for where in (tmp_path, tmp_path / "there"):
            monkeypatch.chdir(where)
            erasure.push_to_hub("owner/no-cats", folder=folder)
            cards.add((hub / "owner" / "no-cats" / "README.md").read_text())
        (card,) = cards
        assert f"the text encoder of `{told}`" in card and f", on {told}." in card
        assert ("\nbase_model: owner/base\n---" in card) == (told == source)
        assert told == source or not re.search(r"somebody|owner/base|base_model", card)


def test_a_folder_that_is_called_like_a_hub_id_is_told_from_one_in_records(models, command, hasty, tmp_path):
    shutil.copytree(models / "t2v", tmp_path / "owner" / "base")
    asked = ["--t2v", "owner/base", "--out", "made", "--accept-weak", "--frames", 2, "--steps", 1]
    code, _, err = command("unlearn", "cat", *asked, "--videos", 1, "--judge", "none")
    assert code == 0, err
    learned, card = Erasure.from_pretrained(tmp_path / "made"), (tmp_path / "made" / "README.md").read_text()
    assert (learned.provenance["encoder"], learned.model) == ("./owner/base", "./owner/base")
    assert json.loads((tmp_path / "made" / "metrics.json").read_text())["model"] == "./owner/base"
    assert "of `base`" in card and "owner" not in card
    (tmp_path / "made" / ".clips").mkdir()  # as where it was killed
    code, out, err = command("unlearn", "cat", *asked, "--videos", 1, "--judge", "none")
    assert code == 0 and "goes on  with the erasure in made" in out, err


def looked_at(folder, concept, found, model="embedded"):
    """What an evaluation leaves in a folder."""
    share = {"value": found, "ci": [0.0, 0.1], "n": 50}
    figures = {"explicit": {"concept_found": {"original": share, "edited": share}}}
    document = {"concept": concept, "figures": figures, "judge": {"name": "a judge"}, "model": model}
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(document))
    (folder / "report.html").write_text(concept)


def of_two(first, tmp_path):
    """An erasure of a robot and a toy car that changes what `first` does, and its folder."""
    parts = [part | {"concept": name} for name in ("robot", "toy car") for part in first.provenance["parts"]]
    both = Erasure(first.components, {**first.provenance, "parts": parts})
    return both, both.save_pretrained(tmp_path / "both")


def test_a_first_look_at_several_concepts_goes_with_them_and_no_figures_of_another_upload_stay(made, hub, tmp_path):
    first = made["text-ablation"]
    both, folder = of_two(first, tmp_path)
    looked_at(folder / "robot", "robot", 0.5)
    looked_at(folder / "toy-car", "toy car", 0.25)
    both.push_to_hub("owner/both", folder=folder)
    card, there = (hub / "owner" / "both" / "README.md").read_text(), hub / "owner" / "both"
    assert "## Figures of robot" in card and "50 → 50" in card and "## Figures of toy car" in card and "25 → 25" in card
    assert [(there / name / "report.html").read_text() for name in ("robot", "toy-car")] == ["robot", "toy car"]
    (there / "LICENSE").write_text("of whoever owns it")
    first.push_to_hub("owner/both")
    left = {str(file.relative_to(there)) for file in there.rglob("*") if file.is_file()}
    assert left == {"erasure.safetensors", "erasure.json", "README.md", "LICENSE"}


def test_evaluations_of_several_concepts_go_with_them_in_place_of_first_looks(made, hub, tmp_path):
    both, folder = of_two(made["text-ablation"], tmp_path)
    looked_at(folder / "robot", "robot", 0.5)
    looked_at(folder / "toy-car", "toy car", 0.5)
    (folder / "evaluation").mkdir()
    looked_at(folder / "evaluation" / "toy-car", "toy car", 0.25)
    both.push_to_hub("owner/both", folder=folder)
    there = hub / "owner" / "both"
    found = [json.loads((there / name / "metrics.json").read_text())["figures"] for name in ("robot", "toy-car")]
    assert [figures["explicit"]["concept_found"]["edited"]["value"] for figures in found] == [0.5, 0.25]
    assert "25 → 25" in (there / "README.md").read_text()


def test_figures_that_cannot_be_read_are_one_line_and_nothing_is_uploaded(made, hub, tmp_path):
    folder = made["text-ablation"].save_pretrained(tmp_path / "cat")
    for broken in ("[]", "{", '{"figures": 5}', '{"figures": {"explicit": {"concept_found": {"edited": {"ci": []}}}}}'):
        (folder / "metrics.json").write_text(broken)
        with pytest.raises(UnreelError, match=r"metrics.json is broken .*: evaluate again, or delete it") as raised:
            made["text-ablation"].push_to_hub("owner/no-cats", folder=folder)
        assert "\n" not in str(raised.value)
    assert not hub.exists()


def test_what_a_link_leads_to_is_not_published(made, hub, tmp_path):
    folder, secret = made["text-ablation"].save_pretrained(tmp_path / "cat"), tmp_path / "token"
    secret.write_text("hf_secret")
    (folder / "metrics.json").write_text('{"figures": {}}')
    (folder / "report.html").symlink_to(secret)
    with pytest.raises(UnreelError, match=r"report\.html is a link"):
        made["text-ablation"].push_to_hub("owner/no-cats", folder=folder)
    assert not hub.exists()


def test_what_a_record_says_is_text_on_its_card(made, tmp_path):
    """Whoever made an erasure chose its words: no links, pictures or headings of theirs come onto cards of ours."""
    erasure = made["text-ablation"]
    (part, *_), spoken = erasure.provenance["parts"], "](http://e) <img src=x>\n\n# Verified\n\n`x` | \x1b[2J"
    parts = [{**part, "concept": spoken, "synonyms": [spoken], "anchor": spoken, "settings": {"a": spoken}}]
    check = {"summary": spoken, "shortfalls": [spoken]}
    told = {**erasure.provenance, "parts": parts, "check": check, "encoder": f"/x/{spoken}", "versions": {"unreel": spoken}}
    card = (Erasure(erasure.components, told).save_pretrained(tmp_path / "x") / "README.md").read_text()
    assert card.count("Verified") >= 6 and not re.search(
        r"^# Verified|\x1b|(?<!\\)\]\(http|(?<!\\)<img", card, re.MULTILINE
    )


def test_a_path_with_a_slip_in_it_is_not_asked_for_at_the_hub(made, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made["text-ablation"].save_pretrained(hub / "runs" / "santa-claus")
    (tmp_path / "runs").mkdir(exist_ok=True)
    assert load_intervention("runs/santa-claus") == made["text-ablation"]  # a folder without erasures is nobody's slip
    made["text-ablation"].save_pretrained(tmp_path / "runs" / "cat")
    for load in (load_intervention, Erasure.from_pretrained):
        with pytest.raises(UnreelError, match="there is no runs/santa-claus, and it is not looked for at the hub"):
            load("runs/santa-claus")


@pytest.mark.parametrize("method", ["negative-prompt", "prompt-rewrite"])
def test_what_changes_no_weights_is_pushed_and_loaded_again_too(pair, hub, method):
    made = unlearn(Concept("cat", anchor="dog" if method == "prompt-rewrite" else None), pair, configure(method, {}))
    made.push_to_hub("owner/no-cats")
    for name in ("owner/no-cats", "owner/no-cats@v1"):
        again = load_intervention(name)
        assert type(again) is type(made) and again == made
    with pytest.raises(UnreelError, match="is no erasure, which changes weights"):
        Erasure.from_pretrained("owner/no-cats")


def test_what_the_hub_refuses_is_one_line(made, monkeypatch):
    def refuse(error):
        def call(*_, **__):
            raise error

        for name in ("create_repo", "snapshot_download"):
            monkeypatch.setattr(huggingface_hub, name, call)

    answer = type("Answer", (), {"headers": {}, "request": None, "status_code": 404})()
    refuse(RepositoryNotFoundError("404", response=answer))
    with pytest.raises(UnreelError, match="there is no folder owner/absent, and the hub has none"):
        Erasure.from_pretrained("owner/absent")
    refuse(huggingface_hub.errors.GatedRepoError("403", response=answer))
    with pytest.raises(UnreelError, match="is gated: ask for access"):
        Erasure.from_pretrained("owner/gated")
    refuse(LocalEntryNotFoundError("offline"))
    with pytest.raises(UnreelError, match=r"there is no folder owner/offline, .*the hub cannot be reached"):
        Erasure.from_pretrained("owner/offline")
    refuse(ConnectionError("no\nnetwork"))
    with pytest.raises(UnreelError, match="the hub cannot be reached"):
        made["text-ablation"].push_to_hub("owner/x")


def test_the_embedded_pair_exports_small_and_keeps_nearly_all(tmp_path):
    pair = load_pair(text_only=True)
    erasure = unlearn(Concept("castle"), pair, TextAblationConfig(steps=8, forget=30))
    for format in LOW:
        out = export(erasure, pair.t2v, tmp_path / format, format=format)
        assert out.kept > 0.9999 and out.moved[0] == pytest.approx(out.moved[1], rel=1e-3) and out.megabytes < 0.5
    assert len(text_encoders(pair.t2v)) == 1
