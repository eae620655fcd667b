"""An evaluation: videos of the original and of the edited model as metrics read them, and what came of it, as data.

Knows videos and judges; knows no metric.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unreel.errors import UnreelError
from unreel.evaluation.estimate import Estimate, Figure, in_video
from unreel.evaluation.video_cache import Batch, VideoCache, dtype_of
from unreel.files import short_digest, write_json
from unreel.interventions.base import METRICS_FILE, Intervention
from unreel.judges import Judge, judge_identity
from unreel.metrics import measure
from unreel.models.conditioner import Conditioner
from unreel.models.loading import recorded
from unreel.models.pair import VideoModel
from unreel.prompts.concept import Concept
from unreel.prompts.grammar import bare
from unreel.prompts.suite import Prompt
from unreel.versions import versions

# By group, metric and arm, one verdict after the other as "0" and "1", in the order of prompts: for paired tests.
ByVideo = dict[str, dict[str, dict[str, str]]]
FORMER_ARMS = {"before": "original", "after": "edited"}  # as files of version 0.1 name them


class Judged(NamedTuple):
    """What a judge saw in n videos: the concept, the label and the anchor, each (n, frames) bool, and its features
    (n, frames, width) or None.
    """

    concept: np.ndarray
    label: np.ndarray
    anchor: np.ndarray
    features: np.ndarray | None


class Group:
    """One group of prompts, with its videos by the original and the edited model from the same seeds.

    Where its prompts have anchor prompts, the original model's videos of those are a third arm ("anchor").
    """

    def __init__(
        self,
        name: str,
        prompts: list[Prompt],
        concept: Concept,
        judge: Judge | None,
        cache: VideoCache,
        erasure: Intervention,
    ):
        self.name, self.prompts, self.concept, self.judge, self.cache = name, prompts, concept, judge, cache
        texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
        self.batches: dict[str, list[Batch]] = {
            "original": cache.batches(texts, seeds),
            "edited": cache.batches(texts, seeds, erasure),
        }
        self.anchors = [prompt.anchor for prompt in prompts if prompt.anchor is not None]
        if len(self.anchors) == len(prompts):
            self.batches["anchor"] = cache.batches(self.anchors, seeds)
        self._judgements: dict[str, Judged] = {}

    @property
    def repeated(self) -> int:
        """How many of the last prompts repeat the first ones in the same order with other seeds."""
        texts, count = [prompt.text for prompt in self.prompts], sum(prompt.repetition > 0 for prompt in self.prompts)
        return count if 2 * count <= len(texts) and texts[:count] == texts[len(texts) - count :] else 0

    @property
    def has_anchor(self) -> bool:
        return "anchor" in self.batches

    @property
    def anchor_label(self) -> str:
        """The anchor without its article, as judges know things; empty without one."""
        return bare(self.concept.anchor or "")

    @property
    def knows_anchor(self) -> bool:
        """Whether the judge can tell if a video shows the anchor."""
        return self.judge is not None and self.anchor_label != "" and self.judge.knows(self.anchor_label)

    @property
    def asks_for_concept(self) -> bool:
        return self.name == "companions" or any(prompt.label == self.concept.name for prompt in self.prompts)

    @property
    def asks_for_concept_alone(self) -> bool:
        return self.asks_for_concept and self.name != "companions"

    @property
    def asks_for_others(self) -> bool:
        """Whether all of its prompts ask for something else, or something besides, that the judge can tell."""
        judge, labels = self.judge, {prompt.label for prompt in self.prompts}
        return judge is not None and not labels & {self.concept.name, ""} and all(map(judge.knows, labels))

    def sought(self, prompt: Prompt) -> str:
        """What to look for besides the concept: the prompt's label if the judge knows it, else the concept."""
        known = self.judge is not None and prompt.label != "" and self.judge.knows(prompt.label)
        return prompt.label if known else self.concept.name

    def videos(self, arm: str) -> Iterator[np.ndarray]:
        """(frames, height, width, 3) uint8 each, read from disk one batch at a time."""
        return self.cache.read(self.batches[arm])

    def video(self, arm: str, index: int) -> np.ndarray:
        """One of the videos: (frames, height, width, 3) uint8."""
        batch, place = divmod(index, len(self.batches[arm][0].prompts))
        return self.cache.frames(self.batches[arm][batch], place)

    def concept_found(self, arm: str) -> np.ndarray:
        """Whether the judge finds the concept: (n, frames) bool."""
        return self._judged(arm).concept

    def label_found(self, arm: str) -> np.ndarray:
        """Whether the judge finds what it looks for besides: `sought` of each prompt."""
        return self._judged(arm).label

    def anchor_found(self, arm: str) -> np.ndarray:
        """Whether the judge finds the anchor; means nothing unless `knows_anchor`."""
        return self._judged(arm).anchor

    def features(self, arm: str) -> np.ndarray | None:
        """What the judge sees: (n, frames, width), or None if there is no judge or it has no features."""
        return self._judged(arm).features if self.judge else None

    def _judged(self, arm: str) -> Judged:
        if arm not in self._judgements:
            judge = self.judge
            assert judge is not None
            anchor = self.anchor_label if self.knows_anchor else self.concept.name
            detected, features = [], []
            for prompt, video in zip(self.prompts, self.videos(arm), strict=True):
                labels, seen = [self.concept.name, self.sought(prompt), anchor], video[None]
                detected.append(judge.probabilities(seen, labels)[0] >= judge.threshold)
                features.append(judge.features(seen))
            concept, label, anchor = np.moveaxis(np.stack(detected), -1, 0)
            known = [each for each in features if each is not None]
            self._judgements[arm] = Judged(concept, label, anchor, np.concatenate(known) if known else None)
        return self._judgements[arm]


class Evaluation:
    """One erasure on one video model: its groups of videos and every figure about them."""

    def __init__(
        self,
        model: VideoModel,
        erasure: Intervention,
        concept: Concept,
        judge: Judge | None,
        groups: dict[str, Group],
        unrelated_prompts: list[str],
    ):
        self.model, self.erasure, self.concept, self.judge, self.groups = model, erasure, concept, judge, groups
        self.unrelated_prompts = unrelated_prompts

    @property
    def conditioners(self) -> list[Conditioner]:
        return list(Conditioner.all_of(self.model.pipeline).values())

    def seconds(self, arm: str) -> np.ndarray:
        """Seconds to generate one video, a figure for every batch."""
        return np.concatenate([group.cache.seconds(group.batches[arm]) for group in self.groups.values()])

    @property
    def devices(self) -> set[str]:
        """The devices that the original and the edited model's videos were made on, as far as their files say."""
        made = (group.cache.devices(group.batches[arm]) for group in self.groups.values() for arm in ("original", "edited"))
        return set().union(*made)

    @cached_property
    def figures(self) -> list[Figure]:
        """Measured when they are asked for: a judge may look at thousands of frames."""
        return list(measure(self))

    @cached_property
    def run(self) -> "Run":
        """All that came of it, as data."""
        judge = self.judge
        return Run(
            concept=self.concept.name,
            kind=self.concept.kind,
            anchor=self.concept.anchor,
            methods=[part["method"] for part in self.erasure.provenance["parts"]],
            judge={"name": judge.name, "error": judge.error, "identity": judge_identity(judge)} if judge else None,
            figures=self.figures,
            erasure=self.erasure.identity,
            model=recorded(self.model.source),
            sampling=self.model.settings.sampling,
            dtype=dtype_of(self.model.pipeline),
            versions=versions(),
            asking=[name for name, group in self.groups.items() if group.asks_for_concept_alone],
            asked={name: _asked(group.prompts) for name, group in self.groups.items()},
            by_video=self.by_video,
        )

    @property
    def by_video(self) -> ByVideo | None:
        """The judge's verdicts on each group's videos, one after the other; None without a judge."""
        if self.judge is None:
            return None
        out: ByVideo = {}
        for name, group in self.groups.items():
            looks = {"concept_found": group.concept_found, "label_found": group.label_found}
            out[name] = {
                metric: {arm: "".join(str(int(flag)) for flag in in_video(look(arm))) for arm in ("original", "edited")}
                for metric, look in looks.items()
            }
        return out

    def figure(self, metric: str, group: str = "") -> Figure:
        """Raises KeyError if it was not measured."""
        return self.run.figure(metric, group)

    def metrics(self) -> dict[str, Any]:
        """Every figure as plain data: metrics()[group][metric]["original" | "edited"], group "all" for what has none."""
        return self.run.metrics()


@dataclass(frozen=True)
class Run:
    """The results of an evaluation as data: figures, each with its interval, and all that decided them."""

    concept: str
    kind: str
    anchor: str | None
    methods: list[str]
    judge: dict[str, Any] | None
    figures: list[Figure]
    erasure: str
    model: str
    sampling: dict[str, Any]
    dtype: str
    versions: dict[str, str]
    asking: list[str] | None = None  # the groups of prompts that ask for the concept alone; earlier files do not say
    asked: dict[str, dict[str, Any]] | None = None  # by group how many videos, digests of prompts and of seeds; nor this
    by_video: ByVideo | None = None  # nor this

    def figure(self, metric: str, group: str = "") -> Figure:
        """Raises KeyError if it was not measured."""
        for figure in self.figures:
            if (figure.metric, figure.group) == (metric, group):
                return figure
        raise KeyError(f"{metric} of {group or 'all prompts'}")

    @property
    def groups(self) -> set[str]:
        """The groups of prompts that something was measured on."""
        return {figure.group for figure in self.figures} - {""}

    def metrics(self) -> dict[str, Any]:
        """Every figure as plain data: metrics()[group][metric]["original" | "edited"], group "all" for what has none."""
        out: dict[str, dict[str, Any]] = {}
        for figure in self.figures:
            values = {arm: asdict(estimate) for arm, estimate in figure.estimates.items()}
            out.setdefault(figure.group or "all", {})[figure.metric] = values
        return out

    def document(self) -> dict[str, Any]:
        """As plain data: shares from 0 to 1, each with n and its 95 % interval; seconds, GiB, MB."""
        out = {each.name: getattr(self, each.name) for each in fields(self)} | {"figures": self.metrics()}
        metrics = {each.metric: {"title": each.title, "unit": each.unit, "better": each.better} for each in self.figures}
        return out | {"metrics": metrics}

    def save(self, folder: str | Path) -> Path:
        """Write metrics.json into an existing folder; returns where it is."""
        file = Path(folder) / METRICS_FILE
        write_json(file, self.document())
        return file

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """The run that was saved in a folder. Raises UnreelError if it is missing, broken or of another program."""
        file = Path(folder) / METRICS_FILE
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            about = stored.pop("metrics", {})
            figures = [
                _figure(metric, "" if group == "all" else group, estimates, about.get(metric, {"title": metric}))
                for group, measured in stored.pop("figures").items()
                for metric, estimates in measured.items()
            ]
            _require_verdicts(stored.get("by_video"), stored.get("asked"))
            return cls(figures=figures, **stored)
        except OSError as error:
            raise UnreelError(
                f"{file}: {error.strerror or error}: evaluate first, or name the folder that holds it"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UnreelError(f"{file} is broken, or of another program ({error}): evaluate again") from error


def _require_verdicts(by_video: Any, asked: Any) -> None:
    """Raises ValueError unless each arm has one verdict for every video of a group; `asked`, if stored, tells how many
    videos.
    """
    for group, looks in (by_video or {}).items():
        verdicts = [flags for look in looks.values() for flags in (look["original"], look["edited"])]
        wanted = {(asked or {}).get(group, {}).get("videos", len(verdicts[0]))}
        if set(map(len, verdicts)) != wanted or not set("".join(verdicts)) <= {"0", "1"}:
            raise ValueError(f"its verdicts on {group} are not of its videos")


def _asked(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """How many videos a group has, and digests of its prompts and seeds, to tell whether another run's are the same."""
    texts, seeds = [[each.text, each.label] for each in prompts], [each.seed for each in prompts]
    return {"videos": len(prompts), "prompts": short_digest(texts), "seeds": short_digest(seeds)}


def _figure(metric: str, group: str, estimates: dict[str, Any], about: dict[str, Any]) -> Figure:
    arms = {
        FORMER_ARMS.get(arm, arm): Estimate(values["value"], tuple(values["ci"]), values["n"])
        for arm, values in estimates.items()
    }
    return Figure(metric=metric, group=group, original=arms.get("original"), edited=arms.get("edited"), **about)
