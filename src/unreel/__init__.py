"""unreel: make a text-to-video model forget a concept."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Nothing is collected: onnxruntime, which diffusers imports where it is installed, and the hub's client would.
for _switch in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "1")

# How often OpenMP's threads look for work before they sleep, where it is GNU's, as in PyTorch's wheels for Linux. By itself
# it looks for milliseconds: beside anything else that computes, who waits then keeps the core from who is waited for, and
# all takes twice as long. A thousand looks still span the gaps between a network's operations (benchmarks/busy.py).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from unreel.adoption import adopt
    from unreel.checking import require_strong
    from unreel.errors import UnreelError
    from unreel.evaluation.attack import AttackRun, attack
    from unreel.evaluation.estimate import Estimate, Figure
    from unreel.evaluation.evaluate import evaluate
    from unreel.evaluation.run import Evaluation, Run
    from unreel.interventions import active_interventions, load_intervention
    from unreel.interventions.base import Intervention
    from unreel.interventions.erasure import Erasure
    from unreel.interventions.export import export
    from unreel.judges import load_judge
    from unreel.methods import configure
    from unreel.methods.concept_ablation import ConceptAblationConfig
    from unreel.methods.few_shot import FewShotConfig
    from unreel.methods.text_ablation import TextAblationConfig
    from unreel.models.adapter import undisturbed
    from unreel.models.pair import Pair, Settings, VideoModel, load_pair, load_video_model
    from unreel.models.sampling import generate
    from unreel.prompts.concept import Concept
    from unreel.unlearning import unlearn
    from unreel.wordings import find_wordings
    from unreel.workflow import combine

# Imported on first use, so that `import unreel` and `unreel --help` do not wait for torch.
_HOME = {
    "AttackRun": "evaluation.attack",
    "Concept": "prompts.concept",
    "ConceptAblationConfig": "methods.concept_ablation",
    "Erasure": "interventions.erasure",
    "Estimate": "evaluation.estimate",
    "Evaluation": "evaluation.run",
    "FewShotConfig": "methods.few_shot",
    "Figure": "evaluation.estimate",
    "Intervention": "interventions.base",
    "Pair": "models.pair",
    "Run": "evaluation.run",
    "Settings": "models.pair",
    "TextAblationConfig": "methods.text_ablation",
    "UnreelError": "errors",
    "VideoModel": "models.pair",
    "active_interventions": "interventions",
    "adopt": "adoption",
    "attack": "evaluation.attack",
    "combine": "workflow",
    "configure": "methods",
    "evaluate": "evaluation.evaluate",
    "export": "interventions.export",
    "find_wordings": "wordings",
    "generate": "models.sampling",
    "load_intervention": "interventions",
    "load_judge": "judges",
    "load_pair": "models.pair",
    "load_video_model": "models.pair",
    "require_strong": "checking",
    "undisturbed": "models.adapter",
    "unlearn": "unlearning",
}

__all__ = [
    "AttackRun",
    "Concept",
    "ConceptAblationConfig",
    "Erasure",
    "Estimate",
    "Evaluation",
    "FewShotConfig",
    "Figure",
    "Intervention",
    "Pair",
    "Run",
    "Settings",
    "TextAblationConfig",
    "UnreelError",
    "VideoModel",
    "active_interventions",
    "adopt",
    "attack",
    "combine",
    "configure",
    "evaluate",
    "export",
    "find_wordings",
    "generate",
    "load_intervention",
    "load_judge",
    "load_pair",
    "load_video_model",
    "require_strong",
    "undisturbed",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unreel' has no attribute {name!r}")
    return getattr(import_module(f"unreel.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
