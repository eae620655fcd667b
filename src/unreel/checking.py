"""The self-check, whose result an erasure's record holds: how far it goes on prompts that it was not fitted to, and what is
too little.

Knows text encoders and held-out prompts; knows no methods.
"""

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np

from unreel.errors import UnreelError, summarise
from unreel.evaluation.selfcheck import BATCH, Exam, Question, SelfCheck
from unreel.interventions.base import Intervention
from unreel.interventions.erasure import TEXT_ENCODER, Erasure, mostly_lost
from unreel.interventions.record import CHANGES, CHECK, ROUNDED_AWAY
from unreel.models.anchors import anchored, near_to, prompts_for
from unreel.models.deltas import is_felt
from unreel.models.pair import Pair, VideoModel
from unreel.prompts.concept import Concept

Learned = TypeVar("Learned", bound=Intervention)


class WeakError(UnreelError):
    """An erasure does less than it should."""


def checked(learned: Learned, pair: Pair, *, seed: int = 0, near: Sequence[Sequence[str] | None] = ()) -> Learned:
    """An intervention with its self-check in its record, as `check` makes it, if it changes a text encoder."""
    if not learned.edits_text_encoder:
        return learned
    return learned.with_record(**{CHECK: check(learned, pair, seed=seed, near=near).document()})  # type: ignore[arg-type]


def check(erasure: Erasure, pair: Pair, *, seed: int = 0, near: Sequence[Sequence[str] | None] = ()) -> SelfCheck:
    """How far the erasure goes and what else it moves in the pair's text encoders, on held-out prompts. Each figure is the
    worst over the text encoders, and over the ways in which the pipelines read with one.

    Distances are to the anchors that the erasure records; if it records none for some concept, there are none.
    `near` is the result of `near_to` for each text encoder; where it is None or missing, it is computed.
    Raises UnreelError if the erasure has a delta for none of the encoders.
    """
    parts = [part for part in erasure.provenance["parts"] if part.get(CHANGES, TEXT_ENCODER) == TEXT_ENCODER]
    has_anchors, grades = all("anchor" in part for part in parts), []
    keep = list(dict.fromkeys(name for part in parts for name in part["settings"].get("keep", ())))
    with pair.readings() as readers:
        # As recorded, even where a sum of erasures forgets one's anchor too.
        concepts = anchored([Concept.recorded(part) for part in parts], readers[0], pair.vocabulary)
        known = dict(enumerate(near))
        for (i, reader), component in product(enumerate(readers), erasure.components):
            if component.fingerprint.fits(reader.text_encoder):
                prompts = prompts_for(concepts, pair, reader, seed, held_out=True)
                names = known.get(i)
                names = near_to(concepts, reader, pair.vocabulary) if names is None else names
                grades.append(Exam(reader, prompts, names, keep, anchored=has_anchors).grade(component.deltas))
    if not grades:
        raise UnreelError(
            f"the erasure of {', '.join(erasure.concepts)} was made for another text encoder than this model's"
        )
    return SelfCheck.worst_of(grades)


class Everyday:
    """Everyday prompts as a video model's text encoders read them with nothing on yet, to be compared later: erasures that
    were made apart add up, and so do their side effects.
    """

    def __init__(self, model: VideoModel) -> None:
        pair = model.alone
        self._questions = [
            Question.about(reader, prompts_for((), pair, reader, 0, held_out=True).everyday(BATCH))
            for reader in pair.conditioners().values()
        ]

    def moved(self) -> float:
        """How far the interventions that are on now move them: the median over prompts, of the worst encoder."""
        return float(np.max([0.0, *(np.median(question.moved(question.network_inputs())) for question in self._questions)]))


def require_some_change(erasure: Intervention) -> None:
    """Raises WeakError if an erasure leaves every weight of the text encoders, or of the networks, that it is for as it is,
    or if most of its changes are rounded away in the precision that it was learned in.
    """
    if lost := erasure.provenance.get(ROUNDED_AWAY):
        raise WeakError(
            f"{mostly_lost(erasure.concepts, lost)}: learn it and load the model in float32, or learn it at a larger rate"
        )
    components = getattr(erasure, "components", ())
    for of in dict.fromkeys(component.of for component in components):
        deltas = [component.deltas for component in components if component.of == of]
        if any(is_felt(change) for changes in deltas for change in changes.values()):
            continue
        what = "nothing" if of == TEXT_ENCODER else "nothing of what denoises"
        why = "".join(f" ({part['stopped']})" for part in erasure.provenance["parts"][:1] if "stopped" in part)
        raise WeakError(f"the erasure of {', '.join(erasure.concepts)} changes {what}{why}")


def require_strong(erasure: Intervention) -> None:
    """Raises WeakError if the erasure's self-check falls short of the stated bars, or it has none."""
    if CHECK not in erasure.provenance:
        raise WeakError(f"the erasure of {', '.join(erasure.concepts)} has no self-check")
    shortfalls = erasure.provenance[CHECK]["shortfalls"]
    if shortfalls:
        named = summarise(erasure.concepts, 5)
        raise WeakError(f"the erasure of {named} falls short on held-out prompts: {'; '.join(shortfalls)}")
