"""What ``import qgbench`` offers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import qgbench


def test_importing_the_package_waits_for_no_library() -> None:
    code = "import sys, qgbench; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("name", qgbench._MODULES)
def test_what_it_offers_is_there(name: str) -> None:
    assert callable(getattr(qgbench, name))


def test_what_it_does_not_offer_is_said_as_python_says_it() -> None:
    with pytest.raises(AttributeError, match="module 'qgbench' has no attribute 'nothing'"):
        _ = qgbench.nothing


def test_its_version_is_that_of_the_citation_and_of_the_latest_changes() -> None:
    root = Path(__file__).parents[1]
    assert f"\nversion: {qgbench.__version__}\n" in (root / "CITATION.cff").read_text()
    assert f"version = {{{qgbench.__version__}}}" in (root / "README.md").read_text()
    assert (
        re.findall(r"^## \[([\d.]+)\] - ", (root / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == qgbench.__version__
    )
