import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from conftest import make_pair, same, weights
from safetensors.torch import load_file, save_file

from unreel import Concept, Erasure, FewShotConfig, TextAblationConfig, UnreelError, active_interventions, unlearn
from unreel.files import write_folder
from unreel.models.deltas import LowRank

CONFIG = FewShotConfig(learning_rate=1e-2)


@pytest.fixture(scope="module")
def erasures():
    """Of what `pair` is."""
    return [unlearn(Concept(name), make_pair(), CONFIG) for name in ("cat", "robot")]


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
    total = first + second
    total.apply(pair.t2v)
    for name, tensor in weights(pair.t2v.text_encoder).items():
        torch.testing.assert_close(tensor, both[name])
    assert total.concepts == ["cat", "robot"]
    total.remove(pair.t2v)
    assert same(before, weights(pair.t2v.text_encoder))


def test_concepts_whose_names_differ_in_spaces_alone_have_files_of_their_own(erasures):
    first, second = erasures
    named = ["Spider-Man", "Spider Man"]
    parts = [{**part, "concept": name} for part, name in zip((first + second).provenance["parts"], named, strict=True)]
    total = (first + second).with_record(parts=parts)
    files = [total.file_name_of(name) for name in named]
    assert files[0] == "spider-man" != files[1] and total.file_name_of("SPIDER MAN") == files[1]


def test_the_order_leaves_no_trace_even_where_sums_are_not_rounded(pair, erasures, low_rank):
    pair.t2v.to(torch.float64)
    before, found = weights(pair.t2v.text_encoder), []
    for order in permutations((*erasures, low_rank[0])):
        for erasure in order:
            erasure.apply(pair.t2v)
        found.append(weights(pair.t2v.text_encoder))
        for erasure in order[1:]:
            erasure.remove(pair.t2v)
        assert active_interventions(pair.t2v) == [order[0]]
        order[0].remove(pair.t2v)
        assert same(before, weights(pair.t2v.text_encoder))
    assert all(same(found[0], other) for other in found)


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
    assert later.components[0].fingerprint.matches(erasures[0].components[0].fingerprint)


def test_saved_and_loaded_it_does_the_same(pair, erasures, tmp_path):
    folder = erasures[0].save_pretrained(tmp_path / "cat")
    loaded = Erasure.from_pretrained(folder)
    assert same(loaded.components[0].deltas, erasures[0].components[0].deltas)
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
    with pytest.raises(UnreelError, match="different models"):
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
        write_folder(tmp_path / "x", fill, "erasure.json", overwrite=True)
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


def damaged(folder, harm):
    tensors, record = load_file(folder / "erasure.safetensors"), json.loads((folder / "erasure.json").read_text())
    harm(tensors, record)
    save_file(tensors, folder / "erasure.safetensors")
    (folder / "erasure.json").write_text(json.dumps(record))
    return folder


def named(tensors, end):
    return next(name for name in tensors if name.endswith(end))


@pytest.mark.parametrize(
    "harm",
    [
        lambda tensors, _: [tensors.pop(name) for name in list(tensors) if name != "fingerprint"],
        lambda tensors, _: tensors.pop(named(tensors, ":up")),
        lambda tensors, _: tensors.pop(named(tensors, ":down")),
        lambda tensors, _: tensors.update({named(tensors, ":up"): torch.ones(16, 9)}),
        lambda tensors, _: tensors.update({named(tensors, ":up"): torch.ones(3)}),
        lambda tensors, _: tensors.update({named(tensors, ":up"): torch.ones(16, 3, dtype=torch.int64)}),
        lambda tensors, _: tensors.update({named(tensors, ":up"): torch.ones(16, 3, dtype=torch.bool)}),
        lambda tensors, _: tensors.update({named(tensors, ":up"): torch.full((16, 3), float("nan"))}),
        lambda tensors, _: tensors.update({named(tensors, ":up"): torch.ones(16, 3).to(torch.float8_e4m3fn)}),
        lambda tensors, _: tensors.pop("fingerprint"),
        lambda tensors, _: tensors.update(fingerprint=tensors["fingerprint"].to(torch.int64)),
        lambda tensors, _: tensors.update(fingerprint=tensors["fingerprint"] > 0),
        lambda tensors, _: tensors.update(fingerprint=tensors["fingerprint"].sum()),
        lambda _, record: record.pop("parts"),
        lambda _, record: record.update(parts=[]),
        lambda _, record: record.update(parts="cat"),
        lambda _, record: record["parts"][0].pop("concept"),
        lambda _, record: record["parts"][0].update(concept=5),
        lambda _, record: record["parts"][0].update(synonyms="kitten"),
        lambda _, record: record["parts"][0].update(synonyms=[5]),
        lambda _, record: record["parts"][0].update(anchor=None),
        lambda _, record: record["parts"][0].update(losses=["a", "b"]),
        lambda _, record: record["parts"][0].update(losses=[float("nan")]),
        lambda _, record: record["parts"][0].update(seconds="long"),
        lambda _, record: record["parts"][0].update(peak_memory_gib=True),
        lambda _, record: record["parts"][0].update(settings=[]),
        lambda _, record: record["parts"].append("cat"),
        lambda _, record: record.update(check={"summary": "fine", "shortfalls": 5}),
        lambda _, record: record.update(check="fine"),
        lambda _, record: record.update(device=5),
        lambda _, record: record.update(versions=None),
        lambda _, record: record.update(versions={}),
        lambda _, record: record.pop("encoder"),
        lambda _, record: record.pop("structure"),
        lambda _, record: record.update(structure=5),
    ],
)
def test_a_damaged_erasure_is_refused_in_one_line(low_rank, tmp_path, harm):
    folder = damaged(low_rank[0].save_pretrained(tmp_path / "x"), harm)
    with pytest.raises(UnreelError, match="is broken") as raised:
        Erasure.from_pretrained(folder)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def made():
    config = TextAblationConfig(layers=2, rank=3, steps=4, forget=20, retain=20, solve_retain=30)
    return [unlearn(name, make_pair(), config) for name in ("cat", "robot")]


@pytest.fixture
def low_rank(made):
    return made


def dense(erasure):
    """Every change as a matrix, products multiplied out in float64."""
    return {
        name: change.up.double() @ change.down.double() if isinstance(change, LowRank) else change
        for name, change in erasure.components[0].deltas.items()
    }


SAVE = "import sys; from unreel import Erasure; Erasure.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"


def test_names_in_every_script_are_saved_whatever_the_locale_is(low_rank, tmp_path):
    record = low_rank[0].provenance
    named = replace(low_rank[0], provenance={**record, "parts": [{**record["parts"][0], "concept": "ピカチュウ"}]})
    folder = named.save_pretrained(tmp_path / "here")
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SAVE, folder, tmp_path / "there"], env=plain, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "ピカチュウ" in (tmp_path / "there" / "README.md").read_text(encoding="utf-8")
    assert Erasure.from_pretrained(tmp_path / "there").concepts == ["ピカチュウ"]


def test_low_rank_changes_are_saved_and_loaded_bit_for_bit(low_rank, tmp_path):
    erasure = low_rank[0]
    folder = erasure.save_pretrained(tmp_path / "cat")
    loaded = Erasure.from_pretrained(folder)
    assert loaded.identity == erasure.identity != low_rank[1].identity
    assert loaded.provenance == json.loads(json.dumps(erasure.provenance))
    assert loaded.components[0].deltas.keys() == erasure.components[0].deltas.keys()
    for name, change in loaded.components[0].deltas.items():
        assert isinstance(change, LowRank)
        own = erasure.components[0].deltas[name]
        assert torch.equal(change.up, own.up) and torch.equal(change.down, own.down)
    again = loaded.save_pretrained(tmp_path / "again") / "erasure.safetensors"
    assert again.read_bytes() == (folder / "erasure.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_rank_changes_go_on_and_come_off_bit_for_bit(pair, low_rank, dtype):
    pair.t2v.to(dtype)
    before = weights(pair.t2v.text_encoder)
    low_rank[0].apply(pair.t2v)
    after = weights(pair.t2v.text_encoder)
    for name, change in dense(low_rank[0]).items():
        assert torch.equal(after.pop(name), (before[name].double() + change).to(dtype))
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    low_rank[0].remove(pair.t2v)
    assert same(before, weights(pair.t2v.text_encoder))


def test_low_rank_changes_stack_in_any_order(pair, low_rank):
    first, second = low_rank
    first.apply(pair.t2v)
    second.apply(pair.t2v)
    both = weights(pair.t2v.text_encoder)
    first.remove(pair.t2v)
    first.apply(pair.t2v)
    assert same(both, weights(pair.t2v.text_encoder))


def test_a_sum_of_low_ranks_stays_one_while_that_is_smaller(low_rank):
    width, inner, one = 16, 32, next(name for name in low_rank[0].components[0].deltas if "fc2" in name)
    total, rank = low_rank[0], low_rank[0].components[0].deltas[one].up.shape[1]
    while rank * (width + inner) < width * inner:
        assert isinstance(total.components[0].deltas[one], LowRank) and total.components[0].deltas[one].up.shape[1] == rank
        total, rank = total + low_rank[1], rank + low_rank[1].components[0].deltas[one].up.shape[1]
    whole = total.components[0].deltas[one]
    assert whole.shape == (width, inner) and whole.dtype == torch.float32
    erased = [part["concept"] for part in total.provenance["parts"]]
    assert erased == ["cat"] + ["robot"] * (len(erased) - 1) and len(erased) > 3 and total.concepts == ["cat", "robot"]
    for name, change in dense(total).items():
        cat, robot = (dense(erasure)[name] for erasure in low_rank)
        torch.testing.assert_close(change.double(), cat + (len(erased) - 1) * robot, rtol=1e-5, atol=1e-6)


def test_a_sum_of_low_ranks_does_what_both_do(pair, low_rank):
    for erasure in low_rank:
        erasure.apply(pair.t2v)
    both = weights(pair.t2v.text_encoder)
    for erasure in low_rank:
        erasure.remove(pair.t2v)
    (low_rank[0] + low_rank[1]).apply(pair.t2v)
    for name, tensor in weights(pair.t2v.text_encoder).items():
        torch.testing.assert_close(tensor, both[name], rtol=1e-6, atol=1e-7)


def test_few_shot_and_text_ablation_add_up_either_way_and_survive_a_file(pair, erasures, low_rank, tmp_path):
    before = weights(pair.t2v.text_encoder)
    erasures[1].apply(pair.t2v)
    low_rank[0].apply(pair.t2v)
    both = weights(pair.t2v.text_encoder)
    erasures[1].remove(pair.t2v)
    low_rank[0].remove(pair.t2v)
    for total in (erasures[1] + low_rank[0], low_rank[0] + erasures[1]):
        loaded = Erasure.from_pretrained(total.save_pretrained(tmp_path / "both", overwrite=True))
        assert loaded.identity == total.identity
        assert {part["method"] for part in loaded.provenance["parts"]} == {"few-shot", "text-ablation"}
        loaded.apply(pair.t2v)
        for name, tensor in weights(pair.t2v.text_encoder).items():
            torch.testing.assert_close(tensor, both[name], rtol=1e-6, atol=1e-7)
        loaded.remove(pair.t2v)
    assert same(before, weights(pair.t2v.text_encoder))


def test_the_bytes_of_an_erasure_are_those_of_the_tensors_in_its_file(erasures, low_rank, tmp_path):
    for index, erasure in enumerate((*erasures, *low_rank, low_rank[0] + low_rank[1], erasures[0] + low_rank[0])):
        tensors = load_file(erasure.save_pretrained(tmp_path / str(index)) / "erasure.safetensors")
        tensors.pop("fingerprint")
        assert erasure.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    deltas = low_rank[0].components[0].deltas
    assert low_rank[0].nbytes == sum(4 * part.numel() for it in deltas.values() for part in (it.up, it.down))
