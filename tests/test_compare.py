"""What `unreel check` says of models on disk."""

import json
import shutil
import weakref
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import make_pair
from huggingface_hub.utils import filter_repo_objects
from pipelines import hunyuan_image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, T5Config, T5EncoderModel, T5ForConditionalGeneration

from unreel import UnreelError
from unreel.models.compare import Stored, encoders_of, fetch, grouped
from unreel.models.pipelines import load_pipeline
from unreel.models.shipped import EMBEDDED_FOLDER

TOKENIZER = EMBEDDED_FOLDER / "image" / "tokenizer"


def save(folder: Path, tensors: dict, kind: str = "CLIPTextModel") -> Path:
    """A text encoder alone, of raw tensors, with its tokenizer."""
    shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [kind]}))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def clip() -> dict:
    return make_pair().t2i.text_encoder.state_dict()


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    """No model is ever loaded."""
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)


def groups(*folders: Path):
    return grouped([encoder for folder in folders for encoder in encoders_of(folder, folder.name)])


def members(*folders: Path) -> list[list[str]]:
    return [[member.title for member in group.members] for group in groups(*folders)]


def test_the_embedded_pair_shares_its_encoder():
    (group,) = groups(EMBEDDED_FOLDER / "image", EMBEDDED_FOLDER / "video")
    assert group.shared
    assert str(group).splitlines() == [
        "text_encoder of image",
        "text_encoder of video",
        "    CLIPTextModel, 0.9 M weights, float16: shared",
    ]


def test_how_a_version_names_clip_tensors_makes_no_difference(tmp_path, clip):
    bare = {name.removeprefix("text_model."): tensor for name, tensor in clip.items()}
    old = {f"text_model.{name}": tensor for name, tensor in bare.items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    assert members(save(tmp_path / "a", bare), save(tmp_path / "b", old)) == [["a", "b"]]


def test_how_t5_names_its_embedding_makes_no_difference_and_the_decoder_is_ignored(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    whole = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).state_dict()
    encoder = {name: tensor for name, tensor in whole.items() if name.startswith("encoder.")}
    assert {"shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"} <= whole.keys()
    shared = {"shared.weight": whole["shared.weight"], **encoder}
    del shared["encoder.embed_tokens.weight"]
    alone = T5EncoderModel(T5Config(**sizes))
    alone.load_state_dict(encoder, strict=False)
    alone.save_pretrained(tmp_path / "saved")
    parts = {"whole": whole, "encoder": encoder, "shared": shared, "saved": load_file(tmp_path / "saved/model.safetensors")}
    assert members(*(save(tmp_path / name, tensors) for name, tensors in parts.items())) == [list(parts)]


def test_a_model_that_sees_too_shares_its_language_part(tmp_path):
    """HunyuanImage saves all of Qwen2.5-VL, HunyuanVideo 1.5 the part that reads."""
    whole = hunyuan_image().text_encoder
    whole.save_pretrained(tmp_path / "saved")
    reading = {name: tensor.clone() for name, tensor in whole.model.language_model.state_dict().items()}
    seeing = load_file(tmp_path / "saved" / "model.safetensors")
    assert any("visual" in name for name in seeing)
    folders = [save(tmp_path / name, tensors) for name, tensors in {"image": seeing, "video": reading}.items()]
    assert members(*folders) == [["image", "video"]]
    reading["layers.1.mlp.down_proj.weight"][3, 4] += 1
    changed = save(tmp_path / "changed", reading)
    assert groups(folders[0], changed)[1].differs == ["layers.1.mlp.down_proj.weight"]


def test_other_precisions_compare_in_the_lower_of_the_two(tmp_path, clip):
    near = {name: tensor.clone() for name, tensor in clip.items()}
    near["final_layer_norm.weight"] *= 1 + 1e-6  # the same in half precision
    half = {name: tensor.half() for name, tensor in clip.items()}
    folders = save(tmp_path / "full", clip), save(tmp_path / "half", half), save(tmp_path / "near", near)
    assert members(*folders[:2]) == [["full", "half"]] and members(*folders[1:]) == [["half", "near"]]
    both, other = groups(*folders)
    assert "float32 or float16: shared" in str(both)
    assert other.nearest and other.nearest.title == "full" and other.differs == ["final_layer_norm.weight"]


def test_one_changed_weight_is_found_wherever_it_is_and_the_nearest_is_named(tmp_path, clip):
    learned, tuned = ({name: tensor.clone() for name, tensor in clip.items()} for _ in range(2))
    learned["embeddings.token_embedding.weight"][7, 0] += 1e-3  # a learned word: no row that a sample would see
    for tensor in tuned.values():
        tensor += 1e-3
    also = {**tuned, "final_layer_norm.bias": clip["final_layer_norm.bias"] + 5}
    parts = {"base": clip, "learned": learned, "tuned": tuned, "also": also}
    folders = {name: save(tmp_path / name, tensors) for name, tensors in parts.items()}
    found = {group.members[0].title: group for group in groups(*folders.values())}
    assert list(found) == list(parts)
    assert str(found["learned"]).splitlines()[1:] == [
        "    CLIPTextModel, 0.0 M weights, float32: not shared",
        f"    differs from base in 1 of {len(clip)} tensors, first embeddings.token_embedding.weight",
    ]
    assert found["tuned"].differs == sorted(clip)
    assert found["also"].nearest and found["also"].nearest.title == "tuned"
    again = save(tmp_path / "again", learned)
    assert members(folders["base"], folders["learned"], again) == [["base"], ["learned", "again"]]


def test_encoders_of_almost_one_structure_are_compared_others_are_not(tmp_path, clip):
    cut = {name: tensor for name, tensor in clip.items() if "layers.2." not in name}
    projected = {**clip, "text_projection.weight": torch.ones(4, 4)}
    other = {name: torch.zeros(3, *tensor.shape) for name, tensor in clip.items()}
    parts = {"whole": clip, "projected": projected, "cut": cut, "other": other}
    _, second, third, fourth = groups(*(save(tmp_path / name, tensors) for name, tensors in parts.items()))
    assert second.differs == ["text_projection.weight (only in one)"]
    assert third.differs == sorted(f"{name} (only in one)" for name in clip.keys() - cut.keys())
    assert fourth.nearest is None


def test_shards_are_read_as_one(tmp_path):
    pair = make_pair()
    for name, size in {"whole": "1GB", "shards": "20KB"}.items():
        pair.t2i.text_encoder.save_pretrained(tmp_path / name, max_shard_size=size)
        pair.t2i.tokenizer.save_pretrained(tmp_path / name)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert members(tmp_path / "whole", tmp_path / "shards") == [["whole", "shards"]]


def test_any_of_a_pipelines_encoders_may_be_any_of_anothers(tmp_path, clip):
    other = {name: tensor + 1 for name, tensor in clip.items()}
    for folder, encoders in {"three": [other, None, clip], "one": [clip]}.items():
        index = {"_class_name": "AnyPipeline", "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None]}
        for i, tensors in enumerate(encoders, 1):
            number = "" if i == 1 else f"_{i}"
            index["text_encoder" + number] = ["transformers", "CLIPTextModel"] if tensors else [None, None]
            if tensors:
                save(tmp_path / folder / f"text_encoder{number}", tensors)
        (tmp_path / folder / "model_index.json").write_text(json.dumps(index))
    assert members(tmp_path / "three", tmp_path / "one", tmp_path / "one" / "text_encoder") == [
        ["text_encoder of three"],
        ["text_encoder_3 of three", "text_encoder of one", "text_encoder"],
    ]


def test_tokenizers_count_by_their_vocabulary(tmp_path, clip):
    for name in ("base", "words", "files"):
        save(tmp_path / name, clip)
    file = tmp_path / "words" / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    a, b = list(vocabulary)[300:302]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(words))
    model = json.loads((tmp_path / "files" / "tokenizer.json").read_text())["model"]  # the same words in the older files
    (tmp_path / "files" / "tokenizer.json").unlink()
    (tmp_path / "files" / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "files" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(it) for it in model["merges"]))
    both, other = groups(tmp_path / "base", tmp_path / "words", tmp_path / "files")
    assert [member.title for member in both.members] == ["base", "files"]
    assert str(other).endswith("differs from base in the tokenizer vocabulary")


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_one_file_under_two_names_is_not_read_twice(tmp_path, clip, monkeypatch, link):
    folders = save(tmp_path / "a", clip), save(tmp_path / "b", clip)
    (folders[1] / "model.safetensors").unlink()
    getattr(folders[1] / "model.safetensors", link)(folders[0] / "model.safetensors")
    monkeypatch.setattr(Stored, "read", None)
    assert members(*folders) == [["a", "b"]]


def test_two_tensors_are_in_memory_at_a_time(tmp_path, clip, monkeypatch):
    read, seen = Stored.read, []

    def counted(self, **options):
        tensor = read(self, **options)
        seen.append(weakref.ref(tensor))
        assert sum(it() is not None for it in seen) <= 2
        return tensor

    monkeypatch.setattr(Stored, "read", counted)
    assert members(save(tmp_path / "a", clip), save(tmp_path / "b", clip)) == [["a", "b"]]
    assert len(seen) == 4 * len(clip)


def test_an_encoders_own_folder_may_be_where_one_is(tmp_path, clip, monkeypatch):
    save(tmp_path / "text_encoder", clip)
    monkeypatch.chdir(tmp_path / "text_encoder")
    assert [encoder.title for encoder in encoders_of(Path(), ".")] == ["."]
    Path("tokenizer_config.json").unlink()
    with pytest.raises(UnreelError, match="has no tokenizer"):
        encoders_of(Path(), ".")


def test_a_tokenizer_with_code_of_its_own_is_refused(tmp_path, clip):
    folders = save(tmp_path / "a", clip), save(tmp_path / "b", clip)
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (folders[1] / "tokenizer_config.json").write_text(json.dumps(own))
    (folders[1] / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UnreelError, match="asks to run code of its own: refused"):
        groups(*folders)
    assert not (tmp_path / "ran").exists()


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def to_pickle(file: Path) -> None:
    torch.save({}, file.with_name("pytorch_model.bin"))
    file.unlink()


def shards(folder: Path, index: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is no model: it has neither model_index.json nor config.json"),
        (lambda folder: (folder / "config.json").unlink(), "is no model"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), r"config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "is no model's configuration"),
        (lambda folder: (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}'), "holds no text encoder"),
        (lambda folder: (folder / "model_index.json").write_text("nothing"), "model_index.json is not valid JSON"),
        (lambda folder: (folder / "model_index.json").write_text("{}"), "has no text encoder"),
        (lambda folder: (folder / "model_index.json").write_text('{"text_encoder": ["mine"]}'), "no library and class for"),
        (
            lambda folder: (folder / "model_index.json").write_text('{"text_encoder": ["transformers", "T5EncoderModel"]}'),
            "is incomplete: its text_encoder folder is missing",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights: expected model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot load .*fetch it again"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x7fELF" * 99), "cannot load .*fetch it again"),
        (lambda folder: shorten(folder / "model.safetensors"), "cannot load .*broken or cut short: fetch it again"),
        (lambda folder: to_pickle(folder / "model.safetensors"), r"pytorch_model.bin is a pickle.*refused. Convert"),
        (lambda folder: shards(folder, "{"), "index.json is not valid JSON"),
        (lambda folder: shards(folder, "{}"), "names no shards"),
        (lambda folder: shards(folder, '{"weight_map": {"a": "model-1.safetensors"}}'), "model-1.safetensors is missing"),
        (
            lambda folder: shards(folder, '{"weight_map": {"a": "../b.safetensors"}}'),
            "names '../b.*out of its folder: refused",
        ),
        (lambda folder: shards(folder, '{"weight_map": {"a": "/b.safetensors"}}'), "names '/b.*out of its folder: refused"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "has no tokenizer"),
    ],
)
def test_what_is_no_whole_model_is_refused_with_a_reason(tmp_path, clip, damage, message):
    damage(save(tmp_path / "it", clip))
    with pytest.raises(UnreelError, match=message) as raised:
        groups(tmp_path / "it")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["text_encoder/../../secret", "../text_encoder", "/text_encoder", ".."])
def test_a_part_of_a_pipeline_lies_in_its_folder(tmp_path, clip, name):
    save(tmp_path / "secret", clip)
    (tmp_path / "it" / "text_encoder").mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", name: ["transformers", "CLIPTextModel"]}
    (tmp_path / "it" / "model_index.json").write_text(json.dumps(index))
    for look in (groups, lambda folder: load_pipeline(folder, text_only=True)):
        with pytest.raises(UnreelError, match=r"model_index.json names .* out of its folder: refused"):
            look(tmp_path / "it")


def test_a_broken_tokenizer_is_refused_where_it_is_needed(tmp_path, clip):
    folders = save(tmp_path / "a", clip), save(tmp_path / "b", clip)
    (folders[1] / "tokenizer.json").write_text("{")
    with pytest.raises(UnreelError, match="cannot load"):
        groups(*folders)


def test_of_a_model_on_the_hub_only_text_encoders_and_tokenizers_are_fetched(monkeypatch, tmp_path):
    wanted = [
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer_2/tokenizer.json",
    ]
    wanted += ["text_encoder_2/model-00001-of-00002.safetensors", "text_encoder_2/model.safetensors.index.json"]
    others = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "sd_xl_base_1.0.safetensors", "README.md"]
    others += ["text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin", "text_encoder/modeling_own.py"]
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda source, **options: asked.update(options) or tmp_path)
    assert fetch("own/model") == tmp_path
    assert list(filter_repo_objects(wanted + others, allow_patterns=asked["allow_patterns"])) == wanted


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_of_a_variant_are_fetched_for_text_encoders_that_have_no_others(monkeypatch, tmp_path, clip, variant):
    hub, cache = tmp_path / "hub", tmp_path / "cache"
    parts = {name: ["transformers", "CLIPTextModel"] for name in ("text_encoder", "text_encoder_2")}
    for name in parts:
        folder = save(hub / name, {key: tensor.half() for key, tensor in clip.items()})
        shutil.copy(folder / "model.safetensors", folder / f"model.{variant}.safetensors")
        shutil.copytree(TOKENIZER, hub / name.replace("text_encoder", "tokenizer"))
    (hub / "text_encoder" / "model.safetensors").unlink()
    (hub / "text_encoder" / f"pytorch_model.{variant}.bin").touch()
    (hub / "model_index.json").write_text(json.dumps(parts))
    names = [file.relative_to(hub).as_posix() for file in hub.rglob("*.*")]

    def download(source, *, revision, allow_patterns):
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / name, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert members(fetch("own/model")) == [["text_encoder of cache", "text_encoder_2 of cache"]]
    found = sorted(file.relative_to(cache).as_posix() for file in cache.glob("text_encoder*/*model*"))
    assert found == [f"text_encoder/model.{variant}.safetensors", "text_encoder_2/model.safetensors"]


def test_models_in_the_hubs_cache_are_read_without_the_hub(monkeypatch, tmp_path, clip):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--own--model"
    save(repository / "snapshots" / "abc", clip)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (encoder,) = encoders_of(fetch("own/model"), "own/model")
    assert encoder.title == "own/model" and encoder.weights == sum(tensor.numel() for tensor in clip.values())
    with pytest.raises(UnreelError, match="own/other is not complete in the local cache, and HF_HUB_OFFLINE forbids"):
        fetch("own/other")
    with pytest.raises(UnreelError, match="does not exist: give a folder, a hub id"):
        fetch("/nowhere")
