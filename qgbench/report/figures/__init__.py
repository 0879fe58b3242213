"""Figures of a report: the one layer that draws. Imports no torch; matplotlib takes a second: imported late."""

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qgbench.base.cores import on_all_cores
from qgbench.report.analysis import Analysis
from qgbench.report.figures import budgets, forest, groups, learning, quality, questions, ranks
from qgbench.report.figures.style import RC, Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FILES = 5
"""How many figures of a kind are drawn; `why_not` says what is left out."""

_KINDS: dict[str, tuple[Callable[[Analysis], Plan], str]] = {
    "questions": (questions.plan, questions.CAPTION),
    "forest": (forest.plan, forest.CAPTION),
    "critical_difference": (ranks.plan_critical_difference, ranks.CRITICAL_DIFFERENCE_CAPTION),
    "rank_frequencies": (ranks.plan_frequencies, ranks.FREQUENCIES_CAPTION),
    "groups": (groups.plan, groups.CAPTION),
    "quality_audit": (quality.plan_audit, quality.AUDIT_CAPTION),
    "quality_training": (quality.plan_training, quality.TRAINING_CAPTION),
    "budgets": (budgets.plan, budgets.CAPTION),
    "learning": (learning.plan, learning.CAPTION),
}
CAPTIONS = {kind: caption for kind, (_, caption) in _KINDS.items()}
"""By kind of figure: what is shown, the statistical unit, what error bars are. Plain text, in the order of a report."""

_DOTS_PER_INCH = 200
_WORTH_PROCESSES = 12  # figures; a process takes as long to start as two or three take to draw
_OPTIONS: dict[str, dict[str, Any]] = {
    "pdf": {"metadata": {"Creator": None, "Producer": None, "CreationDate": None}},
    "svg": {"metadata": {"Creator": None, "Date": None}, "transparent": True},
}


def draw_figures(analysis: Analysis, formats: Sequence[str] = ("pdf", "png")) -> dict[str, dict[str, bytes]]:
    """Return every kind of figure that has something to show; many of them are drawn on all cores.

    Equal analyses give equal bytes, whatever the user's own settings of matplotlib.

    Parameters
    ----------
    analysis : Analysis
    formats : sequence of str
        'pdf', 'png' (256 colours), 'svg' (text stays text).

    Returns
    -------
    dict of str to dict of str to bytes
        By kind, in the order of `CAPTIONS`: contents by the file's name, ``<kind>.pdf`` where there is one figure,
        ``<kind>-1.pdf`` and so on where there are several.
    """
    draws: dict[tuple[str, str], Callable[[], Figure]] = {}
    for kind, (plan_of, _) in _KINDS.items():
        planned = plan_of(analysis).draws
        for index, draw in enumerate(planned[:MOST_FILES], start=1):
            draws[kind, kind if len(planned) == 1 else f"{kind}-{index}"] = draw
    drawn: dict[str, dict[str, bytes]] = defaultdict(dict)
    contents = on_all_cores(partial(render, formats=formats), list(draws.values()), _WORTH_PROCESSES)
    for (kind, stem), by_format in zip(draws, contents, strict=True):
        drawn[kind] |= {f"{stem}.{suffix}": content for suffix, content in by_format.items()}
    return dict(drawn)


def why_not(analysis: Analysis) -> dict[str, str]:
    """Return why kinds of figure are not drawn, or not in full, by kind as in `CAPTIONS`; others are not in it."""
    reasons = {}
    for kind, (plan_of, _) in _KINDS.items():
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


def render(draw: "Callable[[], Figure]", formats: Sequence[str]) -> dict[str, bytes]:
    """Return a figure, drawn in the common style, as the content of a file of each format."""
    import matplotlib.style

    with matplotlib.style.context(["default", RC]):
        figure = draw()
        return {suffix: _as_png(figure) if suffix == "png" else _saved(figure, suffix) for suffix in formats}


def _saved(figure: "Figure", suffix: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=suffix, **_OPTIONS[suffix])
    return file.getvalue()


def _as_png(figure: "Figure") -> bytes:
    """Return the figure in 256 colours: a third of the bytes, which counts where figures are under version control."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas, file, before = FigureCanvasAgg(figure), io.BytesIO(), figure.dpi
    figure.dpi = _DOTS_PER_INCH
    canvas.draw()
    figure.dpi = before
    pixels = np.asarray(canvas.buffer_rgba())
    ink = pixels.view(np.uint32)[..., 0] != 0xFFFFFFFF  # paper takes the last colour: nothing is chosen for most pixels
    inked = Image.fromarray(pixels[None, ink, :3]).quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    numbers = np.full(ink.shape, 255, np.uint8)
    numbers[ink] = np.asarray(inked)[0]
    reduced = Image.fromarray(numbers)
    reduced.putpalette(bytes(inked.getpalette() or ()).ljust(768, b"\xff"))
    reduced.save(file, format="png", dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return file.getvalue()
