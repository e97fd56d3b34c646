"""Every notebook runs from top to bottom, and is stored without outputs."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lvc_zoo import create_model
from lvc_zoo.data import demo_clip
from lvc_zoo.hub import bundled_names

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    try:
        demo_clip()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    notebook = nbformat.read(path, as_version=4)
    for name in ("biecvc-tiny", "lstec-tiny"):
        loading, untrained = f'from_pretrained("{name}")', tmp_path / name
        if name in bundled_names() or not any(loading in cell.source for cell in notebook.cells):
            continue
        create_model(name).save_pretrained(untrained)
        for cell in notebook.cells:
            cell.source = cell.source.replace(loading, f"from_pretrained({str(untrained)!r})")
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
