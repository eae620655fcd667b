"""Videos of prompts, each written as soon as it is made.

Knows files and what decides a video; judges nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unreel.errors import UnreelError
from unreel.evaluation.video_cache import Batch, VideoCache
from unreel.files import file_name
from unreel.interventions import load_intervention
from unreel.models.pair import VideoModel, load_video_model
from unreel.models.sampling import comment_of, write_mp4
from unreel.models.sampling import generate as sample
from unreel.progress import Tell, Work, drawn, nobody
from unreel.workflow.common import Place, Sampling, model_of, require_lists

NOTE = "unreel generate: "  # in a video's file, before a digest of all that decided it


@dataclass(frozen=True)
class GenerateJob:
    """Which videos to write into the folder `out`: one of each of `prompts`, whose seeds count up from `seed`, with the
    interventions in `folders` (or under hub ids) on. Without `t2v`, the model is the pair of unreel's that the first
    intervention was made on.
    """

    prompts: Sequence[str]
    folders: Sequence[Path] = ()
    t2v: str | None = None
    seed: int = 0
    sampling: Sampling = Sampling()
    out: Path = Path("videos")
    overwrite: bool = False
    place: Place = Place()

    def __post_init__(self) -> None:
        require_lists(prompts=self.prompts, folders=self.folders)

    @property
    def seeds(self) -> list[int]:
        return [self.seed + i for i in range(len(self.prompts))]

    @property
    def files(self) -> list[Path]:
        return [
            Path(self.out) / f"{file_name(text)}-{seed}.mp4" for text, seed in zip(self.prompts, self.seeds, strict=True)
        ]


def generate(job: GenerateJob, tell: Tell = nobody) -> Iterator[Path]:
    """Write each video as soon as it is made; returns the files that are written, one after the other.

    The same job goes on where it was stopped: what decided a video is noted in its file. Raises UnreelError, before
    anything is made, for what cannot be done, and for files that exist and are not this job's.
    """
    if not all(text.strip() for text in job.prompts):
        raise UnreelError("a prompt is empty")
    there = {} if job.overwrite else {file: comment_of(file) for file in job.files if file.exists()}
    finished = len(there) == len(job.files)
    for file, comment in there.items():
        if finished or not comment.startswith(NOTE):
            raise _taken(file)
    learned = [load_intervention(folder) for folder in job.folders]
    job.place.require()
    t2v = model_of(job.t2v, *learned)
    model = job.sampling.onto(load_video_model(t2v, **job.place.of_weights, offload=job.place.offload))
    for each in learned:
        each.require_felt(model.pipeline, model.settings.guidance)
        each.apply(model.pipeline)
    files = iter(job.files)
    # The names of its batches identify everything that decides pixels; no video is kept in it.
    batches = VideoCache(model, job.out).batches(job.prompts, job.seeds)
    asked = [(batch, [next(files) for _ in batch.prompts]) for batch in batches]
    notes = {file: f"{NOTE}{batch.file.stem}, {model.settings.fps} a second" for batch, own in asked for file in own}
    for file, comment in there.items():
        if comment != notes[file]:
            raise _taken(file)
    left = [(batch, own) for batch, own in asked if not set(own) <= set(there)]
    done = len(notes) - sum(len(own) for _, own in left)
    if done:
        tell("goes on", f"{done} of {len(notes)} videos are made")
    return _written(model, left, notes, done)


def _taken(file: Path) -> UnreelError:
    return UnreelError(f"{file} exists: choose another --out or --seed, or replace it with --overwrite")


def _written(
    model: VideoModel, left: Sequence[tuple[Batch, list[Path]]], notes: Mapping[Path, str], done: int
) -> Iterator[Path]:
    """Writes the videos of the batches that are left into their files, with what is to be noted in each."""
    with drawn(Work("generating videos", "video", len(notes), done)) as bar:
        for batch, files in left:
            videos = sample(model.pipeline, batch.prompts, batch.seeds, model.settings, what="")
            for file, frames in zip(files, videos, strict=True):
                write_mp4(file, frames, model.settings.fps, notes[file])
                bar.update()
                yield file
