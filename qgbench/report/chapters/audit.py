"""Tables of one setting about the quality predictor g, the free scores, and what a run costs."""

from collections.abc import Callable

from qgbench.report.audit import PREDICTS_RULE, SCORES, AuditRow
from qgbench.report.chapters.table import Columns, Table, table
from qgbench.report.wording import MISSING

AUDIT_RULE = (
    "Averages over records (one a seed), of seconds the median; a predictor that several runs share counts once. "
    "'(1 of 3)': defined in so many records only. Pooled: the masks of all checkpoints together. Predicts quality: "
    f"{PREDICTS_RULE}; of a predictor, on synthetic masks and on those of weak models."
)
OTHERS_RULE = "Where an add-on asks another predictor, which its name ends with, columns of g are of that one."
AUDIT_OF_CLASSES_RULE = (
    "Of several classes it is the mean over the classes of a pseudo-label, of Dice and of g, that counts; by class, "
    "confidence and agreement are of the whole pseudo-label."
)

Cell = Callable[[AuditRow], str]


def audit_tables(audits: list[AuditRow]) -> list[Table]:
    """Return the tables of the audit; a table without rows is left out."""
    predictors = [row for row in audits if row.part == "predictor"]
    with_test = any(row.averages["synthetic_test_mae"].defined for row in predictors)
    says = AUDIT_RULE if {row.predictor for row in predictors} <= {"g"} else f"{AUDIT_RULE} {OTHERS_RULE}"
    by_class = [row for row in audits if row.of_class and row.progress in (None, 1.0)]
    of_classes = table(
        "Quality predictor audit: pseudo-labels by class", _BY_CLASS, by_class, names=3, says=AUDIT_OF_CLASSES_RULE
    )
    together = [row for row in audits if not row.of_class]
    tables = [
        table(title, columns, [row for row in together if row.part == part], names, says=says)
        for part, title, columns, names in (
            ("predictor", "Quality predictor audit: masks of validation images", _predictors(with_test), 1),
            (
                "pseudo_labels",
                "Quality predictor audit: pseudo-labels, scores against their true Dice",
                _PSEUDO_LABELS,
                2,
            ),
            ("run", "Cost and guidance", _RUNS, 2),
        )
    ]
    tables.insert(2, of_classes)
    return [one for one in tables if one.rows]


def _average(quantity: str, digits: int, scale: float = 1) -> Cell:
    """Return a cell of an average, and of in how many of the records it is defined if not in all."""

    def cell(row: AuditRow) -> str:
        found = row.averages[quantity]
        if found.value is None:
            return MISSING
        partly = "" if found.defined == row.records else f" ({found.defined} of {row.records})"
        return f"{scale * found.value:.{digits}f}{partly}"

    return cell


def _count(quantity: str) -> Cell:
    """Return a cell of in how many records something holds."""

    def cell(row: AuditRow) -> str:
        found = row.averages[quantity]
        return MISSING if not found.defined else f"{round((found.value or 0) * found.defined)} of {found.defined}"

    return cell


def _of_name(field: str) -> Cell:
    return lambda row: str(getattr(row.name, field)) if getattr(row.name, field) else MISSING


def _predictors(with_test: bool) -> Columns[AuditRow]:
    """Return the columns of the predictors, those of the release's test mixture only where a record has it."""
    kinds = {"synthetic": "Synthetic", "synthetic_test": "Synthetic, test mixture", "weak": "Weak models"}
    return {
        "Predictor": lambda row: row.predictor,
        "Number": lambda row: str(row.records),
        **{
            f"{masks}\n{measure}": _average(f"{kind}_{measure.lower()}", 3)
            for kind, masks in kinds.items()
            if with_test or kind != "synthetic_test"
            for measure in ("Pearson", "Spearman", "MAE")
        },
        "Image dependence\n(largest correlation)": _average("image_dependence", 3),
        "Depend on\nthe image": _count("image_dependent"),
        "Predict\nquality": _count("predicts"),
    }


_CELL: Columns[AuditRow] = {
    "Method": _of_name("without_addon"),
    "Add-on": _of_name("addon"),
    "Records": lambda row: str(row.records),
}
_PSEUDO_LABELS: Columns[AuditRow] = {
    **_CELL,
    "Progress": lambda row: "pooled" if row.progress is None else f"{100 * row.progress:.0f} %",
    "Dice %, mean\nover masks": _average("mean_dice", 2, scale=100),
    **{f"Pearson\n{score}": _average(f"{score}_pearson", 3) for score in SCORES},
    **{f"MAE\n{score}": _average(f"{score}_mae", 3) for score in SCORES},
    "g predicts\nquality": lambda row: MISSING if row.progress is None else _count("g_predicts")(row),
}
_BY_CLASS: Columns[AuditRow] = {
    "Method": _CELL["Method"],
    "Add-on": _CELL["Add-on"],
    "Class": lambda row: row.of_class,
    **{heading: cell for heading, cell in _PSEUDO_LABELS.items() if heading not in _CELL},
}
_RUNS: Columns[AuditRow] = {
    **_CELL,
    "g\n(s)": _average("g_seconds", 1),
    "g reused\nby": _count("g_reused"),
    "Training\n(s)": _average("train_seconds", 1),
    "Evaluation\n(s)": _average("evaluate_seconds", 1),
    "Kept\nshare": _average("kept_share", 3),
    "Effective\nsample size": _average("effective_sample_size", 3),
    "Teacher minus student\n(Dice, points)": _average("teacher_minus_student", 2),
}
