"""The notebook that examples/forget.py becomes: `python tools/make_notebook.py`."""

from pathlib import Path

import jupytext
import nbformat

SCRIPT = Path(__file__).parents[1] / "examples" / "forget.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")


def made() -> nbformat.NotebookNode:
    """The script as a notebook without outputs, the same each time."""
    notebook = jupytext.read(SCRIPT)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
    return notebook


if __name__ == "__main__":
    nbformat.write(made(), NOTEBOOK)
    print(f"wrote {NOTEBOOK.name}")
