"""Tables of docs/evaluation.md."""

from benchmarks.tables._format import load

DOCUMENTS = ("docs/evaluation.md",)


def same_seed() -> str:
    """How far videos of the same seed on another device are apart."""
    notes = []
    for entry in load("same_seed").values():
        figures = [
            f"{made}: {part['pixels']:.1%} of all values differ, by {part['most']} of 255 at most"
            for made, part in entry["videos"].items()
        ]
        notes.append(
            f"{entry['prompts']} prompts on the CPU and on {entry['machine']}, float32, {'; '.join(figures)}. The changes "
            f"learned on the two are {entry['changes']:.1%} of their norm apart."
        )
    return "\n\n".join(notes)


TABLES = {
    "same_seed": same_seed,
}
