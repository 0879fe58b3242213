"""A report for programs, with full precision: results.csv, audit.csv, report.json.

The CSV tables read back exactly, names included: one that begins like a formula is left as it is, so import them into a
spreadsheet as text. The page, which is for people, offers the results guarded.
"""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from qgbench.base.schema import finite_or_none
from qgbench.metrics.table import METRICS, Metric
from qgbench.report.across import Across
from qgbench.report.analysis import Analysis
from qgbench.report.audit import AuditRow
from qgbench.report.chapters.suite import suite_words
from qgbench.report.declared import Answer, Answers
from qgbench.report.scores import BESIDE, Scores
from qgbench.report.sections import Section
from qgbench.spec.arm import ArmName
from qgbench.spec.run_spec import Setting

_SETTING = [name for name in Setting.model_fields if name != "arch_source"]
RESULT_COLUMNS = [
    "kind",  # cell | twin | control | asked; the last three are differences over common seeds
    "measure",  # of `qgbench.metrics.table`: what mean, interval and tests are about
    *_SETTING,
    *ArmName._fields,
    *(f"reference_{field}" for field in ArmName._fields),  # what the difference is from
    "seeds",  # seed indices, separated by blanks
    "images",
    "groups",
    "mean",  # over groups and seeds, or its difference; Dice and its like in [0, 1], distances in pixels of the image
    "ci_low",
    "ci_high",
    "p_withheld",  # one seed or few groups: the interval allows no verdict; of cells too
    "standard_error",
    "sd_images",
    "sd_groups",
    "sd_seeds",
    "p",  # of differences only, as all up to headroom; empty where none is tested, or it is withheld
    "p_holm",  # adjusted for all of its kind in the report
    "p_one_sided",  # of "the true difference has not this sign"
    "p_wilcoxon",
    "improvement",  # probability that a test group is better
    "effect",  # standardised mean difference over groups
    "headroom",  # share of the way to supervised training with all labels
    *(f"image_{name}" for name in METRICS),  # means over images and seeds, or their differences
    *(
        f"{what}_{part}" for what in (one.name for one in BESIDE) for part in ("mean", "ci_low", "ci_high")
    ),  # over groups
    "image_median",  # of the measure, of cells only, as the next three
    "image_iqm",  # interquartile mean
    "image_worst_tenth",
    "collapsed",  # runs more than 5 points of Dice under supervised training with their seed
    "missed",  # images for each seed
    "spurious",
    "reason",  # why something was withheld or refused
]
"""Of every results.csv; after them stand `distance_unit` and the means by class, where records have such."""
AUDIT_COLUMNS = [
    *_SETTING,
    *ArmName._fields,
    "part",  # predictor | pseudo_labels | run
    "predictor",  # of that part: g, or the score that asks for another
    "progress",  # fraction of the run; empty for pooled checkpoints and for the other parts
    "quantity",
    "value",
    "defined",  # records in which the quantity is defined
    "records",
]
"""Of every audit.csv; after them stands the class, where records have several."""


def data_files(analysis: Analysis, audits: Sequence[list[AuditRow]]) -> dict[str, str]:
    """Return the files by name; `audits` are those of the analysis' sections."""
    audit_rows = [row for pair in zip(analysis.sections, audits, strict=True) for row in _audit_rows(*pair)]
    columns = [*AUDIT_COLUMNS, *(["class"] if any(row["class"] for row in audit_rows) else [])]
    return {
        "results.csv": results_csv(analysis),
        "audit.csv": pd.DataFrame(audit_rows, columns=columns).to_csv(index=False, float_format="%.17g"),
        "report.json": _json(analysis),
    }


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def results_csv(analysis: Analysis, guarded: bool = False) -> str:
    """Return a row for each cell and contrast.

    Spreadsheet programs run a text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break as a formula:
    `guarded` puts an apostrophe in front.
    """
    table = pd.DataFrame(_result_rows(analysis), columns=[*RESULT_COLUMNS, *_further_columns(analysis)])
    if guarded:
        table = table.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell)
    return table.to_csv(index=False, float_format="%.17g")


def _further_columns(analysis: Analysis) -> list[str]:
    """Return the columns of units other than pixels, and of single classes: ``image_dice:liver``."""
    classes = dict.fromkeys(
        name for section in analysis.sections if len(section.classes) > 1 for name in section.classes
    )
    units = {section.distance_unit for section in analysis.sections} - {"px"}
    return [*(["distance_unit"] if units else []), *(f"image_{m}:{name}" for name in classes for m in METRICS)]


def _result_rows(analysis: Analysis) -> list[dict[str, Any]]:
    further = _further_columns(analysis)
    return [row for section in analysis.sections for row in _rows_of(section, further)]


def _rows_of(section: Section, further: Sequence[str]) -> list[dict[str, Any]]:
    common = {"measure": section.measure.name, **_picked(section.setting, *_SETTING)}
    common |= {"distance_unit": section.distance_unit} if "distance_unit" in further else {}
    rows = [
        {"kind": "cell", **common, **_scored(name, scores, further), **_of_cell(section, name)}
        for name, scores in section.cells.items()
    ]
    for contrast in section.contrasts:
        if contrast.name == contrast.reference:
            continue
        named = {**common, **{f"reference_{key}": value for key, value in contrast.reference._asdict().items()}}
        if contrast.difference is None:
            reason = f"refused: {contrast.refused}" if contrast.refused else "one of the two is missing"
            rows.append({"kind": contrast.kind, **named, **contrast.name._asdict(), "reason": reason})
            continue
        found = contrast.difference.estimate
        tests = {
            "p": found.p,
            "p_holm": contrast.holm_p,
            "p_one_sided": found.p_one_sided,
            "p_wilcoxon": found.wilcoxon_p,
        }
        tests |= _picked(contrast, "improvement", "effect", "headroom")
        rows.append({"kind": contrast.kind, **named, **_scored(contrast.name, contrast.difference, further), **tests})
    return rows


def _scored(name: ArmName, scores: Scores, further: Sequence[str]) -> dict[str, Any]:
    found = scores.estimate
    low, high = found.interval or (None, None)
    return {
        **name._asdict(),
        "seeds": " ".join(map(str, scores.seeds)),
        "images": scores.images,
        "groups": found.groups,
        "mean": found.mean,
        "ci_low": low,
        "ci_high": high,
        "p_withheld": found.p_withheld,
        "standard_error": found.standard_error,
        **{f"sd_{over}": getattr(scores.spread, over) for over in ("images", "groups", "seeds")},
        **{f"image_{measure}": scores.means[measure] for measure in METRICS},
        **{key: scores.means[key] for key in ("missed", "spurious")},
        **{key: scores.means.get(key.removeprefix("image_")) for key in further if ":" in key},
        **{f"{what}_mean": one.mean for what, one in scores.beside.items()},
        **{
            f"{what}_ci_{end}": (one.interval or (None, None))[place]
            for what, one in scores.beside.items()
            for place, end in enumerate(("low", "high"))
        },
        "reason": found.reason,
    }


def _of_cell(section: Section, name: ArmName) -> dict[str, Any]:
    found = section.cells[name].shapes[section.measure.name]
    collapsed = section.collapsed.get(name)
    return {
        "image_median": found.median,
        "image_iqm": found.interquartile_mean,
        "image_worst_tenth": found.worst_tenth,
        "collapsed": None if collapsed is None else collapsed[0],
    }


def _audit_rows(section: Section, audits: list[AuditRow]) -> list[dict[str, Any]]:
    return [
        {
            **_picked(section.setting, *_SETTING),
            **(row.name._asdict() if row.name is not None else {}),
            "part": row.part,
            "predictor": row.predictor,
            "class": row.of_class,
            "progress": row.progress,
            "quantity": quantity,
            "value": average.value,
            "defined": average.defined,
            "records": row.records,
        }
        for row in audits
        for quantity, average in row.averages.items()
    ]


def _json(analysis: Analysis) -> str:
    """Return everything as JSON, for programs: the rows of results.csv, what holds across settings, all problems."""
    whole = {
        "measure": analysis.measure,
        "suite": None if analysis.answers is None else _suite(analysis.answers, analysis.measure),
        "results": _result_rows(analysis),
        "best": [{**_picked(section.setting, *_SETTING), "names": section.best} for section in analysis.sections],
        "across": [_across(across) for across in analysis.across],
        "claims": [claim.model_dump(mode="json") for claim in analysis.claims],
        "problems": [
            *analysis.problems,
            *(
                {**_picked(s.setting, *_SETTING), **problem._asdict()}
                for s in analysis.sections
                for problem in s.problems
            ),
        ],
    }
    return json.dumps(_plain(whole), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _suite(answers: Answers, what: Metric) -> dict[str, Any]:
    return {
        **_picked(answers.suite, "name", "metric"),
        "confirm": [_answer(one) for one in answers.confirm],
        "questions": [_answer(one) for one in answers.others],
        **_picked(answers, "reason", "absent"),
        "words": suite_words(answers, what),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        **vars(answer.question),
        "estimate": answer.estimate,
        **_picked(answer, "verdict", "by_images", "sets", "by_dataset", "lacking"),
        **({"by_class": answer.by_class} if answer.by_class else {}),
    }


def _across(across: Across) -> dict[str, Any]:
    return {
        **_picked(across, "protocol", "protocol_version", "arch", "encoder", "regimes", "settings", "names"),
        "left_out": [{**name._asdict(), "missing": count} for name, count in across.left_out.items()],
        **_picked(across, "means", "ranks"),
        "rank_frequencies": across.frequencies,
        **_picked(across, "agreements", "noise"),
        "addons": [_picked(addon, "addon", "methods", "left_out", "combined", "sets") for addon in across.addons],
    }


def _picked(thing: object, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def _plain(value: Any) -> Any:
    """Return what JSON holds of a value: fields by name, and null where a number is not defined."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Setting):
        return _picked(value, *_SETTING)
    if isinstance(value, Metric):
        return _picked(value, "name", "label", "unit", "scale", "higher_is_better")
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return finite_or_none(value) if isinstance(value, float) else value
