"""Commands that make files of what is there: exports, erasures of others' weights, sums."""

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
from unreel.cli.output import as_options, described, news, print_result, tell
from unreel.errors import UnreelError, summarise
from unreel.files import require_new


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
    from unreel.interventions.erasure import Erasure
    from unreel.interventions.export import EXPORT_FILE, LEAST_KEPT, require

    require(format, tolerance)
    require_new(out, overwrite, EXPORT_FILE)
    learned = Erasure.from_pretrained(erasure)

    from unreel.interventions.export import export as run
    from unreel.models.pair import load_pair, load_pipeline
    from unreel.models.shipped import shipped
    from unreel.workflow import model_of

    options: dict[str, Any] = {"device": device, "dtype": None, "text_only": True}
    if t2i is None or t2v is not None:
        model = load_pair(t2i, model_of(t2v, learned), **options).t2v
    else:
        model = load_pair(t2i, **options).t2i if shipped(t2i) else load_pipeline(t2i, **options)
    least = 0.0 if accept_weak else LEAST_KEPT
    options = {"format": format, "tolerance": tolerance, "overwrite": overwrite, "least": least, "evaluated": erasure}
    made = run(learned, model, out, **options)
    for name, ranks in made.ranks.items():
        tell(f"ranks    {min(ranks.values())} to {max(ranks.values())} in {len(ranks)} matrices of the {name}")
    tell(f"kept     {100 * made.kept:.2f} % of what the erasure does to prompts that name the concept")
    moved, now = (f"{100 * share:.2f} %" for share in made.moved)
    tell(f"moved    unrelated prompts by {now}; by {moved} with the erasure itself")
    if made.left_out:
        tell(f"left out {len(made.left_out)} changes that {format} cannot hold: {summarise(made.left_out)}")
    tell(f"written  {out}, {made.megabytes:.2f} MB")
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
    made, folder = run(weights, asked, news, **source, out=out, overwrite=overwrite, place=place)
    tell(f"changes  {made.provenance['parts'][0]['settings']['changes']}")
    say_check(made, news)
    tell(f"erasure  {folder}, {made.nbytes / 1e6:.2f} MB")
    options = as_options({"--t2v": None if t2v == "embedded" else t2v}, place)
    which = f" --concept {shlex.quote(concept[0])}" if len(concept) > 1 else ""
    tell(f"next     unreel evaluate {shlex.quote(str(folder))}{which}{options}")
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

    total = run(erasure, out, news, t2v=t2v, overwrite=overwrite, accept_weak=accept_weak, place=place)
    say_check(total, news)
    tell(f"erasure  {out}, of {', '.join(total.concepts)}, {total.nbytes / 1e6:.2f} MB")
    print_result({"erasure": out, **described(total)})
