"""The notebooks run from their first cell to their last, and find what they say that they find."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def said(notebook: Any) -> str:
    """All text that its cells printed or showed."""
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", output.get("data", {}).get("text/plain", "")) for output in shown)


def test_there_are_two_and_they_are_small() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["bad-masks", "own-images"]
    assert all(path.stat().st_size < 200_000 for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_run(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QGBENCH_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(path, 4)
    options = {"timeout": 1500, "coalesce_streams": True, "resources": {"metadata": {"path": str(tmp_path)}}}
    nbclient.NotebookClient(notebook, kernel_name="python3", **options).execute()
    text = said(notebook)
    if path.stem == "own-images":
        assert "mine, n6@grouped" in text
        assert "+ qw" in text
        assert (tmp_path / "report/report.md").is_file()
        assert (tmp_path / "cases.jpg").is_file()
    else:
        found, of = next(line for line in text.splitlines() if line.endswith(" of 8")).split(" of ")
        assert int(found) > int(of) / 2, "chance finds a third"
        assert (tmp_path / "scored/index.html").is_file()
        assert "AUROC" in text
