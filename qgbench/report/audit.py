"""Average what the records say about the quality predictor g: its own audit, its use in a run, and what it cost."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, NamedTuple

from qgbench.quality.audit import Agreement, CheckpointAudit, QualityAudit
from qgbench.report.collect import Run
from qgbench.run.record import Record
from qgbench.spec.arm import ArmName

SCORES = ("g", "confidence", "agreement")
PREDICTS_RULE = "the 95 % interval of r (Fisher's z, masks taken as independent) lies above 0"
_Z = 1.959964  # of the normal distribution, two-sided 95 %


class Average(NamedTuple):
    """The mean, or for seconds the median, over the records in which a quantity is defined."""

    value: float | None
    defined: int


@dataclass(frozen=True)
class AuditRow:
    """Averages over some records."""

    part: Literal["predictor", "pseudo_labels", "run"]
    name: ArmName | None
    """The cell; None for the predictors, which all cells of a setting share."""
    progress: float | None
    """Fraction of the run at which pseudo-labels were audited; None for all checkpoints pooled, or no pseudo-labels."""
    records: int
    """Predictors (part 'predictor') or runs, one a seed."""
    averages: dict[str, Average]
    of_class: str = ""
    """The class whose pseudo-labels these are; empty for their mean, and where there is one."""
    predictor: str = ""
    """What the predictors are (`predictor_of`); empty in the other parts."""


def audit(runs: list[Run]) -> list[AuditRow]:
    """Return the averages of one setting's audits.

    Parameters
    ----------
    runs : list of Run
        All runs of a setting (`qgbench.report.sections.Section.runs`).

    Returns
    -------
    list of AuditRow
        A row of part ``predictor`` for g and for each other predictor (each counts once, however many runs used it);
        then for each cell its ``pseudo_labels`` by progress, the pooled row last (of several classes those of
        their mean, then of each), and one row of part ``run``: seconds, kept share and effective sample size in [0, 1].
    """
    by_name: dict[ArmName, list[Run]] = defaultdict(list)
    for run in runs:
        by_name[run.record.spec.arm].append(run)
    rows = _predictors(runs)
    for name in sorted(by_name, key=lambda name: name.order):
        rows += [*_pseudo_labels(name, by_name[name]), _run(name, by_name[name])]
    return rows


def predictor_of(record: Record) -> str:
    """Return what the quality predictor of a run is called: g, or the score that asks for another."""
    return "g" if record.spec.form == "regressor" else record.spec.form


def predicts(found: Agreement) -> bool:
    """Return whether a score predicts quality, by `PREDICTS_RULE`; never without r or with fewer than 4 masks."""
    if found.pearson is None or found.masks < 4:
        return False
    return found.pearson > math.tanh(_Z / math.sqrt(found.masks - 3))


def not_predicted(record: Record) -> list[str]:
    """Return the kinds of masks of a run whose quality its g does not predict; empty without g too."""
    if record.audit is None:
        return []
    at_end = [audit.scores.get("g") for audit in record.pseudo_labels if audit.progress is not None][-1:]
    judged = [
        ("synthetic masks", record.audit.synthetic),
        ("weak models' masks", record.audit.weak_models),
        *(("pseudo-labels at the end", found) for found in at_end if found is not None),
    ]
    return [masks for masks, found in judged if not predicts(found)]


def _mean(values: Iterable[float | None]) -> Average:
    defined = [value for value in values if value is not None]
    return Average(sum(defined) / len(defined) if defined else None, len(defined))


def _median(seconds: Iterable[float]) -> Average:
    """Return the median of times: a machine that slept for half an hour must not count."""
    defined = list(seconds)
    return Average(median(defined), len(defined))


def _predictors(runs: list[Run]) -> list[AuditRow]:
    found: dict[str, dict[str, QualityAudit]] = defaultdict(dict)
    for record in (run.record for run in runs):
        if record.audit is not None:
            found[predictor_of(record)][record.provenance.g or record.run_id] = record.audit
    return [_predictor(name, list(audits.values())) for name, audits in sorted(found.items())]


def _predictor(name: str, audits: list[QualityAudit]) -> AuditRow:
    averages = {
        **{
            f"{kind}_{measure}": _mean(getattr(getattr(audit, masks), measure, None) for audit in audits)
            for kind, masks in (
                ("synthetic", "synthetic"),
                ("synthetic_test", "synthetic_test"),
                ("weak", "weak_models"),
            )
            for measure in ("pearson", "spearman", "mae")
        },
        "image_dependence": _mean(audit.image_dependence for audit in audits),
        "image_dependent": _mean(float(audit.image_dependent) for audit in audits),
        "predicts": _mean(float(predicts(audit.synthetic) and predicts(audit.weak_models)) for audit in audits),
    }
    return AuditRow("predictor", None, None, len(audits), averages, predictor=name)


def _pseudo_labels(name: ArmName, runs: list[Run]) -> list[AuditRow]:
    rows = _by_progress(name, [audit for run in runs for audit in run.record.pseudo_labels])
    for of_class in dict.fromkeys(one for run in runs for one in run.audits_by_class):
        audits = [audit for run in runs for audit in run.audits_by_class.get(of_class, [])]
        rows += [replace(row, of_class=of_class) for row in _by_progress(name, audits)]
    return rows


def _by_progress(name: ArmName, audits: list[CheckpointAudit]) -> list[AuditRow]:
    moments = sorted({audit.progress for audit in audits if audit.progress is not None})
    pooled: list[float | None] = [None] if any(audit.progress is None for audit in audits) else []
    rows = []
    for progress in [*moments, *pooled]:
        here = [audit for audit in audits if audit.progress == progress]
        averages = {"mean_dice": _mean(audit.mean_dice for audit in here)}
        for score in SCORES:
            found = [audit.scores[score] for audit in here if score in audit.scores]
            averages[f"{score}_pearson"] = _mean(agreement.pearson for agreement in found)
            averages[f"{score}_mae"] = _mean(agreement.mae for agreement in found)
            averages[f"{score}_predicts"] = _mean(float(predicts(agreement)) for agreement in found)
        rows.append(AuditRow("pseudo_labels", name, progress, len(here), averages))
    return rows


def _run(name: ArmName, runs: list[Run]) -> AuditRow:
    times = [run.record.times for run in runs]
    guidance = [run.record.guidance for run in runs if run.record.guidance is not None]
    averages = {
        "g_seconds": _median(time.g for time in times),
        "g_reused": _mean(float(time.g_reused) for time in times),
        "train_seconds": _median(time.train for time in times),
        "evaluate_seconds": _median(time.evaluate for time in times),
        "kept_share": _mean(guide.kept_share for guide in guidance),
        "effective_sample_size": _mean(guide.effective_sample_size for guide in guidance),
        "teacher_minus_student": _mean(_teacher_minus_student(run.record) for run in runs),
    }
    return AuditRow("run", name, None, len(runs), averages)


def _teacher_minus_student(record: Record) -> float | None:
    teacher = record.summaries.get("teacher")
    return None if teacher is None else 100 * (teacher.means["dice"] - record.summary.means["dice"])
