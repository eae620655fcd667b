"""Which words a model draws a concept from, as a job of its own and as a part of unlearning it.

Knows what is asked for and what is recorded of it; leaves the search to `unreel.wordings`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unreel.errors import UnreelError
from unreel.files import short_digest
from unreel.interventions.base import Intervention
from unreel.methods import Task
from unreel.models.pair import Pair, load_pair
from unreel.progress import Tell, nobody
from unreel.prompts.concept import Concept
from unreel.wordings import Wording, find_wordings
from unreel.workflow.common import Place, require_lists
from unreel.workflow.unlearn_job import EVERYDAY_WORDS, UnlearnJob, judge_for, loaded, require_sensible


@dataclass(frozen=True)
class WordingsJob:
    """Which of some phrases, or "everyday" words, a pair's image model draws a concept from."""

    concept: str
    kind: str | None = None
    phrases: Sequence[str] = EVERYDAY_WORDS
    t2i: str | None = None
    t2v: str | None = None
    seed: int = 0
    place: Place = Place()

    def __post_init__(self) -> None:
        if self.phrases != EVERYDAY_WORDS:
            require_lists(phrases=self.phrases)


def wordings(job: WordingsJob, tell: Tell = nobody) -> list[Wording]:
    """The phrases that the concept is drawn from, nearest first. Raises UnreelError for what cannot be looked for, before
    any work wherever that can be known.
    """
    if not job.phrases:
        raise UnreelError("there is nothing to look among: give phrases")
    asked = UnlearnJob([job.concept], job.kind, wordings=job.phrases, t2i=job.t2i, t2v=job.t2v, place=job.place, videos=0)
    require_sensible(asked)
    pair = loaded(asked, load_pair)
    judge_for(asked, pair, tell)  # which tells of a name that the pair does not know
    (rows,) = _wordings_of(asked.concepts_of(pair), asked, pair, job.seed).values()
    return rows


def _wordings_of(concepts: Sequence[Concept], job: UnlearnJob, pair: Pair, seed: int) -> dict[str, list[Wording]]:
    phrases = None if job.wordings == EVERYDAY_WORDS else job.wordings
    return find_wordings(concepts, pair, phrases, seed=seed)


def with_wordings(
    concepts: list[Concept], job: UnlearnJob, pair: Pair, tell: Tell
) -> tuple[list[Concept], dict[str, dict[str, Any]]]:
    """The concepts with the wordings that they are drawn from as further synonyms, if the job asks for that, but for
    wordings that name what is kept or made instead; and by concept, what to record of the search.
    """
    if not job.wordings:
        return concepts, {}
    Task(concepts, pair, job.kept, job.images).require_nothing_kept_is_forgotten()  # before minutes are spent
    instead = [concept.anchor for concept in concepts]
    stays = [Concept(text) for text in (*job.kept, *dict.fromkeys(instead)) if text and text.strip()]
    forgotten = {}
    for name, rows in _wordings_of(concepts, job, pair, job.seed).items():
        texts = [row.text for row in rows]
        left = [
            text for text in texts if any(each.is_named_in(text) or Concept(text).is_named_in(each.name) for each in stays)
        ]
        forgotten[name] = [text for text in texts if text not in left]
        tell("wordings", f"of {name}: {', '.join(forgotten[name]) or 'none was found'}")
        if left:
            tell("wordings", f"of {name} that stay, since they name what is kept or made instead: {', '.join(left)}")
    widened = [replace(concept, synonyms=(*concept.synonyms, *forgotten[concept.name])) for concept in concepts]
    return widened, {name: {"among": _among(job), "found": texts} for name, texts in forgotten.items()}


def _among(job: UnlearnJob) -> str:
    """A digest of the phrases that are searched, and of the seed."""
    return short_digest([list(job.wordings) if job.wordings != EVERYDAY_WORDS else job.wordings, job.seed])


def with_searches(learned: Any, searches: Mapping[str, Mapping[str, Any]]) -> Any:
    """The intervention with what was found for its concepts in its record."""
    if not searches:
        return learned
    parts = [part | {"wordings": searches[part["concept"]]} for part in learned.provenance["parts"]]
    return learned.with_record(parts=parts)


def as_found(concepts: list[Concept], job: UnlearnJob, learned: Intervention) -> list[Concept] | None:
    """The concepts with the wordings that were found when the erasure was learned; None if they were not looked for then,
    or among others.
    """
    if not job.wordings:
        return concepts
    searches = {part["concept"]: part.get("wordings", {}) for part in learned.provenance["parts"]}
    if any(searches.get(concept.name, {}).get("among") != _among(job) for concept in concepts):
        return None
    return [replace(concept, synonyms=(*concept.synonyms, *searches[concept.name]["found"])) for concept in concepts]
