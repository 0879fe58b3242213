"""One run in two processes from the command line: one record, one voice, nobody waits for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qgbench.run.record import read_record
from tests.commands import QUICK_G, RUN, only_run, small_data

pytestmark = pytest.mark.slow


def torchrun(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "qgbench"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "QGBENCH_CACHE": str(tmp_path / "cache")}
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=300, env=environment)


def test_two_processes_make_one_record(tmp_path: Path) -> None:
    words = [*RUN, "--method", "fixmatch", "--qg", *QUICK_G, "--dataset", str(small_data(tmp_path / "mine"))]
    done = torchrun(tmp_path, *words, "--output", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "runs")
    record = read_record(folder.path)
    assert record.spec.processes == 2
    assert folder.status() == "done"
    assert done.stdout.count("record: ") == 1
    assert done.stderr.count("training fixmatch: 10/10 steps") == 1
    assert done.stderr.count("quality predictor g: 6/6 steps") == 1
    assert record.summary.images == 20
    again = torchrun(tmp_path, *words, "--output", str(tmp_path / "runs"))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("was done already") == 1


def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    done = torchrun(
        tmp_path, *RUN, "--method", "fixmatch", "--set", "train.batch_unlabelled=5", "--output", str(tmp_path)
    )
    assert done.returncode != 0
    assert "train.batch_unlabelled = 5 cannot be shared equally by 2 processes" in done.stderr
    assert not list(tmp_path.glob("smoke*"))
