"""Tables of docs/real-encoders.md."""

from statistics import median
from typing import Any

from benchmarks.tables._format import load, percent, table

DOCUMENTS = ("docs/real-encoders.md",)
# What the default is held to on real text encoders, stated before anything was measured: shares, and seconds a concept.
REAL_BARS = {"left": 0.15, "worst": 0.30, "spellings": 0.25, "near": 0.08, "everyday": 0.03}
REAL_SECONDS = {"smollm2": 120}
REAL_NAMES = {"smollm2": "SmolLM2-135M", "minilm": "MiniLM"}
SPELLINGS = ("capitals", "plural", "possessive", "behind")
NEAR = ("shared", "near")


def real_encoders_summary() -> str:
    """How the default does on every real text encoder, beside its bars."""
    measured = load("real_encoders")["cells"]
    rows = []
    for encoder, concepts in measured.items():
        figures, worst = _over_concepts(concepts)
        seconds = _seconds(concepts)
        cells = [f"{percent(value)}{_missed(value, REAL_BARS[name])}" for name, value in figures.items()]
        cells[1] = f"{cells[1]}, *{worst}*"
        took = f"{seconds:.0f}{_missed(seconds, REAL_SECONDS.get(encoder))}"
        rows.append([REAL_NAMES[encoder], str(len(concepts)), *cells, took])
    limits = ", ".join(f"{REAL_NAMES[encoder]} ≤ {seconds}" for encoder, seconds in REAL_SECONDS.items())
    rows.append(["*bar*", "", *(f"≤ {100 * bar:.0f} %" for bar in REAL_BARS.values()), limits])
    head = ["text encoder", "concepts", "way left: median", "way left: worst", "other spellings: way left"]
    head += ["shared words and nearest things moved", "everyday prompts moved", "seconds a concept"]
    return table(head, rows)


def _over_concepts(concepts: dict[str, Any]) -> tuple[dict[str, float], str]:
    """The figures that have bars, over the cells of all concepts, and the name of the worst concept."""
    left = {name: cell["left"] for name, cell in concepts.items()}
    worst = max(left, key=left.__getitem__)
    figures = {
        "left": median(left.values()),
        "worst": left[worst],
        "spellings": median(figures_called(concepts, SPELLINGS)),
        "near": median(figures_called(concepts, NEAR)),
        "everyday": median(figures_called(concepts, ("everyday",))),
    }
    return figures, worst


def _seconds(concepts: dict[str, Any]) -> float:
    return median(cell["seconds"] for cell in concepts.values())


def text_solvers() -> str:
    """Ways to learn the same from the same text, on the concepts that all of them were measured on."""
    cells = load("text_solvers")["cells"]
    ways = list(dict.fromkeys(way for by_way in cells.values() for way in by_way))
    whole = {name: by_way for name, by_way in cells.items() if by_way.keys() == set(ways)}
    rows = []
    for way in sorted(ways, key=lambda way: -median(by_way[way]["left"] for by_way in whole.values())):
        figures, worst = _over_concepts({name: by_way[way] for name, by_way in whole.items()})
        shares = [percent(value) for value in figures.values()]
        rows.append([way, str(len(whole)), shares[0], f"{shares[1]}, *{worst}*", *shares[2:]])
    head = ["how", "concepts", "way left: median", "way left: worst", "other spellings: way left"]
    head += ["shared words and nearest things moved", "everyday prompts moved"]
    return table(head, rows)


def real_together() -> str:
    """Twenty concepts in one erasure, beside one."""
    together, alone = load("real_together"), load("real_encoders")["cells"]["smollm2"]
    rows = []
    for count, cells in ((1, alone), (len(together["concepts"]), together["cells"])):
        figures, worst = _over_concepts(cells)
        size = median(cell["megabytes"] for cell in cells.values())
        shares = [percent(value) for value in figures.values()]
        rows.append(
            [str(count), shares[0], f"{shares[1]}, *{worst}*", *shares[2:], f"{_seconds(cells):.0f}", f"{size:.1f}"]
        )
    head = ["concepts in one erasure", "way left: median", "way left: worst", "other spellings: way left"]
    head += ["shared words and nearest things moved", "everyday prompts moved", "seconds", "MB"]
    return table(head, rows)


def real_encoders() -> str:
    """How the default does on every real text encoder, concept by concept, in percent."""
    measured = load("real_encoders")["cells"]
    columns = ("left", *SPELLINGS, *NEAR, "everyday")
    rows = []
    for encoder, concepts in measured.items():
        for name, cell in concepts.items():
            figures = [f"{100 * cell[column]:.1f}" if column in cell else "" for column in columns]
            check = "falls short" if cell["check"]["shortfalls"] else "passed"
            cost = [f"{cell['seconds']:.0f}", f"{cell['megabytes']:.1f}"]
            rows.append([REAL_NAMES[encoder], name, cell["kind"], cell["anchor"] or "nothing", *figures, check, *cost])
    head = ["text encoder", "concept", "kind", "instead", "way left", *(f"{way}: left" for way in SPELLINGS)]
    head += ["shared words moved", "nearest moved", "everyday moved", "self-check", "seconds", "MB"]
    return f"{table(head, rows)}\n\n![Way left against what else moved](images/real-encoders.png)"


def figures_called(concepts: dict[str, Any], names: tuple[str, ...]) -> list[float]:
    """The figures called `names` of all concepts that have them."""
    return [cell[name] for cell in concepts.values() for name in names if name in cell]


def _missed(value: float, bar: float | None) -> str:
    return " (missed)" if bar is not None and not value <= bar else ""


def scale() -> str:
    """From one concept to thousands in one erasure."""
    rows = [
        [
            f"{int(count):,}",
            *(percent(entry[name]) for name in ("residual", "worst_concept")),
            f"{entry['behind']:,}",
            *(percent(entry[name]) for name in ("neighbours", "everyday")),
            f"{entry['seconds']:,.0f}",
            f"{entry['megabytes']:.1f}",
        ]
        for count, entry in load("scale").items()
    ]
    head = [
        "concepts in one erasure",
        "way left",
        "way left of the worst concept",
        "concepts of which more than half is left",
    ]
    return table([*head, "what is near moved", "everyday prompts moved", "seconds", "MB"], rows)


TABLES = {
    "real_encoders": real_encoders,
    "real_encoders_summary": real_encoders_summary,
    "real_together": real_together,
    "scale": scale,
    "text_solvers": text_solvers,
}
