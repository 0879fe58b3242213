"""A run of the protocol `small` fits on a laptop."""

from pathlib import Path

import pytest

from qgbench.run.record import read_record
from tests.commands import Command, only_run

pytestmark = pytest.mark.slow


def test_a_small_run_with_g_stays_below_2500_mib(tmp_path: Path, cache_dir: Path) -> None:
    """Its peak does not depend on the number of steps: networks, batches and buffers are those of a whole run."""
    words = ["run", "--protocol", "small", "--threads", "1", "--method", "fixmatch", "--qg-mode", "both"]
    words += ["--steps", "6", "--set", "quality.steps=6", "--set", "quality.weak_epochs=[1]"]
    words += ["--set", "method.threshold=0.5"]
    command = Command([*words, "--output", str(tmp_path / "runs")], tmp_path / "said", cache_dir)
    assert command.finish() == 0, command.said()
    assert 500 < read_record(only_run(tmp_path / "runs").path).peak_memory_mib < 2560
