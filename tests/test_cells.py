"""Experiments are data, and each of their cells is one file that is made once."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import cells, encoder_cost
from benchmarks.common import recorded_settings
from unreel import Pair, UnreelError
from unreel.attacks import load_attack, usable, version_of
from unreel.models.pair import Settings, VideoModel

PLAN = {
    "measure": "images",
    "options": {"images": 4, "seed": 7, "groups": ["explicit"]},
    "concepts": [{"name": "castle", "kind": "object"}, {"name": "owl", "kind": "object"}],
    "runs": [
        {"name": "few-shot", "method": "few-shot", "vary": {"epochs": [1, 2], "options.seed": [7, 8]}},
        {"name": "default", "method": "text-ablation", "concepts": [{"name": "owl", "kind": "object"}]},
    ],
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Writes an experiment called "trial"."""
    monkeypatch.setattr(cells, "EXPERIMENTS", tmp_path / "experiments")
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    (tmp_path / "experiments").mkdir()

    def write(**changes):
        (tmp_path / "experiments" / "trial.json").write_text(json.dumps(PLAN | changes))

    write()
    write.folder = tmp_path
    return write


def test_a_cell_for_each_combination_and_concept(plan):
    made = cells.cells_of("trial")
    assert [cell.run for cell in made[::2]][:4] == [f"few-shot, epochs {e}, seed {s}" for e in (1, 2) for s in (7, 8)]
    assert [cell.concept["name"] for cell in made] == [*["castle", "owl"] * 4, "owl"]
    assert made[2].settings == {"epochs": 1} and made[2].options == PLAN["options"] | {"seed": 8}
    assert len({cell.file for cell in made}) == len(made) == 9


def test_what_is_stored_of_a_pair_is_what_would_be_stored_today():
    """Or every figure would be taken for another model's, and made anew."""
    today = recorded_settings(Settings()).keys()
    files = [file for name in ("methods", "attacks", "rivals-scan") for file in (cells.RESULTS / name).glob("*/*.json")]
    assert len(files) > 300 and all(json.loads(file.read_text())["pair"].keys() == today for file in files)
    assert "negative_prompt" in recorded_settings(Settings(negative_prompt="fog"))


@pytest.mark.parametrize("name", sorted(file.stem for file in Path(cells.__file__).parent.glob("[a-z]*.py")))
def test_every_benchmark_can_be_loaded_as_it_is_run(name):
    try:
        importlib.import_module(f"benchmarks.{name}")
    except ImportError as error:
        assert error.name in ("matplotlib", "ray"), error  # of an extra of its own
        pytest.skip(f"{error.name} is not installed")


def test_what_is_timed_apart_is_there():
    assert all(hasattr(owner, name) for places in encoder_cost.PARTS.values() for owner, name in places)


def test_only_what_is_missing_or_of_another_model_is_made(plan, monkeypatch):
    bench = cells.Bench(None, None, None, {"weights": {"t2v unet": "a"}})
    monkeypatch.setattr(cells, "bench_of", lambda *_: bench)
    made = cells.cells_of("trial")
    for cell in made[:3]:
        cells.write(cell, {"cell": asdict(cell), **bench.stamp, "result": {"figures": {}}})
    cells.write(made[3], {"cell": asdict(made[3]), "weights": {"t2v unet": "b"}, "result": {}})
    made[4].file.parent.mkdir(parents=True, exist_ok=True)
    made[4].file.write_text('{"cell": ')  # cut short
    assert cells.missing(made, "cpu") == made[3:]
    assert cells.results_of("trial")[made[0].run] == {"castle": {"figures": {}}, "owl": {"figures": {}}}


def test_of_a_cell_of_attacks_only_those_that_it_lacks_or_that_have_changed_are_tried(plan, monkeypatch):
    plan(measure="attacks", options={"cases": 1}, runs=[{"name": "default", "method": "text-ablation"}])
    bench = cells.Bench(Pair(*[None] * 5), VideoModel(None, Settings(), "model"), None, {"weights": {"t2v unet": "a"}})
    monkeypatch.setattr(cells, "bench_of", lambda *_: bench)
    cell, asked = cells.cells_of("trial")[0], []

    def tried(*_, attacks=(), **options):
        asked.append(attacks)
        entries = {name: {"version": version_of(load_attack(name)), "new": True} for name in attacks or usable()}
        untried, left_out = ([], {}) if attacks else (["homoglyphs"], {"plain": "cannot be tried"})
        return SimpleNamespace(document=lambda: {"attacks": entries, "untried": untried, "left_out": left_out})

    monkeypatch.setattr(cells, "attack", tried)
    whole = cells.attacks(cell, bench, SimpleNamespace(identity="first"), plan.folder, cases=1)
    assert asked == [()] and {entry["erasure"] for entry in whole["attacks"].values()} == {"first"}
    whole["attacks"] = {name: entry | {"new": False} for name, entry in whole["attacks"].items() if name != "typos"}
    whole["attacks"]["long_prompts"] |= {"version": 1}
    del whole["attacks"]["homoglyphs"]
    cells.write(cell, {"cell": asdict(cell), **bench.stamp, "result": whole})
    assert cells.missing([cell], "cpu") == [cell]
    again = cells.attacks(cell, bench, SimpleNamespace(identity="second"), plan.folder, cases=1)
    assert {name for name, entry in again["attacks"].items() if entry["erasure"] == again["erasure"] == "second"} == set(
        asked[1]
    )
    assert set(asked[1]) == {"typos", "long_prompts"}
    assert {name for name, entry in again["attacks"].items() if entry["new"]} == set(asked[1])
    assert again["left_out"] == whole["left_out"] == {"plain": "cannot be tried"}
    cells.write(cell, {"cell": asdict(cell), **bench.stamp, "result": again})
    assert cells.missing([cell], "cpu") == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("../trial", {}, "there is no experiment"),
        ("nope", {}, "there is no experiment nope: trial"),
        ("trial", {"measure": "smell"}, "choose from videos, attacks, images"),
        ("trial", {"concepts": [{"name": "a b"}, {"name": "a-b"}]}, "would be one file"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(plan, name, changes, message):
    plan(**changes)
    with pytest.raises(UnreelError, match=message):
        cells.cells_of(name)


def test_every_experiment_that_ships_can_be_made():
    for file in cells.EXPERIMENTS.iterdir():
        made = cells.cells_of(file.stem)
        assert made and {cell.measure for cell in made} <= cells.MEASURES.keys()
        assert file.read_text().endswith("]\n}\n")
