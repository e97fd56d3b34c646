"""Every notebook runs from top to bottom, and is stored without outputs."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lvc_zoo.data import demo_clip
from lvc_zoo.hub import bundled_names

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tiny_weights, tmp_path):
    try:
        demo_clip()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "biecvc-tiny" not in bundled_names():
            cell.source = cell.source.replace('"biecvc-tiny"', repr(str(tiny_weights)))
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
