"""The first chapter: what a suite asked, and the answers."""

from functools import partial

from qgbench.metrics.table import Metric
from qgbench.report.chapters.table import Chapter, Columns, Table, part_title, table
from qgbench.report.collect import Problem
from qgbench.report.declared import Answer, Answers
from qgbench.report.wording import MARK, MISSING, by_reason, in_points, p_words, protocol_line, q_words
from qgbench.spec.protocol import OWN_SEEDS
from qgbench.spec.task import MEAN

_ABREAST = 5  # columns of data sets that a landscape page holds

CONFIRM_RULE = (
    "Confirmatory questions are tested in the order declared, two-sided at 5 %, each only if all before it were shown; "
    "so at most 5 % of such families claim a difference that is not there."
)
EQUIVALENCE_RULE = (
    "No larger difference than a margin is shown, at 5 %, by a 90 % interval inside it; that opens no further test."
)
EXPLORATORY_RULE = (
    "All other questions and all rows about cells are exploratory: estimates with 95 % intervals, each for itself, "
    "without a test. Among many, some intervals miss 0 by chance."
)
SETS_RULE = (
    "Difference: the mean, in {unit}, of the named pairs of cells inside each data set (over the images of a test "
    "group, groups and seeds), then over data sets with equal weights, with its 95 % interval. It is about these "
    "data sets, new patients (test groups) and new seeds; every group counts alike, in the column 'by images' every "
    "image."
)
SHARED_RULE = (
    "In these records (protocol version {version}) seed k starts all data sets from the same weights and orders, so "
    "that data sets are not independent: intervals are of sets and seeds crossed, with as many degrees of freedom as "
    "there are seeds, less one."
)
INSIDE_RULE = (
    "The mean of the named pairs of cells inside one data set, over the images of a test group, groups and seeds, with "
    "its 95 % interval; without a test."
)
POPULATION_RULE = (
    "A population of data sets: what the same means say of data sets like these, without a test. Q: Cochran's, "
    "with p of its test, whether sets differ by more than their own errors. 'too narrow': the sets' means lie closer "
    "together than the errors inside the sets allow, which is luck; read the interval for these data sets."
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
    lines = [line for number in range(len(answers.confirm)) for line in _confirm_words(answers, number, what)]
    lines += [CONFIRM_RULE] if len(answers.confirm) > 1 else []
    lines += [EQUIVALENCE_RULE] if any(one.question.margin for one in answers.confirm) else []
    lines += [EXPLORATORY_RULE]
    if answers.suite.version < OWN_SEEDS and any(len(one.question.regimes) > 1 for one in answers.all):
        lines.append(SHARED_RULE.format(version=answers.suite.version))
    lines += [CLASSES_RULE.format(label=what.label)] if answers.over_classes else []
    lines += by_reason((one.question.name, one.estimate) for one in answers.others)
    open_ones = [one.question.name for one in answers.others if one.estimate is None]
    if open_ones and not answers.reason:
        lines.append(f"Not answered, cells or seeds are missing: {', '.join(open_ones)}.")
    if answers.missing:
        lines.append(
            f"Unfinished: of the suite's {len(answers.suite.places)} runs {answers.missing} have no usable record; "
            "they are listed, and no average stands for them."
        )
    return lines


def _confirm_words(answers: Answers, number: int, what: Metric) -> list[str]:
    """Return a confirmatory question and its answer."""
    answer = answers.confirm[number]
    question, found, verdict = answer.question, answer.estimate, answer.verdict
    place = f" {number + 1} of {len(answers.confirm)}" if len(answers.confirm) > 1 else ""
    asked = f"Confirmatory question{place}, declared before the runs: {question.text}"
    if found is None:
        cause = answers.reason or f"cells or seeds that it needs are missing ({'; '.join(answer.lacking)})"
        return [asked, f"Answer: withheld, {cause}."]
    assert verdict is not None
    pairs = ", ".join(f"{first} : {second}" for first, second in question.pairs)
    ends = "no interval"
    if found.interval:
        low, high = (f"{what.scale * end:.2f}" for end in found.interval)
        ends = f"95 % confidence interval {low} to {high}{MARK if found.p_withheld else ''}"
    label = f"{what.label} (mean over classes)" if answers.over_classes else what.label
    tested = f", p {p_words(found.p)}" if verdict.tested else ""
    said = (
        f"Answer: {label} differs by {what.scale * found.mean:+.2f} ({answers.unit_of(question)}; {ends}){tested}: "
        f"{verdict.words}; averaged over {pairs} inside each of {', '.join(question.regimes)}, then over these."
    )
    return [asked, said, *([f"{found.reason}."] if found.reason else [])]


def _mixed(answers: Answers) -> bool:
    """Return whether data sets have distances in different units."""
    return len(set(answers.units.values())) > 1


def suite_tables(answers: Answers, what: Metric) -> list[Table]:
    """Return the answers over data sets, and inside each; a table without rows is left out."""
    tables = (
        _confirmatory(answers, what),
        _exploratory(answers, what),
        _population(answers, what),
        *_inside_datasets(answers, what),
        *_inside_classes(answers, what),
    )
    return [one for one in tables if one.rows]


def _over_datasets(answers: Answers, what: Metric) -> Columns[Answer]:
    """Return the columns of an answer that is one number."""
    return {
        "Question": lambda one: one.question.text,
        "Name": lambda one: one.question.name,
        "Pairs": lambda one: str(len(one.question.pairs) * len(one.question.archs)),
        "Sets": lambda one: str(len(one.question.regimes)),
        **({"Unit": lambda one: answers.unit_of(one.question)} if _mixed(answers) else {}),
        f"Difference\n({what.difference_unit})": lambda one: in_points(one.estimate, what),
        "By images\n" + f"({what.difference_unit})": lambda one: in_points(one.by_images, what),
    }


def _confirmatory(answers: Answers, what: Metric) -> Table:
    """Return the questions that are tested, in their order; those without an answer are left out."""

    def p(one: Answer) -> str:
        return p_words(one.estimate.p) if one.estimate and one.verdict and one.verdict.tested else MISSING

    def narrow(one: Answer) -> str:
        found = one.verdict.narrow if one.verdict else None
        return MISSING if found is None else f"[{found[0]:.2f}, {found[1]:.2f}] in ±{one.question.margin:g}"

    columns: Columns[Answer] = {
        **_over_datasets(answers, what),
        "p": p,
        **({"90 %\ninterval": narrow} if any(one.question.margin for one in answers.confirm) else {}),
        "Outcome": lambda one: one.verdict.words if one.verdict else MISSING,
    }
    answered = [one for one in answers.confirm if one.estimate is not None]
    title = "Confirmatory questions, in their order"
    says = f"{SETS_RULE.format(unit=what.difference_unit)} p: two-sided, of a question that is tested."
    return table(title, columns, answered, names=2, widths=(58, 28), prose=frozenset({0}), says=says)


def _exploratory(answers: Answers, what: Metric) -> Table:
    """Return the other questions, without a test; those without an answer are left out."""
    answered = [one for one in answers.others if one.estimate is not None]
    title = "Exploratory questions: estimates for these data sets"
    says = SETS_RULE.format(unit=what.difference_unit)
    columns = _over_datasets(answers, what)
    return table(title, columns, answered, names=2, widths=(92, 40), prose=frozenset({0}), says=says)


def _population(answers: Answers, what: Metric) -> Table:
    """Return what the answers are for a population of data sets."""

    def interval(one: Answer) -> str:
        return in_points(one.sets.estimate if one.sets else None, what)

    columns: Columns[Answer] = {
        "Name": lambda one: one.question.name,
        "Sets": lambda one: str(len(one.question.regimes)),
        f"Difference\n({what.difference_unit})": interval,
        "Q\n(p)": lambda one: q_words(one.sets),
        "Note": lambda one: "too narrow" if one.sets and one.sets.too_narrow else MISSING,
    }
    shown = [one for one in answers.all if one.sets is not None]
    return table("The same for a population of data sets", columns, shown, names=1, says=POPULATION_RULE)


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
            says=INSIDE_RULE,
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
            tables.append(table(title, columns, own, names=1, says=f"{INSIDE_RULE} {BY_CLASS_RULE}"))
    return tables
