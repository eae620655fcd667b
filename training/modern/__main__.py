"""`python -m training.modern STAGE`: remake the modern pair. Every stage resumes, and runs the stages it needs first."""

from pathlib import Path
from typing import Annotated

import typer

from training.__main__ import DEFAULT_DEVICE, Device, Folder
from training.scenes import Renderer
from training.sprites import build
from training.world import load_world
from unreel.models.readers import FOLDER as READERS

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Reader = Annotated[Path, typer.Option(help="SmolLM2, as `unreel fetch smollm2` puts it")]
DEFAULT_FOLDER, READER = Path("training/runs/modern"), READERS / "smollm2"


@app.command()
def sprites(folder: Folder = DEFAULT_FOLDER) -> Renderer:
    """Fetch the pinned icon packages with npm and rasterise every concept in every style."""
    world = load_world("modern")
    return Renderer(build(folder, world), world)


@app.command()
def autoencoder(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the autoencoder of the image model."""
    from diffusers import AutoencoderDC

    from training.modern.autoencoder import run

    model = folder / "autoencoder" / "model"
    if not model.exists():
        run(folder, sprites(folder), device).save_pretrained(model)
    return AutoencoderDC.from_pretrained(model).to(device)


def _reader(folder: Path, device: str):
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).to(device).eval()


def _lesson_inputs(folder: Path, reader: Path, device: str):
    """The arguments that lessons are made with."""
    return folder, sprites(folder), autoencoder(folder, device), *_reader(reader, device), device


@app.command()
def image(
    folder: Folder = DEFAULT_FOLDER,
    reader: Reader = READER,
    device: Device = DEFAULT_DEVICE,
):
    """Train the image model."""
    from training.modern.diffusion import stills, train_image

    return train_image(folder, stills(*_lesson_inputs(folder, reader, device)), device)


@app.command()
def words(folder: Folder = DEFAULT_FOLDER, reader: Reader = READER, device: Device = DEFAULT_DEVICE):
    """Teach the image model other words for what it knows."""
    from training.modern.diffusion import stills, train_image
    from training.modern.words import train_words, vocabulary

    inputs = _lesson_inputs(folder, reader, device)
    lessons = stills(*inputs)
    phrases = vocabulary(folder, inputs[1], lessons, *_reader(reader, device), device)
    return train_words(folder, train_image(folder, lessons, device), lessons, phrases, device)


@app.command()
def judge(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the judge on rendered scenes."""
    from training.judge import run

    return run(folder, sprites(folder), device)


@app.command()
def video_autoencoder(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the autoencoder of the video model, to the latents of the image model's."""
    from training.modern.video import train_autoencoder

    return train_autoencoder(folder, sprites(folder), autoencoder(folder, device), device)


@app.command()
def video(folder: Folder = DEFAULT_FOLDER, reader: Reader = READER, device: Device = DEFAULT_DEVICE):
    """Train the video model, from the image model."""
    from training.modern.diffusion import stills, train_image
    from training.modern.video import moving, train_video

    inputs = _lesson_inputs(folder, reader, device)
    pictures = stills(*inputs)
    return train_video(folder, train_image(folder, pictures, device), moving(*inputs), pictures, device)


@app.command()
def package(folder: Folder = DEFAULT_FOLDER, reader: Reader = READER, device: Device = DEFAULT_DEVICE) -> None:
    """Run whatever stage is missing, then write the fp16 weights into the package."""
    from training.modern.package import write

    read = _reader(reader, device)
    models = autoencoder(folder, device), words(folder, reader, device), video_autoencoder(folder, device)
    write(folder, *read, *models, video(folder, reader, device), judge(folder, device))


if __name__ == "__main__":
    app()
