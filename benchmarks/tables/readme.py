"""Tables of README.md, and of the pages that it leads to first."""

from functools import partial

from benchmarks.cells import results_of
from benchmarks.tables import embedded_pair, real_encoders, results
from benchmarks.tables._format import load, pooled_shares
from benchmarks.tables.attacks import attacks_compared
from benchmarks.tables.methods import comparison, summary

DOCUMENTS = ("README.md", "docs/measured.md", "docs/start.md")


def demo() -> str:
    result = load("demo")
    return f"Set-up aside, the demo took {result['seconds']:.0f} seconds on {result['cores']} CPU cores."


def second_pair() -> str:
    """What the default does where a language model reads, in a sentence."""
    figures = [result["figures"] for result in results_of("modern-methods")["text-ablation"].values()]

    def share(group: str, metric: str) -> str:
        return " → ".join(
            f"{100 * arm['value']:.0f}" for arm in pooled_shares([f[group][metric] for f in figures]).values()
        )

    told = results_of("modern-wordings")["text ablation, told the first"]
    first = pooled_shares(
        [it["figures"]["wordings"]["concept_found"] for it in told.values() if "wordings" in it["figures"]]
    )
    return (
        f"On [the second pair](docs/modern-pair.md#unlearning-it), which reads with a language model, the default takes "
        f"the name away as well (found: {share('explicit', 'concept_found')} %) and leaves neighbours "
        f"({share('neighbours', 'label_found')} %); **other words for the same thing work on "
        f"({share('paraphrases', 'concept_found')} %), but for those that it is told** with `--synonym` (in images: "
        f"{100 * first['original']['value']:.0f} → {100 * first['edited']['value']:.0f} %)."
    )


TABLES = {
    "second_pair": second_pair,
    "attacks_compared": partial(attacks_compared, only_complete=True),
    "comparison": partial(comparison, only_complete=True),
    "demo": demo,
    "few_shot_summary": partial(summary, "few-shot"),
    "quality": embedded_pair.quality,
    "real_encoders_summary": real_encoders.real_encoders_summary,
    "text_ablation_summary": partial(summary, "text-ablation"),
    "training_seeds": results.training_seeds,
}
