"""What jobs have in common: where to compute, how to sample, which judge and which model, and what is said and refused.

Knows models and judges by their names; knows no job.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from unreel.checking import WeakError
from unreel.errors import UnreelError
from unreel.files import require_new
from unreel.interventions.base import ATTACKS_FOLDER, EVALUATION_FOLDER, RECORD_FILE, Intervention
from unreel.interventions.record import CHECK
from unreel.judges import Judge, load_judge, require_judge
from unreel.models.adapter import require_negative_prompt, require_size, require_tiling
from unreel.models.loading import require_place
from unreel.models.pair import Pair
from unreel.models.shipped import EMBEDDED, names, preset_of
from unreel.progress import Tell

NO_JUDGE = "none"  # in place of a judge's name


@dataclass(frozen=True)
class Place:
    """Where to compute, and in which precision."""

    device: str = "cpu"
    dtype: str = "float32"
    offload: bool = False

    def require(self) -> None:
        """Raises UnreelError if there is no such device or precision here, or if the CPU is asked to offload."""
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise UnreelError(f"{self.dtype!r} is no precision: choose float32, bfloat16 or float16")
        require_place(self.device, getattr(torch, self.dtype))
        if self.offload and self.device == "cpu":
            raise UnreelError("offloading moves what waits to main memory: leave --offload out, or choose another --device")

    @property
    def of_weights(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": getattr(torch, self.dtype)}


@dataclass(frozen=True)
class Sampling:
    """How to make videos, in place of a pipeline's own ways; None, and no tiling, leave those."""

    steps: int | None = None
    guidance: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    fps: int | None = None
    tiling: bool = False
    negative_prompt: str | None = None

    def onto(self, model: Any) -> Any:
        """A pair or a video model with these settings. Raises UnreelError for those that it cannot have."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        chosen = {name: value for name, value in values.items() if value is not None and value is not False}
        pipeline = model.t2v if isinstance(model, Pair) else model.pipeline
        if getattr(pipeline, "vae", None):  # without, it was loaded to read text, and samples nothing
            require_tiling(pipeline, self.tiling)
            if self.size:
                require_size(pipeline, self.size)
            if self.negative_prompt is not None:
                require_negative_prompt(pipeline, chosen.get("guidance", model.settings.guidance))
        return replace(model, settings=replace(model.settings, **chosen))


def require_lists(**lists: Any) -> None:
    """Raises UnreelError for a text in place of a list of texts: its letters would be taken for them."""
    for name, values in lists.items():
        if isinstance(values, str):
            raise UnreelError(f"{name} is a list, for example [{values!r}], not a text")


@contextmanager
def nothing_written(instead: str) -> Iterator[None]:
    """Inside, a WeakError becomes an UnreelError that says nothing was written and suggests `instead`."""
    try:
        yield
    except WeakError as weak:
        ways = f"{instead}, or write it all the same with --accept-weak"
        raise UnreelError(f"{weak}. Nothing was written: {ways}") from None


def require_known_judge(name: str | None) -> None:
    """Raises UnreelError for a name that `judge_of` would not take, whatever it would load."""
    if name not in (None, NO_JUDGE):
        require_judge(name)


def require_new_erasure(folder: Path, overwrite: bool, tell: Tell) -> None:
    """As `require_new`; tells if an evaluation or attacks in the folder are replaced with it."""
    require_new(folder, overwrite, RECORD_FILE)
    lost = [name for name in (EVALUATION_FOLDER, ATTACKS_FOLDER) if (folder / name).exists()]
    if lost and overwrite:
        tell("replaces", f"{folder}, with its {' and '.join(lost)}")


def say_check(learned: Intervention, tell: Tell) -> None:
    """What the self-check said, and what falls short in it."""
    checked = learned.provenance.get(CHECK)
    if checked is None:
        tell("check", "none of what text encoders write, which stays as it is: see what an evaluation says")
        return
    tell("check", checked["summary"])
    for shortfall in checked["shortfalls"]:
        tell("weak", shortfall)


def judge_of(name: str | None, t2v: str | None, device: str) -> Judge | None:
    """The judge asked for, None for "none"; by default the one that comes with the pair, or CLIP."""
    if name == NO_JUDGE:
        return None
    return load_judge(name or preset_of(t2v).get("judge", "clip"), device)


def model_of(t2v: str | None, *learned: Intervention) -> str:
    """The video model to put interventions on: `t2v`, or else the model that the first of `learned` was made on. Raises
    UnreelError if that is no pair of unreel's: a model is not loaded just because a file names it.
    """
    made_on = t2v or next((each.model for each in learned), EMBEDDED)
    if t2v is None and made_on not in names():
        raise UnreelError(
            f"this was made on {made_on}: add --t2v with that model's folder or hub id, or with another it fits"
        )
    return made_on
