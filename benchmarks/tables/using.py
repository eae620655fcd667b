"""Tables of docs/using.md."""

import numpy as np

from benchmarks.tables._format import load, percent, table, where

DOCUMENTS = ("docs/using.md",)


def exports() -> str:
    """What files of low rank keep of erasures, means over concepts."""
    rows, out = load("exports")["exports"], []
    for method, tolerance in dict.fromkeys((row["method"], row["tolerance"]) for row in rows):
        some = [row for row in rows if (row["method"], row["tolerance"]) == (method, tolerance)]
        ranks = [rank for row in some for matrices in row["ranks"].values() for rank in matrices.values()]
        kept, size, whole = (np.mean([row[key] for row in some]) for key in ("kept", "megabytes", "erasure_megabytes"))
        moved, now = (100 * np.mean([row["moved"][side] for row in some]) for side in (0, 1))
        figures = [f"{whole:.2f} → {size:.2f}", f"{min(ranks)} to {max(ranks)}", f"{100 * kept:.2f}"]
        how = "any" if method == "text-ablation" else f"{tolerance:g}"
        out.append([method, how, *figures, f"{moved:.1f} → {now:.1f}"])
    return table(["method", "tolerance", "MB", "ranks", "kept, %", "unrelated moved, %"], out)


def switching() -> str:
    """What putting erasures on and off costs, and generating with one on."""
    rows, notes = [], []
    for entry in load("switching").values():
        for row in entry["switching"]:
            times = [f"{row[key]:.0f}" if row[key] >= 10 else f"{row[key]:.1f}" for key in ("apply", "switch", "remove")]
            rows.append([row["encoder"], row["method"], where(entry), f"{row['megabytes']:.1f}", *times])
        generation = entry["generation"]
        notes.append(
            f"A video of the embedded model took {generation['seconds_with']:.2f} s with an erasure on and "
            f"{generation['seconds_without']:.2f} s without, {generation['ratio']:.2f} times as long (medians of "
            f"{generation['videos']}, in turns; {where(entry)})."
        )
    head = ["text encoder", "erasure", "on", "MB", "put on, ms", "switch, ms", "take off, ms"]
    return "\n\n".join([table(head, rows), *notes])


def quantized() -> str:
    """What an erasure does on quantized text encoders."""
    rows = [
        [how, *(percent(row[key]) for key in ("apart", "quantizing")), "yes" if row["comes_off"] else "no"]
        for how, row in load("quantized")["rows"].items()
    ]
    head = ["quantized by", "its effect is off by", "quantizing alone moves embeddings by", "comes off bit for bit"]
    return table(head, rows)


def batch() -> str:
    """How fast takedowns go, and what dying workers cost."""
    result = load("batch")
    alone, ray, same = result["alone"], result["ray"], result["same"]
    return (
        f"On the embedded pair, text alone ({ray['processors']} processors): {alone['an_hour']} takedowns an hour in one "
        f"process, {ray['an_hour']} over a local Ray cluster, {ray['workers_killed']} of whose workers were killed at "
        f"random, each to be replaced by one that loads the model again. Of {ray['takedowns']} takedowns, with "
        f"`--accept-weak`, {ray['done']} were done ({ray['weak']} of them weak), {ray['tried_again']} after another try: "
        f"{ray['erasures']} erasures, each of its own concept. The largest worker took {ray['largest_worker_gib']:.1f} "
        f"GiB. {same['same']} of {same['takedowns']} erasures of a cluster's workers are the very same that one process "
        "makes with one thread, as they compute; more threads round otherwise "
        "([`benchmarks/batch.py`](../benchmarks/batch.py))."
    )


def service() -> str:
    """What a service's requests cost, and whether tenants are kept apart."""
    lines = []
    for entry in load("service").values():
        spent = entry["switching"]
        waits = {
            what: f"{each['median']:.1f} ms (95 % within {each['at most, of 95 %']:.1f})" for what, each in spent.items()
        }
        lines.append(
            f"With {entry['erasures']:,} erasures on disk and {entry['tenants']:,} tenants, on the embedded pair "
            f"({where(entry)}): a request's erasures are found and loaded in {waits['found']}, on in {waits['put on']}. "
            f"{entry['clients']} clients at once got {entry['videos_a_second']:.2f} videos a second, where the bare model "
            f"makes {entry['bare']:.2f}. {entry['same']} of {entry['compared']} videos compared are byte for byte what the "
            "model makes alone with that tenant's erasures on ([`benchmarks/service.py`](../benchmarks/service.py))."
        )
    return "\n\n".join(lines)


TABLES = {
    "batch": batch,
    "service": service,
    "exports": exports,
    "quantized": quantized,
    "switching": switching,
}
