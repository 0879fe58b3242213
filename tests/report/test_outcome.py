"""What a finished run prints."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from qgbench.report.outcome import outcome_table
from qgbench.run.record import read_record

RECORD = Path(__file__).parents[1] / "golden/records/v1/record.json"


@pytest.mark.parametrize("count", [0, 63])
def test_images_that_count_as_zero_are_shown_by_their_cause(count: int) -> None:
    record = read_record(RECORD)
    summary = record.summary.model_copy(update={"missed": 5, "spurious": count})
    file = io.StringIO()
    changed = record.model_copy(update={"summaries": {**record.summaries, "student": summary}})
    Console(file=file, width=200).print(outcome_table(changed))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in file.getvalue().splitlines() if "│" in line]
    assert ["missed", "5", "lesions without any prediction; Dice 0"] in rows
    assert ["spurious", str(count), "predictions where there is no lesion; Dice 0"] in rows
