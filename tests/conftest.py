"""Fixtures that train once for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qgbench.report.analysis import Analysis

# Two threads that wait for each other burn the cores of a shared machine; sleeping waits change no result.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "slow" not in item.keywords)  # no long file at the end, alone
    if os.environ.get("QGBENCH_DATA"):
        return
    skip = pytest.mark.skip(reason="QGBENCH_DATA is not set")
    for item in items:
        if "real" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of prepared images for the whole session; workers of pytest-xdist share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["QGBENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="module")
def brief_runs() -> Iterator[None]:
    """Runs in this process leave out most of what takes longer than a few steps of training."""
    from tests.commands import make_brief

    with pytest.MonkeyPatch.context() as patch:
        make_brief(patch)
        yield


@pytest.fixture(scope="session")
def small() -> "Analysis":
    """The suite `small`, from the committed records."""
    from qgbench.report.analysis import analyse
    from qgbench.report.collect import collect
    from qgbench.report.declared import declared
    from qgbench.spec.suite import load_suite

    return analyse(collect([Path(__file__).parents[1] / "results"]), suite=declared(load_suite("small")))


@pytest.fixture(scope="session")
def small_report(small: "Analysis", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make results` would write now, without figures, which take longest."""
    from qgbench.report.write import write_report

    folder = tmp_path_factory.mktemp("small")
    write_report(small, folder, html=True, run_pages=False)
    return folder
