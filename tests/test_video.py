import inspect
import io
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from conftest import SETTINGS
from PIL import Image

from unreel import UnreelError, generate
from unreel.models.denoiser import Denoiser
from unreel.models.sampling import Start, encode_mp4, generate_images, load_images


def test_a_seed_means_the_same_video_wherever_it_stands(pair):
    prompts, seeds = ["a cat", "a dog", "a cat"], [7, 8, 7]
    first = generate(pair.t2v, prompts, seeds, pair.settings)
    assert first.shape == (3, 4, 8, 8, 3) and first.dtype == np.uint8
    again = generate(pair.t2v, prompts[::-1], seeds[::-1], pair.settings)
    assert np.abs(first[::-1].astype(int) - again).max() <= 1
    assert np.abs(first[0].astype(int) - first[2]).max() <= 1
    assert np.abs(first[0].astype(int) - first[1]).max() > 1


def test_without_a_number_of_frames_the_pipeline_makes_its_own(pair):
    (video,) = generate(pair.t2v, ["a cat"], [0], replace(pair.settings, frames=None))
    assert len(video) == inspect.signature(type(pair.t2v).__call__).parameters["num_frames"].default


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"steps": 1001}, r"num_inference_steps=1001, .*: `num_inference_steps`: 1001 cannot be larger"),
        ({"frames": 99}, r"num_frames=99, .*: The size of tensor a \(99\)"),
    ],
)
def test_what_a_pipeline_cannot_make_is_one_line(pair, wrong, reason):
    with pytest.raises(UnreelError, match=f"^AnimateDiffPipeline cannot generate with .*{reason}"):
        generate(pair.t2v, ["a cat"], [0], replace(SETTINGS, **wrong))


def test_a_video_goes_on_from_another_as_much_as_little_noise_lets_it(embedded):
    pipeline, settings = embedded.t2v, replace(embedded.settings, steps=5)
    elephants = Denoiser.of(pipeline, None, settings.frames).finished("a photo of an elephant", 3, settings)
    frames = generate(pipeline, ["a photo of an elephant"], [3], settings).astype(float)
    own = pipeline.scheduler.step.__func__

    def apart(share):
        made = generate(pipeline, [Start("a photo of a pizza", elephants, share)], [4], settings)
        return np.abs(made - frames).mean()

    near, middle, far = (apart(share) for share in (0.2, 0.6, 1.0))
    assert near < middle < far and near < 0.5 * far
    assert far == np.abs(generate(pipeline, ["a photo of a pizza"], [4], settings) - frames).mean()
    assert pipeline.scheduler.step.__func__ is own and "step" not in vars(pipeline.scheduler)


def test_videos_made_together_start_at_the_same_share(pair):
    latents = torch.zeros(1, 4, 4, 4, 4)
    with pytest.raises(UnreelError, match="start at the same share"):
        generate(pair.t2v, [Start("a cat", latents, share) for share in (0.5, 0.9)], [1, 2], pair.settings)
    with pytest.raises(UnreelError, match="all asked for in words, by embeddings, or from a start"):
        generate(pair.t2v, ["a dog", Start("a cat", latents, 0.5)], [1, 2], pair.settings)
    with pytest.raises(UnreelError, match="one step starts from noise alone"):
        generate(pair.t2v, [Start("a cat", latents, 0.5)], [1], replace(pair.settings, steps=1))
    with pytest.raises(UnreelError, match="cannot start from a video here"):
        generate(pair.t2v, [Start("a cat", latents[:, :, :1], 0.1)], [1], replace(pair.settings, steps=4))


def test_images_come_one_for_each_prompt(pair):
    assert generate_images(pair.t2i, ["a cat"] * 3, [1, 2, 3], pair.settings).shape == (3, 8, 8, 3)


def test_files_are_h264_that_browsers_play_and_keep_every_frame():
    frames = np.zeros((8, 64, 64, 3), np.uint8)
    frames[:, :, 32:] = [200, 40, 40]
    with av.open(io.BytesIO(encode_mp4(frames, 8))) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert len(decoded) == 8 and decoded[0].shape == (192, 192, 3)
    assert np.abs(decoded[4][90:100, 140:180].mean((0, 1)) - [200, 40, 40]).max() < 12


@pytest.mark.parametrize(
    ("size", "longest", "seen"),
    [
        ((480, 832), 320, (184, 320)),
        ((480, 832), 160, (92, 160)),
        ((64, 64), 320, (192, 192)),
        ((64, 64), 160, (128, 128)),
    ],
)
def test_no_video_is_larger_than_the_longest_side_that_it_may_have(size, longest, seen):
    with av.open(io.BytesIO(encode_mp4(np.zeros((1, *size, 3), np.uint8), 8, longest=longest))) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == seen


def test_the_same_frames_become_the_same_file_whatever_memory_held_before():
    y, x = np.mgrid[:64, :64]
    draw = np.random.default_rng(0)
    frames = np.full((8, 64, 64, 3), 200)
    for i, frame in enumerate(frames):  # a disc that flies over a grainy wall: what an encoder predicts from later frames
        frame[(x - 20 - 2 * i) ** 2 + (y - 32 - 8 * np.sin(i)) ** 2 < 150] = (200, 30, 40)
        frame += draw.integers(-6, 7, frame.shape)
    files = set()
    for _ in range(40):
        draw.integers(0, 256, int(draw.integers(1_000, 400_000)), dtype=np.uint8)  # leaves something else in memory
        files.add(encode_mp4(frames.clip(0, 255).astype(np.uint8), 8))
    assert len(files) == 1


def test_given_images_are_cropped_and_scaled(tmp_path):
    for i in range(3):
        Image.new("RGB", (40 + i, 30), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
    images = load_images(tmp_path, (16, 16))
    assert images.shape == (3, 16, 16, 3) and images[2, 8, 8, 0] == 20


def nothing(folder): ...
def broken(folder):
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")


def text(folder):
    (folder / "notes.txt").write_text("hello")


def huge(folder):
    Image.new("1", (10_000, 6_000)).save(folder / "huge.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [(nothing, "is empty"), (broken, "cannot be read"), (text, "cannot be read"), (huge, "megapixels")],
)
def test_bad_image_folders_are_refused_naming_the_file(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UnreelError, match=message):
        load_images(tmp_path, (16, 16))
