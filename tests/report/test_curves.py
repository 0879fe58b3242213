"""Curves in a terminal: marks where the values are, numbers that are right, any width, no Unicode, damaged logs."""

import io
import math
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from qgbench.report.curves import curves_of, print_curves

LOG: list[dict[str, Any]] = [
    {
        "step": step,
        "lr": 1e-3,
        "supervised": 0.5,
        "unlabelled_0": 0.25,
        "unlabelled_1": 0.125,
        "added": 0.01,
        "lambda_u": 0.75,
        "lambda_qar": 0.005,
        "total": 1.0,
        "mean_q": 0.7,
        "kept_share": 0.9,
        "effective_sample_size": 0.8,
        "pseudo_dice": 0.6,
        "pearson_q": 0.3,
        "pearson_confidence": 0.4,
    }
    for step in (1, 11, 21)
] + [
    {
        "step": step,
        "val_dice": 0.8,
        "val_q": 0.85,
        "val_q_minus_dice": 0.05,
        "val_pearson_q": 0.5,
        "val_pearson_confidence": 0.6,
    }
    for step in (10, 21)
]


def drawn(entries: list[dict[str, Any]], width: int = 80, encoding: str = "ascii", **console: Any) -> list[str]:
    """Lines printed to a file of some encoding, strictly encoded."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="")
    print_curves(entries, Console(file=file, width=width, **console))
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def canvas(lines: list[str]) -> list[str]:
    """Rows of the first chart between its frames, drawn in ASCII with an axis on the left alone."""
    frames = [number for number, line in enumerate(lines) if line.strip().startswith("+--") or "++--" in line]
    rows = lines[frames[0] + 1 : frames[1]]
    left = lines[frames[0]].index("+") + 1
    return [row[left : row.rindex("|")] for row in rows]


def test_a_rising_line_runs_from_the_lower_left_to_the_upper_right() -> None:
    rows = canvas(drawn([{"step": step, "total": step / 100} for step in range(101)]))
    height, width = len(rows), len(rows[0])
    assert height >= 6
    assert width >= 60
    for column in range(width):
        expected = (height - 1) * (1 - column / (width - 1))
        marked = [row for row in range(height) if rows[row][column] == "*"]
        assert marked, f"a gap in column {column}"
        assert all(abs(row - expected) <= 1.0 for row in marked), (column, marked, expected)


def test_a_jump_is_drawn_at_its_step() -> None:
    rows = canvas(drawn([{"step": step, "total": float(step >= 75)} for step in range(101)]))
    width = len(rows[0])
    at_top = [column for column in range(width) if rows[0][column] == "*"]
    assert min(at_top) == pytest.approx(0.75 * (width - 1), abs=1.5)
    assert max(at_top) == width - 1
    assert rows[-1][:10] == "*" * 10


def test_every_logged_quantity_is_shown_with_last_least_and_largest_value() -> None:
    text = "\n".join(drawn(LOG))
    for title in ("losses", "validation images", "pseudo-labels", "Pearson correlation", "learning rate"):
        assert title in text
    for name, value in (
        ("total", "1"),
        ("supervised", "0.5"),
        ("unlabelled 0", "0.25"),
        ("unlabelled 1", "0.125"),
        ("added (QAR)", "0.01"),
        ("Dice", "0.8"),
        ("mean q of g", "0.85"),
        ("mean q", "0.7"),
        ("true Dice", "0.6"),
        ("kept share", "0.9"),
        ("effective sample size", "0.8"),
        ("q, pseudo-labels", "0.3"),
        ("confidence, pseudo-labels", "0.4"),
        ("q, validation", "0.5"),
        ("confidence, validation", "0.6"),
        ("learning rate", "0.001"),
        ("lambda_u", "0.75"),
        ("lambda_qar", "0.005"),
    ):
        found = re.findall(rf"^\S  {re.escape(name)} +last (\S+) +min (\S+) +max (\S+)", text, re.MULTILINE)
        assert found == [(value, value, value)], name


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-5, 5), st.text(max_size=2)),
        max_size=12,
    )
)
def test_a_curve_holds_the_finite_numbers_only(values: list[Any]) -> None:
    entries = [{"step": 3 * index, "lr": 0.1} | {"val_q": value} for index, value in enumerate(values)]
    kept = [(3 * i, v) for i, v in enumerate(values) if isinstance(v, int | float) and math.isfinite(v)]
    curves = curves_of(entries, {"val_q": "q"}, {})
    assert [list(zip(curve.steps, curve.values, strict=True)) for curve in curves] == ([kept] if kept else [])


entry = st.fixed_dictionaries(
    {},
    optional={
        key: st.one_of(st.none(), st.floats(width=32), st.integers(0, 10**6), st.text(max_size=3))
        for key in ("step", *LOG[0], *LOG[-1])
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(entry, max_size=6), st.sampled_from([40, 80, 140]), st.booleans())
def test_any_log_is_drawn_within_the_width(entries: list[dict[str, Any]], width: int, in_ascii: bool) -> None:
    lines = drawn(entries, width, "ascii" if in_ascii else "utf-8")
    assert lines
    assert max(map(len, lines)) <= width


def test_nothing_logged_is_said() -> None:
    assert drawn([]) == ["No curves: nothing was logged yet."]
    assert drawn([{"step": 5, "val_q": None}]) == ["No curves: nothing was logged yet."]


def test_what_was_not_logged_has_no_chart() -> None:
    text = "\n".join(drawn([{"step": 1, "total": 0.5}, {"step": 2, "total": 0.4, "mean_q": None}]))
    assert "losses" in text
    assert "pseudo-labels" not in text
    assert "supervised" not in text


def test_one_step_alone_is_drawn() -> None:
    rows = canvas(drawn([{"step": 7, "total": 0.5}]))
    assert sum(row.count("*") for row in rows) == 1


def test_rate_and_weight_have_an_axis_each() -> None:
    entries = [{"step": step, "lr": 1e-3 * step, "lambda_u": 100.0 * step} for step in (1, 2)]
    lines = drawn(entries)
    top = next(line for line in lines if line.strip().startswith("0.002"))
    assert top.rstrip().endswith("|200")
    bottom = next(line for line in lines if line.strip().startswith("0.001|"))
    assert bottom.rstrip().endswith("|100")


def test_curves_are_told_apart_by_colour_or_else_by_their_marks() -> None:
    in_colour = "\n".join(drawn(LOG, encoding="utf-8", force_terminal=True, color_system="256"))
    assert "\x1b[36m█" in in_colour
    assert "*" not in in_colour
    plain = "\n".join(drawn(LOG, encoding="utf-8", force_terminal=True, color_system="256", no_color=True))
    for mark, name in (("*", "total"), ("o", "supervised"), ("+", "unlabelled 0"), ("x", "unlabelled 1")):
        assert f"{mark}  {name}" in plain


def test_two_charts_stand_side_by_side_in_a_wide_terminal() -> None:
    narrow, wide = drawn(LOG, 80), drawn(LOG, 140)
    assert len(wide) < 0.7 * len(narrow)
    assert any("losses" in line and "validation images" in line for line in wide)


def test_the_report_needs_no_torch_and_no_terminal() -> None:
    code = (
        "import sys; from rich.console import Console; from qgbench.report.curves import print_curves;"
        "import qgbench.report.runs;"
        "print_curves([{'step': 1, 'total': 1.0}, {'step': 2, 'total': 0.5}], Console());"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, env={"PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert "losses" in done.stdout
