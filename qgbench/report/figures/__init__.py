"""Figures of a report: the one layer that draws. Imports no torch; matplotlib takes a second: imported late."""

import gc
import io
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qgbench.base.cores import on_all_cores
from qgbench.report.analysis import Analysis
from qgbench.report.figures import answer, budgets, forest, groups, learning, quality, questions, ranks
from qgbench.report.figures.style import RC, Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FILES = 5
"""How many figures of a kind are drawn; `why_not` says what is left out."""

_KINDS: dict[str, tuple[Callable[[Analysis], Plan], str]] = {
    "answer": (answer.plan, answer.CAPTION),
    "questions": (questions.plan_confirm, questions.CONFIRM_CAPTION),
    "exploratory": (questions.plan_exploratory, questions.EXPLORATORY_CAPTION),
    "forest": (forest.plan, forest.CAPTION),
    "rank_frequencies": (ranks.plan_frequencies, ranks.FREQUENCIES_CAPTION),
    "groups": (groups.plan, groups.CAPTION),
    "quality_audit": (quality.plan_audit, quality.AUDIT_CAPTION),
    "quality_training": (quality.plan_training, quality.TRAINING_CAPTION),
    "budgets": (budgets.plan, budgets.CAPTION),
    "learning": (learning.plan, learning.CAPTION),
}
CAPTIONS = {kind: caption for kind, (_, caption) in _KINDS.items()}
"""By kind of figure: what is shown, the statistical unit, what error bars are. Plain text, in the order of a report."""

_WORTH_A_PROCESS = 12  # figures; it takes as long to start as two or three take to draw
_OPTIONS: dict[str, dict[str, Any]] = {
    "pdf": {"metadata": {"Creator": None, "Producer": None, "CreationDate": None}},
    "svg": {"metadata": {"Creator": None, "Date": None}},
}


def draw_figures(analysis: Analysis) -> dict[str, dict[str, bytes]]:
    """Return every kind of figure that has something to show; many of them are drawn on all cores.

    Equal analyses give equal bytes, whatever the user's own settings of matplotlib.

    Returns
    -------
    dict of str to dict of str to bytes
        By kind, in the order of `CAPTIONS`: contents by the file's name, ``<kind>.pdf`` and ``<kind>.svg`` where there
        is one figure, ``<kind>-1.pdf`` and so on where there are several.
    """
    draws: dict[tuple[str, str], Callable[[], Figure]] = {}
    for kind, (plan_of, _) in _KINDS.items():
        planned = plan_of(analysis).draws
        for index, draw in enumerate(planned[:MOST_FILES], start=1):
            draws[kind, kind if len(planned) == 1 else f"{kind}-{index}"] = draw
    drawn: dict[str, dict[str, bytes]] = defaultdict(dict)
    gc.freeze()  # figures leave much garbage: no search for it goes through the records, too
    try:
        contents = list(on_all_cores(render, list(draws.values()), _WORTH_A_PROCESS))
    finally:
        gc.unfreeze()
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


def render(draw: "Callable[[], Figure]") -> dict[str, bytes]:
    """Return a figure, drawn in the common style, as 'pdf' and as 'svg', whose text stays text."""
    import matplotlib.style

    with matplotlib.style.context(["default", RC]):
        figure = draw()
        return {suffix: _saved(figure, suffix) for suffix in _OPTIONS}


def _saved(figure: "Figure", suffix: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=suffix, **_OPTIONS[suffix])
    return file.getvalue()
