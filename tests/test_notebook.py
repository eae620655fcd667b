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


def test_every_cell_runs_and_what_it_says_is_there(notebook, tmp_path):
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "Tokyo Tower seen: " in said and "neighbours seen: " in said and "synonyms" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "tokyo-tower" / "erasure.safetensors").is_file()
