"""Figures in the documents are the measured ones."""

import sys

import pytest

from unreel.pair import EMBEDDED_FOLDER

ROOT = EMBEDDED_FOLDER.parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import DOCUMENTS, render  # noqa: E402


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_are_those_of_the_result_files(document):
    text = (ROOT / document).read_text()
    assert "<!-- /" in text
    assert render(text) == text
