"""Commands that unlearn: one erasure, a table of them, and the words to forget with it."""

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from unreel.cli.app import app, learning_command
from unreel.cli.options import (
    MOST,
    PLACE,
    SAMPLING,
    SETTINGS,
    T2I,
    T2V,
    AcceptWeak,
    Anchor,
    AsJson,
    ConceptNames,
    Images,
    JudgeName,
    Keep,
    KindOf,
    LearningSeed,
    LearningT2V,
    Method,
    OnTop,
    Overwrite,
    Quiet,
    Synonyms,
    Videos,
    Wordings,
    grouped,
    phrases_of,
    seed_of,
)
from unreel.cli.output import as_options, described, echo, print_result, tell, terminal_width


@learning_command
def unlearn(
    concept: ConceptNames,
    kind: KindOf = None,
    synonym: Synonyms = None,
    wordings: Wordings = None,
    replace: Anchor = None,
    keep: Keep = None,
    method: Method = "text-ablation",
    on_top: OnTop = None,
    t2i: T2I = None,
    t2v: LearningT2V = None,
    images: Images = None,
    seed: LearningSeed = 0,
    videos: Videos = 20,
    judge: JudgeName = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/<concept>", show_default=False)] = None,
    overwrite: Overwrite = False,
    accept_weak: AcceptWeak = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
    settings: Any = SETTINGS,
) -> None:
    """Unlearn concepts, then compare videos from the same seeds with and without the erasure.

    Run it again to continue with the videos where it stopped. The embedded pairs bring their own settings for some
    methods, in place of the defaults below.
    """
    from unreel.workflow import UnlearnJob
    from unreel.workflow import unlearn as run

    asked: dict[str, Any] = {"kind": kind, "synonyms": synonym or (), "anchor": replace, "keep": keep or ()}
    asked |= {"wordings": phrases_of(wordings), "on_top": on_top}
    models: dict[str, Any] = {
        "t2i": t2i,
        "t2v": t2v,
        "images": images,
        "judge": judge,
        "sampling": sampling,
        "place": place,
    }
    output: dict[str, Any] = {"out": out, "overwrite": overwrite, "accept_weak": accept_weak}
    job = UnlearnJob(concept, method=method, settings=settings, seed=seed, videos=videos, **asked, **models, **output)
    _say_unlearned(run(job, tell), job)


def _of_part(part: dict[str, Any], kind: str | None) -> Iterator[str]:
    """Lines about how a concept was unlearned."""
    if kind is None and part["kind"] != "object":
        yield f"kind     of {part['concept']}: {part['kind']}"
    if "anchor" in part:
        yield f"instead  of {part['concept']}: {part['anchor'] or 'nothing'}"
    if "stopped" in part:
        yield f"stopped  because {part['stopped']}"


def _next(where: str, job: Any) -> str:
    """The next commands for the erasure that `job` made, whose folder and options are `where`."""
    sampling, place = job.sampling, job.place
    evaluated = as_options({"--t2v": job.t2v, "--judge": job.judge}, sampling, place)
    judge = None if job.judge == "none" else job.judge  # an attack cannot do without
    model = {"--t2i": job.t2i, "--t2v": job.t2v, "--judge": judge, "--video-steps": sampling.steps}
    # --steps of an attack are those of a search, and a search holds the whole model on the device.
    attacked = as_options(model, dataclasses.replace(sampling, steps=None), dataclasses.replace(place, offload=False))
    return f"unreel evaluate {where}{evaluated}; unreel attack {where}{attacked}"


def _say_unlearned(done: Any, job: Any) -> None:
    from unreel.report.table import table

    for name, evaluation in done.evaluations.items():
        echo(f"\n{name}\n{table(evaluation, terminal_width())}\n")
    echo(f"erasure  {done.folder}")
    lines = [line for part in done.intervention.provenance["parts"] for line in _of_part(part, job.kind)]
    for line in dict.fromkeys(lines):  # of several methods, what they agree in once
        echo(line)
    for page in done.pages:
        echo(f"report   {page}")
    if done.pages:
        concepts = done.intervention.concepts
        which = f" --concept {shlex.quote(concepts[0])}" if len(concepts) > 1 else ""
        echo(f"next     {_next(shlex.quote(str(done.folder)) + which, job)}")
    figures = {name: evaluation.run.document() for name, evaluation in done.evaluations.items()}
    print_result({"erasure": done.folder, **described(done.intervention), "reports": done.pages, "evaluations": figures})


@learning_command
def batch(
    takedowns: Annotated[
        Path, typer.Argument(help="CSV or JSON with concept and, optionally, kind, synonyms, replace, keep, ticket")
    ],
    method: Method = "text-ablation",
    on_top: OnTop = None,
    wordings: Wordings = None,
    keep: Keep = None,
    t2i: T2I = None,
    t2v: LearningT2V = None,
    seed: LearningSeed = 0,
    videos: Videos = 0,
    judge: JudgeName = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/<file>", show_default=False)] = None,
    together: Annotated[
        str | None,
        typer.Option(help="make one erasure of all rows instead, into the folder of that name there", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="replace erasures of rows that have changed, each when the new one is made"),
    ] = False,
    accept_weak: AcceptWeak = False,
    retries: Annotated[int, typer.Option(min=0, max=MOST, help="how often to retry a takedown that breaks")] = 2,
    ray: Annotated[
        str,
        typer.Option(help="address of a Ray cluster whose machines see the same folders; local: this machine's processors"),
    ] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
    settings: Any = SETTINGS,
) -> None:
    """Unlearn a table of takedowns, each as an erasure of its own, with one report over all.

    Separate several texts in one column by ;. In the column replace, "nothing" is the scene without the concept.
    Run it again to continue where it stopped and to retry what was refused. Exit code 1: at least one takedown is not done.
    """
    from unreel.batch import BatchJob
    from unreel.batch import batch as run
    from unreel.workflow import UnlearnJob

    models: dict[str, Any] = {"t2i": t2i, "t2v": t2v, "judge": judge, "sampling": sampling, "place": place}
    each = UnlearnJob((), method=method, settings=settings, seed=seed, videos=videos, keep=keep or (), out=out, **models)
    more: dict[str, Any] = {"overwrite": overwrite, "accept_weak": accept_weak}
    each = dataclasses.replace(each, wordings=phrases_of(wordings), on_top=on_top, **more)
    made, page = run(BatchJob(takedowns, each, retries, ray, together), tell)
    echo(f"{made.summary}\nreport   {page}")
    print_result(made.document() | {"report": page})
    if not made.complete:
        raise typer.Exit(1)


@app.command(name="wordings")
@grouped
def other_wordings(
    concept: Annotated[str, typer.Argument(help="concept to find other words for, for example 'Tokyo Tower'")],
    kind: KindOf = None,
    phrases: Annotated[
        str,
        typer.Option(
            help="'everyday', or a file of phrases to look among: text, one per line, or CSV or JSON with a column prompt"
        ),
    ] = "everyday",
    t2i: T2I = None,
    t2v: T2V = None,
    seed: Annotated[
        int, typer.Option(callback=seed_of, help="random seed for the pictures that phrases are compared on")
    ] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
    place: Any = PLACE,
) -> None:
    """Find other words that the model draws a concept from, among everyday ones or those of a list.

    No picture of a phrase is made and no judge is asked: a phrase counts if the image model predicts nearly the same for
    it as for the name. Beside each stands its distance: 0 draws the same, 1 is as far off as an empty prompt.
    """
    from unreel.workflow import WordingsJob
    from unreel.workflow import wordings as run

    wordings = run(WordingsJob(concept, kind, phrases_of(phrases), t2i, t2v, seed, place), tell)
    for each in wordings:
        echo(f"{each.distance:.2f}  {each.text}")
    options = as_options({"--kind": kind, "--wordings": phrases, "--t2i": t2i, "--t2v": t2v, "--seed": seed or None}, place)
    echo(f"next  unreel unlearn {shlex.quote(concept)}{options}" if wordings else "none was found")
    print_result([dataclasses.asdict(each) for each in wordings])
