"""`python -m training.modern STAGE`: remake the modern pair. Every stage resumes, and runs the stages it needs first."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.encoders import FOLDER as ENCODERS
from training.__main__ import DEFAULT_DEVICE, Device, Folder
from training.scenes import Renderer
from training.sprites import build
from training.world import load_world

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Reader = Annotated[Path, typer.Option(help="SmolLM2, as `python -m benchmarks.encoders` puts it")]
DEFAULT_FOLDER, READER = Path("training/runs/modern"), ENCODERS / "smollm2"


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


@app.command()
def image(
    folder: Folder = DEFAULT_FOLDER,
    reader: Reader = READER,
    device: Device = DEFAULT_DEVICE,
):
    """Train the image model."""
    from training.modern.diffusion import train_image

    return train_image(folder, sprites(folder), autoencoder(folder, device), *_reader(reader, device), device)


@app.command()
def judge(folder: Folder = DEFAULT_FOLDER, device: Device = DEFAULT_DEVICE):
    """Train the judge on rendered scenes."""
    from training.judge import run

    return run(folder, sprites(folder), device)


@app.command()
def package(folder: Folder = DEFAULT_FOLDER, reader: Reader = READER, device: Device = DEFAULT_DEVICE) -> None:
    """Run what is missing of the image model, then write its fp16 weights into the package."""
    from training.modern.package import write_image

    print(f"wrote {write_image(autoencoder(folder, device), image(folder, reader, device))}")


if __name__ == "__main__":
    app()
