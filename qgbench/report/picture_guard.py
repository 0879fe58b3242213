"""A guard around drawing: a picture that fails is one warning, since what it shows is in records and tables."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qgbench.base.errors import QGBenchError
from qgbench.base.logs import logger


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Make any exception in the block, which draws, one warning: that `what` is not drawn, and why."""
    try:
        with suppress(Exception):  # the block imports it again
            _import_matplotlib()
        yield
    except Exception as error:
        cause = str(error) if isinstance(error, QGBenchError) else f"{type(error).__name__}: {error}"
        logger.warning("%s: not drawn: %s", what, cause)
        logger.debug("", exc_info=True)


def _import_matplotlib() -> None:
    """Import matplotlib whatever MPLBACKEND says: pictures are on Agg canvases.

    A notebook names its own backend to all processes that it starts. Where that one is not installed, matplotlib cannot
    be imported: the variable is then let go, for further processes that draw, too.
    """
    if "matplotlib" in sys.modules or (named := os.environ.pop("MPLBACKEND", None)) is None:
        return
    import matplotlib

    with suppress(ValueError):
        matplotlib.rcParams["backend"] = named
        os.environ["MPLBACKEND"] = named
