"""The tutorial runs from its first cell to its last, and is committed without what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the tutorial needs headsearch[docs]")
nbclient = pytest.importorskip("nbclient", reason="the tutorial needs headsearch[docs]")
NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def test_the_tutorial_runs_and_keeps_its_outputs_to_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the tutorial writes
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=where).execute()
    assert "convnext-d1-k3-noshortcut" in cells[0].outputs[-1].data["text/html"]
    shown = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert "torch.Size([2, 64])" in cells[-1].outputs[-1].data["text/plain"]
