"""Commands that make artifacts of what is there: exports, erasures of others' weights, sums."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from unreel.cli.app import app
from unreel.cli.options import (
    PLACE_OF_THE_WHOLE,
    AcceptWeak,
    AsJson,
    Device,
    ErasureFolder,
    Format,
    KindOf,
    MadeOn,
    Overwrite,
    Quiet,
    Synonyms,
    Tolerance,
    grouped,
)
from unreel.cli.output import as_options, described, echo, print_result, tell
from unreel.errors import UnreelError, summarise


@app.command()
def export(
    erasure: ErasureFolder,
    format: Format,
    out: Annotated[Path, typer.Option(help="output folder")],
    t2v: MadeOn = None,
    t2i: Annotated[
        str | None, typer.Option(help="text-to-image pipeline in its place: a folder or hub id", show_default=False)
    ] = None,
    tolerance: Tolerance = 0.05,
    overwrite: Overwrite = False,
    accept_weak: AcceptWeak = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = "cpu",
) -> None:
    """Write an erasure as a file that loads without unreel, and say how much of its effect that keeps."""
    from unreel.workflow import export as run

    models: dict[str, Any] = {"t2i": t2i, "t2v": t2v, "device": device}
    made = run(erasure, out, format=format, tolerance=tolerance, **models, overwrite=overwrite, accept_weak=accept_weak)
    for name, ranks in made.ranks.items():
        echo(f"ranks    {min(ranks.values())} to {max(ranks.values())} in {len(ranks)} matrices of the {name}")
    echo(f"kept     {100 * made.kept:.2f} % of what the erasure does to prompts that name the concept")
    moved, now = (f"{100 * share:.2f} %" for share in made.moved)
    echo(f"moved    unrelated prompts by {now}; by {moved} with the erasure itself")
    if made.left_out:
        echo(f"left out {len(made.left_out)} changes that {format} cannot hold: {summarise(made.left_out)}")
    echo(f"written  {out}, {made.megabytes:.2f} MB")
    print_result({"export": out, **dataclasses.asdict(made)})


@app.command()
@grouped
def adopt(
    weights: Annotated[
        str,
        typer.Argument(
            help="what the other code wrote: a pipeline's folder or hub id, the folder of a text encoder or denoiser, or a "
            "safetensors file of weights or of a LoRA"
        ),
    ],
    concept: Annotated[list[str], typer.Argument(help="what it is to have forgotten, for example 'Tokyo Tower'")],
    t2v: Annotated[str, typer.Option(help="text-to-video pipeline that it is put on: a folder or hub id")] = "embedded",
    base: Annotated[
        str | None,
        typer.Option(
            help="what it was changed from: the same kind of folder, hub id or file; default: the video model's weights",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[float, typer.Option(help="how much of the change to take; a slider's may be negative")] = 1.0,
    method: Annotated[
        str, typer.Option(help="what to call the method that made it, on cards and pages", show_default=False)
    ] = "",
    kind: KindOf = None,
    synonym: Synonyms = None,
    replace: Annotated[
        str | None,
        typer.Option(
            help="what it makes instead, if that is known: the self-check then measures the way to it", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/<concept>", show_default=False)] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    place: Any = PLACE_OF_THE_WHOLE,
) -> None:
    """Make an erasure of weights that other code changed, to evaluate, attack, combine and serve it like any other.

    What differs from the weights that they were changed from, in text encoders and in what denoises, is the erasure.
    Nothing is learned.
    """
    from unreel.prompts.takedowns import Takedown
    from unreel.workflow import adopt as run
    from unreel.workflow import say_check

    if synonym and len(concept) > 1:
        raise UnreelError("synonyms belong to one concept: name one alone, or leave --synonym out")
    asked = [Takedown(name, kind, tuple(synonym or ()), replace) for name in concept]
    source: dict[str, Any] = {"method": method, "base": base, "scale": scale, "t2v": t2v}
    made, folder = run(weights, asked, tell, **source, out=out, overwrite=overwrite, place=place)
    echo(f"changes  {made.provenance['parts'][0]['settings']['changes']}")
    say_check(made, tell)
    echo(f"erasure  {folder}, {made.nbytes / 1e6:.2f} MB")
    options = as_options({"--t2v": None if t2v == "embedded" else t2v}, place)
    which = f" --concept {shlex.quote(concept[0])}" if len(concept) > 1 else ""
    echo(f"next     unreel evaluate {shlex.quote(str(folder))}{which}{options}")
    print_result({"erasure": folder, **described(made)})


@app.command()
@grouped
def combine(
    erasure: Annotated[list[Path], typer.Argument(help="folders of two or more erasures")],
    out: Annotated[Path, typer.Option(help="output folder")],
    t2v: Annotated[
        str | None,
        typer.Option(
            help="model to check the sum on (default: the embedded pair that they were made on)", show_default=False
        ),
    ] = None,
    overwrite: Overwrite = False,
    accept_weak: AcceptWeak = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    place: Any = PLACE_OF_THE_WHOLE,
) -> None:
    """Make one erasure of several that were made for the same model: it does what all of them do.

    Changes that were learned apart may get in each other's way, so the sum is checked on held-out prompts.
    """
    from unreel.workflow import combine as run
    from unreel.workflow import say_check

    total = run(erasure, out, tell, t2v=t2v, overwrite=overwrite, accept_weak=accept_weak, place=place)
    say_check(total, tell)
    echo(f"erasure  {out}, of {', '.join(total.concepts)}, {total.nbytes / 1e6:.2f} MB")
    print_result({"erasure": out, **described(total)})
