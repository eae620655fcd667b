import numpy as np
import pytest

from unreel.metrics import Share, found_in_video


# Reference values: Wilson intervals at 95 %, computed by statsmodels' proportion_confint(method="wilson").
@pytest.mark.parametrize(
    ("yes", "n", "low", "high"), [(0, 20, 0.0, 0.161125), (10, 20, 0.299298, 0.700702), (97, 100, 0.915478, 0.989742)]
)
def test_wilson_interval(yes, n, low, high):
    share = Share.of(np.arange(n) < yes)
    assert (share.found, share.n) == (yes / n, n)
    assert share.ci == pytest.approx((low, high), abs=1e-5)


def test_no_videos_have_no_share():
    with pytest.raises(ValueError, match="no videos"):
        Share.of(np.array([], bool))


def test_a_video_counts_from_half_of_its_frames():
    assert found_in_video(np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)).tolist() == [False, True, True]
