"""Fixtures that train once for all tests."""

import os
from pathlib import Path

import pytest

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
