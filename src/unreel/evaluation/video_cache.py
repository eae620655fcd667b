"""Finished videos on disk, so that nothing is generated twice: a killed run goes on where it was.

Knows pipelines and pixels; knows nothing about what a video should show.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unreel.errors import UnreelError
from unreel.files import read_tensors, tensor_file, write_tensors
from unreel.interventions import active_interventions
from unreel.interventions.base import Intervention
from unreel.models.adapter import modules_of, network_of, undisturbed, usual_call, words_of
from unreel.models.fingerprint import Fingerprint
from unreel.models.pair import Settings, VideoModel
from unreel.models.sampling import Asked, Start, generate
from unreel.models.tokenizer import reading_of
from unreel.models.weights import adapters_in, quantization
from unreel.progress import Tell, Work, drawn
from unreel.versions import versions

LARGE = 1e9  # bytes of videos that people want to know of before


@dataclass(frozen=True)
class Batch:
    """Videos that are generated together, and the file that holds them once they are finished.

    Always the same videos together, since a batch's size leaves traces in the last bits. `prompts` may hold prompt
    embeddings (tokens, width) or starts in place of words, but not several kinds in one batch.
    """

    file: Path
    prompts: tuple[Asked, ...]
    seeds: tuple[int, ...]
    erasure: Intervention | None

    @property
    def finished(self) -> bool:
        return self.file.is_file()


def made_in(folder: Path | None) -> int:
    """Bytes of the videos that are in a cache's folder already, if a single run uses it; 0 without a folder."""
    # What attacks found and studied lies there too, with a prefix before its digest.
    return sum(file.stat().st_size for file in folder.glob("*.safetensors") if "-" not in file.stem) if folder else 0


def require_room(model: VideoModel, folder: Path | None, least: int, most: int, tell: Tell, *, made: int = 0) -> None:
    """Tells the size of `most` videos if it is known and large. Raises UnreelError if the disk of `folder`, which need
    not exist, cannot hold `least` videos minus the `made` bytes already there.
    """
    each, home = model.video_bytes, folder or Path(tempfile.gettempdir())
    if each is None:
        return
    free = shutil.disk_usage(next(filter(Path.is_dir, (home, *home.absolute().parents)))).free
    if least * each - made > free:
        raise UnreelError(
            f"{least} videos of {each / 1e6:.1f} MB do not fit into {home}, whose disk has {free / 1e9:.1f} GB left: ask "
            "for fewer or smaller ones, or choose another folder with --out"
        )
    if most * each > LARGE:
        upto = "up to " if least < most else ""
        tell("disk", f"{upto}{most * each / 1e9:.1f} GB for {most} videos of {each / 1e6:.1f} MB in {home}")


class VideoCache:
    """A folder of finished batches for one video model, each file named by everything that decides its pixels, so that
    several runs, models and processes may share it.
    """

    def __init__(self, model: VideoModel, folder: Path | None = None, *, begin: bool = True):
        """`folder` is made if need be, now or, without `begin`, when `begin()` is called. Without a folder, the cache
        has a temporary one, which is deleted with it.
        """
        self._temporary = tempfile.TemporaryDirectory(prefix="unreel-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else Path(folder or "")
        self.model = model
        self.identity = pipeline_identity(model.pipeline, model.settings)
        if begin:
            self.begin()

    def begin(self) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def batches(self, prompts: Sequence[Asked], seeds: Sequence[int], erasure: Intervention | None = None) -> list[Batch]:
        """The batches that make one video per prompt and seed with `erasure` on, in order."""
        size, out = self.model.settings.batch, []
        for start in range(0, len(prompts), size):
            texts, numbers = tuple(prompts[start : start + size]), tuple(seeds[start : start + size])
            asked = [_named(text) for text in texts]
            file = tensor_file(self.folder, [self.identity, erasure.identity if erasure else "", asked, numbers])
            out.append(Batch(file, texts, numbers, erasure))
        return out

    def make(self, batches: Sequence[Batch], what: str) -> None:
        """Generate the batches that are not finished, with a progress bar that counts videos. No other thread puts
        anything on the pipeline or off meanwhile.

        What successive batches have on stays on between them: each time that a large model's weights change takes long.
        """
        pipeline, settings = self.model.pipeline, self.model.settings
        left = {batch.file: batch for batch in batches if not batch.finished}.values()
        total = sum(len(batch.prompts) for batch in batches)
        done = total - sum(len(batch.prompts) for batch in left)
        with undisturbed(pipeline), drawn(Work(what, "video", total, done)) as bar:
            for erasure, alike in groupby(left, lambda batch: batch.erasure):
                with erasure.on(pipeline) if erasure else nullcontext():
                    for batch in alike:
                        if batch.finished:  # by another process meanwhile
                            bar.update(len(batch.prompts))
                            continue
                        begun = time.perf_counter()
                        videos = generate(pipeline, list(batch.prompts), list(batch.seeds), settings, what="")
                        _write(batch, videos, time.perf_counter() - begun, _place(pipeline))
                        bar.update(len(batch.prompts))

    def read(self, batches: Sequence[Batch]) -> Iterator[np.ndarray]:
        """The videos of finished batches, one after the other: (frames, height, width, 3) uint8."""
        for batch in batches:
            yield from _open(batch)["videos"]

    def frames(self, batch: Batch, place: int) -> np.ndarray:
        """One video of a finished batch."""
        return _open(batch)["videos"][place]

    def seconds(self, batches: Sequence[Batch]) -> np.ndarray:
        """Seconds that a video took to generate, one figure for every batch."""
        took = (read_tensors(batch.file, ("seconds",))[0]["seconds"] for batch in batches)
        return np.array([float(of[0]) / len(batch.prompts) for batch, of in zip(batches, took, strict=True)])

    def devices(self, batches: Sequence[Batch]) -> set[str]:
        """The names of the devices that finished batches were made on; earlier files do not say."""
        metadata = (read_tensors(batch.file, ("seconds",))[1] for batch in batches)
        return {about["device"] for about in metadata if "device" in about}


def pipeline_identity(pipeline: Any, settings: Settings) -> str:
    """A text that identifies everything that decides a pipeline's output for a prompt and a seed, except rounding that
    differs by device.
    """
    weights = [
        f"{Fingerprint.of(part).identity}{quantization(part)}{adapters_in(part)}" for part in modules_of(pipeline).values()
    ]
    weights += [on.identity for on in active_interventions(pipeline)]
    sampling = settings.sampling | {"dtype": str(network_of(pipeline).dtype)} | usual_call(pipeline)
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    words = [reading_of(words_of(part)) for name, part in sorted(parts.items()) if name.startswith("tokenizer")]
    steering = [_configured(parts[name]) for name in ("scheduler", "guider") if name in parts]
    own = {name: value for name, value in pipeline.config.items() if name not in pipeline.components and name[0] != "_"}
    made_by = [type(pipeline).__name__, own, words, steering, versions()]
    return json.dumps([weights, sampling, made_by], default=str, sort_keys=True)


def _configured(part: Any) -> list[Any]:
    """The class and the configuration of a part without weights, without the entries that name the class it was made
    from.
    """
    return [type(part).__name__, {name: value for name, value in part.config.items() if name[0] != "_"}]


def dtype_of(pipeline: Any) -> str:
    """The precision that a pipeline makes videos in, as the command line calls it."""
    return str(network_of(pipeline).dtype).removeprefix("torch.")


def _named(asked: Asked) -> str:
    """The prompt as text, with a digest in place of embeddings or of the latents to start from."""
    if isinstance(asked, Start):
        return f"{asked.prompt} from {asked.share} of {_named(asked.latents)}"
    if isinstance(asked, torch.Tensor):
        return hashlib.sha256(asked.float().cpu().contiguous().numpy().tobytes()).hexdigest()
    return asked


def _place(pipeline: Any) -> str:
    """The device that a pipeline computes on: a GPU's model, since they differ in speed, else the type."""
    device = pipeline._execution_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _write(batch: Batch, videos: np.ndarray, seconds: float, device: str) -> None:
    prompts = [_named(prompt) for prompt in batch.prompts]
    metadata = {"prompts": json.dumps(prompts), "seeds": json.dumps(batch.seeds), "device": device}
    made = torch.from_numpy(np.ascontiguousarray(videos))
    write_tensors(batch.file, {"videos": made, "seconds": torch.tensor([seconds], dtype=torch.float64)}, metadata)


def _open(batch: Batch) -> dict[str, np.ndarray]:
    tensors, _ = read_tensors(batch.file, ("videos", "seconds"))
    videos, seconds = (tensor.numpy() for tensor in tensors.values())
    if videos.dtype != np.uint8 or videos.ndim != 5 or len(videos) != len(batch.prompts) or not seconds.size:
        raise UnreelError(f"{batch.file} holds other videos: delete it and run the command again to remake it")
    return {"videos": videos, "seconds": seconds}
