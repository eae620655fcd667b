"""Tables of docs/sharing.md."""

from typing import Any

from benchmarks.tables._format import interval, load, table

DOCUMENTS = ("docs/sharing.md",)


def check_cost() -> str:
    """What `unreel check` costs on two encoders of CLIP ViT-L/14's size."""
    what = {
        "copy": "the same file, copied",
        "link": "the same file, linked",
        "half": "the same weights in float16",
        "one word learned": "one row of the embedding differs",
        "tuned": "all weights differ",
        "copy, both loaded": "the same file, copied: both loaded, then compared",
    }
    rows = []
    for name, row in load("check_cost")["pairs"].items():
        verdict = "shared" if row["shared"] else "not shared"
        rows.append([what[name], verdict, *(f"{row[key]:.1f}" for key in ("seconds", "compare", "gib"))])
    return table(["the second encoder", "found", "seconds, all", "seconds, check", "peak GiB"], rows)


PAIRS = {"embedded": "the first pair", "embedded:modern": "the second pair"}


def across_models() -> str:
    """What the paper's method, learned in one of the models that share a text encoder, does in both."""
    rows = []
    for pair, entry in load("cross_model").items():
        for title in ("original", "few-shot, learned in images", "few-shot, learned in videos"):
            cells = [interval(entry[title][made][group]) for group in ("explicit", "neighbours") for made in MADE]
            rows.append([PAIRS[pair], title, *cells])
    head = [
        "pair",
        "text encoder",
        *(f"{what} in {made}" for what in ("concept found", "neighbours kept") for made in MADE),
    ]
    return f"{table(head, rows)}\n\n{_asked()}"


def revisions() -> str:
    """What the default's erasure does on text encoders that are not quite the one that it was learned on."""
    rows = []
    for pair, entry in load("cross_model").items():
        for title, shown in entry["revisions"].items():
            cells = [
                interval(shown[arm]["images"][group])
                for group in ("explicit", "neighbours")
                for arm in ("original", "edited")
            ]
            rows.append([PAIRS[pair], title, shown["taken"], *cells])
    arms = [f"{what}, {arm}" for what in ("concept found", "neighbours kept") for arm in ("without", "with")]
    return table(["pair", "the encoder it is put on", "goes on", *arms], rows)


MADE = ("images", "videos")


def _asked() -> str:
    entries: list[dict[str, Any]] = list(load("cross_model").values())
    first = entries[0]
    return (
        f"Concepts: {', '.join(first['concepts'])}; {first['prompts']} images and videos of each, concept and neighbours."
    )


TABLES = {
    "across_models": across_models,
    "check_cost": check_cost,
    "revisions": revisions,
}
