"""The last chapter: what papers claim, beside what was measured of the same."""

import re

from qgbench.report.analysis import Analysis
from qgbench.report.audit import AuditRow, audit
from qgbench.report.chapters.table import Chapter, Columns, table
from qgbench.report.sections import Section
from qgbench.report.wording import MISSING
from qgbench.trust.claims import Claim


def claims_chapter(analysis: Analysis) -> Chapter:
    """Return the claims of papers; nothing is computed from them."""
    predictors = [row for section in analysis.sections for row in audit(section.runs) if row.predictor == "g"]
    nouns = " or ".join(sorted({f"{section.noun}s" for section in analysis.sections}))
    columns: Columns[Claim] = {
        "Source": lambda claim: f"{claim.source} ({_place(claim)})",
        "About": _subject,
        "Metric": lambda claim: claim.metric,
        "What differs": lambda claim: claim.differs,
        "Claimed": lambda claim: claim.text,
        f"Measured here\n(Dice: mean over {nouns or 'images'})": lambda claim: _measured(claim, analysis, predictors),
    }
    says = "Claimed: as the source averages it. Measured here: mean over images and seeds, each image alike."
    shown = table(
        "Claimed by papers, not measured here",
        columns,
        analysis.claims,
        names=4,
        widths=(38, 18, 18, 75),
        prose=frozenset({3}),
        says=says,
    )
    below = ["Claimed numbers are copied from their sources; what is known to differ from here stands beside each."]
    return Chapter("Claims of papers", [], [shown] if shown.rows else [], below, [])


def _place(claim: Claim) -> str:
    return ", ".join(filter(None, (claim.reference, claim.table, claim.note)))


def _subject(claim: Claim) -> str:
    about = "g, synthetic masks" if claim.about == "predictor" else f"{claim.method} {claim.addon}".strip()
    return " ".join(filter(None, (about, claim.dataset, claim.labelled)))


def _of_predictor(row: AuditRow, metric: str) -> float | None:
    """Return an average on the mixture of the release's test script, or where none was asked for, of the training."""
    found = (row.averages.get(f"{kind}_{metric}") for kind in ("synthetic_test", "synthetic"))
    return next((average.value for average in found if average is not None and average.defined), None)


def _measured(claim: Claim, analysis: Analysis, predictors: list[AuditRow]) -> str:
    if claim.about == "predictor":
        known = [value for row in predictors if (value := _of_predictor(row, claim.metric)) is not None]
        return f"{min(known):.3f} to {max(known):.3f}" if known else MISSING
    means = [
        f"{scores.means[claim.metric]:.3f} ({section.setting.regime}, {section.setting.arch}, "
        f"{section.setting.protocol}{_over(section, claim)})"
        for section in analysis.sections
        for name, scores in section.cells.items()
        if (name.method, name.addon) == (claim.method, claim.addon)
        and claim.dataset in ("", section.setting.dataset)
        and claim.labelled in ("", re.split("[+@]", section.setting.regime)[0])
        and claim.metric in scores.means
    ]
    return "; ".join(means) or MISSING


def _over(section: Section, claim: Claim) -> str:
    """Return that a measured number is a mean over classes, where it is; a metric of one class is ``dice:liver``."""
    return "; mean over classes" if len(section.classes) > 1 and ":" not in claim.metric else ""
