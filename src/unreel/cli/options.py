"""Options that several commands share, and groups of them that a command is given as one thing.

Knows what may be asked for; leaves the work to others.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from unreel.cli.output import choose_json, quieten
from unreel.errors import UnreelError

SMALLEST, LARGEST = 8, 16384  # pixels of a side of a video
MOST = 100_000  # videos, steps, frames: more would never end
SAMPLED, PLACED, LEARNED = "How to sample", "Where to compute", "Settings of methods"  # groups of options in --help


def _number(value: float | None) -> float | None:
    if value is not None and not isfinite(value):
        raise UnreelError(f"the guidance is a number, not {value}")
    return value


def seed_of(value: int) -> int:
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
NegativeText = Annotated[
    str | None,
    typer.Option(
        "--negative-prompt",
        rich_help_panel=SAMPLED,
        help="what guidance leads away from in every video, such as 'blurry, low quality' (default: the pipeline's own)",
        show_default=False,
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=quieten, is_eager=True, help="draw no progress bars")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=choose_json,
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
LearningSeed = Annotated[int, typer.Option(callback=seed_of, help="random seed for prompts, images, noise and videos")]
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
AuditFile = Annotated[
    Path | None,
    typer.Option(
        help="file to append a line of JSON to for each video: when, for whom, with which erasures; no prompts",
        show_default=False,
    ),
]
TenantHeader = Annotated[
    str | None,
    typer.Option(
        help="HTTP header in which the proxy names the tenant, such as X-Tenant, in place of the request's body",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the output if it exists")]


@dataclasses.dataclass(frozen=True)
class Group:
    """Options that belong together, by name with type and default; a command gets what `build` makes of them."""

    build: Callable[..., Any]
    options: Mapping[str, tuple[Any, Any]]


def grouped(command: Callable[..., None], **more: Group) -> Callable[..., None]:
    """The command with the options of groups in place of the parameters that have groups for defaults, or are in `more`."""
    parameters = inspect.signature(command).parameters
    groups = {name: each.default for name, each in parameters.items() if isinstance(each.default, Group)} | more

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


_SAMPLING_BUT_STEPS: dict[str, tuple[Any, Any]] = {
    "guidance": (Guidance, None),
    "frames": (Frames, None),
    "size": (Size, None),
    "fps": (Fps, None),
    "tiling": (Tiling, False),
    "negative_prompt": (NegativeText, None),
}
SAMPLING = Group(_sampling, {"steps": (Steps, None), **_SAMPLING_BUT_STEPS})
SAMPLING_OF_ATTACKS = Group(  # their --steps are those of a search
    lambda video_steps, **options: _sampling(steps=video_steps, **options),
    {"video_steps": (Steps, None), **_SAMPLING_BUT_STEPS},
)
# Without offloading: commands that search through a model, or read with it, hold the whole of it on the device.
PLACE_OF_THE_WHOLE = Group(_place, {"device": (Device, "cpu"), "dtype": (Dtype, Precision.float32)})
PLACE = Group(_place, {**PLACE_OF_THE_WHOLE.options, "offload": (Offload, False)})
SETTINGS = Group(dict, {})  # of methods: `_Commands` puts their options in


def phrases_of(source: str | None) -> Any:
    """EVERYDAY_WORDS if that is the source, else the phrases of the file; () without a source."""
    from unreel.prompts.files import read_prompts
    from unreel.workflow import EVERYDAY_WORDS

    if source is None or source == EVERYDAY_WORDS:
        return source or ()
    if not source:
        raise UnreelError(f"phrases are {EVERYDAY_WORDS}, or those of a file: name it")
    return tuple(row.text for row in read_prompts(Path(source)))
