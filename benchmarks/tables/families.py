"""Tables of docs/families.md."""

from itertools import chain

from benchmarks.tables._format import load, table, where

DOCUMENTS = ("docs/families.md",)


def large_encoder() -> str:
    """The memory and time that the largest text encoder takes."""
    result = load("large_encoder")
    counted = result["cpu"]["counted"]
    learning, encoder, network = (f"{counted[part] / 1e9:.1f}" for part in ("trained", "weights", "network"))
    whole = f"few-shot, the {learning} billion weights that the paper names"
    rows = [[whole, f"{counted['whole_gib']:.0f}, counted, not run", "", "", ""]]
    for name, row in chain(*(entry["rows"].items() for entry in result.values())):
        peak = f"{row['peak_memory_gib']:.1f}" + (", counted" if row.get("counted") else "")
        seconds = f"{row['seconds']:.0f} s"
        rows.append([name, peak, f"{row['megabytes']:.0f}", seconds, where(row)])
    note = f"Text encoder {encoder}, network {network} billion weights. "
    note += "Few-shot: two frames, made in two denoising steps each, and one optimiser step on both."
    return table(["method", "peak GiB", "MB of the erasure", "time", "on"], rows) + f"\n\n{note}"


def reach() -> str:
    """Which methods work on which video pipelines, of those that do not work on all."""
    reasons = {name: of for name, of in load("reach").items() if name.endswith("Pipeline")}
    methods = list(next(iter(reasons.values())))
    some = [method for method in methods if any(of[method] for of in reasons.values())]
    rows = [[f"`{name}`", *("" if of[method] else "yes" for method in some)] for name, of in reasons.items()]
    everywhere = ", ".join(f"`{method}`" for method in methods if method not in some)
    head = ["pipeline", *(f"`{method}`" for method in some)]
    return f"{table(head, rows)}\n\nOn all of them: {everywhere}."


TABLES = {
    "large_encoder": large_encoder,
    "reach": reach,
}
