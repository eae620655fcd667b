"""Tables of README.md, and of the pages that it leads to first."""

from functools import partial
from typing import Any

from benchmarks.cells import results_of
from benchmarks.over_concepts import shares_over
from benchmarks.tables import embedded_pair, real_encoders, results
from benchmarks.tables._format import load
from benchmarks.tables.methods import comparison, summary

DOCUMENTS = ("README.md", "docs/measured.md", "docs/start.md")


def demo() -> str:
    result = load("demo")
    return f"Set-up aside, the demo took {result['seconds']:.0f} seconds on {result['cores']} CPU cores."


def second_pair() -> str:
    """What the default does to the pair that reads with a language model, in sentences."""
    methods = results_of("modern-methods")
    by_name, near, reworded = (
        _shares(methods["text-ablation"], group, metric)
        for group, metric in (
            ("explicit", "concept_found"),
            ("neighbours", "label_found"),
            ("paraphrases", "concept_found"),
        )
    )
    with_wordings = results_of("modern-wordings")["text ablation, words found in all captions"]
    listed, unheard = (_shares(with_wordings, group, "concept_found") for group in ("wordings", "held_out"))
    on_top = _shares(methods["text-ablation-and-uce"], "paraphrases", "concept_found")
    return (
        f"On [the second pair](docs/modern-unlearning.md), which reads with a language model, the default forgets the name "
        f"too (found in {by_name} % of videos) and keeps neighbours ({near} %). **Other words for the same thing still "
        f"draw it ({reworded} %).** There are two remedies. List the other words with `--synonym`, or let `--wordings "
        f"phrases.txt` find in a list what [draws the concept](docs/using.md#other-words-for-it) (in images: words of the "
        f"list {listed} %, words of no list {unheard} %). Or change one video model's denoiser too: with "
        f"[`--on-top uce --tokens whole`](docs/guide/hosting.md#which-method) other words go along unlisted ({on_top} %)."
    )


def _shares(concepts: dict[str, Any], group: str, metric: str) -> str:
    """The shares without and with the erasure, over all concepts that have the group."""
    figures = [each["figures"][group][metric] for each in concepts.values() if group in each["figures"]]
    return " → ".join(f"{100 * arm['value']:.0f}" for arm in shares_over(figures).values())


TABLES = {
    "second_pair": second_pair,
    "comparison": partial(comparison, only_complete=True),
    "demo": demo,
    "few_shot_summary": partial(summary, "few-shot"),
    "quality": embedded_pair.quality,
    "real_encoders_summary": real_encoders.real_encoders_summary,
    "text_ablation_summary": partial(summary, "text-ablation"),
    "training_seeds": results.training_seeds,
}
