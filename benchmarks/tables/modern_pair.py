"""Tables of docs/modern-pair.md and docs/modern-unlearning.md."""

from benchmarks.tables import attacks, embedded_pair, method, methods
from benchmarks.tables._format import interval, load, table
from benchmarks.tables.embedded_pair import RECORDS

DOCUMENTS = ("docs/modern-pair.md", "docs/modern-unlearning.md", "src/unreel/embedded/modern/README.md")
RESULT = "embedded_pair_modern"
STAGES = ("autoencoder", "image", "words", "video-autoencoder", "video", "judge")
BARS = {
    "judge_concept": 0.97,
    "judge_style": 0.97,
    "image_concept": 0.92,
    "image_style": 0.90,
    "two_objects": 0.75,
    "new_wordings": 0.70,
    "video_concept": 0.90,
    "video_motion": 0.85,
}


def demo() -> str:
    result = load("demo-modern")
    return f"The reader's download aside, that took {result['seconds']:.0f} seconds on {result['cores']} CPU cores."


def reader() -> str:
    result = load("reader_words")
    first, known, tenth = (f"{100 * share:.0f} %" for share in result["known"].values())
    return (
        f"Of {result['wordings']} held-out wordings, the right name gains most for {first}, is among the first three for "
        f"{known}, and among the first ten of {result['concepts']} for {tenth}."
    )


def found_wordings() -> str:
    """The wordings that `unreel wordings` finds for the concepts of the table of wordings, among the words of all captions
    (and how many of them are right) and among everyday words.
    """
    result = load("found_wordings")
    sources = {"the words of all captions": "words of all captions", "everyday words": "everyday words"}
    by_source = [result[source]["found"] for source in sources.values()]
    rows = [
        [name, *(cell for texts in by_source for cell in (str(len(texts[name])), ", ".join(texts[name][:5])))]
        for name in by_source[0]
    ]
    head = ["concept", *(cell for source in sources for cell in (f"among {source}", "the nearest"))]
    right, of_all = (interval(result[share]) for share in ("right", "of_all"))
    note = (
        f"{result['phrases']:,} words of captions: of what was found, {right} are the concept's own; of its own, {of_all} "
        "were found."
    )
    return f"{table(head, rows)}\n\n{note}"


def where_words_meet() -> str:
    """How far other words move with a name that UCE moves, in the reader's output and after the layers that project it."""
    moved = load("where_words_meet")["moved"]
    groups = {"name": "the name", "wordings": "captions' first words", "also": "captions' other words"}
    groups |= {"held_out": "words it never saw", "others": "words for other things"}
    rows = [[place, *(interval(parts[group]) for group in groups)] for place, parts in moved.items()]
    return table(["moved", *groups.values()], rows)


TABLES = {
    "where_words_meet": where_words_meet,
    "found_wordings": found_wordings,
    "reader": reader,
    "demo": demo,
    "quality": lambda: embedded_pair.quality(RESULT, BARS),
    "motions": lambda: embedded_pair.motions(RESULT),
    "closely": lambda: methods.closely("modern-methods"),
    "comparison": lambda: methods.comparison("modern-methods"),
    "summary": lambda: methods.summary("text-ablation", "modern-methods"),
    "wordings": lambda: methods.wordings("modern-wordings"),
    "rivals_scan": lambda: methods.rivals_scan("modern-rivals-scan"),
    "attacks": lambda: attacks.attacks_compared("modern-attacks"),
    "attacks_by_frame": lambda: attacks.attacks_by_frame("text-ablation", "modern-attacks"),
    "video_inversion": lambda: attacks.attacks_compared("modern-video-inversion"),
    "video_inversion_by_frame": lambda: attacks.attacks_by_frame("text-ablation-and-uce", "modern-video-inversion"),
    "many_concepts": lambda: method.many_concepts("many_concepts_modern"),
    "training": lambda: embedded_pair.training(RECORDS / "modern", STAGES),
}
