"""Figures in the documents are the measured ones."""

import json
import re
import shlex
import sys
from dataclasses import fields

import pytest
import typer

from unreel import cli
from unreel.judges import nsfw, nudenet
from unreel.methods import load_method, names
from unreel.models.shipped import EMBEDDED_FOLDER
from unreel.report.verdict import enough

ROOT = EMBEDDED_FOLDER.parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import common  # noqa: E402
from benchmarks.tables import DOCUMENTS, NOT_YET, real_encoders, render  # noqa: E402


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_are_those_of_the_result_files(document):
    text = (ROOT / document).read_text()
    assert "<!-- /" in text
    assert render(text, DOCUMENTS[document]) == text


def test_every_method_has_a_page_with_its_picture_and_its_figures():
    listed = (ROOT / "mkdocs.yml").read_text()
    for method in (name for name in names() if load_method(name).__name__.startswith("unreel.")):
        page = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
        assert f"](../images/method-{method}.jpg)" in page and (ROOT / "docs" / "images" / f"method-{method}.jpg").is_file()
        assert f"<!-- of_{method.replace('-', '_')} -->\n| method |" in page
        assert f"methods/{method}.md" in listed and f"]({method}.md)" in (ROOT / "docs/methods/index.md").read_text()


@pytest.mark.parametrize("guide", sorted((ROOT / "docs" / "guide").glob("*.md")), ids=lambda file: file.stem)
def test_no_command_of_a_guide_writes_where_one_before_it_has_written(guide):
    written = re.findall(r'(?:--out |save_pretrained\(\s*")([\w./-]+)', guide.read_text())
    assert written and len(set(written)) == len(written)


def test_documented_evaluations_and_attacks_are_large_enough_for_the_best_verdict():
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/start.md", "docs/families.md")]
    texts += [file.read_text() for file in (ROOT / "docs" / "guide").glob("*.md")]
    asked = re.findall(r"^unreel (?:evaluate|attack) .*--(?:videos|cases) (\d+)", "\n".join(texts), re.MULTILINE)
    assert len(asked) > 5 and min(map(int, asked)) >= enough()
    assert f"at least {enough()} videos of each" in (ROOT / "docs" / "evaluation.md").read_text()


def test_the_judge_of_a_documented_command_knows_the_concept():
    """An erasure's folder is called like its concept."""
    known = {"nsfw": nsfw.LABELS, "nudenet": nudenet.LABELS}
    asked = []
    for document in (ROOT / "docs").rglob("*.md"):
        asked += re.findall(r"^unreel \w+ (?:runs/)?(\S+) .*--judge (nsfw|nudenet)\b", document.read_text(), re.MULTILINE)
    assert asked and all(concept.replace("-", " ") in known[judge] for concept, judge in asked)


def test_documented_commands_have_the_options_that_they_are_given():
    commands, asked = typer.main.get_command(cli.app).commands, []
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        text = document.read_text().replace("\\\n", " ")
        code = re.findall(r"^```\w*\n(.*?)^```|((?:^    [^\n]*\n)+)", text, re.DOTALL | re.MULTILINE)
        for block in code:
            asked += re.findall(r"^ *(?:\.venv/bin/)?unreel ([a-z].*)$", "".join(block), re.MULTILINE)
    assert len(asked) > 60
    settings = {field.name for method in names() for field in fields(load_method(method).Config)}
    of_methods = {f"--{name.replace('_', '-')}" for name in {*settings, "word"}}  # the last one's is the package's example
    for line in asked:
        name, *given = shlex.split(re.sub(r"\.\.\.|[|;&].*", "", line), comments=True)
        known = {option for parameter in commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word.split("=")[0] for word in given if word.startswith("--")} - known - {"--help"}
        assert unknown <= (of_methods if name in ("unlearn", "batch") else set()), (line, unknown)


CELL = {"kind": "object", "anchor": "castle", "seconds": 60.0, "megabytes": 3.0, "check": {"shortfalls": []}}
CELL |= {"left": 0.10, "capitals": 0.12, "behind": 0.2, "near": 0.04, "everyday": 0.01}


def test_figures_on_real_encoders_stand_beside_their_bars(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    block = "<!-- real_encoders -->\n{}\n<!-- /real_encoders -->"
    assert render(block.format("old"), real_encoders.TABLES) == block.format(NOT_YET)
    worse = CELL | {"left": 0.4, "plural": 0.9, "shared": 0.06, "seconds": 200.0, "check": {"shortfalls": ["far"]}}
    cells = {"smollm2": {"pizza": CELL, "Taj Mahal": worse}, "minilm": {"pizza": CELL | {"anchor": ""}}}
    (tmp_path / "real_encoders.json").write_text(json.dumps({"settings": {}, "cells": cells, "versions": {}}))
    *_, first, second, bars = real_encoders.real_encoders_summary().splitlines()
    assert first.startswith("| SmolLM2-135M | 2 | 25.0 % (missed) | 40.0 % (missed), *Taj Mahal* | 20.0 % |")
    assert first.endswith("| 4.0 % | 1.0 % | 130 (missed) |")
    assert second == "| MiniLM | 1 | 10.0 % | 10.0 %, *pizza* | 16.0 % | 4.0 % | 1.0 % | 60 |"
    assert bars == "| *bar* |  | ≤ 15 % | ≤ 30 % | ≤ 25 % | ≤ 8 % | ≤ 3 % | SmolLM2-135M ≤ 120 |"
    _, _, *rows = real_encoders.real_encoders().split("\n\n")[0].splitlines()
    assert (
        rows[0]
        == "| SmolLM2-135M | pizza | object | castle | 10.0 | 12.0 |  |  | 20.0 |  | 4.0 | 1.0 | passed | 60 | 3.0 |"
    )
    assert "| 90.0 |  | 20.0 | 6.0 | 4.0 | 1.0 | falls short | 200 |" in rows[1] and "| nothing |" in rows[2]
