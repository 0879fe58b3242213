"""What reruns of records found stands beside them in every report."""

from hashlib import sha256
from pathlib import Path

import pytest

from qgbench.report.analysis import analyse
from qgbench.report.collect import collect
from qgbench.report.write import write_report
from qgbench.trust.reproduce import Reproduction, Verdict, mark, reproductions_path
from tests.report.test_report import GROUP_DICE, make_record


def rerun(record: Path, verdict: Verdict, reason: str) -> Reproduction:
    content = sha256(record.read_bytes() + (record.parent / "images.csv").read_bytes()).hexdigest()
    return Reproduction.model_validate(
        {
            "created": "2026-11-24T00:00:00+00:00",
            "verdict": verdict,
            "reason": reason,
            "exact_expected": True,
            "differing": {},
            "images_differing": 3,
            "largest_dice_difference": 0.1,
            "differences": {"dice": 0.02},
            "noise": None,
            "git_commit": None,
            "packages": {},
            "python": "3.11",
            "hardware": {},
            "record": content,
            "rerun": "1",
        }
    )


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    paths = [make_record(folder, GROUP_DICE, method="fixmatch", seed=seed) for seed in range(3)]
    mark(paths[0], rerun(paths[0], "identical", "Every number is the same."))
    mark(paths[1], rerun(paths[1], "disagrees", "The code differs & <b>must</b> not."))
    return folder


def test_reruns_are_counted_and_a_record_that_its_rerun_disagrees_with_is_named(records: Path, tmp_path: Path) -> None:
    write_report(analyse(collect([records])), tmp_path, figures=False, html=True)
    text = (tmp_path / "report.md").read_text()
    assert "Reruns of these 3 records: 1 disagrees, 1 identical." in text
    assert "Its rerun disagrees: fixmatch, seed 1: The code differs" in text
    board = (tmp_path / "page" / "index.html").read_text()
    assert 'aria-label="run of seed 1, its rerun disagrees">1!</a>' in board
    assert 'aria-label="run of seed 0">0</a>' in board
    assert "Seed with !" in board
    pages = [page.read_text() for page in sorted((tmp_path / "page" / "runs").glob("*.html"))]
    assert "disagrees. The code differs &amp; &lt;b&gt;must&lt;/b&gt; not." in pages[1]
    assert "Rerun of" not in pages[2]


def test_a_broken_file_of_reruns_is_a_problem_and_loses_no_record(records: Path) -> None:
    (record,) = records.glob("*k1*/record.json")
    reproductions_path(record).write_text("{")
    found = collect([records])
    assert len(found.runs) == 3
    assert len(found.problems) == 1
    assert "reproductions.json" in found.problems[0].cause


def test_without_reruns_nothing_is_said(tmp_path: Path) -> None:
    make_record(tmp_path / "records", GROUP_DICE)
    write_report(analyse(collect([tmp_path / "records"])), tmp_path, figures=False, html=True)
    assert "Rerun" not in (tmp_path / "report.md").read_text()
    assert "rerun" not in (tmp_path / "page" / "index.html").read_text()
