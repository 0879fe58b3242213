"""What a report's document holds, whatever its markup."""

from dataclasses import dataclass

from qgbench.report.chapters.table import Chapter
from qgbench.report.collect import Problem

TITLE = "qgbench: methods with and without the quality-guided add-on"


@dataclass(frozen=True)
class Document:
    """Chapters, figures, and what is not shown.

    Attributes
    ----------
    chapters : list of Chapter
    figures : list of (str, list of str)
        Captions, and the names of the files in ``figures/`` that stand above them.
    undrawn : list of Problem
        Figures that were not drawn.
    unused : list of Problem
        Records that were not used.
    """

    chapters: list[Chapter]
    figures: list[tuple[str, list[str]]]
    undrawn: list[Problem]
    unused: list[Problem]
