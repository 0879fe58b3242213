"""Values that the shell completes, as Typer's ``autocompletion=`` callbacks. A key press cannot wait for imports.

Every function takes what has been typed of the word so far and gives the words that it can become. Where there are
none, the shell goes on to complete names of files.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qgbench.base.errors import QGBenchError

if TYPE_CHECKING:
    from qgbench.data.cards import Kind

# Common ones; `--encoder` takes every name of segmentation-models-pytorch and of timm, which only torch can list.
ENCODERS = (
    "efficientnet-b0",
    "mit_b0",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "tf_efficientnet_lite0",
)


def _begun(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _data(incomplete: str, kind: "Kind | None") -> list[str]:
    """Return fitting names of data that ship with qgbench or were added to the folder that QGBENCH_DATA names."""
    from qgbench.data.cards import card_names, own_names

    try:
        return _begun(incomplete, [*card_names(kind), *own_names(None, kind)])
    except QGBenchError:  # a card of the folder is broken, which qgbench data list says
        return _begun(incomplete, card_names(kind))


def methods(incomplete: str) -> list[str]:
    """Return fitting names of methods that ship with qgbench."""
    from qgbench.plugins.registry import method_names

    return _begun(incomplete, method_names())


def suites(incomplete: str) -> list[str]:
    """Return fitting names of suites that ship with qgbench."""
    from qgbench.spec.suite import suite_names

    return _begun(incomplete, suite_names())


def protocols(incomplete: str) -> list[str]:
    """Return fitting names of protocols."""
    from qgbench.spec.protocol import protocol_names

    return _begun(incomplete, protocol_names())


def datasets(incomplete: str) -> list[str]:
    """Return fitting names of data sets that have labels."""
    return _data(incomplete, "labelled")


def data_names(incomplete: str) -> list[str]:
    """Return fitting names of data sets and pools."""
    return _data(incomplete, None)


def pools(incomplete: str) -> list[str]:
    """Return fitting names of pools of unlabelled images."""
    return _data(incomplete, "pool")


def archs(incomplete: str) -> list[str]:
    """Return fitting names of segmentation networks."""
    from qgbench.archs.registry import ARCHS

    return _begun(incomplete, sorted(ARCHS))


def encoders(incomplete: str) -> list[str]:
    """Return fitting names of common encoders; others are accepted as well."""
    return _begun(incomplete, ENCODERS)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return fitting names of runs in the folder that ``--output`` names, else in ``./runs``."""
    from qgbench.run.folder import find_runs

    try:
        return _begun(incomplete, (run.name for run in find_runs(Path(ctx.params.get("output") or "runs"))))
    except QGBenchError:  # no such folder: nothing to complete
        return []
