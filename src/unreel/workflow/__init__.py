"""Whole jobs as functions: unlearn and look, find other words, evaluate, attack, generate, combine, adopt, export. The
command line calls them, and so may an app or a sweep.

Each says what happens through `tell`, and draws how far it is as `unreel.progress` is told to.
"""

from unreel.workflow.artifacts import adopt, combine, export
from unreel.workflow.common import Place, Sampling, judge_of, model_of, say_check
from unreel.workflow.generation import GenerateJob, generate
from unreel.workflow.judging import AttackJob, EvaluateJob, attack, evaluate
from unreel.workflow.learning import FIRST_SEED, LOOKED_AT, TakenError, Unlearned, unlearn
from unreel.workflow.unlearn_job import EVERYDAY_WORDS, UnlearnJob, require_sensible
from unreel.workflow.wording_search import WordingsJob, wordings

__all__ = [
    "EVERYDAY_WORDS",
    "FIRST_SEED",
    "LOOKED_AT",
    "AttackJob",
    "EvaluateJob",
    "GenerateJob",
    "Place",
    "Sampling",
    "TakenError",
    "UnlearnJob",
    "Unlearned",
    "WordingsJob",
    "adopt",
    "attack",
    "combine",
    "evaluate",
    "export",
    "generate",
    "judge_of",
    "model_of",
    "require_sensible",
    "say_check",
    "unlearn",
    "wordings",
]
