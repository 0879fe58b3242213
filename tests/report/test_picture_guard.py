"""Pictures are extras: none of them decides about a run, a report or a table."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from qgbench.base.errors import QGBenchError
from qgbench.report.analysis import analyse
from qgbench.report.collect import collect
from qgbench.report.picture_guard import guarded
from qgbench.report.power import Case, draw_power
from qgbench.report.select import Filters
from qgbench.report.write import write_report
from qgbench.stats.power import stated

GOLDEN = Path(__file__).parents[1] / "golden/records/v1"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (QGBenchError("the file is cut off"), "cases.png: not drawn: the file is cut off"),
        (ZeroDivisionError("division by zero"), "cases.png: not drawn: ZeroDivisionError: division by zero"),
    ],
)
def test_an_exception_of_drawing_is_one_warning(error: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with guarded("cases.png"):
        raise error
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [said]


def test_ctrl_c_is_no_exception_of_drawing() -> None:
    with pytest.raises(KeyboardInterrupt), guarded("cases.png"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("named", "left"), [("module://matplotlib_inline.backend_inline", ""), ("nosuch", "None"), ("svg", "svg")]
)
def test_a_backend_of_the_environment_that_is_not_here_does_not_matter(named: str, left: str) -> None:
    code = (
        "import os\n"
        "from qgbench.report.picture_guard import guarded\n"
        "with guarded('picture'):\n"
        "    from matplotlib.figure import Figure\n"
        "    Figure().savefig(os.devnull, format='png')\n"
        "    print('drawn', os.environ.get('MPLBACKEND'))"
    )
    environment = {**os.environ, "MPLBACKEND": named}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"drawn {left}"), done.stderr


def broken(*_: Any) -> NoReturn:
    raise RuntimeError("no such canvas")


def test_a_report_is_written_without_figures_that_cannot_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qgbench.report.write.draw_figures", broken)
    files = write_report(analyse(collect([GOLDEN]), Filters(), "dice", []), tmp_path, figures=True)
    assert tmp_path / "results.csv" in files
    assert all(file.is_file() for file in files)
    assert caplog.messages.count("figures: not drawn: RuntimeError: no such canvas") == 1
    assert "## Figures that were not drawn\n\n- `all`: " in (tmp_path / "report.md").read_text()


def test_paper_gets_pdf_and_screens_svg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {"forest": {"forest.pdf": b"pdf", "forest.svg": b"svg"}}
    monkeypatch.setattr("qgbench.report.write.draw_figures", lambda _: drawn)
    files = write_report(analyse(collect([GOLDEN])), tmp_path, figures=True, html=True, run_pages=False)
    assert {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()} == drawn["forest"]
    assert {file.name for file in (tmp_path / "page" / "figures").iterdir()} == {"forest.svg"}
    assert {tmp_path / "figures" / "forest.pdf", tmp_path / "page" / "index.html"} <= set(files)
    assert "![forest](figures/forest.svg)" in (tmp_path / "report.md").read_text()
    assert "{figures/forest.pdf}" in (tmp_path / "report.tex").read_text()


def test_the_table_of_power_stands_without_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qgbench.report.power._curves", broken)
    case = Case("stated", stated(0.02, 0.01, 0.08, 0.0, 1.0), None, None, 1.0)
    assert draw_power([case], [15], [3], tmp_path) == []
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["curves: not drawn: RuntimeError: no such canvas"]
