"""Tables of docs/sharing.md."""

from benchmarks.tables._format import load, table

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
        found = "shared" if row["shared"] else "not shared"
        rows.append([what[name], found, *(f"{row[key]:.1f}" for key in ("seconds", "compare", "gib"))])
    return table(["the second encoder", "found", "seconds, all", "seconds, check", "peak GiB"], rows)


TABLES = {
    "check_cost": check_cost,
}
