import numpy as np
import pytest

from unreel.evaluation.estimate import Estimate, in_video


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


def test_videos_of_different_concepts_that_are_all_alike_are_so_many_videos():
    """Nothing tells them from videos of one concept, whichever concepts they are of."""
    flags = np.arange(50) % 5 == 0
    assert Estimate.share_over([flags] * 12) == Estimate.share(np.tile(flags, 12))
    nothing = Estimate.share_over([np.zeros(50, bool)] * 12)
    assert nothing == Estimate.share(np.zeros(600, bool)) and nothing.ci[1] > 0


def test_where_concepts_differ_they_are_what_counts_not_their_videos():
    """Two of twelve that stay whole: of another concept that says what two of twelve videos would."""
    concepts = [np.full(50, i < 2) for i in range(12)]
    pooled, videos, alone = (
        Estimate.share_over(concepts),
        Estimate.share(np.concatenate(concepts)),
        Estimate.share(np.arange(12) < 2),
    )
    assert pooled.value == videos.value and pooled.n == 600
    assert np.ptp(pooled.ci) > 5 * np.ptp(videos.ci)
    np.testing.assert_allclose(pooled.ci, alone.ci, atol=0.02)
    more = Estimate.share_over([np.full(500, i < 2) for i in range(12)])
    np.testing.assert_allclose(more.ci, pooled.ci)  # more videos of the same concepts say nothing more of others


def test_intervals_over_concepts_hold_what_they_say():
    """Of shares that are drawn anew for each of twelve concepts. Intervals over videos miss the mean of such mostly."""
    rng = np.random.default_rng(0)
    draws = [[rng.random(50) < share for share in rng.beta(1, 3, size=12)] for _ in range(300)]

    def hits(estimates):
        return np.mean([low <= 0.25 <= high for low, high in (estimate.ci for estimate in estimates)])

    assert hits(map(Estimate.share_over, draws)) > 0.9
    assert hits(Estimate.share(np.concatenate(concepts)) for concepts in draws) < 0.6
