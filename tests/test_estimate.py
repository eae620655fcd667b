import numpy as np
import pytest

from unreel.evaluation.estimate import Estimate, in_video, mcnemar


# Reference values: Wilson intervals at 95 %, computed by statsmodels' proportion_confint(method="wilson").
@pytest.mark.parametrize(
    ("yes", "n", "low", "high"), [(0, 20, 0.0, 0.161125), (10, 20, 0.299298, 0.700702), (97, 100, 0.915478, 0.989742)]
)
def test_wilson_interval(yes, n, low, high):
    share = Estimate.share(np.arange(n) < yes)
    assert (share.value, share.n) == (yes / n, n)
    assert share.ci == pytest.approx((low, high), abs=1e-5)


def test_nothing_cannot_be_estimated():
    for estimate in (Estimate.share, Estimate.mean):
        with pytest.raises(ValueError, match="no values"):
            estimate(np.array([]))


def test_the_mean_has_the_interval_that_theory_gives_it_and_always_the_same():
    values = np.random.default_rng(1).normal(3, 2, 400)
    mean = Estimate.mean(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert mean.value == pytest.approx(values.mean())
    assert mean.ci == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert mean == Estimate.mean(values)


def test_videos_that_are_all_alike_are_no_certainty():
    for flag in (0.0, 1.0):
        assert Estimate.mean_share(np.full(4, flag)) == Estimate.share(np.full(4, flag, dtype=bool))
    mixed = np.array([0.0, 0.5, 1.0, 1.0])
    assert Estimate.mean_share(mixed) == Estimate.mean(mixed)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(3, 2, 200)
    estimate = Estimate.jackknife(lambda chosen: values[chosen].mean(), len(values), blocks=200)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert estimate.ci == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-3)


def test_a_video_counts_from_half_of_its_frames():
    assert in_video(np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)).tolist() == [False, True, True]


@pytest.mark.parametrize(("one", "other", "p"), [(0, 0, 1), (1, 0, 1), (6, 0, 2 / 64), (4, 1, 2 * 6 / 32), (5, 5, 1)])
def test_as_uneven_by_chance_as_throws_of_a_coin(one, other, p):
    assert mcnemar(one, other) == mcnemar(other, one) == p
