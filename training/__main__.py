"""`python -m training STAGE`: remake the first embedded pair. Every stage resumes, and runs the stages it needs first."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from training.scenes import Renderer
from training.world import load_world

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

WORLD = load_world("first")
Folder = Annotated[Path, typer.Option(help="where data, checkpoints and logs go (about 3 GB)")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
DEFAULT_FOLDER, DEFAULT_DEVICE = Path("training/runs"), "cuda" if torch.cuda.is_available() else "cpu"


@app.command()
def sprites(folder: Folder = DEFAULT_FOLDER) -> Renderer:
    """Fetch the pinned icon packages with npm and rasterise every concept in every style."""
    from training.sprites import build

    return Renderer(build(folder, WORLD), WORLD)


@app.command()
def autoencoder(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the autoencoder."""
    from diffusers import AutoencoderKL

    from training.autoencoder import run

    model = folder / "autoencoder" / "model"
    if not model.exists():
        run(folder, sprites(folder), device).save_pretrained(model)
    return AutoencoderKL.from_pretrained(model).to(device)


def _tokenizer(folder: Path):
    from training.tokenizer import build

    return build(folder / "tokenizer", WORLD)


@app.command()
def image(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the text encoder and the image model together."""
    from training.diffusion import train_image

    return train_image(folder, sprites(folder), autoencoder(folder, device), _tokenizer(folder), device)


@app.command()
def video(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the video model on the frozen text encoder."""
    from training.diffusion import train_video

    still = image(folder, device)
    vae, tokenizer = autoencoder(folder, device), _tokenizer(folder)
    return train_video(folder, sprites(folder), vae, tokenizer, still["text_encoder"], still["unet"], device)


@app.command()
def judge(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the judge on rendered scenes."""
    from training.judge import run

    return run(folder, sprites(folder), device)


@app.command()
def package(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE) -> None:
    """Run what is missing, then write the finished fp16 weights into the package."""
    from training.package import write

    still, moving = image(folder, device), video(folder, device)
    write(folder, autoencoder(folder, device), _tokenizer(folder), still, moving, judge(folder, device))


if __name__ == "__main__":
    app()
