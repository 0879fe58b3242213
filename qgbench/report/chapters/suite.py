"""The first chapter: what a suite asked, and the answers."""

import math
from functools import partial

from qgbench.metrics.table import Metric
from qgbench.report.chapters.table import Chapter, Columns, Table, part_title, table
from qgbench.report.collect import Problem
from qgbench.report.declared import Answer, Answers
from qgbench.report.wording import MARK, MISSING, by_reason, in_points, p_words, protocol_line
from qgbench.spec.task import MEAN
from qgbench.stats.crossed import Estimate

_ABREAST = 5  # columns of data sets that a landscape page holds

QUESTIONS_RULE = (
    "Questions: the mean, in {unit}, of the named pairs of cells inside each data set, then over data sets with equal "
    "weights. p (Holm) is adjusted for all questions but the primary one. The intervals of single data sets are those "
    "of the model with crossed random effects of groups and seeds."
)
OVER_SETS_RULE = (
    "Interval and p over data sets ({addons}): Student's t over the data sets' means, as four or more data sets have "
    "too few seeds each for intervals of their own. Its claim is about data sets like these."
)

BY_CLASS_RULE = (
    "By class: the same differences of each class alone; estimates that the suite asks no question of, without p."
)
CLASSES_RULE = (
    "Of several classes, {label} of an image or volume is the mean over all of them; a class that is absent counts by "
    "the empty-mask rule."
)


def suite_chapter(answers: Answers, what: Metric) -> Chapter:
    """Return a suite's questions and their answers: what a report begins with."""
    absent = [Problem(cell, "no usable record") for cell in answers.absent]
    shown = suite_tables(answers, what)
    above = [protocol_line(answers.suite.protocol, answers.suite.version)] if shown else []
    return Chapter(f"Suite {answers.suite.name}", above, shown, suite_words(answers, what), absent)


def suite_words(answers: Answers, what: Metric) -> list[str]:
    """Return what a suite asked before its runs, and what they answer, a sentence each."""
    lines = [f"Primary question, declared before the runs: {answers.primary.question.text}"]
    lines += _primary_words(answers, what)
    if answers.others:
        lines.append(QUESTIONS_RULE.format(unit=what.difference_unit))
    lines += [CLASSES_RULE.format(label=what.label)] if answers.over_classes else []
    lines += [BY_CLASS_RULE] if any(one.by_class for one in answers.all) else []
    by_sets = [one.question.name for one in answers.all if over_sets(one.estimate)]
    lines += [OVER_SETS_RULE.format(addons=", ".join(by_sets))] if by_sets else []
    lines += by_reason((one.question.name, one.estimate) for one in answers.others)
    open_ones = [one.question.name for one in answers.others if one.estimate is None]
    if open_ones and not answers.reason:
        lines.append(f"Not answered, cells or seeds are missing: {', '.join(open_ones)}.")
    lines.append("All other rows of this report are about cells, another family: p (Holm) is adjusted for all of them.")
    if answers.missing:
        lines.append(
            f"Unfinished: of the suite's {len(answers.suite.places)} runs {answers.missing} have no usable record; "
            "they are listed, and no average stands for them."
        )
    return lines


def _primary_words(answers: Answers, what: Metric) -> list[str]:
    question, found = answers.primary.question, answers.primary.estimate
    if found is None:
        cause = answers.reason or f"cells or seeds that it needs are missing ({'; '.join(answers.primary.lacking)})"
        return [f"Primary estimate: withheld, {cause}."]
    pairs = ", ".join(f"{first} : {second}" for first, second in question.pairs)
    low, high = (f"{what.scale * end:.2f}" for end in found.interval or (math.nan, math.nan))
    mark = MARK if found.p_withheld else ""
    ends = f"95 % confidence interval {low} to {high}{mark}" if found.interval else "no interval"
    change = f"{what.scale * found.mean:+.2f} ({answers.unit_of(question)}; {ends})"
    label = f"{what.label} (mean over classes)" if answers.over_classes else what.label
    said = (
        f"Primary estimate: {label} differs by {change}, p {p_words(found.p)}, P(claim false) "
        f"{p_words(found.p_false)}; averaged over {pairs} inside each of {', '.join(question.regimes)}, then over "
        "these."
    )
    return [said, *([f"{found.reason}."] if found.reason else [])]


def over_sets(found: Estimate | None) -> bool:
    """Return whether interval and p are Student's t over data sets."""
    return found is not None and found.method == "t over sets"


def _mixed(answers: Answers) -> bool:
    """Return whether data sets have distances in different units."""
    return len(set(answers.units.values())) > 1


def suite_tables(answers: Answers, what: Metric) -> list[Table]:
    """Return the answers over data sets, and inside each; a table without rows is left out."""
    tables = (_over_datasets(answers, what), *_inside_datasets(answers, what), *_inside_classes(answers, what))
    return [one for one in tables if one.rows]


def _over_datasets(answers: Answers, what: Metric) -> Table:
    """Return the answers, each one number; questions without one are left out."""
    columns: Columns[Answer] = {
        "Question": lambda one: one.question.text,
        "Name": lambda one: one.question.name,
        "Pairs": lambda one: str(len(one.question.pairs) * len(one.question.archs)),
        "Sets": lambda one: str(len(one.question.regimes)),
        **({"Unit": lambda one: answers.unit_of(one.question)} if _mixed(answers) else {}),
        f"Difference\n({what.difference_unit})": lambda one: in_points(one.estimate, what),
        "p": lambda one: p_words(one.estimate.p if one.estimate else None),
        "p\n(Holm)": lambda one: MISSING if one is answers.primary else p_words(one.holm_p),
        "P(claim\nfalse)": lambda one: p_words(one.estimate.p_false if one.estimate else None),
    }
    answered = [one for one in answers.all if one.estimate is not None]
    title = "Questions that the suite asks, over data sets"
    return table(title, columns, answered, names=2, widths=(92, 40), prose=frozenset({0}))


def _inside_datasets(answers: Answers, what: Metric) -> list[Table]:
    """Return the answers inside each data set, as many of these in a table as a page is wide."""
    found = [one for one in answers.all if one.by_dataset]
    datasets = list(dict.fromkeys(dataset for one in found for dataset in one.by_dataset))
    parts = [datasets[start : start + _ABREAST] for start in range(0, len(datasets), _ABREAST)]
    title = f"The same in each data set ({what.difference_unit})"
    heads = {dataset: f"{dataset}\n({answers.units[dataset]})" if _mixed(answers) else dataset for dataset in datasets}

    def inside(dataset: str, one: Answer) -> str:
        return in_points(one.by_dataset.get(dataset), what)

    return [
        table(
            part_title(title, number, len(parts)),
            {"Name": lambda one: one.question.name, **{heads[dataset]: partial(inside, dataset) for dataset in part}},
            found,
            names=1,
        )
        for number, part in enumerate(parts, start=1)
    ]


def _inside_classes(answers: Answers, what: Metric) -> list[Table]:
    """Return the answers by class and in the mean, a table or more for each data set of several classes."""
    found = [one for one in answers.all if one.by_class]
    tables = []
    for dataset in dict.fromkeys(dataset for one in found for dataset in one.by_class):
        own = [one for one in found if dataset in one.by_class]
        names = list(own[0].by_class[dataset])
        parts = [names[start : start + _ABREAST - 1] for start in range(0, len(names), _ABREAST - 1)]

        def of_class(name: str, one: Answer, dataset: str = dataset) -> str:
            return in_points(one.by_class[dataset].get(name), what)

        def mean(one: Answer, dataset: str = dataset) -> str:
            return in_points(one.by_dataset[dataset], what)

        for number, part in enumerate(parts, start=1):
            title = part_title(f"The same by class, {dataset} ({answers.units[dataset]})", number, len(parts))
            columns: Columns[Answer] = {
                "Name": lambda one: one.question.name,
                **{name: partial(of_class, name) for name in part},
                MEAN: mean,
            }
            tables.append(table(title, columns, own, names=1))
    return tables
