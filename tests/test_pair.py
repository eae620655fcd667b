import json
import shutil

import pytest
import torch
from conftest import make_pair, same, weights

from unreel import UnreelError, load_pair


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


def test_text_only_loads_no_denoiser(folders):
    pair = load_pair(*map(str, folders), text_only=True)
    assert pair.t2i.unet is None and pair.t2v.vae is None
    assert pair.shared() == {"text_encoder": []}


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
    with pytest.raises(UnreelError, match="give the text-to-video pipeline too"):
        load_pair(str(folders[0]))
