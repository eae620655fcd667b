"""Experiments are data, and each of their cells is one file that is made once."""

import json
from dataclasses import asdict

import pytest

from benchmarks import cells
from unreel import UnreelError

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
    return write


def test_a_cell_for_each_combination_and_concept(plan):
    made = cells.cells_of("trial")
    assert [cell.run for cell in made[::2]][:4] == [f"few-shot, epochs {e}, seed {s}" for e in (1, 2) for s in (7, 8)]
    assert [cell.concept["name"] for cell in made] == [*["castle", "owl"] * 4, "owl"]
    assert made[2].settings == {"epochs": 1} and made[2].options == PLAN["options"] | {"seed": 8}
    assert len({cell.file for cell in made}) == len(made) == 9


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
