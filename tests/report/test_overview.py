"""Chapters over all settings: averages of audits by setting, and cells on both kinds of split."""

from dataclasses import replace

import pytest

from qgbench.quality.audit import Agreement, CheckpointAudit
from qgbench.report.analysis import analyse
from qgbench.report.chapters.overview import overview
from qgbench.report.chapters.table import Table
from qgbench.report.collect import Collection, Run
from tests.report.test_figures import a_run, some_runs


def worse_audited(run: Run) -> Run:
    """A control's run, whose audit must not count as g's."""
    bad = {name: Agreement(masks=9, pearson=-1.0, spearman=-1.0, mae=1.0) for name in ("g", "confidence", "agreement")}
    audits = [CheckpointAudit(progress=moment, mean_dice=0.5, scores=bad) for moment in (0.25, 0.5, 1.0, None)]
    return replace(run, record=run.record.model_copy(update={"pseudo_labels": audits}))


def as_dict(table: Table, row: int) -> dict[str, str]:
    return dict(zip((column.replace("\n", " ") for column in table.columns), table.rows[row], strict=True))


def test_guidance_is_averaged_over_checkpoints_seeds_and_methods_of_qw_alone() -> None:
    runs = [worse_audited(run) if "shuffled" in run.record.spec.addon else run for run in some_runs()]
    (table,) = (table for part in overview(analyse(Collection(runs, []))) for table in part.tables)
    assert [row[0] for row in table.rows] == ["phantom n120@grouped, unet", "phantom n28@grouped, unet"]
    assert as_dict(table, 1) == {
        "Setting": "phantom n28@grouped, unet",
        "Synth. r": "0.91",  # 0.90, 0.91, 0.92
        "Synth. MAE": "0.06",
        "Weak r": "0.80",
        "Weak MAE": "0.12",
        "Within r g": "0.70",  # 0.6, 0.7, 0.8
        "Within r confidence": "0.40",
        "Within r agreement": "0.20",  # not defined for one seed
        "MAE g": "0.100",
        "MAE confidence": "0.200",
        "MAE agreement": "0.300",
        "Pooled r g": "0.70",
        "Kept share": "--",
        "Eff. sample size": "--",
        "g (s)": "301",
        "Training (s) base / + qw": "101 / 101",
    }


@pytest.mark.parametrize(
    ("addon", "counts"), [("qw+qar", True), ("qw-qg.tau=0.6", True), ("lab_Capped", True), ("qar", False)]
)
def test_every_add_on_that_weighs_is_among_the_guided(addon: str, counts: bool) -> None:
    runs = [
        a_run("fixmatch", each, seed, regime=regime)
        for regime in ("n28@grouped", "n120@grouped")
        for seed in range(3)
        for each in ("", addon)
    ]
    tables = [table for part in overview(analyse(Collection(runs, []))) for table in part.tables]
    assert [as_dict(table, 0)["Within r g"] for table in tables] == (["0.70"] if counts else [])


def test_one_setting_needs_no_overview() -> None:
    alone = analyse(Collection([run for run in some_runs() if run.record.spec.regime == "n28@grouped"], []))
    assert overview(alone) == []


@pytest.mark.parametrize(("budget", "found"), [("n28", ["fixmatch"]), ("n29", [])])
def test_cells_of_both_splits_stand_side_by_side(budget: str, found: list[str]) -> None:
    runs = [
        a_run(method, regime=regime, gain=gain, seed=seed)
        for regime, gain in (("n28@grouped", 0.0), (f"{budget}@image", 0.1))
        for method in ("fixmatch", *(["supervised"] if gain else []))
        for seed in range(3)
    ]
    analysis = analyse(Collection(runs, []))
    tables = [table for part in overview(analysis) for table in part.tables]
    assert [row[:3] for table in tables for row in table.rows] == [[name, "phantom", "n28"] for name in found]
    if found:
        means = [float(text.split()[0]) for text in tables[0].rows[0][3:]]
        assert means[1] - means[0] == pytest.approx(10, abs=0.02)
