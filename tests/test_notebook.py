"""The notebook is the script that it is made from, and runs."""

import sys

import pytest

from unreel.models.shipped import EMBEDDED_FOLDER

ROOT = EMBEDDED_FOLDER.parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture
def notebook():
    pytest.importorskip("jupytext")
    import nbformat
    from make_notebook import NOTEBOOK

    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_what_the_script_becomes(notebook):
    from make_notebook import made

    assert notebook == made()


FEW_STEPS = """
import unreel
from dataclasses import replace
whole = unreel.load_pair
def load_pair(*args, **options):
    pair = whole(*args, **options)
    pair.settings.methods["text-ablation"]["steps"] = 10
    return replace(pair, settings=replace(pair.settings, steps=2))
unreel.load_pair = load_pair
"""


def test_every_cell_runs_and_what_it_says_is_there(notebook, tmp_path):
    """With videos of two steps and erasures of ten, where it has more: nothing that is said depends on what they show."""
    import nbformat
    from nbclient import NotebookClient

    notebook.cells.insert(0, nbformat.v4.new_code_cell(FEW_STEPS))
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "Tokyo Tower seen: " in said and "neighbours seen: " in said and "synonyms" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "tokyo-tower" / "erasure.safetensors").is_file()
