"""Figures of a report, each as PDF and PNG. Imports no torch; matplotlib takes a second and is imported to draw."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgbench.base.cores import on_all_cores
from qgbench.base.files import write_atomically
from qgbench.report.analysis import Analysis
from qgbench.report.figures import budgets, cost, forest, groups, learning, quality, questions, ranks, rope
from qgbench.report.figures.style import RC, Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FILES = 5
"""How many files (each as PDF and PNG) one kind of figure may take; `why_not` says what is left out."""

_PLANS: dict[str, Callable[[Analysis], Plan]] = {
    "questions": questions.plan,
    "forest": forest.plan,
    "critical_difference": ranks.plan_critical_difference,
    "rank_frequencies": ranks.plan_frequencies,
    "rope": rope.plan,
    "groups": groups.plan,
    "quality_audit": quality.plan_audit,
    "quality_training": quality.plan_training,
    "budgets": budgets.plan,
    "learning": learning.plan,
    "cost": cost.plan,
}
CAPTIONS = {
    "questions": questions.CAPTION,
    "forest": forest.CAPTION,
    "critical_difference": ranks.CRITICAL_DIFFERENCE_CAPTION,
    "rank_frequencies": ranks.FREQUENCIES_CAPTION,
    "rope": rope.CAPTION,
    "groups": groups.CAPTION,
    "quality_audit": quality.AUDIT_CAPTION,
    "quality_training": quality.TRAINING_CAPTION,
    "budgets": budgets.CAPTION,
    "learning": learning.CAPTION,
    "cost": cost.CAPTION,
}
"""By kind of figure: what is shown, the statistical unit, what error bars are. Plain text, in the order of a report."""

_DOTS_PER_INCH = 200
_WORTH_PROCESSES = 12  # figures; a process takes as long to start as two or three take to draw


def draw_figures(analysis: Analysis, output: Path) -> list[Path]:
    """Draw every kind of figure that has something to show; many of them on all cores.

    A kind that needs one file is ``<kind>.pdf`` and ``<kind>.png``, one that needs several ``<kind>-1.pdf`` and so on,
    6.9 inches wide. Equal analyses give equal bytes, whatever the user's own settings of matplotlib.

    Parameters
    ----------
    analysis : Analysis
    output : Path
        Folder to write to; made if it does not exist.

    Returns
    -------
    list of Path
        The files written, PDF before PNG, in the order of `CAPTIONS`.

    Raises
    ------
    QGBenchError
        A file cannot be written.
    """
    draws: dict[str, Callable[[], Figure]] = {}
    for kind, plan_of in _PLANS.items():
        planned = plan_of(analysis).draws
        for index, draw in enumerate(planned[:MOST_FILES], start=1):
            draws[kind if len(planned) == 1 else f"{kind}-{index}"] = draw
    paths: list[Path] = []
    for stem, files in zip(draws, on_all_cores(_render, list(draws.values()), _WORTH_PROCESSES), strict=True):
        for suffix, content in files.items():
            paths.append(output / f"{stem}.{suffix}")
            write_atomically(paths[-1], content)
    return paths


def why_not(analysis: Analysis) -> dict[str, str]:
    """Say which kinds of figure are not drawn, or not in full, and why.

    Returns
    -------
    dict of str to str
        By kind, as in `CAPTIONS`; kinds that are drawn in full are not in it.
    """
    reasons = {}
    for kind, plan_of in _PLANS.items():
        plan = plan_of(analysis)
        left_out = list(plan.left_out)
        if len(plan.draws) > MOST_FILES:
            left_out.append(
                f"the first {MOST_FILES} of {len(plan.draws)} files are written; report fewer data sets, regimes or "
                "methods at a time to see the others"
            )
        if left_out:
            reasons[kind] = "; ".join(left_out)
    return reasons


def _render(draw: "Callable[[], Figure]") -> dict[str, bytes]:
    import matplotlib.style

    options: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"Creator": None, "Producer": None, "CreationDate": None}},
        "png": {"metadata": {"Software": None}, "dpi": _DOTS_PER_INCH},
    }
    with matplotlib.style.context(["default", RC]):
        figure = draw()
        files = {}
        for suffix, option in options.items():
            file = io.BytesIO()
            figure.savefig(file, format=suffix, **option)
            files[suffix] = file.getvalue()
    return files | {"png": _with_palette(files["png"])}


def _with_palette(png: bytes) -> bytes:
    """The same picture in 256 colours: a third of the bytes, which counts where figures are under version control."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        reduced.save(file, format="png", dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return file.getvalue()
