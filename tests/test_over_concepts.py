"""Intervals over concepts say what a further concept may do, not a further video."""

from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.over_concepts import mean_over, share_over, shares_over
from unreel.evaluation.estimate import Estimate


def test_where_concepts_differ_they_are_what_counts_not_their_videos():
    """Two of twelve that stay whole: of another concept that says what two of twelve videos would."""
    concepts = [np.full(50, i < 2) for i in range(12)]
    over, videos, alone = (
        share_over(concepts),
        Estimate.share(np.concatenate(concepts)),
        Estimate.share(np.arange(12) < 2),
    )
    assert over.value == videos.value and over.n == 600
    assert np.ptp(over.ci) > 5 * np.ptp(videos.ci)
    np.testing.assert_allclose(over.ci, alone.ci, atol=0.05)
    more = share_over([np.full(500, i < 2) for i in range(12)])
    np.testing.assert_allclose(more.ci, over.ci, atol=0.01)  # more videos of the same concepts say little more of others


def test_where_no_video_shows_it_the_interval_is_of_concepts_too_and_one_that_does_makes_it_no_narrower():
    none = share_over([np.zeros(50, bool)] * 12)
    one = share_over([np.arange(50) < 1, *[np.zeros(50, bool)] * 11])
    fewer = share_over([np.zeros(50, bool)] * 5)
    assert none.value == none.ci[0] == 0 and one.ci[1] > none.ci[1] > 5 * Estimate.share(np.zeros(600, bool)).ci[1]
    assert fewer.ci[1] > 2 * none.ci[1]
    every = share_over([np.ones(50, bool)] * 12)
    assert every.value == every.ci[1] == 1 and every.ci[0] == pytest.approx(1 - none.ci[1], abs=1e-6)


@pytest.mark.parametrize("concepts", [5, 12])
@pytest.mark.parametrize(("yes", "no"), [(0.05, 0.45), (0.5, 0.5), (1, 3), (20, 20), (40, 1)])
def test_intervals_over_concepts_hold_what_they_say(concepts, yes, no):
    """Of shares that are drawn anew for each concept, however alike its videos are."""
    rng, held = np.random.default_rng(0), []
    for _ in range(100):
        low, high = share_over([rng.random(50) < share for share in rng.beta(yes, no, concepts)]).ci
        held.append(low <= yes / (yes + no) <= high)
    assert np.mean(held) >= 0.88  # 95 % less what a hundred draws are off by


def test_intervals_over_videos_do_not():
    rng = np.random.default_rng(0)
    draws = [np.concatenate([rng.random(50) < share for share in rng.beta(1, 3, size=12)]) for _ in range(100)]
    assert np.mean([low <= 0.25 <= high for low, high in (Estimate.share(flags).ci for flags in draws)]) < 0.6


def test_of_one_concept_the_interval_is_that_over_its_videos():
    flags = np.arange(40) < 3
    assert share_over([flags]) == Estimate.share(flags)


def test_stored_shares_are_as_the_videos_they_are_of():
    concepts = [np.arange(40) < count for count in (0, 3, 40)]
    stored = [{"edited": asdict(Estimate.share(flags))} for flags in concepts]
    over, wanted = shares_over(stored)["edited"], share_over(concepts)
    assert (over["value"], *over["ci"], over["n"]) == pytest.approx((wanted.value, *wanted.ci, wanted.n))


def test_means_have_students_interval_of_those_of_concepts():
    values = [0.2, 0.25, 0.3, 0.21, 0.24]
    mean = mean_over(values, [40] * 5)
    half = 2.776 * np.std(values, ddof=1) / 5**0.5
    assert mean.value == pytest.approx(0.24) and mean.ci == pytest.approx((0.24 - half, 0.24 + half), rel=1e-3)
    assert mean_over([0.9, 1.0], [10, 10]).ci[1] == 1 and mean_over([0.9, 0.5], [30, 10]).value == pytest.approx(0.8)
