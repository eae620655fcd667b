import json

import pytest
import torch
from conftest import make_pair, same, weights

from unreel import Concept, Erasure, FewShotConfig, UnreelError, unlearn
from unreel.erasure import write_folder

CONFIG = FewShotConfig(learning_rate=1e-2)


@pytest.fixture
def erasures(pair):
    return [unlearn(Concept(name), pair, CONFIG) for name in ("cat", "robot")]


def test_apply_changes_the_videos_conditioning_and_remove_restores_it_bit_for_bit(pair, erasures):
    before = weights(pair.t2v.text_encoder)
    erasures[0].apply(pair.t2v)
    assert not same(before, weights(pair.t2v.text_encoder))
    erasures[0].remove(pair.t2v)
    assert same(before, weights(pair.t2v.text_encoder))


def test_erasures_stack_in_any_order_come_off_in_any_order_and_add_up(pair, erasures):
    first, second = erasures
    before = weights(pair.t2v.text_encoder)
    first.apply(pair.t2v)
    alone = weights(pair.t2v.text_encoder)
    second.apply(pair.t2v)
    both = weights(pair.t2v.text_encoder)
    first.remove(pair.t2v)
    first.apply(pair.t2v)
    assert same(both, weights(pair.t2v.text_encoder))
    second.remove(pair.t2v)
    assert same(alone, weights(pair.t2v.text_encoder))
    first.remove(pair.t2v)
    total = (first + second).apply(pair.t2v)
    for name, tensor in weights(total.text_encoder).items():
        torch.testing.assert_close(tensor, both[name])
    assert (first + second).concepts == ["cat", "robot"]
    assert same(before, weights(make_pair().t2v.text_encoder))


def test_a_concept_unlearned_while_an_erasure_is_on_fits_the_same_encoder(pair, erasures):
    before = weights(pair.t2i.text_encoder)
    erasures[0].apply(pair.t2i)
    dressed = weights(pair.t2i.text_encoder)
    later = unlearn("ghost", pair, CONFIG)
    assert same(dressed, weights(pair.t2i.text_encoder))
    erasures[0].remove(pair.t2i)
    assert same(before, weights(pair.t2i.text_encoder))
    erasures[0].apply(pair.t2v)
    later.apply(pair.t2v)
    assert later.fingerprint.matches(erasures[0].fingerprint)


def test_saved_and_loaded_it_does_the_same(pair, erasures, tmp_path):
    folder = erasures[0].save_pretrained(tmp_path / "cat")
    loaded = Erasure.from_pretrained(folder)
    assert same(loaded.changes, erasures[0].changes)
    assert loaded.provenance == json.loads(json.dumps(erasures[0].provenance))
    loaded.apply(pair.t2v)
    loaded.remove(pair.t2v)
    assert "cat" in (folder / "README.md").read_text()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_fits_the_same_encoder_in_another_precision(pair, erasures, dtype):
    pair.t2v.to(dtype)
    before = weights(pair.t2v.text_encoder)
    erasures[0].apply(pair.t2v)
    assert not same(before, weights(pair.t2v.text_encoder))
    erasures[0].remove(pair.t2v)
    assert same(before, weights(pair.t2v.text_encoder))


def test_another_encoder_is_refused_and_left_alone(erasures):
    other = make_pair(seed=1)
    before = weights(other.t2v.text_encoder)
    with pytest.raises(UnreelError, match="another text encoder"):
        erasures[0].apply(other.t2v)
    assert same(before, weights(other.t2v.text_encoder))
    with pytest.raises(UnreelError, match="different text encoders"):
        erasures[0] + unlearn("cat", other, CONFIG)


def test_twice_on_and_off_without_on_are_refused(pair, erasures):
    with pytest.raises(UnreelError, match="is not on"):
        erasures[0].remove(pair.t2v)
    erasures[0].apply(pair.t2v)
    with pytest.raises(UnreelError, match="already on"):
        erasures[0].apply(pair.t2v)


def test_an_existing_folder_is_kept_unless_overwriting(erasures, tmp_path):
    folder = erasures[0].save_pretrained(tmp_path / "x")
    with pytest.raises(UnreelError, match="--overwrite"):
        erasures[1].save_pretrained(folder)
    assert Erasure.from_pretrained(folder).concepts == ["cat"]
    erasures[1].save_pretrained(folder, overwrite=True)
    assert Erasure.from_pretrained(folder).concepts == ["robot"]


def test_overwriting_replaces_nothing_but_an_erasure(erasures, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UnreelError, match="is no erasure"):
        erasures[0].save_pretrained(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_or_failed_write_leaves_nothing_and_the_old_folder(tmp_path, error):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "erasure.json").write_text("kept")

    def fill(partial):
        (partial / "half").write_text("written")
        raise error

    with pytest.raises((KeyboardInterrupt, UnreelError)):
        write_folder(tmp_path / "x", fill, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["erasure.json"]


def test_broken_files_are_refused(erasures, tmp_path):
    with pytest.raises(UnreelError, match="no erasure"):
        Erasure.from_pretrained(tmp_path)
    folder = erasures[0].save_pretrained(tmp_path / "x")
    file = folder / "erasure.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UnreelError, match="broken"):
        Erasure.from_pretrained(folder)
