"""The sentences that real encoders are judged on have the shape that the benchmark counts on."""

import json
import re
from pathlib import Path

import pytest

from unreel import Concept

SETS = json.loads((Path(__file__).parents[1] / "benchmarks" / "real_encoders.json").read_text())
CASES = [pytest.param(name, case, id=name) for cases in SETS.values() for name, case in cases.items()]
VARIANTS = {"style": {"capitals", "possessive"}, "motion": {"capitals"}}


def test_twelve_concepts_are_judged_and_three_are_for_tuning():
    assert {name: len(cases) for name, cases in SETS.items()} == {"final": 12, "tuning": 3}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_counts(name, case):
    assert len(case["held_out"]) == len(case["near"]) == 10
    assert len(case["shared"]) == (12 if " " in name else 0)
    assert set(case["variants"]) == VARIANTS.get(case["kind"], {"capitals", "plural", "possessive"})
    assert all(len(sentences) == 4 for sentences in case["variants"].values())
    assert len(case["behind"]) == 2 and all(60 <= len(passage.split()) <= 75 for passage, _ in case["behind"])


@pytest.mark.parametrize(("name", "case"), CASES)
def test_what_names_the_concept_and_what_does_not(name, case):
    concept = Concept(name, case["kind"])
    for sentence in [*case["held_out"], *(sentence for _, sentence in case["behind"])]:
        assert sentence.count(name) == 1 and not concept.is_named_in(sentence.replace(name, "")), sentence
    if name in ("polar bear", "elephant"):
        assert all(f"a {name}" in text.lower() or f"an {name}" in text.lower() for text in case["held_out"])
    for sentence in (*case["variants"]["capitals"], *case["variants"].get("possessive", ())):
        assert concept.is_named_in(sentence), sentence
    for sentence in case["variants"].get("plural", ()):
        assert Concept(f"{name}s").is_named_in(sentence), sentence
    assert all(f"{name}'s" in sentence for sentence in case["variants"].get("possessive", ()))
    assert not any(name in sentence for sentence in case["variants"]["capitals"])
    for sentence in [*case["shared"], *case["near"], *(passage for passage, _ in case["behind"])]:
        assert not concept.is_named_in(sentence), sentence
    words = set(name.lower().split())
    assert all(words & set(re.findall(r"\w+", sentence.lower())) for sentence in case["shared"])


def test_no_two_sentences_are_the_same():
    said = [text for cases in SETS.values() for case in cases.values() for text in (*case["held_out"], *case["near"])]
    for case in (case for cases in SETS.values() for case in cases.values()):
        said += [*case["shared"], *(text for texts in case["variants"].values() for text in texts)]
        said += [text for pair in case["behind"] for text in pair]
    assert len({text.lower() for text in said}) == len(said) > 550


def test_every_sentence_has_an_anchor_prompt_that_does_not_name_its_concept():
    from benchmarks.real_encoders import pairs_of

    for given in SETS.values():
        for name, rows in given.items():
            concept = Concept(name, rows["kind"])
            behind = [" ".join(passage) for passage in rows["behind"]]
            for way, texts in {"": rows["held_out"] + behind, **rows["variants"]}.items():
                for pair in pairs_of(concept, texts, "" if rows["kind"] == "motion" else "sailboat", way):
                    assert concept.is_named_in(pair.prompt) and not concept.is_named_in(pair.anchor)
