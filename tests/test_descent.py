"""Nothing that is no number is ever kept, whichever step makes it so."""

import pytest
import torch

from unreel import UnreelError
from unreel.methods import configure, descended


def test_every_step_goes_down_and_says_its_loss():
    weight = torch.nn.Parameter(torch.tensor(4.0))
    losses = descended(torch.optim.SGD([weight], lr=0.1), lambda step: weight.square() + 0 * step, 20)
    assert len(losses) == 20 and losses == sorted(losses, reverse=True) and abs(weight) < 0.1
    assert weight.grad is None


@pytest.mark.parametrize("spoiled", range(3))
def test_a_step_that_leaves_no_number_is_refused_even_if_it_is_the_last(spoiled):
    weight = torch.nn.Parameter(torch.tensor(4.0))

    def loss(step):
        return (0 * weight).sqrt() if step == spoiled else weight.square()  # which is 0, and leads nowhere

    with pytest.raises(UnreelError, match=r"stopped being a number|became nan") as error:
        descended(torch.optim.Adam([weight], lr=0.1), loss, 3)
    assert "nothing was kept; lower the learning rate" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("uce", {"tokens": "foo"}, "tokens must be one of last, all, whole, not 'foo'"),
        ("uce", {"erase_scale": float("nan")}, "erase scale must be greater than zero"),
        ("uce", {"lamb": -5.0}, "lamb must be greater than zero"),
        ("hirm", {"towards": "foo"}, "towards must be one of anchor, random, not 'foo'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(method, settings, message):
    with pytest.raises(UnreelError, match=message):
        configure(method, settings)
