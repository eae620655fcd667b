"""The command line: each command parses, calls one public function and prints. Heavy imports wait inside commands."""

import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from unreel.errors import UnreelError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a text-to-video model forget a concept by changing only its text encoder.",
)


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


T2I = Annotated[str, typer.Option(help="text-to-image pipeline: a folder or hub id; default: the embedded pair's")]
T2V = Annotated[str | None, typer.Option(help="text-to-video pipeline with the same text encoder", show_default=False)]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[Precision, typer.Option(help="precision of all weights")]
JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge", help="embedded, clip, nsfw, nudenet, faces, each as NAME or NAME:ARGUMENT, or none", show_default=False
    ),
]
Resumed = Annotated[Path | None, typer.Option(help="output folder; a killed run goes on there", show_default=False)]
ErasureFolder = Annotated[Path, typer.Argument(help="folder of the erasure")]
ConceptName = Annotated[str | None, typer.Option(help="which concept, if the erasure has several", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the output if it exists")]


def _placement(device: str, dtype: Precision) -> dict[str, Any]:
    """Device and torch dtype, checked before anything is loaded onto them."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UnreelError(f"device {device!r} is not available here: try --device cpu") from error
    return {"device": device, "dtype": getattr(torch, dtype.value)}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "concept"


def _judge(name: str | None, t2v: str | None, device: str):
    """The judge asked for, None for "none"; by default the embedded one for the embedded pair, CLIP for all else."""
    from unreel.judges import load_judge
    from unreel.pair import EMBEDDED

    if name == "none":
        return None
    return load_judge(name or (EMBEDDED if t2v in (None, EMBEDDED) else "clip"), device)


@app.command()
def unlearn(
    concept: Annotated[list[str], typer.Argument(help="what to forget, for example 'Tokyo Tower'; several go together")],
    kind: Annotated[str, typer.Option(help="object, character, style, face or motion: picks the prompts")] = "object",
    synonym: Annotated[list[str] | None, typer.Option(help="a further wording to forget; may be repeated")] = None,
    replace: Annotated[
        str | None,
        typer.Option(
            help="what to make instead, for example 'a castle', or '' for the scene without it; default: something "
            "near of its kind, nothing for a motion",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="what must not change besides all that is known; may be repeated", show_default=False),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="closed-form (from text, in a second), adversarial (experimental: with a search for prompts that revive "
            "the concept; no gain measured), anchored (few-shot with a brake) or few-shot (the paper)"
        ),
    ] = "closed-form",
    t2i: T2I = "embedded",
    t2v: T2V = None,
    images: Annotated[
        Path | None,
        typer.Option(help="few-shot, anchored: folder of images of the concept, not generated ones", show_default=False),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="few-shot, anchored: images to generate (paper: 4)", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="few-shot: passes over the images (paper: 5)", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="few-shot, anchored: images a step (paper: 2)", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="few-shot, anchored: Adam's (paper: 1e-5)", show_default=False)
    ] = None,
    trainable: Annotated[
        str | None,
        typer.Option(
            help="few-shot, anchored: mlp-final-attn, mlp, attn, mlp-attn or all (paper: mlp-final-attn)",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="closed-form, adversarial: layers to change, from the last", show_default=False)
    ] = None,
    forget: Annotated[
        int | None,
        typer.Option(
            help="closed-form, adversarial: sentences about each concept; fewer are faster (default: 240)",
            show_default=False,
        ),
    ] = None,
    retain_weight: Annotated[
        float | None, typer.Option(help="all but few-shot: weight of all the rest", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="of sentences, images, draws and videos")] = 0,
    videos: Annotated[
        int, typer.Option(help="videos of each concept and of its neighbours; 0 writes the erasure only")
    ] = 20,
    judge: JudgeName = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/<concept>", show_default=False)] = None,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
) -> None:
    """Unlearn concepts, then compare videos from the same seeds with and without the erasure.

    The embedded pair brings its own settings for the methods that learn from images.
    """
    from unreel.concept import Concept
    from unreel.erasure import require_new
    from unreel.unlearning import configure

    if synonym and len(concept) > 1:
        raise UnreelError("synonyms belong to one concept: unlearn it on its own, and add it up with the others")
    what = [Concept(name.strip(), kind, tuple(synonym or ()), replace) for name in concept]  # type: ignore[arg-type]
    if videos < 0:
        raise UnreelError("videos must be zero or more")
    given: dict[str, Any] = {
        "shots": shots,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "trainable": trainable,
        "layers": layers,
        "forget": forget,
        "retain_weight": retain_weight,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    configure(method, given)  # complain about bad settings before anything is loaded
    folder = out or Path("runs") / _slug(" ".join(concept))
    require_new(folder, overwrite)

    from unreel.evaluation import evaluate
    from unreel.pair import EMBEDDED, load_pair
    from unreel.report import table, write_report
    from unreel.unlearning import unlearn as run

    pair = load_pair(t2i, t2v, dtype=_placement(device, dtype)["dtype"])
    pair.t2i.to(device, silence_dtype_warnings=True)  # one model at a time: the video model waits in main memory
    referee = None
    if videos and (judge or t2i == EMBEDDED):
        referee = _judge(judge, t2v, device)
        unknown = [each.name for each in what if referee and not referee.knows(each.name)]
        if unknown:
            if judge:
                raise UnreelError(f"the {judge} judge does not know {unknown[0]!r}: choose another with --judge")
            referee = None  # nobody asked for it: compare by eye
    erasure = run(what, pair, configure(method, given, pair.settings), images=images, keep=tuple(keep or ()))
    erasure.save_pretrained(folder, overwrite=overwrite)
    pair.t2i.to("cpu", silence_dtype_warnings=True)
    pair.t2v.to(device, silence_dtype_warnings=True)
    pages = []
    for each in what if videos else ():
        groups = ("explicit", "neighbours")
        evaluation = evaluate(pair.video, erasure, referee, concept=each, videos=videos, seed=1000 + seed, groups=groups)
        home = folder if len(what) == 1 else folder / _slug(each.name)
        home.mkdir(exist_ok=True)
        pages.append(write_report(home, evaluation))
        typer.echo(f"\n{each.name}\n{table(evaluation)}\n")
    typer.echo(f"erasure  {folder}")
    for part in erasure.provenance["parts"]:
        if "anchor" in part:
            typer.echo(f"instead  of {part['concept']}: {part['anchor'] or 'nothing'}")
        if "stopped" in part:
            typer.echo(f"stopped  because {part['stopped']}")
    for page in pages:
        typer.echo(f"report   {page}")
    if pages:
        typer.echo(f"next     unreel evaluate {folder}; unreel attack {folder}")


@app.command()
def evaluate(
    erasure: ErasureFolder,
    t2v: Annotated[str, typer.Option(help="text-to-video pipeline: a folder or hub id")] = "embedded",
    judge: JudgeName = None,
    concept: ConceptName = None,
    videos: Annotated[int, typer.Option(help="videos for each prompt group, each made twice")] = 50,
    group: Annotated[
        list[str] | None,
        typer.Option(help="only this prompt group; may be repeated (default: all)", show_default=False),
    ] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="prompts of your own: JSON, CSV or text; may be repeated", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="of the first video")] = 1000,
    out: Resumed = None,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
) -> None:
    """Did it work, and what else broke? The same prompts and seeds without and with an erasure, judged and measured.

    Writes metrics.json and report.html into ERASURE/evaluation. Run it again to go on where it was stopped.
    """
    from unreel.erasure import Erasure
    from unreel.prompt_files import read_prompts

    given = [row for file in prompts or () for row in read_prompts(file)]
    worn = Erasure.from_pretrained(erasure)

    from unreel.evaluation import concept_of
    from unreel.evaluation import evaluate as run
    from unreel.pair import load_video_model
    from unreel.prompts import GROUPS
    from unreel.report import table, write_report

    what, folder = concept_of(worn, concept), out or erasure / "evaluation"
    placement = _placement(device, dtype)
    referee = _judge(judge, t2v, device)
    model = load_video_model(t2v, **placement)
    options: dict[str, Any] = {"videos": videos, "seed": seed, "groups": tuple(group or GROUPS), "given": given}
    evaluation = run(model, worn, referee, concept=what, folder=folder, **options)
    page = write_report(folder, evaluation)
    typer.echo(f"\n{table(evaluation)}\n\nreport   {page}")


@app.command()
def attack(
    erasure: ErasureFolder,
    t2i: T2I = "embedded",
    t2v: T2V = None,
    judge: JudgeName = None,
    concept: ConceptName = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="only this attack; may be repeated (default: all)", show_default=False),
    ] = None,
    cases: Annotated[int, typer.Option(help="prompts for the concept to attack with")] = 10,
    budget: Annotated[
        list[int] | None,
        typer.Option(help="videos a case may take; may be repeated (default: 1 and 3)", show_default=False),
    ] = None,
    steps: Annotated[int, typer.Option(help="search steps for each video, for attacks that search")] = 30,
    seed: Annotated[int, typer.Option(help="of the first case")] = 2000,
    out: Resumed = None,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
) -> None:
    """Try to bring the concept back, without and with the model's weights; the same attacks on the unedited model too.

    Writes attacks.json and report.html into ERASURE/attacks. Run it again to go on where it was stopped.
    """
    from unreel.erasure import Erasure

    worn = Erasure.from_pretrained(erasure)

    from unreel.evaluation import concept_of
    from unreel.pair import load_pair
    from unreel.report import attack_table, write_attack_report
    from unreel.robustness import BUDGETS
    from unreel.robustness import attack as run

    what, folder = concept_of(worn, concept), out or erasure / "attacks"
    placement = _placement(device, dtype)
    referee = _judge(judge, t2v, device)
    if referee is None:
        raise UnreelError("an attack needs a judge: choose one with --judge")
    pair = load_pair(t2i, t2v, **placement)
    options: dict[str, Any] = {"attacks": attacks or (), "cases": cases, "budgets": budget or BUDGETS, "steps": steps}
    robustness = run(pair, worn, referee, concept=what, seed=seed, folder=folder, **options)
    page = write_attack_report(folder, robustness)
    typer.echo(f"\n{attack_table(robustness)}\n\nreport   {page}")


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Argument(help="one or more prompts")],
    erasure: Annotated[list[Path] | None, typer.Option(help="folder of an erasure to put on; may be repeated")] = None,
    t2v: Annotated[str, typer.Option(help="text-to-video pipeline: a folder or hub id")] = "embedded",
    seed: Annotated[int, typer.Option(min=0, help="of the first prompt; the next ones count up")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="denoising steps", show_default=False)] = None,
    guidance: Annotated[float | None, typer.Option(help="classifier-free guidance", show_default=False)] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="frames a video", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="folder for the videos")] = Path("videos"),
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
) -> None:
    """Generate videos from prompts, with any number of erasures on."""
    from dataclasses import replace

    if not all(text.strip() for text in prompt):
        raise UnreelError("a prompt is empty")
    files = [out / f"{_slug(text)}-{seed + i}.mp4" for i, text in enumerate(prompt)]
    taken = [file for file in files if file.exists()]
    if taken and not overwrite:
        raise UnreelError(f"{taken[0]} exists: choose another --out or --seed, or replace it with --overwrite")

    from unreel.erasure import Erasure
    from unreel.pair import load_video_model
    from unreel.video import generate as run
    from unreel.video import write_mp4

    erasures = [Erasure.from_pretrained(folder) for folder in erasure or ()]
    model = load_video_model(t2v, **_placement(device, dtype))
    for item in erasures:
        item.apply(model.pipeline)
    given: dict[str, Any] = {"steps": steps, "guidance": guidance, "frames": frames}
    settings = replace(model.settings, **{name: value for name, value in given.items() if value is not None})
    out.mkdir(parents=True, exist_ok=True)
    clips = run(model.pipeline, list(prompt), [seed + i for i in range(len(prompt))], settings)
    for file, clip in zip(files, clips, strict=True):
        write_mp4(file, clip, settings.fps)
        typer.echo(file)


@app.command()
def check(
    t2i: Annotated[str, typer.Argument(help="text-to-image pipeline: a folder, a hub id or 'embedded'")] = "embedded",
    t2v: Annotated[str | None, typer.Argument(help="text-to-video pipeline", show_default=False)] = None,
) -> None:
    """Say whether two pipelines share their text encoders, by comparing every weight and the tokenizers."""
    from unreel.pair import load_pair

    pair = load_pair(t2i, t2v, text_only=True)
    for name, differs in pair.shared().items():
        encoder = getattr(pair.t2i, name)
        count = sum(parameter.numel() for parameter in encoder.parameters())
        verdict = f"differs in {len(differs)} places: {', '.join(differs[:5])}" if differs else "shared"
        typer.echo(f"{name}  {type(encoder).__name__}, {count / 1e6:.1f} M weights  {verdict}")


def main() -> None:
    """Run the command line; every error a user can mend becomes one line and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        app(standalone_mode=True)
    except UnreelError as error:
        message = str(error)
    except OSError as error:  # no space, no permission: where it happened is in the file name
        message = f"{error.filename or 'the output'}: {error.strerror or error}"
    typer.echo(f"unreel: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
