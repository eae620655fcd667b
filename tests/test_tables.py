"""Tables of figures say what was measured, where it was, and nothing where it was not."""

from benchmarks.tables import attacks, methods
from unreel.evaluation.attack import ARMS


def cell(concept: str, label: str, kind: str = "object", **tried: list[bool]) -> dict:
    """Of one concept: verdicts on its videos and its neighbours', and attacks, each one case of so many videos."""
    flags = {"concept_found": {"edited": concept}, "label_found": {"edited": label}}
    attempts = {
        name: {"needs_weights": False} | {f"{arm}_attempts": [[{"found": flag} for flag in found]] for arm in ARMS}
        for name, found in tried.items()
    }
    groups = ("explicit", "paraphrases", "companions", "neighbours", "unrelated")
    return {"kind": kind, "by_video": dict.fromkeys(groups, flags), "attacks": attempts, "budgets": [1, 3]}


def test_methods_are_compared_with_the_default_on_the_same_videos(monkeypatch):
    measured = {
        "text-ablation": {"cat": cell("0000", "1111"), "owl": cell("1000", "1111")},
        "uce": {"cat": cell("0001", "1000"), "owl": cell("0000", "1000"), "dog": cell("1111", "0000")},
        "esd": {"cat": {"kind": "object"}},  # measured before verdicts were kept
    }
    monkeypatch.setattr(methods, "results_of", lambda of: measured)
    head, _, *rows = methods.against_default().splitlines()
    assert head.startswith("| method | concepts | plain: found | paraphrases: found | companions kept |")
    found, kept = "+1 / -1 of 8, p = 1.000", "+0 / -6 of 8, p = 0.500"
    assert rows == [f"| UCE, on the video model | 2 | {found} | {found} | {kept} | {kept} | {kept} |"]


def test_concepts_not_their_videos_are_what_is_counted_where_there_are_several():
    assert methods._flipped([5, 5, 5]) == 2 / 8  # all one way: no three concepts can be surer than that
    assert methods._flipped([40, -1, -1]) == 1.0 and methods._flipped([0, 0]) == 1.0
    one = ("1" * 10, "0" * 10)
    assert methods._disagreement([one], wanted="0") == "+0 / -10 of 10, p = 0.002"
    assert methods._disagreement([one, one], wanted="0") == "+0 / -20 of 20, p = 0.500"


def test_attacks_that_were_not_tried_on_a_method_leave_its_cell_empty(monkeypatch):
    measured = {
        "text-ablation": {"cat": cell("", "", plain=[False, True], typos=[False])},
        "safree": {"cat": cell("", "", plain=[False, False])},
    }
    monkeypatch.setattr(attacks, "results_of", lambda of: measured)
    assert [row.split(" | ") for row in attacks.attacks_compared().split("\n\n")[0].splitlines()] == [
        ["| on things, persons and motions", "plain", "typos \\* |"],
        ["| ---", "---", "--- |"],
        ["| original model", "0 / 100 [21, 100]", "0 / 0 [0, 79] |"],
        ["| text ablation", "0 / 100 [21, 100]", "0 / 0 [0, 79] |"],
        ["| SAFREE", "0 / 0 [0, 79]", " |"],
    ]


def test_attacks_that_take_more_than_typing_stand_apart(monkeypatch):
    tried = {name: [True] for name in ("plain", "homoglyphs", "prefix_search", "published_embeddings")}
    monkeypatch.setattr(attacks, "results_of", lambda of: {"text-ablation": {"cat": cell("", "", **tried)}})
    heads = [part.splitlines()[0] for part in attacks.attacks_compared().split("\n\n") if part.startswith("|")]
    assert heads == [
        "| typed, on things, persons and motions | homoglyphs | plain |",
        "| with weights or embeddings, on things, persons and motions | prefix_search | published_embeddings |",
    ]


def test_what_cannot_stand_beside_the_control_is_marked_and_not_shown_as_if_it_had_not_been_tried(monkeypatch):
    tried = {"cat": cell("", "", plain=[False], typos=[False]), "dog": cell("", "", plain=[False], typos=[False])}
    some = {"cat": cell("", "", plain=[False], typos=[True]), "dog": cell("", "", plain=[False])}
    monkeypatch.setattr(attacks, "results_of", lambda of: {"text-ablation": tried, "safree": some})
    table = attacks.attacks_compared()
    (row,) = (row for row in table.splitlines() if row.startswith("| SAFREE"))
    assert row.split(" | ")[2] == "‡ |" and "‡ Measured on some of the concepts only" in table
    monkeypatch.setattr(attacks, "results_of", lambda of: {"text-ablation": tried, "safree": tried})
    assert "‡" not in attacks.attacks_compared()


def test_an_attack_on_another_erasure_than_the_others_is_marked():
    """What a cell lacks is tried later, against what is learned then."""
    result = {"erasure": "second", "attacks": {"plain": {"erasure": "first"}, "typos": {"erasure": "second"}}}
    for name, entry in result["attacks"].items():
        entry |= {"version": attacks.version_of(attacks.load_attack(name))}
    marked = [[attacks._marked(name, [result])] for name in result["attacks"]]
    assert marked == [["plain †"], ["typos"]]
    assert attacks._footnote(marked).strip().startswith("† Of some concept measured in an earlier run")
    assert not attacks._footnote(marked[1:])
    unknown = {"attacks": {"plain": {"version": 1}}}  # of before anybody wrote it down
    assert attacks._marked("plain", [unknown]) == "plain"
