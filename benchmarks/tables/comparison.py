"""Tables of docs/comparison.md, docs/robustness.md, docs/by-concept.md and docs/tuning.md."""

from functools import partial

from benchmarks.tables import attacks, methods

DOCUMENTS = ("docs/comparison.md", "docs/robustness.md", "docs/by-concept.md", "docs/tuning.md")
SHOWN = {
    "text-ablation": (
        methods.summary,
        methods.erasure,
        methods.specificity,
        methods.similarity,
        methods.frechet,
        methods.quality_of_videos,
        attacks.attacks_by_concept,
    ),
    "uce": (methods.summary, methods.erasure),
    "negative-prompt": (methods.summary, methods.erasure),
    "prompt-rewrite": (methods.summary, methods.erasure),
}
TABLES = {
    "against_default": methods.against_default,
    "attacks_compared": attacks.attacks_compared,
    "video_inversion": lambda: attacks.attacks_compared("video-inversion"),
    "backdoor": attacks.backdoor,
    "closely": methods.closely,
    "comparison": methods.comparison,
    "concept_by_concept": methods.concept_by_concept,
    "costs": methods.costs,
    "measured_earlier": methods.measured_earlier,
    "relearning": attacks.relearning,
    "rivals_scan": methods.rivals_scan,
} | {
    f"{method.replace('-', '_')}_{table.__name__}": partial(table, method)
    for method, tables in SHOWN.items()
    for table in tables
}
