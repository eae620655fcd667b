"""The command line: each command parses, calls one public function and prints. Heavy imports wait inside commands."""

import dataclasses
import json
import os
import shlex
import shutil
import sys
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from unreel.errors import UnreelError, shortened, summarise
from unreel.files import alone_in, file_name, require_new

SMALLEST, LARGEST = 8, 16384  # pixels of a side of a video
MOST = 100_000  # videos, steps, frames: more would never end
LAST = 2**62  # seed, from which one can still count on

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a text-to-video model forget a concept by changing only its text encoder.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from unreel import __version__

        typer.echo(f"unreel {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say which version this is")
    ] = False,
) -> None:
    pass


_as_json = False  # print one JSON document instead of lines


def _choose_json(wanted: bool) -> None:
    global _as_json
    _as_json = wanted


def _tell(line: object) -> None:
    """A line for people; beside the output where that is for programs."""
    typer.echo(line, err=_as_json)


def _result(document: Any) -> None:
    """What came of it, for programs."""
    if _as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False, default=str))


def _width() -> int:
    """Columns that a table may take."""
    return shutil.get_terminal_size().columns


def _quieten(wanted: bool) -> None:
    if wanted:  # read by tqdm, and by the libraries that draw with it, when they are imported
        os.environ.update(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")


def _number(value: float | None) -> float | None:
    if value is not None and not isfinite(value):
        raise UnreelError(f"the guidance is a number, not {value}")
    return value


def _sides(value: tuple[int, int] | None) -> tuple[int, int] | None:
    if value and not all(SMALLEST <= side <= LARGEST for side in value):
        raise UnreelError(f"a side of a video has {SMALLEST} to {LARGEST} pixels, not {' x '.join(map(str, value))}")
    return value


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


T2I = Annotated[
    str | None,
    typer.Option(help="text-to-image pipeline: a folder or hub id; learning from text needs none", show_default=False),
]
T2V = Annotated[
    str | None,
    typer.Option(help="text-to-video pipeline with the same text encoder; default: the embedded pair", show_default=False),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[Precision, typer.Option(help="precision of all weights")]
Offload = Annotated[
    bool,
    typer.Option(
        "--offload", help="parts of a model wait in main memory and take turns on the device (few-shot: with --rank)"
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST, help="denoising steps of a video or an image (default: the pipeline's own)", show_default=False
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(callback=_number, help="classifier-free guidance (default: the pipeline's own)", show_default=False),
]
Frames = Annotated[
    int | None, typer.Option(min=1, max=MOST, help="frames a video (default: the pipeline's own)", show_default=False)
]
Size = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="HEIGHT WIDTH",
        callback=_sides,
        help="of a video, in pixels (default: the pipeline's own)",
        show_default=False,
    ),
]
Fps = Annotated[int | None, typer.Option(min=1, max=240, help="frames a second in files (default: 8)", show_default=False)]
Tiling = Annotated[
    bool, typer.Option("--tiling", help="decode videos one part after the other: less memory, slightly other pixels")
]
JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge", help="embedded, clip, nsfw, nudenet, faces, each as NAME or NAME:ARGUMENT, or none", show_default=False
    ),
]
Resumed = Annotated[Path | None, typer.Option(help="output folder; a killed run goes on there", show_default=False)]
ErasureFolder = Annotated[Path, typer.Argument(help="folder of the erasure, or its hub id")]
ConceptName = Annotated[str | None, typer.Option(help="which concept, if the erasure has several", show_default=False)]
AcceptWeak = Annotated[
    bool, typer.Option("--accept-weak", help="write it though a self-check on held-out prompts falls short")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_quieten, is_eager=True, help="draw no progress bars")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", callback=_choose_json, is_eager=True, help="print one JSON document; all else goes to standard error"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the output if it exists")]


def _placement(device: str, dtype: Precision, offload: bool = False) -> dict[str, Any]:
    """Device and torch dtype, checked before anything is loaded onto them."""
    import torch

    from unreel.models.loading import require_place

    require_place(device, getattr(torch, dtype.value))
    if offload and device == "cpu":
        raise UnreelError("offloading moves what waits to main memory: leave --offload out, or choose another --device")
    return {"device": device, "dtype": getattr(torch, dtype.value), **({"offload": True} if offload else {})}


def _sampled(model: Any, tiling: bool, **given: Any) -> Any:
    """A pair or a video model with the settings that were given in place of its own."""
    from dataclasses import replace

    chosen = {name: value for name, value in given.items() if value is not None}
    return replace(model, settings=replace(model.settings, tiling=tiling, **chosen))


def _say_check(erasure: Any) -> None:
    """What the self-check said, and what falls short in it."""
    check = erasure.provenance["check"]
    _tell(f"check    {check['summary']}")
    for shortfall in check["shortfalls"]:
        _tell(f"weak     {shortfall}")


def _described(erasure: Any) -> dict[str, Any]:
    """An erasure for programs: what it forgets, how, and what its self-check said."""
    said = ("concept", "kind", "synonyms", "method", "anchor", "stopped", "seconds")
    parts = [{name: part[name] for name in said if name in part} for part in erasure.provenance["parts"]]
    return {"concepts": parts, "check": erasure.provenance["check"], "bytes": erasure.nbytes}


def _home(erasure: Path) -> Path:
    """Where what is found out about an erasure goes: into its folder, or into runs/ for one from the hub."""
    return erasure if erasure.is_dir() else Path("runs") / file_name(erasure.name)


def _judge(name: str | None, t2v: str | None, device: str):
    """The judge asked for, None for "none"; by default the embedded one for the embedded pair, CLIP for all else."""
    from unreel.judges import load_judge
    from unreel.models.pair import EMBEDDED

    if name == "none":
        return None
    return load_judge(name or (EMBEDDED if t2v in (None, EMBEDDED) else "clip"), device)


@app.command()
def unlearn(
    context: typer.Context,
    concept: Annotated[list[str], typer.Argument(help="what to forget, for example 'Tokyo Tower'; several go together")],
    kind: Annotated[
        str | None,
        typer.Option(
            help="object, character, style, face, motion or unsafe ('nudity'): picks the prompts; default: style or motion "
            "where the name is listed as one, else object",
            show_default=False,
        ),
    ] = None,
    synonym: Annotated[list[str] | None, typer.Option(help="a further wording to forget; may be repeated")] = None,
    replace: Annotated[
        str | None,
        typer.Option(
            help="what to make instead, for example 'a castle', or '' for the scene without it; default: something "
            "near of its kind, standing or nothing for a motion, everyday life for what is unsafe",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="what must not change besides all that is known; may be repeated", show_default=False),
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="text-ablation (from text alone), anchored (few-shot with a brake) or few-shot (the paper)"),
    ] = "text-ablation",
    t2i: T2I = None,
    t2v: T2V = None,
    images: Annotated[
        Path | None,
        typer.Option(help="few-shot, anchored: folder of images of the concept, not generated ones", show_default=False),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="few-shot, anchored: images to generate (paper: 4)", show_default=False)
    ] = None,
    shot_steps: Annotated[
        int | None,
        typer.Option(
            help="few-shot, anchored: denoising steps an image, with DPM-Solver++ (default: the pipeline's own)",
            show_default=False,
        ),
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
    rank: Annotated[
        int | None,
        typer.Option(
            help="text-ablation: of the changes; few-shot: train changes of this rank, for large text encoders (paper: no)",
            show_default=False,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing",
            help="text-ablation, few-shot: less memory, more time, the same result",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(help="text-ablation: layers to change, from the first", show_default=False),
    ] = None,
    forget: Annotated[
        int | None,
        typer.Option(help="text-ablation, anchored: prompts about each concept to learn from", show_default=False),
    ] = None,
    retain_weight: Annotated[
        float | None, typer.Option(help="all but few-shot: weight of all the rest", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST, help="of sentences, images, draws and videos")] = 0,
    videos: Annotated[
        int, typer.Option(max=MOST, help="videos of each concept and of its neighbours; 0 writes the erasure only")
    ] = 20,
    steps: Steps = None,
    guidance: Guidance = None,
    frames: Frames = None,
    size: Size = None,
    fps: Fps = None,
    tiling: Tiling = False,
    judge: JudgeName = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/<concept>", show_default=False)] = None,
    overwrite: Overwrite = False,
    accept_weak: AcceptWeak = False,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
    offload: Offload = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Unlearn concepts, then compare videos from the same seeds with and without the erasure.

    Run it again to go on with the videos where it was stopped. The embedded pair brings its own settings for the methods
    that learn from images.
    """
    from unreel.concept import Concept
    from unreel.interventions.base import RECORD_FILE
    from unreel.interventions.erasure import Erasure
    from unreel.unlearning import configure, require_offloadable, was_asked_for

    if synonym and len(concept) > 1:
        raise UnreelError("synonyms belong to one concept: unlearn it on its own, and add it up with the others")
    what = [Concept(name.strip(), kind or "object", tuple(synonym or ()), replace) for name in concept]  # type: ignore[arg-type]
    if videos < 0:
        raise UnreelError("videos must be zero or more")
    given: dict[str, Any] = {
        "shots": shots,
        "shot_steps": shot_steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "trainable": trainable,
        "rank": rank,
        "gradient_checkpointing": gradient_checkpointing,
        "layers": layers,
        "forget": forget,
        "retain_weight": retain_weight,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = configure(method, given)  # complain about bad settings before anything is loaded
    if offload:
        require_offloadable(config)
    folder = out or Path("runs") / file_name(" ".join(concept))
    clips = folder / ".clips"  # there until all videos of a run are
    stopped = bool(videos) and clips.is_dir() and not clips.is_symlink() and not overwrite
    if stopped:
        context.with_resource(alone_in(clips))
    if not stopped:
        require_new(folder, overwrite, RECORD_FILE)
    lost = [name for name in ("evaluation", "attacks") if (folder / name).exists()]
    if lost and overwrite:
        _tell(f"replaces {folder}, with its {' and '.join(lost)}")

    from unreel.evaluation import evaluate
    from unreel.methods.text_ablation import TextAblationConfig
    from unreel.models.pair import EMBEDDED, TextModel, load_pair, move
    from unreel.report import document, table, write_report
    from unreel.unlearning import AS_PUBLISHED, require_strong
    from unreel.unlearning import unlearn as run
    from unreel.vocabulary import kind_of, spelled_alike

    # Text alone needs neither image nor video model, unless there is something to show.
    from_text = isinstance(config, TextAblationConfig)
    pair = load_pair(t2i, t2v, text_only=from_text and not videos, dtype=_placement(device, dtype, offload)["dtype"])
    if videos and isinstance(pair.t2v, TextModel):
        raise UnreelError(f"{t2v} is a text encoder, which makes no videos: add --videos 0")
    pair = _sampled(pair, tiling, steps=steps, guidance=guidance, frames=frames, size=size, fps=fps)
    if kind is None:
        what = [dataclasses.replace(each, kind=kind_of(each.name, pair.vocabulary)) for each in what]
    # Only what is needed: the video model waits in main memory.
    move(pair.t2i, pair.t2i_source, device, offload=offload, text_only=from_text)
    world = _judge(None, t2v, device) if pair.t2v_source == EMBEDDED else None  # its judge knows what is in it
    for name in (each.name for each in what if world and not world.knows(each.name)):
        alike = " or ".join(map(repr, spelled_alike(name, pair.vocabulary)))
        _tell(f"unknown  {name!r} is not listed in this pair's world" + (f": do you mean {alike}?" if alike else ""))
    referee = (_judge(judge, t2v, device) if judge else world) if videos else None
    unknown = [each.name for each in what if referee and not referee.knows(each.name)]
    if unknown and judge:
        raise UnreelError(f"the {judge} judge does not know {unknown[0]!r}: choose another with --judge")
    if unknown:
        referee = None  # nobody asked for it: compare by eye
    config = configure(method, given, pair.settings)
    if stopped:
        erasure = Erasure.from_pretrained(folder)
        if not was_asked_for(erasure, what, pair, config, images, keep or ()):
            raise UnreelError(
                f"{folder} holds another erasure, whose videos are not finished: choose another folder with --out, or "
                "replace it with --overwrite"
            )
        _tell(f"goes on  with the erasure in {folder}")
    else:
        erasure = run(what, pair, config, images=images, keep=tuple(keep or ()))
    if not accept_weak and method not in AS_PUBLISHED:
        require_strong(erasure)
    if not stopped:
        erasure.save_pretrained(folder, overwrite=overwrite)
    _say_check(erasure)
    if videos:
        clips.mkdir(exist_ok=True)
        if not stopped:
            context.with_resource(alone_in(clips))
        move(pair.t2i, pair.t2i_source, "cpu")
        move(pair.t2v, pair.t2v_source, device, offload=offload)
    pages, figures = [], {}
    for each in what if videos else ():
        groups = ("explicit", "neighbours")
        options: dict[str, Any] = {"videos": videos, "seed": 1000 + seed, "groups": groups, "clips": clips}
        evaluation = evaluate(pair.video, erasure, referee, concept=each, **options)
        home = folder if len(what) == 1 else folder / file_name(each.name)
        home.mkdir(exist_ok=True)
        pages.append(write_report(home, evaluation))
        figures[each.name] = document(evaluation)
        _tell(f"\n{each.name}\n{table(evaluation, _width())}\n")
    shutil.rmtree(clips, ignore_errors=True)
    _tell(f"erasure  {folder}")
    for part in erasure.provenance["parts"]:
        if kind is None and part["kind"] != "object":
            _tell(f"kind     of {part['concept']}: {part['kind']}")
        if "anchor" in part:
            _tell(f"instead  of {part['concept']}: {part['anchor'] or 'nothing'}")
        if "stopped" in part:
            _tell(f"stopped  because {part['stopped']}")
    for page in pages:
        _tell(f"report   {page}")
    if pages:
        where = shlex.quote(str(folder)) + (f" --concept {shlex.quote(what[0].name)}" if len(what) > 1 else "")
        _tell(f"next     unreel evaluate {where}; unreel attack {where}")
    _result({"erasure": folder, **_described(erasure), "reports": pages, "evaluations": figures})


@app.command()
def evaluate(
    erasure: ErasureFolder,
    t2v: Annotated[str, typer.Option(help="text-to-video pipeline: a folder or hub id")] = "embedded",
    judge: JudgeName = None,
    concept: ConceptName = None,
    videos: Annotated[int, typer.Option(max=MOST, help="prompts for each group, made by both models")] = 50,
    group: Annotated[
        list[str] | None,
        typer.Option(help="only this prompt group; may be repeated (default: all)", show_default=False),
    ] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="prompts of your own: JSON, CSV or text; may be repeated", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST, help="of the first video")] = 1000,
    steps: Steps = None,
    guidance: Guidance = None,
    frames: Frames = None,
    size: Size = None,
    fps: Fps = None,
    tiling: Tiling = False,
    out: Resumed = None,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
    offload: Offload = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Did it work, and what else broke? The same prompts and seeds without and with an erasure, judged and measured.

    Writes metrics.json and report.html into ERASURE/evaluation. Run it again to go on where it was stopped.
    """
    from unreel.interventions.erasure import Erasure
    from unreel.prompt_files import read_prompts

    given = [row for file in prompts or () for row in read_prompts(file)]
    worn = Erasure.from_pretrained(erasure)

    from unreel.evaluation import concept_of
    from unreel.evaluation import evaluate as run
    from unreel.models.pair import load_video_model
    from unreel.prompts import GROUPS
    from unreel.report import document, table, write_report

    what, folder = concept_of(worn, concept), out or _home(erasure) / "evaluation"
    placement = _placement(device, dtype, offload)
    referee = _judge(judge, t2v, device)
    model = load_video_model(t2v, **placement)
    model = _sampled(model, tiling, steps=steps, guidance=guidance, frames=frames, size=size, fps=fps)
    options: dict[str, Any] = {"videos": videos, "seed": seed, "groups": tuple(group or GROUPS), "given": given}
    evaluation = run(model, worn, referee, concept=what, folder=folder, **options)
    page = write_report(folder, evaluation)
    _tell(f"\n{table(evaluation, _width())}\n\nreport   {page}")
    _result({"report": page, **document(evaluation)})


@app.command()
def attack(
    erasure: ErasureFolder,
    t2i: T2I = None,
    t2v: T2V = None,
    judge: JudgeName = None,
    concept: ConceptName = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="only this attack; may be repeated (default: all)", show_default=False),
    ] = None,
    cases: Annotated[int, typer.Option(max=MOST, help="prompts for the concept to attack with")] = 10,
    budget: Annotated[
        list[int] | None,
        typer.Option(help="videos a case may take; may be repeated (default: 1 and 3)", show_default=False),
    ] = None,
    steps: Annotated[int, typer.Option(max=MOST, help="search steps for each video, for attacks that search")] = 30,
    seed: Annotated[int, typer.Option(min=0, max=LAST, help="of the first case")] = 2000,
    video_steps: Steps = None,
    guidance: Guidance = None,
    frames: Frames = None,
    size: Size = None,
    fps: Fps = None,
    tiling: Tiling = False,
    out: Resumed = None,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Try to bring the concept back, without and with the model's weights; the same attacks on the unedited model too.

    Writes attacks.json and report.html into ERASURE/attacks. Run it again to go on where it was stopped.
    """
    from unreel.interventions.erasure import Erasure

    worn = Erasure.from_pretrained(erasure)

    from unreel.evaluation import concept_of
    from unreel.models.pair import load_pair
    from unreel.report import attack_table, write_attack_report
    from unreel.robustness import BUDGETS
    from unreel.robustness import attack as run

    what, folder = concept_of(worn, concept), out or _home(erasure) / "attacks"
    placement = _placement(device, dtype)
    referee = _judge(judge, t2v, device)
    if referee is None:
        raise UnreelError("an attack needs a judge: choose one with --judge")
    pair = load_pair(t2i, t2v, **placement)
    pair = _sampled(pair, tiling, steps=video_steps, guidance=guidance, frames=frames, size=size, fps=fps)
    options: dict[str, Any] = {"attacks": attacks or (), "cases": cases, "budgets": budget or BUDGETS, "steps": steps}
    robustness = run(pair, worn, referee, concept=what, seed=seed, folder=folder, **options)
    page = write_attack_report(folder, robustness)
    _tell(f"\n{attack_table(robustness, _width())}\n\nreport   {page}")
    _result({"report": page, **robustness.document()})


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Argument(help="one or more prompts")],
    erasure: Annotated[list[Path] | None, typer.Option(help="folder of an erasure to put on; may be repeated")] = None,
    t2v: Annotated[str, typer.Option(help="text-to-video pipeline: a folder or hub id")] = "embedded",
    seed: Annotated[int, typer.Option(min=0, max=LAST, help="of the first prompt; the next ones count up")] = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    frames: Frames = None,
    size: Size = None,
    fps: Fps = None,
    tiling: Tiling = False,
    out: Annotated[Path, typer.Option(help="folder for the videos")] = Path("videos"),
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Dtype = Precision.float32,
    offload: Offload = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate videos from prompts, with any number of erasures on."""
    if not all(text.strip() for text in prompt):
        raise UnreelError("a prompt is empty")
    files = [out / f"{file_name(text)}-{seed + i}.mp4" for i, text in enumerate(prompt)]
    taken = [file for file in files if file.exists()]
    if taken and not overwrite:
        raise UnreelError(f"{taken[0]} exists: choose another --out or --seed, or replace it with --overwrite")

    from unreel.interventions.erasure import Erasure
    from unreel.models.pair import load_video_model
    from unreel.models.sampling import generate as run
    from unreel.models.sampling import write_mp4

    erasures = [Erasure.from_pretrained(folder) for folder in erasure or ()]
    model = load_video_model(t2v, **_placement(device, dtype, offload))
    for item in erasures:
        item.apply(model.pipeline)
    model = _sampled(model, tiling, steps=steps, guidance=guidance, frames=frames, size=size, fps=fps)
    out.mkdir(parents=True, exist_ok=True)
    clips = run(model.pipeline, list(prompt), [seed + i for i in range(len(prompt))], model.settings)
    for file, clip in zip(files, clips, strict=True):
        write_mp4(file, clip, model.settings.fps)
        _tell(file)
    _result(
        [{"prompt": text, "seed": seed + i, "file": file} for i, (text, file) in enumerate(zip(prompt, files, strict=True))]
    )


@app.command()
def export(
    erasure: ErasureFolder,
    format: Annotated[
        str,
        typer.Option(
            help="text-encoder (whole, for any pipeline), peft (an adapter), lora (for diffusers' load_lora_weights) or "
            "comfyui (for ComfyUI and A1111)"
        ),
    ],
    out: Annotated[Path, typer.Option(help="output folder")],
    t2v: T2V = None,
    t2i: Annotated[
        str | None, typer.Option(help="the same for a text-to-image pipeline: a folder or hub id", show_default=False)
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="share of a change's squares that may be lost to make its rank low; not of text-encoder")
    ] = 0.05,
    overwrite: Overwrite = False,
    accept_weak: AcceptWeak = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write an erasure as a file that loads without unreel, and say how much of its effect that keeps."""
    from unreel.interventions.erasure import Erasure
    from unreel.interventions.export import EXPORT_FILE, LEAST_KEPT, require

    require(format, tolerance)
    require_new(out, overwrite, EXPORT_FILE)
    worn = Erasure.from_pretrained(erasure)

    from unreel.interventions.export import export as run
    from unreel.models.pair import load_pair, load_pipeline

    options: dict[str, Any] = {"dtype": None, "text_only": True}
    alone = t2i is not None and t2v is None
    model = load_pipeline(str(t2i), **options) if alone else load_pair(t2i, t2v, **options).t2v
    least = 0.0 if accept_weak else LEAST_KEPT
    made = run(worn, model, out, format=format, tolerance=tolerance, overwrite=overwrite, least=least)
    for name, ranks in made.ranks.items():
        _tell(f"ranks    {min(ranks.values())} to {max(ranks.values())} in {len(ranks)} matrices of the {name}")
    _tell(f"kept     {100 * made.kept:.2f} % of what the erasure does to prompts that name the concept")
    moved, now = (f"{100 * share:.2f} %" for share in made.moved)
    _tell(f"moved    unrelated prompts by {now}; by {moved} with the erasure itself")
    if made.left_out:
        _tell(f"left out {len(made.left_out)} changes that {format} cannot hold: {summarise(made.left_out)}")
    _tell(f"written  {out}, {made.megabytes:.2f} MB")
    _result({"export": out, **dataclasses.asdict(made)})


@app.command()
def combine(
    erasure: Annotated[list[Path], typer.Argument(help="folders of the erasures")],
    out: Annotated[Path, typer.Option(help="output folder")],
    t2v: Annotated[
        str | None,
        typer.Option(help="model to check the sum on (default: the one that the first was made on)", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    accept_weak: AcceptWeak = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make one erasure of several that were made for the same text encoder: it does what all of them do.

    Changes that were learned apart may get in each other's way, so the sum is checked on held-out prompts.
    """
    from dataclasses import replace
    from functools import reduce
    from operator import add

    from unreel.interventions.base import RECORD_FILE
    from unreel.interventions.card import CHECK
    from unreel.interventions.erasure import Erasure

    require_new(out, overwrite, RECORD_FILE)
    parts = [Erasure.from_pretrained(folder) for folder in erasure]
    if len({part.identity for part in parts}) < max(2, len(parts)):
        raise UnreelError("give at least two erasures, each of them once")
    total: Erasure = reduce(add, parts)

    from unreel.models.pair import load_pair
    from unreel.unlearning import check, require_strong

    source = t2v or total.provenance["encoder"]
    try:
        pair = load_pair(t2v=source, text_only=True)
    except UnreelError as error:
        raise UnreelError(f"{error}; the sum is checked on that model: say where it is with --t2v") from error
    total = replace(total, provenance={**total.provenance, CHECK: check(total, pair).document()})
    if not accept_weak:
        require_strong(total)
    total.save_pretrained(out, overwrite=overwrite)
    _say_check(total)
    _tell(f"erasure  {out}, of {', '.join(total.concepts)}, {total.nbytes / 1e6:.2f} MB")
    _result({"erasure": out, **_described(total)})


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
    from unreel.models.compare import encoders_of, fetch, grouped
    from unreel.models.pair import EMBEDDED, EMBEDDED_FOLDER

    embedded = {f"{EMBEDDED} {part}": EMBEDDED_FOLDER / part for part in ("image", "video")}
    folders: dict[str, Path] = {}
    for model in models or [EMBEDDED]:
        folders |= embedded if model == EMBEDDED else {model: fetch(model)}
    groups = grouped([encoder for source, folder in folders.items() for encoder in encoders_of(folder, source)])
    _tell("\n\n".join(map(str, groups)))
    _result([group.document() for group in groups])


@app.command()
def families(as_json: AsJson = False) -> None:
    """List the pipelines that unreel knows, by the text encoder that they read prompts with."""
    from textwrap import fill

    from unreel.models.families import FAMILIES

    for family in FAMILIES:
        _tell(family.name)
        rows = {"video": family.t2v, "image": family.t2i, "from one frame": family.one_frame}
        for label, names in {"text encoder": [family.text_encoder], **rows}.items():
            _tell(fill(f"  {label:<16}{', '.join(names) or '-'}", 100, subsequent_indent=" " * 18))
        _tell("")
    _tell("Pipelines of a family usually share the text encoder: `unreel check MODEL MODEL` tells of yours.")
    _tell("From one frame: methods that need images can take single frames that the video pipeline makes.")
    _result([dataclasses.asdict(family) for family in FAMILIES])


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
    typer.echo(f"unreel: {shortened(message)}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
