"""Each metric says what it should of videos whose truth is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from unreel.judges import load_judge
from unreel.metrics.degenerate import degenerate
from unreel.metrics.fidelity import measure as fidelity
from unreel.metrics.frechet import frechet
from unreel.metrics.motion import consistency, motion
from unreel.metrics.ssim import similarity
from unreel.models.sampling import generate


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def moving(step: int, frames: int = 4, side: int = 64) -> np.ndarray:
    """A soft pattern that moves `step` pixels to the right every frame."""
    x = np.linspace(0, 6 * np.pi, side, endpoint=False)
    picture = 128 + 60 * np.sin(x)[None] * np.cos(x)[:, None]
    return np.stack([np.roll(picture, step * i, 1) for i in range(frames)])[..., None].repeat(3, -1).astype(np.uint8)


def noise(rng: np.random.Generator, frames: int = 4) -> np.ndarray:
    return rng.integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def real(embedded):
    """Eight prompts, said twice with other seeds."""
    names = ["cat", "rocket", "owl", "penguin", "guitar", "castle", "whale", "frog"]
    prompts = [f"a photo of a {name}" for name in names] * 2
    return generate(embedded.t2v, prompts, list(range(16)), replace(embedded.settings, steps=3))


@pytest.fixture(scope="module")
def mush(real):
    """The same videos with all but 5x5 blocks of colour gone."""
    small = real[:, :, 6::13, 6::13]
    return small.repeat(13, 2).repeat(13, 3)[:, :, :64, :64]


@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_motion_is_how_far_things_move(step):
    assert motion(moving(step)) == pytest.approx(step / 64, abs=0.004)


def test_motion_does_not_depend_on_the_size_of_the_video():
    assert motion(moving(4, side=128).repeat(2, 1).repeat(2, 2)) == pytest.approx(4 / 128, abs=0.004)


def test_a_frozen_video_is_consistent_and_does_not_move(rng):
    frozen = moving(3)[:1].repeat(4, 0)
    assert motion(frozen) == 0 and motion(frozen[:1]) == 0
    assert consistency(rng.normal(size=(2, 1, 8)).repeat(5, 1)) == pytest.approx(1)
    assert consistency(rng.normal(size=(2, 50, 64))).max() < 0.2


def test_similarity_falls_with_damage(rng):
    video = moving(2)
    slightly = np.clip(video + rng.normal(0, 10, video.shape), 0, 255).astype(np.uint8)
    assert similarity(video, video) == 1
    assert 1 > similarity(video, slightly) > similarity(video, noise(rng)) > -0.1


def test_blank_and_noise_are_degenerate_and_pictures_are_not(real, rng):
    assert degenerate(np.full((4, 64, 64, 3), 200, np.uint8)) and degenerate(noise(rng))
    assert not any(degenerate(video) for video in [moving(2), *real])
    half = moving(2)
    half[:2] = 0
    assert degenerate(half)
    half[1] = half[2]
    assert not degenerate(half)


def test_frechet_distance_is_the_textbooks(rng):
    a = rng.normal(size=(50, 40, 3))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + np.array([3, 0, 4])) == pytest.approx(25, abs=1e-6)
    # N(0, 1) against N(0, s^2) in each of three dimensions: 3 (1 - s)^2.
    assert frechet(a, 2 * a) == pytest.approx(3, rel=0.1)
    assert frechet(a, rng.normal(size=a.shape)) < 0.01


def test_frechet_distance_rises_when_videos_turn_to_noise_or_mush(real, mush, rng):
    judge = load_judge("embedded")
    own, bad, static = (judge.features(videos) for videos in (real, mush, np.stack([noise(rng, 8) for _ in real])))
    by_seed = frechet(own[:8], own[8:])
    assert frechet(bad[:8], own[8:]) > 2 * by_seed and frechet(static[:8], own[8:]) > 2 * by_seed


def judged(before: np.ndarray, after: np.ndarray, anchor: np.ndarray) -> dict[str, tuple[float | None, float | None]]:
    """Fidelity by name, (before, after), of one group: the same prompts twice, their videos (n, frames, h, w, 3) by arm."""
    arms, judge = {"original": before, "edited": after, "anchor": anchor}, load_judge("embedded")
    group = SimpleNamespace(
        name="explicit",
        has_anchor=True,
        knows_anchor=True,
        batches=arms,
        anchors=[str(i % (len(anchor) // 2)) for i in range(len(anchor))],
        repeated=len(anchor) // 2,
        videos=lambda arm: iter(arms[arm]),
        features=lambda arm: judge.features(arms[arm]),
        anchor_found=lambda arm: judge.probabilities(arms[arm], ["penguin"])[..., 0] >= judge.threshold,
    )
    figures = fidelity(SimpleNamespace(groups={"": group}))
    return {each.metric: tuple(shown and shown.value for shown in (each.original, each.edited)) for each in figures}


@pytest.fixture(scope="module")
def scenes(embedded):
    """Videos of cats, and of penguins from the same and from other seeds: two each."""
    asked = {"cat": ("cat", 0), "penguin": ("penguin", 0), "other": ("penguin", 10)}
    return {
        which: generate(
            embedded.t2v, [f"a photo of a {name}"] * 2, range(first, first + 2), replace(embedded.settings, steps=6)
        )
        for which, (name, first) in asked.items()
    }


def test_fidelity_is_whole_for_the_very_video_of_the_anchor_prompt_and_falls_with_all_else(scenes, rng):
    cat, penguin, other = scenes["cat"], scenes["penguin"], scenes["other"]
    broken = np.stack([noise(rng, 8) for _ in cat])
    very, seeds, nothing, mush = (judged(cat, after, penguin) for after in (penguin, other, cat, broken))
    for metric in ("fidelity_ssim", "fidelity_features"):
        assert very[metric][1] == pytest.approx(1)
        assert 1 > seeds[metric][1] > max(nothing[metric][1], mush[metric][1])
        assert nothing[metric][0] == nothing[metric][1] == very[metric][0]  # what no erasure at all leaves
        assert abs(very[f"{metric}_seeds"][0] - seeds[metric][1]) < 0.2  # two seeds of the anchor prompt, by either way
    assert very["anchor_found"] == (0, 1) and very["anchor_ceiling"] == (1, None)
    assert nothing["anchor_found"] == mush["anchor_found"] == (0, 0)


def test_similarity_of_large_frames_is_that_of_frames_averaged_down_and_small_ones_stay_as_they_are():
    from skimage.metrics import structural_similarity

    small, other = moving(1, side=128), moving(2, side=128)
    exactly = np.mean([structural_similarity(a, b, channel_axis=-1) for a, b in zip(small, other, strict=True)])
    assert similarity(small, other) == exactly
    large = [video.repeat(4, 1).repeat(4, 2) for video in (small, other)]  # 512 pixels, of which 256 are compared
    halved = [video.repeat(2, 1).repeat(2, 2) for video in (small, other)]
    assert similarity(*large) == similarity(*halved)
    assert similarity(large[0], large[0]) == 1
