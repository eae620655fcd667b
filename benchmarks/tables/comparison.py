"""Tables of docs/comparison.md."""

from functools import partial

from benchmarks.tables import methods

DOCUMENTS = ("docs/comparison.md",)
SHOWN = {
    "text-ablation": (
        methods.summary,
        methods.erasure,
        methods.specificity,
        methods.similarity,
        methods.frechet,
        methods.quality_of_videos,
        methods.attacks_by_concept,
    ),
    "uce": (methods.summary, methods.erasure),
    "negative-prompt": (methods.summary, methods.erasure),
    "prompt-rewrite": (methods.summary, methods.erasure),
}
TABLES = {
    "attacks_compared": methods.attacks_compared,
    "comparison": methods.comparison,
    "relearning": methods.relearning,
    "rivals_scan": methods.rivals_scan,
} | {
    f"{method.replace('-', '_')}_{table.__name__}": partial(table, method)
    for method, tables in SHOWN.items()
    for table in tables
}
