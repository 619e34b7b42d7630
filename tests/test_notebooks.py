"""The notebooks run from top to bottom, here on a few steps; what they store is clean."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from conftest import ROOT

from textlora import bases

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = ("nbclient", "nbformat", "ipykernel")
# What stands in for a cell's settings in the test: a few steps, short texts.
SMALL = 'SETTINGS = {"max_steps": 4, "max_length": 32, "batch_tokens": 512}'


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def tagged(cell, tag):
    return tag in cell["metadata"].get("tags", ())


def test_both_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["kaggle_submission", "model_training"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_stores_no_outputs_and_its_code_compiles(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert sum(tagged(cell, "parameters") for cell in code) == 1
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        if not tagged(cell, "install"):
            compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Jupyter's
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    if bases.present(bases.find("minilm")) == "absent":
        pytest.skip("the embedded base isn't installed")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's, where there are no ipywidgets
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    book.cells = [cell for cell in book.cells if not tagged(cell, "install")]
    place = next(i for i, cell in enumerate(book.cells) if tagged(cell, "parameters"))
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL))
    (tmp_path / "work").mkdir()
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path / "work")}}).execute()
    said = "".join(o.get("text", "") for cell in book.cells for o in cell.get("outputs", ()))
    wanted = {"model_training": "test: accuracy", "kaggle_submission": "200 rows, labels {0: 'World'"}
    assert wanted[path.stem] in said, said
    assert sys.prefix not in said
