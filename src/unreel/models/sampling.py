"""Seeded images and videos out of a pipeline, latents of images to learn from, and H.264 files that browsers play.

Knows pipelines and pixels; knows nothing about concepts or judges, and of erasures only that none may come in between.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unreel.errors import UnreelError, reason_of
from unreel.files import write_bytes
from unreel.models.adapter import as_prompts, fewer_steps, leading_away, made_by, makes_pictures, set_up, undisturbed
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Pair, Settings, settings_of
from unreel.progress import track

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MIN_SIDE = 192  # pixels; smaller videos are enlarged in files, or H.264's half-size colour planes would blur them


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """Pixels (..., height, width, 3) uint8 -> (..., 3, height, width) float in [-1, 1], as networks read them."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1


@dataclass(frozen=True, eq=False)
class Start:
    """A prompt, and latents (1, ...) of a video to go on from, with as much noise as there is at a `share` of the way."""

    prompt: str
    latents: torch.Tensor
    share: float


Asked = str | torch.Tensor | Start  # words, embeddings (tokens, width) that go straight to the denoiser, or a start


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    # On the CPU whatever the device: the same seed is then the same noise everywhere.
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _batches(
    pipeline: "DiffusionPipeline",
    prompts: Sequence[Asked],
    seeds: Sequence[int],
    settings: Settings,
    what: str,
    negative: str | None = None,
    **options: Any,
) -> Iterator[Any]:
    if not len(prompts) == len(seeds) > 0:
        raise UnreelError(f"give one seed for every prompt, and at least one: there are {len(prompts)} and {len(seeds)}")
    batch = settings.batch
    starts = range(0, len(prompts), batch)
    for start in track(starts, what) if what else starts:
        part, numbers = prompts[start : start + batch], seeds[start : start + batch]
        with _begun(pipeline, part, numbers) as words:
            made = made_by(
                pipeline,
                **words,
                **leading_away(negative, len(part)),
                generator=_generators(numbers),
                num_inference_steps=settings.steps,
                output_type="np",
                **options,
            )
        yield made


@contextmanager
def _begun(pipeline: "DiffusionPipeline", asked: Sequence[Asked], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Gives what the pipeline's call takes for what is asked, all of one kind; inside, it starts where that says."""
    embeddings = [prompt for prompt in asked if isinstance(prompt, torch.Tensor)]
    begun = [prompt for prompt in asked if isinstance(prompt, Start)]
    if any(0 < len(of) < len(asked) for of in (embeddings, begun)):
        raise UnreelError("videos that are made together are all asked for in words, by embeddings, or from a start")
    if not begun:
        yield as_prompts(pipeline, torch.stack(embeddings)) if embeddings else {"prompt": list(asked)}
        return
    if len({start.share for start in begun}) > 1:
        raise UnreelError("videos that are made together start at the same share of the way")
    latents = torch.cat([start.latents for start in begun])
    noise = [
        torch.randn(start.latents.shape, generator=of)
        for start, of in zip(begun, _generators([seed + 1 for seed in seeds]), strict=True)
    ]
    with Denoiser.of(pipeline).starting_from(latents, torch.cat(noise).to(latents.device), begun[0].share):
        yield {"prompt": [start.prompt for start in begun]}


def _bytes(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise UnreelError("the model produced pixels that are not numbers: try --dtype float32")
    return (pixels * 255).round().astype(np.uint8)


@torch.no_grad()  # weights that offloading moves in torch.inference_mode could never learn again
def generate_images(
    pipeline: "DiffusionPipeline",
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    *,
    what: str = "generating images",
) -> np.ndarray:
    """One image per prompt and seed: (n, height, width, 3) uint8. `what` names the progress bar; empty: none."""
    made = _batches(pipeline, prompts, seeds, settings, what, guidance_scale=settings.guidance)
    return _bytes(np.concatenate([out.images for out in made]))


def made_images(pair: Pair, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
    """One image of the pair's image model per prompt and seed, (n, height, width, 3) uint8, in so many denoising steps of a
    scheduler for few; 0: in the pair's own.
    """
    settings = replace(pair.settings, steps=steps or pair.settings.steps)
    with fewer_steps(pair.t2i) if steps else nullcontext():
        return generate_images(pair.t2i, prompts, seeds, settings)


def made_latents(pair: Pair, denoiser: Denoiser, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> torch.Tensor:
    """Latents of what the image model makes of each prompt, in steps as `made_images` has them, each with its mirror image:
    (prompts, 2, channels, height, width), or any layout of a latent in place of the last three.
    """
    if not makes_pictures(pair.t2i):
        latents = denoiser.sample(prompts, seeds, steps or pair.settings.steps)
        return torch.stack([latents, latents], dim=1)
    return encoded(denoiser, made_images(pair, prompts, seeds, steps))


def encoded(denoiser: Denoiser, images: np.ndarray) -> torch.Tensor:
    """Latents of images (n, height, width, 3) uint8, each with its mirror image: (n, 2, channels, height, width)."""
    # One at a time, so that memory does not grow with their number.
    pictures = to_tensor(images).split(1)
    return torch.stack([torch.cat([denoiser.encode(image), denoiser.encode(image.flip(-1))]) for image in pictures])


@torch.no_grad()
def generate(
    pipeline: "DiffusionPipeline",
    prompts: Sequence[Asked],
    seeds: Sequence[int],
    settings: Settings | None = None,
    *,
    what: str = "generating videos",
) -> np.ndarray:
    """One video per prompt and seed: (n, frames, height, width, 3) uint8. `what` names the progress bar; empty: none.

    In place of words, prompts may all be embeddings (tokens, width), which go straight to the denoiser, or all say where to
    start. Without `settings`, the pipeline samples as when it is called with a prompt alone. No other thread puts erasures
    on or off meanwhile.
    Raises UnreelError for what the pipeline cannot make.
    """
    settings = settings or settings_of("", pipeline)
    with (
        undisturbed(pipeline),
        set_up(pipeline, settings.guidance, settings.frames, settings.size, settings.tiling) as options,
    ):
        made = _batches(pipeline, prompts, seeds, settings, what, settings.negative_prompt, **options)
        return np.concatenate([_bytes(out.frames) for out in made])


def encode_mp4(frames: np.ndarray, fps: int, *, longest: int | None = None, crf: int = 16, comment: str = "") -> bytes:
    """Frames (frames, height, width, 3) uint8 as an H.264 yuv420p file in memory, small ones enlarged in whole steps.

    Larger ones are shrunk until their `longest` side is so many pixels, and none is enlarged beyond; a larger `crf` is a
    smaller file. The `comment` stands in it besides the pictures.
    """
    import av

    if longest:
        frames = shrunk(frames, longest)
    factor = -(-MIN_SIDE // min(frames.shape[1:3]))
    if longest:
        factor = max(1, min(factor, longest // max(frames.shape[1:3])))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = (side - side % 2 for side in frames.shape[1:3])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        # On several threads, or with frames that are predicted from later ones, the same frames would not always become the
        # same bytes.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "bf": "0"}
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def shrunk(frames: np.ndarray, longest: int) -> np.ndarray:
    """Frames (frames, height, width, 3) uint8, averaged down until their longest side is so many pixels; as they are where
    that is no longer.
    """
    from PIL import Image

    height, width = frames.shape[1:3]
    if max(height, width) <= longest:
        return frames
    size = tuple(max(2, round(side * longest / max(height, width))) for side in (width, height))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames])


def write_mp4(file: Path, frames: np.ndarray, fps: int, comment: str = "") -> None:
    """Write atomically."""
    write_bytes(file, encode_mp4(frames, fps, comment=comment))


def read_mp4(file: Path) -> np.ndarray:
    """The frames of a video file, (frames, height, width, 3) uint8, as far as H.264 keeps them.

    Raises UnreelError for what is no video.
    """
    import av

    try:
        with av.open(str(file)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise UnreelError(f"{file} cannot be read as a video: {reason_of(error)}") from error
    if not frames:
        raise UnreelError(f"{file} has no frames")
    return np.stack(frames)


def comment_of(file: Path) -> str:
    """What stands in a video file besides its pictures; empty if nothing does, and for what is no video."""
    import av

    try:
        with av.open(str(file)) as container:
            return container.metadata.get("comment", "")
    except (OSError, av.FFmpegError):
        return ""


def image_files(folder: Path) -> list[Path]:
    """The files of a folder of images. Raises UnreelError for what is no folder, or an empty one."""
    if not folder.is_dir():
        raise UnreelError(f"{folder} is no folder of images")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise UnreelError(f"{folder} is empty: put a few images of the concept into it")
    return files


def load_images(folder: Path, size: tuple[int, int]) -> np.ndarray:
    """All images of a folder, cropped to the middle and scaled to (height, width): (n, height, width, 3) uint8.

    Raises UnreelError for a folder without images and for any file in it that is broken, too large or no image.
    """
    from PIL import Image, ImageOps

    height, width = size
    out = []
    for file in image_files(folder):
        try:
            with Image.open(file) as image:
                if image.width * image.height > 50_000_000:
                    raise UnreelError(f"{file} is {image.width}x{image.height}: images may have 50 megapixels at most")
                fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreelError(f"{file} cannot be read as an image: remove or repair it") from error
        out.append(np.asarray(fitted))
    return np.stack(out)
