"""Training the embedded pairs: a run that is killed goes on as if it had not been."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from training.loop import Schedule, train


def same(one: nn.Module, two: nn.Module) -> bool:
    return all((a == b).all() for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def run(folder, schedule, *, dies_at=None):
    """A small model with layers, a buffer and what Muon takes, trained to copy its input; with the draws that it saw."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 32))
    model, seen = nn.ModuleDict({"layers": layers, "out": nn.Linear(32, 32)}), []

    def loss(model, rng, batch):
        if len(seen) == dies_at:
            raise KeyboardInterrupt
        x = torch.tensor(rng.normal(size=(batch, 32)), dtype=torch.float32)
        seen.append(float(x.sum()) + float(torch.rand(())))
        return (model["out"](model["layers"](x)) - x).square().mean()

    return train("tiny", folder, model, loss, schedule, device="cpu"), seen


@pytest.mark.parametrize("muon", [False, True])
def test_a_killed_run_comes_to_the_same_weights(tmp_path, muon):
    schedule = Schedule(steps=8, batch=4, warmup=2, muon=muon, checkpoint_every=3)
    whole, seen = run(tmp_path / "whole", schedule)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", schedule, dies_at=5)
    resumed, rest = run(tmp_path / "killed", schedule)
    assert rest == seen[3:]  # from its last checkpoint
    assert same(whole, resumed)
    states = [load_file(tmp_path / name / "tiny" / "state.safetensors") for name in ("whole", "killed")]
    assert all((states[0][key] == states[1][key]).all() for key in states[0].keys() - {"seconds"})


def test_it_gives_the_moving_average_and_a_finished_run_gives_it_again_at_once(tmp_path):
    schedule = Schedule(steps=4, batch=4, warmup=2)
    trained, seen = run(tmp_path, schedule)
    state = load_file(tmp_path / "tiny" / "state.safetensors")
    assert len(seen) == 4 and not trained.training
    for key, parameter in trained.named_parameters():
        assert (parameter == state[f"ema.{key}"]).all() and not (parameter == state[f"model.{key}"]).all()
    again, seen = run(tmp_path, schedule)
    assert not seen
    assert same(trained, again)


def test_its_record_says_what_it_went_on_from(tmp_path):
    run(tmp_path, Schedule(steps=2, batch=4))
    run(tmp_path, Schedule(steps=3, batch=4))
    record = json.loads((tmp_path / "tiny" / "record.json").read_text())
    assert record["schedule"]["steps"] == 3 and record["continues"]["schedule"]["steps"] == 2
    assert record["loss"] > 0 and record["versions"]["torch"] == torch.__version__
