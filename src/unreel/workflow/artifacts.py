"""Artifacts of what is there already: one erasure of several, or of weights that other code changed; files for other
programs.

Knows folders; learns nothing.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from unreel.adoption import adopt as adopt_weights
from unreel.adoption import require_adoptable
from unreel.checking import check, require_strong
from unreel.errors import UnreelError
from unreel.files import file_name, require_new
from unreel.interventions.erasure import Erasure
from unreel.interventions.export import EXPORT_FILE, LEAST_KEPT, TOLERANCE, Export, require_format
from unreel.interventions.export import export as export_erasure
from unreel.interventions.record import CHECK
from unreel.models.pair import load_pair, load_video_model
from unreel.models.pipelines import load_pipeline
from unreel.models.shipped import EMBEDDED, shipped
from unreel.progress import Tell, nobody
from unreel.prompts.takedowns import Takedown
from unreel.unlearning import as_concepts
from unreel.workflow.common import Place, model_of, nothing_written, require_new_erasure


def combine(
    folders: Sequence[str | Path],
    out: str | Path,
    tell: Tell = nobody,
    *,
    t2v: str | None = None,
    overwrite: bool = False,
    accept_weak: bool = False,
    place: Place = Place(),
) -> Erasure:
    """Write one erasure of several that were made for the same model, checked as a whole on held-out prompts.

    `t2v` is the model to check it on, by default the pair of unreel's that it was made on. Raises UnreelError if they do
    not go together or fall short together, or nothing can be put in that `place`; then nothing is written.
    """
    out = Path(out)
    require_new_erasure(out, overwrite, tell)
    place.require()
    parts = [Erasure.from_pretrained(folder) for folder in folders]
    if len({part.identity for part in parts}) < max(2, len(parts)):
        raise UnreelError("give at least two erasures, each of them once")
    total = reduce(add, parts)
    if total.edits_text_encoder:  # the self-check sees no change of a denoiser
        pair = load_pair(t2v=model_of(t2v, total), text_only=True, **place.of_weights)
        total = total.with_record(**{CHECK: check(total, pair).document()})
        if not accept_weak:
            with nothing_written("unlearn them together, in one command"):
                require_strong(total)
    total.save_pretrained(out, overwrite=overwrite)
    return total


def adopt(
    weights: str | Path,
    takedowns: Sequence[Takedown],
    tell: Tell = nobody,
    *,
    method: str = "",
    base: str | None = None,
    scale: float = 1.0,
    t2v: str = EMBEDDED,
    out: Path | None = None,
    overwrite: bool = False,
    place: Place = Place(),
) -> tuple[Erasure, Path]:
    """Write what other code changed to make the model `t2v` forget, as an erasure; returns it, and where it lies.

    Nothing is refused for how far it goes: that is what its card and an evaluation say. Raises UnreelError as
    `adoption.adopt` does, if nothing can be put in that `place`, or the folder exists; then nothing is written.
    """
    folder = Path(out) if out else Path("runs") / file_name(" ".join(each.concept for each in takedowns))
    require_new_erasure(folder, overwrite, tell)
    place.require()
    require_adoptable(weights, base, scale)
    as_concepts([each.as_concept() for each in takedowns])
    pair = load_video_model(t2v, **place.of_weights).alone
    concepts = [each.as_concept(pair.vocabulary) for each in takedowns]
    adopted = adopt_weights(weights, concepts, pair, method=method, base=base, scale=scale)
    adopted.save_pretrained(folder, overwrite=overwrite)
    return adopted, folder


def export(
    erasure: str | Path,
    out: str | Path,
    *,
    format: str,
    tolerance: float = TOLERANCE,
    t2i: str | None = None,
    t2v: str | None = None,
    overwrite: bool = False,
    accept_weak: bool = False,
    device: str = "cpu",
) -> Export:
    """Write the erasure in a folder, or under a hub id, as files that load without unreel, for the video model `t2v`, by
    default the pair of unreel's that it was made on, or for the image model `t2i` in its place.

    Raises UnreelError as `interventions.export.export` does; then nothing is written.
    """
    require_format(format, tolerance)
    require_new(Path(out), overwrite, EXPORT_FILE)
    learned = Erasure.from_pretrained(erasure)
    options: dict[str, Any] = {"device": device, "dtype": None, "text_only": True}
    if t2i is None or t2v is not None:
        model = load_pair(t2i, model_of(t2v, learned), **options).t2v
    else:
        model = load_pair(t2i, **options).t2i if shipped(t2i) else load_pipeline(t2i, **options)
    least = 0.0 if accept_weak else LEAST_KEPT
    how: dict[str, Any] = {"format": format, "tolerance": tolerance, "overwrite": overwrite, "least": least}
    return export_erasure(learned, model, out, **how, evaluated=erasure)
