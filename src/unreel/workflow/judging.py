"""Evaluate and attack: an intervention from its folder, and a page of what came of it.

Knows what belongs together and in which order; leaves every part of it to others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.evaluation.attack import BUDGETS, STEPS, AttackRun
from unreel.evaluation.attack import attack as attack_intervention
from unreel.evaluation.attack import require_sensible as require_sensible_attacks
from unreel.evaluation.evaluate import concept_of
from unreel.evaluation.evaluate import evaluate as evaluate_intervention
from unreel.evaluation.evaluate import require_sensible as require_sensible_prompts
from unreel.evaluation.run import Evaluation
from unreel.files import file_name
from unreel.interventions import load_intervention
from unreel.interventions.base import ATTACKS_FOLDER, EVALUATION_FOLDER, Intervention
from unreel.models.pair import load_pair, load_video_model, require_makes_videos
from unreel.progress import Tell, nobody
from unreel.prompts.concept import Concept
from unreel.prompts.files import read_prompts
from unreel.prompts.suite import GROUPS
from unreel.report.page import write_attack_report, write_report
from unreel.workflow.common import Place, Sampling, judge_of, model_of, require_known_judge, require_lists


def _home(folder: str | Path, what: str, learned: Intervention, concept: Concept) -> Path:
    """The folder for an evaluation or for attacks (`what`): in the intervention's folder, or in runs/ for one from the hub.
    Within it, each of several concepts has a folder of its own.
    """
    folder = Path(folder)
    home = (folder if folder.is_dir() else Path("runs") / file_name(folder.name)) / what
    return home if len(learned.concepts) == 1 else home / learned.file_name_of(concept.name)


@dataclass(frozen=True)
class EvaluateJob:
    """What to judge and measure: the intervention in `folder`, or under a hub id, on `videos` prompts of each of `groups`
    (by default all) and on those in the files `prompts`. Without `t2v`, the model is the pair of unreel's that it was made
    on; without a `judge`, the judge is the pair's own, or CLIP. `clips` is a folder of finished videos that runs may share.
    """

    folder: Path
    t2v: str | None = None
    judge: str | None = None
    concept: str | None = None
    prompts: Sequence[Path] = ()
    groups: Sequence[str] = ()
    videos: int = 50
    seed: int = 1000
    sampling: Sampling = Sampling()
    out: Path | None = None
    clips: Path | None = None
    place: Place = Place()

    def __post_init__(self) -> None:
        require_lists(prompts=self.prompts, groups=self.groups)


def evaluate(job: EvaluateJob, tell: Tell = nobody) -> tuple[Evaluation, Path]:
    """Judge and measure an intervention; returns that and the page.

    The same job goes on where it was stopped. Raises UnreelError for what cannot be done, before any work.
    """
    rows = [row for file in job.prompts for row in read_prompts(file)]
    require_sensible_prompts(job.videos, job.seed, job.groups, rows)
    require_known_judge(job.judge)
    learned = load_intervention(job.folder)
    job.place.require()
    concept = concept_of(learned, job.concept)
    home = Path(job.out or _home(job.folder, EVALUATION_FOLDER, learned, concept))
    t2v = model_of(job.t2v, learned)
    judge = judge_of(job.judge, t2v, job.place.device)
    model = job.sampling.onto(load_video_model(t2v, **job.place.of_weights, offload=job.place.offload))
    asked: dict[str, Any] = {"videos": job.videos, "seed": job.seed, "groups": tuple(job.groups or GROUPS)}
    asked |= {"own_prompts": rows, "folder": home, "clips": job.clips, "tell": tell}
    evaluation = evaluate_intervention(model, learned, judge, concept=concept, **asked)
    return evaluation, write_report(home, evaluation)


@dataclass(frozen=True)
class AttackJob:
    """What to attack, and how often: the intervention in `folder`, or under a hub id, by `attacks` (by default all that can
    be tried and study no whole videos), on `cases` prompts. Each of these may take as many videos as the largest of
    `budgets`, and `steps` of a search for each video. Without `t2v`, the model is the pair of unreel's that it was made on.
    `clips` is a folder of finished videos that runs may share.
    """

    folder: Path
    t2i: str | None = None
    t2v: str | None = None
    judge: str | None = None
    concept: str | None = None
    attacks: Sequence[str] = ()
    cases: int = 12
    budgets: Sequence[int] = BUDGETS
    steps: int = STEPS
    seed: int = 2000
    sampling: Sampling = Sampling()
    out: Path | None = None
    clips: Path | None = None
    place: Place = Place()

    def __post_init__(self) -> None:
        require_lists(attacks=self.attacks)


def attack(job: AttackJob, tell: Tell = nobody) -> tuple[AttackRun, Path]:
    """Try to bring back what an intervention makes a model forget; returns what came of it, and the page.

    The same job goes on where it was stopped. Raises UnreelError for what cannot be done, before any work.
    """
    require_sensible_attacks(job.attacks, job.cases, job.budgets, job.steps, job.seed)
    require_known_judge(job.judge)
    learned = load_intervention(job.folder)
    job.place.require()
    concept = concept_of(learned, job.concept)
    home = Path(job.out or _home(job.folder, ATTACKS_FOLDER, learned, concept))
    t2v = model_of(job.t2v, learned)
    judge = judge_of(job.judge, t2v, job.place.device)
    if judge is None:
        raise UnreelError("an attack needs a judge: choose one with --judge")
    pair = job.sampling.onto(load_pair(job.t2i, t2v, **job.place.of_weights))
    require_makes_videos(pair.t2v, pair.t2v_source)
    options: dict[str, Any] = {"attacks": job.attacks, "cases": job.cases, "budgets": job.budgets, "steps": job.steps}
    options |= {"seed": job.seed, "folder": home, "clips": job.clips, "tell": tell}
    result = attack_intervention(pair, learned, judge, concept=concept, **options)
    return result, write_attack_report(home, result)
