import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
import transformers
from conftest import SETTINGS, make_pair, same, weights
from huggingface_hub import errors
from pipelines import PIPELINES, build
from tokenizers import Tokenizer, models, pre_tokenizers

from unreel import Concept, FewShotConfig, Pair, Settings, UnreelError, VideoModel, generate, load_pair, unlearn
from unreel.methods import configure
from unreel.models import sampling
from unreel.models.conditioner import Conditioner
from unreel.models.pair import load_video_model
from unreel.models.pipelines import TEXT_ENCODERS, load_pipeline, load_text_model
from unreel.models.sampling import generate_images


@pytest.fixture
def folders(tmp_path):
    """A tiny pair saved the way diffusers saves it."""
    pair = make_pair()
    pair.t2i.save_pretrained(tmp_path / "t2i")
    pair.t2v.save_pretrained(tmp_path / "t2v")
    return tmp_path / "t2i", tmp_path / "t2v"


def load(folders):
    return load_pair(*map(str, folders))


def test_a_pair_of_folders_loads_with_its_weights_and_is_proven_to_share(folders):
    pair = load(folders)
    assert same(weights(pair.t2i.unet), weights(make_pair().t2i.unet))
    assert pair.shared() == {"text_encoder": []}


def test_a_pipeline_alone_is_sampled_from_as_it_samples_itself(monkeypatch):
    wan = PIPELINES["WanPipeline"]()
    own = VideoModel(wan).settings
    assert own == Pair.of(wan).settings == Pair(wan, wan, "", "").settings == Settings(50, 5.0, 81, fps=16)
    pipeline = make_pair().t2v
    monkeypatch.setattr(sampling, "settings_of", lambda *_: SETTINGS)
    assert (generate(pipeline, ["a cat"], [0]) == generate(pipeline, ["a cat"], [0], SETTINGS)).all()


def test_weights_of_a_variant_alone_are_enough(tmp_path):
    pair = make_pair()
    for name in ("t2i", "t2v"):
        getattr(pair, name).to(torch.float16).save_pretrained(tmp_path / name, variant="fp16", max_shard_size="20KB")
    assert list((tmp_path / "t2v" / "unet").glob("*.fp16-00001-of-*.safetensors"))
    loaded = load((tmp_path / "t2i", tmp_path / "t2v"))
    alone = load_text_model(tmp_path / "t2i" / "text_encoder")
    assert same(weights(loaded.t2v.unet), weights(pair.t2v.unet.float()))
    assert same(weights(alone.text_encoder), weights(pair.t2i.text_encoder.float()))


def test_one_changed_weight_is_found_and_named(folders):
    pair = load(folders)
    with torch.no_grad():
        pair.t2v.text_encoder.final_layer_norm.bias[3] += 1e-3
    assert [name for names in pair.shared().values() for name in names] == ["final_layer_norm.bias"]
    pair.t2v.save_pretrained(folders[1])
    with pytest.raises(UnreelError, match=r"share no text encoder.*final_layer_norm\.bias"):
        load(folders)


def test_sharing_is_seen_across_precisions(folders):
    pair = load(folders)
    pair.t2v.to(torch.float16)
    assert pair.shared() == {"text_encoder": []}


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_sharing_is_seen_across_precisions_in_which_models_are_stored(folders, stored):
    """Loaded in one precision, the default, which is that of one of them alone: T5's of PixArt and of CogVideoX."""
    pair = load(folders)
    pair.t2v.to(stored).save_pretrained(folders[1])
    again = load(folders)
    assert again.t2v.text_encoder.dtype == again.t2i.text_encoder.dtype == torch.float32
    assert again.shared() == {"text_encoder": []}
    erasure = unlearn(Concept("cat", anchor="dog"), again, configure("diff-quick-fix", {}))
    assert erasure.fitting(again.t2v)
    with torch.no_grad():
        again.t2v.text_encoder.final_layer_norm.bias[3] += 0.1
    assert again.shared() == {"text_encoder": ["final_layer_norm.bias"]}


def test_text_only_loads_no_denoiser(folders):
    pair = load_pair(*map(str, folders), text_only=True)
    assert pair.t2i.unet is None and pair.t2v.vae is None
    assert pair.shared() == {"text_encoder": []}


def test_a_video_model_of_which_nothing_but_its_text_encoder_is_compared_is_loaded_no_further(folders):
    t2i, t2v = map(str, folders)
    pair = load_pair(t2i, t2v, makes_videos=False)
    assert pair.t2i.unet is not None and pair.t2i.vae is not None
    assert pair.t2v.unet is None and pair.t2v.vae is None
    assert load_pair(t2v=t2v, makes_videos=False).t2v.unet is not None  # it is the image model too
    pair = load_pair(t2i, t2v, makes_images=False)
    assert pair.t2i.unet is None and pair.t2v.unet is not None
    assert load_pair(t2v=t2v, makes_images=False).t2i.unet is not None


@pytest.mark.parametrize("name", ["WanPipeline", "SkyReelsV2Pipeline", "SanaVideoPipeline"])
def test_wans_autoencoder_stays_in_full_precision(tmp_path, name):
    """As diffusers runs it, beside a network in half of it; and images can still be learned from."""
    build(name).save_pretrained(tmp_path)
    pair = load_pair(t2v=str(tmp_path), dtype=torch.bfloat16)
    assert pair.t2v.vae.dtype == torch.float32
    assert pair.t2v.transformer.dtype == pair.t2v.text_encoder.dtype == torch.bfloat16
    pair = replace(pair, settings=replace(pair.settings, steps=2, frames=5, size=(32, 32)))
    assert generate(pair.t2v, ["a cat"], [0], pair.settings).std() > 0
    assert unlearn("cat", pair, FewShotConfig(shots=2, epochs=1, learning_rate=0.01)).components[0].deltas


def test_what_offloading_moves_while_videos_are_made_can_learn_afterwards():
    """accelerate moves weights while the pipeline runs, and what is moved in inference mode never learns again."""
    pair = make_pair()

    def moved(encoder, _):
        for module in encoder.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(weight.data.clone()))

    for pipeline, make in ((pair.t2v, generate), (pair.t2i, generate_images)):
        hook = pipeline.text_encoder.register_forward_pre_hook(moved)
        make(pipeline, ["a cat"], [0], pair.settings)
        hook.remove()
        assert not any(weight.is_inference() for weight in pipeline.text_encoder.parameters())
    unlearn("cat", pair, FewShotConfig(shots=2, epochs=1, learning_rate=0.01))


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def to_pickle(file):
    torch.save({}, file.with_suffix(".bin"))
    file.unlink()


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "is no pipeline"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "not valid JSON"),
        (lambda folder: truncate(folder / WEIGHTS), "cannot load"),
        (lambda folder: (folder / WEIGHTS).unlink(), "no weights"),
        (lambda folder: to_pickle(folder / WEIGHTS), r"is a pickle.*refused"),
        (lambda folder: shutil.rmtree(folder / "vae"), "its vae folder is missing"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_damaged_folders_are_refused_with_a_reason(folders, damage, message):
    damage(folders[0])
    with pytest.raises(UnreelError, match=message):
        load(folders)


def test_code_from_the_folder_is_never_run(folders, tmp_path):
    index = folders[0] / "model_index.json"
    content = json.loads(index.read_text())
    content["unet"] = ["my_unet", "MyUNet"]
    index.write_text(json.dumps(content))
    (folders[0] / "unet" / "my_unet.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UnreelError, match="refused"):
        load(folders)
    assert not (tmp_path / "ran").exists()


def test_two_image_models_are_no_pair(folders):
    with pytest.raises(UnreelError, match="no text-to-video pipeline: unreel knows AnimateDiff"):
        load((folders[0], folders[0]))


def test_half_a_pair_is_refused(folders):
    with pytest.raises(UnreelError, match="add --t2v: an image model alone is not enough"):
        load_pair(str(folders[0]))


def test_folders_are_paths_as_well_as_texts(folders):
    pair, model = load_pair(*folders, text_only=True), load_video_model(folders[1])
    assert (pair.t2i_source, pair.t2v_source, model.source) == (*map(str, folders), str(folders[1]))
    assert load_text_model(str(folders[1] / "text_encoder")).tokenizer.get_vocab() == pair.t2v.tokenizer.get_vocab()


def of_hub(kind, message="the hub said so", status=None):
    return kind(message, response=SimpleNamespace(headers={}, request=None, status_code=status))


LOG_IN = "log in with `hf auth login`, or set HF_TOKEN$"


FROM_THE_HUB = [
    (
        of_hub(errors.GatedRepoError, status=401),
        f"own/model is gated: ask for access at https://huggingface.co/own/model, then {LOG_IN}",
    ),
    (
        of_hub(errors.RepositoryNotFoundError, status=401),
        f"there is no folder own/model, and the hub has none, or it is private: check the name, or {LOG_IN}",
    ),
    (of_hub(errors.HfHubHTTPError, "no such token", 401), f"the hub wants a token that it knows for own/model: {LOG_IN}"),
    (errors.LocalTokenNotFoundError("none"), f"the hub wants a token that it knows for own/model: {LOG_IN}"),
    (of_hub(errors.RemoteEntryNotFoundError), "own/model lacks what it should hold"),
    (of_hub(errors.HfHubHTTPError, "429 too many requests"), "the hub refuses own/model"),
    (
        errors.LocalEntryNotFoundError("not here"),
        "there is no folder own/model, it is not complete in the local cache, and the hub cannot be reached",
    ),
    (errors.OfflineModeIsEnabled("offline"), "not complete in the local cache, and HF_HUB_OFFLINE forbids to fetch it"),
    (errors.HTTPError("the line broke"), "the hub cannot be reached: connect and try again"),
    (ConnectionError("no route to host"), "the hub cannot be reached: connect and try again"),
    (errors.XetDownloadError("no chunk"), "cannot load own/model: no chunk"),
    (OSError("No space left on device"), "cannot load own/model: .*No space left on device"),
    (ImportError("Qwen2VLImageProcessor requires the Torchvision library"), "cannot load own/model: .*Torchvision"),
]


@pytest.mark.parametrize(("error", "message"), FROM_THE_HUB, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("when", ["index", "weights"])
def test_what_goes_wrong_at_the_hub_is_said_in_one_line(folders, monkeypatch, error, message, when):
    def fail(*_, **__):
        raise error

    if when == "index":  # below the function that wraps what the hub raises in errors of its own
        monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", fail)
        message = "own/model" if type(error) is OSError else message
        if isinstance(error, errors.RemoteEntryNotFoundError):
            message = r"own/model is no pipeline: it has no model_index\.json"
    else:
        index = json.loads((folders[0] / "model_index.json").read_text())
        monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", lambda _, revision: index)
        monkeypatch.setattr(diffusers.DiffusionPipeline, "download", fail)
    with pytest.raises(UnreelError, match=message) as raised:
        load_pipeline("own/model")
    assert "\n" not in str(raised.value)


def test_where_to_ask_for_access_is_the_page_of_the_model_whatever_version_is_wanted(monkeypatch):
    def fail(*_, **__):
        raise of_hub(errors.GatedRepoError, status=403)

    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", fail)
    with pytest.raises(UnreelError, match=r"own/model@v1 is gated: ask for access at https://huggingface.co/own/model, "):
        load_pipeline("own/model@v1")


@pytest.fixture
def cached(folders, tmp_path, monkeypatch):
    """The image pipeline as it lies in the hub's cache."""
    repository = tmp_path / "cache" / "models--own--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(folders[0], repository / "snapshots" / "abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return repository / "snapshots" / "abc"


def test_a_cached_pipeline_loads_offline(cached):
    assert same(weights(load_pipeline("own/model").unet), weights(make_pair().t2i.unet))


def test_a_pipeline_of_one_version_is_that_one(cached, folders):
    older = cached.with_name("old")
    shutil.copytree(folders[1], older)
    (cached.parents[1] / "refs" / "v1").write_text("old")
    assert type(load_pipeline("own/model@v1")) is type(load_pipeline(folders[1])) is not type(load_pipeline("own/model"))
    with pytest.raises(UnreelError, match="own/model@v2 is not complete in the local cache"):
        load_pipeline("own/model@v2")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: shutil.rmtree(folder / "vae"),
            "own/model is incomplete: its vae folder is missing; fetch it again",
        ),
        (lambda folder: (folder / WEIGHTS).unlink(), "no weights"),
        (lambda folder: to_pickle(folder / WEIGHTS), r"is a pickle.*refused.*save_pretrained"),
    ],
)
def test_an_interrupted_download_is_told_from_a_whole_one(cached, damage, message):
    damage(cached)
    with pytest.raises(UnreelError, match=message):
        load_pipeline("own/model")


@pytest.fixture
def listed(monkeypatch):
    """Lets the hub list files of a pipeline in a folder, which are fetched already."""

    def as_on_the_hub(folder, names):
        index = json.loads((folder / "model_index.json").read_text())
        siblings = [SimpleNamespace(rfilename=name) for name in names]
        monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", lambda _, revision="main": dict(index))
        monkeypatch.setattr(
            "diffusers.pipelines.pipeline_utils.model_info", lambda *_, **__: SimpleNamespace(siblings=siblings)
        )
        monkeypatch.setattr("diffusers.pipelines.pipeline_utils._resolve_revision", lambda *_, **__: "main")
        monkeypatch.setattr(
            "diffusers.pipelines.pipeline_utils.hf_hub_download", lambda *_, **__: str(folder / "model_index.json")
        )

    return as_on_the_hub


@pytest.mark.parametrize(("variant", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_repository_of_a_variant_alone_loads_without_its_pickles(tmp_path, listed, monkeypatch, variant, dtype):
    pair = make_pair()
    pair.t2i.to(dtype).save_pretrained(tmp_path / "t2i", variant=variant)
    files = [file.relative_to(tmp_path / "t2i").as_posix() for file in (tmp_path / "t2i").rglob("*.*")]
    assert f"unet/diffusion_pytorch_model.{variant}.safetensors" in files
    listed(tmp_path / "t2i", [*files, "unet/diffusion_pytorch_model.bin", f"vae/diffusion_pytorch_model.{variant}.bin"])
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.snapshot_download", None)  # all else is there
    assert same(weights(load_pipeline("own/model").unet), weights(pair.t2i.unet.float()))


def test_a_repository_with_pickles_only_is_refused_before_they_are_fetched(folders, listed):
    listed(folders[0], ["model_index.json", "unet/diffusion_pytorch_model.bin"])
    with pytest.raises(UnreelError, match=r"only weights are a pickle, which can run code.*refused. Convert"):
        load_pipeline("own/model")


def test_a_pipeline_with_code_of_its_own_is_refused(folders):
    index = folders[0] / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": ["pipeline", "MyPipeline"]}))
    with pytest.raises(UnreelError, match=r"asks to run code of its own \(pipeline.MyPipeline\): refused"):
        load(folders)


def test_what_else_an_index_says_is_no_part(folders):
    index = folders[0] / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_ignore_files": ["a.bin", "b.bin", "c.bin"]}))
    assert load(folders).shared() == {"text_encoder": []}


def test_a_pipeline_of_an_unknown_class_is_refused_and_the_known_ones_are_listed(folders):
    index = folders[0] / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "ShapEPipeline"}))
    with pytest.raises(
        UnreelError, match=r"is a ShapEPipeline, which unreel does not know.*AnimateDiffPipeline.*WanPipeline"
    ):
        load(folders)


def test_a_shard_that_is_missing_is_named(folders):
    pipeline = load_pipeline(folders[0])
    pipeline.text_encoder.save_pretrained(folders[0] / "text_encoder", max_shard_size="20KB")
    (folders[0] / "text_encoder" / "model.safetensors").unlink()
    load_pipeline(folders[0])
    next((folders[0] / "text_encoder").glob("model-00002*")).unlink()
    with pytest.raises(UnreelError, match=r"model-00002.*is missing; fetch"):
        load_pipeline(folders[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not available here: try --device cpu"),
        ({"device": "abacus"}, "device 'abacus' is not available here"),
        ({"dtype": torch.float8_e4m3fn}, "cannot compute in torch.float8_e4m3fn: try --dtype float32"),
    ],
)
def test_a_place_that_is_not_there_is_refused_before_anything_is_loaded(monkeypatch, folders, options, message):
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", None)
    for read in (load_pipeline, load_text_model):
        with pytest.raises(UnreelError, match=message):
            read(folders[0], **options)


NO_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda it: type(it).__name__)
def test_a_model_too_large_for_the_memory_says_what_it_takes_and_what_lowers_it(folders, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("unreel.models.pipelines.require_place", lambda *_: None)
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", fail)
    message = (
        r"does not fit into the memory of cuda, its weights alone take 0.0 GiB in torch.float32: try --dtype bfloat16 or"
    )
    with pytest.raises(UnreelError, match=message + " --device cpu"):
        load_pipeline(folders[0], device="cuda")
    monkeypatch.setattr("transformers.CLIPTextModel.from_pretrained", fail)
    with pytest.raises(UnreelError, match=r"in torch.bfloat16: try a smaller model"):
        load_text_model(folders[0] / "text_encoder", dtype=torch.bfloat16)


SIZE = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LANGUAGE = ["Llama", "Gemma2", "Qwen2"]
PUBLISHED = [f"{name}{head}" for name in LANGUAGE for head in ("Model", "ForCausalLM")] + ["BertModel", "BertForMaskedLM"]


def publish(folder, architecture):
    """A tiny model saved as on the hub, with a tokenizer that has no length and, but for BERT's, nothing to pad with."""
    kind = getattr(transformers, architecture)
    config = SIZE | ({"num_key_value_heads": 1, "head_dim": 8} if "Bert" not in architecture else {})
    torch.manual_seed(0)
    model = kind(kind.config_class(**config)).eval()
    model.save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "</s>", "a", "cat"])}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="<unk>" if "Bert" in architecture else None
    ).save_pretrained(folder)
    return model


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_a_published_language_model_loads_as_the_encoder_that_it_holds(tmp_path, architecture):
    model = publish(tmp_path, architecture)
    loaded = load_text_model(tmp_path)
    assert type(loaded.text_encoder).__name__ == TEXT_ENCODERS[architecture] and not loaded.text_encoder.training
    assert same(weights(loaded.text_encoder), weights(model.base_model))
    conditioner = Conditioner.of(loaded)
    assert conditioner.masked and conditioner.encode(["a cat", "a"]).shape == (2, 2, 16)
    assert load_pair(None, str(tmp_path)).shared() == {"text_encoder": []}


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertModel"])
def test_a_language_model_that_lacks_weights_or_has_pickles_only_is_refused(tmp_path, architecture):
    model = publish(tmp_path, architecture)
    kept = {
        name: weight for name, weight in model.state_dict().items() if "layer.1." not in name and "layers.1." not in name
    }
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(UnreelError, match=r"is incomplete: it has no weights for \S+\.1\.\S+, .* more; fetch it again"):
        load_text_model(tmp_path)
    to_pickle(tmp_path / "model.safetensors")
    with pytest.raises(UnreelError, match="refused"):
        load_text_model(tmp_path)


def test_a_model_of_another_class_or_with_code_of_its_own_is_no_text_encoder(tmp_path):
    publish(tmp_path, "LlamaForCausalLM")
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"architectures": ["MyLlama"]}, {"auto_map": {"AutoModel": "mine.MyLlama"}}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UnreelError, match="holds no text encoder that unreel knows: it knows CLIPTextModel"):
            load_text_model(tmp_path)
