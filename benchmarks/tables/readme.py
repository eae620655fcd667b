"""Tables of README.md, and of the pages that it leads to first."""

from functools import partial

from benchmarks.tables import embedded_pair, real_encoders, results
from benchmarks.tables._format import load
from benchmarks.tables.attacks import attacks_compared
from benchmarks.tables.methods import comparison, summary

DOCUMENTS = ("README.md", "docs/measured.md", "docs/start.md")


def demo() -> str:
    result = load("demo")
    return f"Set-up aside, the demo took {result['seconds']:.0f} seconds on {result['cores']} CPU cores."


TABLES = {
    "attacks_compared": attacks_compared,
    "comparison": partial(comparison, only_complete=True),
    "demo": demo,
    "few_shot_summary": partial(summary, "few-shot"),
    "quality": embedded_pair.quality,
    "real_encoders_summary": real_encoders.real_encoders_summary,
    "text_ablation_summary": partial(summary, "text-ablation"),
    "training_seeds": results.training_seeds,
}
