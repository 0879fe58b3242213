"""Lay out comparisons and audits as tables of text, and render them as Markdown or LaTeX."""

import re
from collections import defaultdict
from dataclasses import dataclass

from qgbench.records import EMPTY_MASK_RULE
from qgbench.report.audit import SCORES, AuditRow, Mean
from qgbench.report.collect import Problem, Row, Scores, Section, Setting

MISSING = "--"
NOT_A_REPLICATION = {"small", "smoke"}

UNIT_RULE = (
    "Dice: mean over test groups (patient, lesion, video; the image where none is known) and seeds of a group's mean "
    "Dice, in %, with its 95 % confidence interval. Interval, p and P(claim false), the probability that the true "
    "difference has the other sign, come from one model with crossed random effects of groups and seeds."
)
TEST_RULE = (
    "Both Dice columns of a row and their difference (add-on minus base, in Dice points) are over the same seeds. "
    "p (Holm): adjusted for all p-values of this table. p (Wilcoxon): signed-rank test on the groups' means over "
    "seeds, zeros by Pratt's rule; it does not see the variance of seeds."
)
DISTANCE_RULE = (
    "HD95 (pixels of the original image; % of its diagonal) averages over test images and seeds; missed: images with a "
    "lesion of which nothing was predicted, for each seed."
)
AUDIT_RULE = (
    "Averages over records (one a seed); a predictor that several runs share counts once. '(1 of 3)': defined in so "
    "many records only. Pooled: the masks of all checkpoints together."
)


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; `columns` may hold line breaks; the first `names` columns hold free text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    names: int


@dataclass(frozen=True)
class Chapter:
    """One setting of the report: what stands above the tables, the tables, and what stands below."""

    title: str
    above: list[str]
    tables: list[Table]
    below: list[str]
    problems: list[Problem]


def chapter(section: Section, audits: list[AuditRow]) -> Chapter:
    """Lay out one setting."""
    setting = section.setting
    tables = [_comparison(section.rows), *_audit_tables(audits)]
    audited_on = sorted({run.record.pseudo_labels_on for run in section.runs if run.record.pseudo_labels})
    return Chapter(
        title=f"{setting.dataset}, {setting.regime}, {setting.arch}, {setting.encoder}",
        above=[protocol_line(setting)],
        tables=tables,
        below=[
            f"Empty-mask rule ({EMPTY_MASK_RULE}).",
            f"Statistical unit: test groups x seeds. {UNIT_RULE}",
            TEST_RULE,
            DISTANCE_RULE,
            *_withheld(section.rows),
            AUDIT_RULE,
            *([f"Pseudo-labels audited on: {', '.join(audited_on)}."] if audited_on else []),
        ],
        problems=section.problems,
    )


def protocol_line(setting: Setting) -> str:
    """Name the protocol and its version, and what it is not."""
    line = f"protocol {setting.protocol} v{setting.protocol_version}"
    if setting.protocol in NOT_A_REPLICATION:
        return f"{line}: not a replication of the paper's experiments (reduced size, light encoder)"
    return line


def _comparison(rows: list[Row]) -> Table:
    columns = [
        "Method",
        "Add-on",
        "Seeds",
        "Base\nDice %",
        "+ add-on\nDice %",
        "Difference\n(points)",
        "p",
        "p\n(Holm)",
        "P(claim\nfalse)",
        "p\n(Wilcoxon)",
        "HD95\nbase / +",
        "HD95 % diag.\nbase / +",
        "Missed\nbase / +",
    ]
    return Table("Methods with and without the add-on", columns, [_comparison_row(row) for row in rows], names=2)


def _comparison_row(row: Row) -> list[str]:
    either = row.base or row.addon
    absent = "refused" if row.refused else MISSING

    def pair(get: str, digits: int) -> str:
        values = [MISSING if side is None else f"{getattr(side, get):.{digits}f}" for side in (row.base, row.addon)]
        return " / ".join(values)

    if row.difference is None:
        tests = [absent] * 5
    else:
        dice = row.difference.dice
        tests = [_points(row.difference), *map(_p, (dice.p, row.holm_p, dice.p_false, dice.wilcoxon_p))]
    return [
        row.name.method + (f" ({row.name.variant})" if row.name.variant else ""),
        row.name.addon or MISSING,
        str(len(either.seeds)) if either else MISSING,
        _points(row.base),
        _points(row.addon),
        *tests,
        pair("hd95", 1),
        pair("hd95_percent", 1),
        pair("missed", 1),
    ]


def _points(scores: Scores | None) -> str:
    """Dice or a difference, in points, with its interval."""
    if scores is None:
        return MISSING
    dice = scores.dice
    if dice.interval is None:
        return f"{100 * dice.mean:.2f}"
    return f"{100 * dice.mean:.2f} [{100 * dice.interval[0]:.2f}, {100 * dice.interval[1]:.2f}]"


def _p(value: float | None) -> str:
    if value is None:
        return "withheld"
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"


def _withheld(rows: list[Row]) -> list[str]:
    """Say what of a table was withheld, and why: one sentence a reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        shown = row.difference or row.base or row.addon
        if shown is not None and shown.dice.reason:
            reasons[shown.dice.reason].append(str(row.name))
    return [f"{reason} ({', '.join(names)})." for reason, names in reasons.items()]


def _audit_tables(audits: list[AuditRow]) -> list[Table]:
    """Lay out the tables of the quality predictor audit; a table without rows is left out."""

    def rows(part: str) -> list[AuditRow]:
        return [row for row in audits if row.part == part]

    def named(row: AuditRow) -> list[str]:
        assert row.name is not None
        method, variant, addon = row.name
        return [method + (f" ({variant})" if variant else ""), addon or MISSING, str(row.records)]

    def numbers(row: AuditRow, digits: int, *quantities: str) -> list[str]:
        return [_mean(row.means[quantity], row.records, digits) for quantity in quantities]

    def seconds(row: AuditRow) -> list[str]:
        reused = row.means["g_reused"].value or 0
        g, *rest = numbers(row, 1, "g_seconds", "train_seconds", "evaluate_seconds")
        return [g, f"{round(reused * row.records)} of {row.records}", *rest]

    measures = (
        *(f"synthetic_{name}" for name in ("pearson", "spearman", "mae")),
        *(f"weak_{name}" for name in ("pearson", "spearman", "mae")),
        "image_dependence",
    )
    predictors = Table(
        "Quality predictor audit: masks of validation images",
        [
            "Predictors",
            "Synthetic\nPearson",
            "Synthetic\nSpearman",
            "Synthetic\nMAE",
            "Weak models\nPearson",
            "Weak models\nSpearman",
            "Weak models\nMAE",
            "Image dependence\n(largest correlation)",
            "Depend on\nthe image",
        ],
        [
            [
                str(row.records),
                *numbers(row, 3, *measures),
                f"{round((row.means['image_dependent'].value or 0) * row.records)} of {row.records}",
            ]
            for row in rows("predictor")
        ],
        names=0,
    )
    scores = [f"{score}_{measure}" for measure in ("pearson", "mae") for score in SCORES]
    pseudo_labels = Table(
        "Quality predictor audit: pseudo-labels, scores against their true Dice",
        [
            "Method",
            "Add-on",
            "Records",
            "Progress",
            "Mean\nDice %",
            *(f"Pearson\n{score}" for score in SCORES),
            *(f"MAE\n{score}" for score in SCORES),
        ],
        [
            [
                *named(row),
                "pooled" if row.progress is None else f"{100 * row.progress:.0f} %",
                _mean(row.means["mean_dice"], row.records, 2, scale=100),
                *numbers(row, 3, *scores),
            ]
            for row in rows("pseudo_labels")
        ],
        names=2,
    )
    cost = Table(
        "Cost and guidance",
        [
            "Method",
            "Add-on",
            "Records",
            "g\n(s)",
            "g reused\nby",
            "Training\n(s)",
            "Evaluation\n(s)",
            "Kept\nshare",
            "Effective\nsample size",
        ],
        [[*named(row), *seconds(row), *numbers(row, 3, "kept_share", "effective_sample_size")] for row in rows("run")],
        names=2,
    )
    return [table for table in (predictors, pseudo_labels, cost) if table.rows]


def _mean(mean: Mean, records: int, digits: int, scale: float = 1) -> str:
    if mean.value is None:
        return MISSING
    partly = "" if mean.defined == records else f" ({mean.defined} of {records})"
    return f"{scale * mean.value:.{digits}f}{partly}"


def markdown_table(table: Table) -> str:
    """Render a table in GitHub's Markdown; free text stands in code spans."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [
        [markdown_name(cell) if i < table.names and cell != MISSING else cell for i, cell in enumerate(row)]
        for row in table.rows
    ]
    rule = ["---" if i < table.names else "---:" for i in range(len(table.columns))]
    return "\n".join(map(line, [[column.replace("\n", " ") for column in table.columns], rule, *rows]))


def markdown_name(text: str) -> str:
    """Write free text as a code span that cannot end early, nor end a table's cell."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def latex_table(table: Table, above: list[str]) -> str:
    """Render a table, with its title and the lines above it, as a booktabs longtable, which may run over pages."""

    def cell(index: int, text: str) -> str:
        if text == MISSING:
            return text
        if index >= table.names:
            return _latex_numbers(text)
        return r"\raggedright " + re.sub("[,=]", r"\g<0>\\allowbreak{}", escape_latex(text))

    def spanning(text: str) -> str:
        return rf"\multicolumn{{{len(table.columns)}}}{{@{{}}l@{{}}}}{{{text}}} \\"

    head = [r"\toprule", " & ".join(map(_latex_header, table.columns)) + r" \\", r"\midrule"]
    widths = ["p{38mm}", "p{18mm}"][: table.names]
    body = [" & ".join(cell(i, text) for i, text in enumerate(row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            rf"\begin{{longtable}}{{@{{}}{''.join(widths)}{'r' * (len(table.columns) - table.names)}@{{}}}}",
            # The title is part of the table's first head, so that no page ends between the two.
            spanning(rf"\large\bfseries {escape_latex(table.title)}"),
            *(spanning(escape_latex(line)) for line in above),
            r"\addlinespace",
            *head,
            r"\endfirsthead",
            *head,
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *body,
            r"\end{longtable}",
        ]
    )


def _latex_header(column: str) -> str:
    lines = [_latex_numbers(line) for line in column.split("\n")]
    return lines[0] if len(lines) == 1 else rf"\shortstack{{{lines[0]}\\{lines[1]}}}"


def _latex_numbers(text: str) -> str:
    """Escape a cell of numbers: true minus signs, "--" left as it is."""
    return re.sub(r"(?<![-\w])-(?=\d)", r"$-$", escape_latex(text).replace("-{}-", "--"))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_\allowbreak{}",
    "/": r"/\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # At the start of a row these would be taken for an option of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}


def escape_latex(text: str) -> str:
    r"""Write any text so that pdflatex sets it as it is.

    White space becomes single spaces, characters beyond ASCII become ``U+XXXX``, and long names may break after
    ``_`` and ``/``.
    """
    plain = "".join(
        _LATEX.get(char, char if char.isascii() else f"U+{ord(char):04X}") for char in " ".join(text.split())
    )
    return re.sub("-(?=-)", "-{}", "".join(char for char in plain if char.isprintable()))
