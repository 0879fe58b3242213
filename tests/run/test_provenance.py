"""Where numbers come from."""

import subprocess
from pathlib import Path

import pytest

from qgbench.run.provenance import git_commit

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="not a git checkout")
def test_the_commit_is_that_of_the_checkout() -> None:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert (git_commit() or "").removesuffix("+dirty") == asked.stdout.strip()
