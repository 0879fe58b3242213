"""Reports of several classes and of volumes, judged by records of one class with the same numbers, and by pandas."""

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from qgbench.base.errors import UserError
from qgbench.cli.main import app
from qgbench.data.cards import Card
from qgbench.data.source import Slice, Source
from qgbench.metrics.table import METRICS, DistanceUnit
from qgbench.quality.audit import audits_of
from qgbench.report.analysis import Analysis, analyse
from qgbench.report.audit import audit
from qgbench.report.brief import print_report
from qgbench.report.cases import Case, choose_cases, draw_run, pictures
from qgbench.report.chapters.audit import audit_tables
from qgbench.report.chapters.claims import claims_chapter
from qgbench.report.chapters.setting import class_tables, setting_chapter
from qgbench.report.collect import Run, collect
from qgbench.report.declared import DeclaredQuestion, DeclaredSuite
from qgbench.report.figures import cases as drawn
from qgbench.report.figures.style import on_axes
from qgbench.report.outcome import outcome_tables
from qgbench.report.page.words import headline
from qgbench.report.power import cases_of, power_rows
from qgbench.report.runs import print_runs
from qgbench.report.sections import Section
from qgbench.report.write import write_report
from qgbench.run.folder import PREDICTIONS_NAME, STATUS_NAME, RunFolder
from qgbench.run.predictions import write_predictions
from qgbench.run.record import IMAGES_NAME, images_path, labels_path, read_record, write_labels
from qgbench.spec.arm import ArmName
from qgbench.stats.crossed import estimate
from tests.records import VOLUME, labels_of, rows_of
from tests.report.test_cases import BLINDNESS
from tests.report.test_golden import compiled
from tests.report.test_report import GROUP_DICE, GROUP_GAIN, make_record

HEART = ("RV", "Myo", "LV")
BY_CLASS = GROUP_DICE[:, None] + np.array([0.0, 0.03, 0.08])


def make_heart(
    folder: Path,
    seeds: int = 3,
    classes: tuple[str, ...] = HEART,
    unit: DistanceUnit = "voxel",
    audited: bool = False,
    **cell: Any,
) -> None:
    """Twins on volumes (pictures where the unit is px); the gain of the add-on rises from class to class."""
    gain = GROUP_GAIN[:, None] * np.linspace(0.5, 1.5, len(classes))
    for seed in range(seeds):
        for addon in ("", "qw"):
            dice = BY_CLASS[:, : len(classes)] + 0.004 * seed + (gain if addon else 0)
            rows = rows_of(dice, classes, volumes=unit != "px", missed=[(3, 0)])
            labels = labels_of(classes, seed)
            fields = {"pseudo_labels": audits_of(labels)} if audited else {}
            spec = {"dataset": "acdc", "seed": seed, "addon": addon, **cell}
            path = make_record(folder, GROUP_DICE, images=rows, unit=unit, audited=audited, fields=fields, **spec)
            if audited:
                write_labels(labels_path(path), labels)


def only(analysis: Analysis) -> Section:
    (section,) = analysis.sections
    return section


def only_run(folder: Path) -> Run:
    (run,) = collect([folder]).runs
    return run


class TestNumbers:
    def test_equal_classes_are_as_one(self, tmp_path: Path) -> None:
        """Three classes with the rows of one: no number differs, and no unit counts three times."""
        for folder, classes in (("one", ("lesion",)), ("three", HEART)):
            for seed in range(3):
                for addon, gain in (("", 0.0), ("qw", GROUP_GAIN)):
                    dice = np.repeat((GROUP_DICE + 0.01 * seed + gain)[:, None], len(classes), axis=1)
                    make_record(tmp_path / folder, GROUP_DICE, images=rows_of(dice, classes), seed=seed, addon=addon)
        one, three = (only(analyse(collect([tmp_path / folder]))).contrasts[0] for folder in ("one", "three"))
        for side in ("scores", "reference_scores", "difference"):
            own, other = getattr(one, side), getattr(three, side)
            assert (own.images, own.groups) == (other.images, other.groups) == (16, [f"g{group}" for group in range(8)])
            np.testing.assert_allclose(own.table, other.table, rtol=0, atol=1e-15)
            assert own.estimate.interval == pytest.approx(other.estimate.interval, abs=1e-12)
            assert [*vars(own.spread).values()] == pytest.approx([*vars(other.spread).values()], abs=1e-12)
            assert all(other.means[name] == pytest.approx(own.means[name], abs=1e-12) for name in METRICS)
        assert one.difference is not None
        assert three.difference is not None
        assert one.difference.estimate.p == pytest.approx(three.difference.estimate.p, rel=1e-9)
        assert (one.improvement, one.effect) == pytest.approx((three.improvement, three.effect), rel=1e-9)

    def test_a_units_value_is_its_mean_over_classes_empty_masks_filled_first(self, tmp_path: Path) -> None:
        rows = rows_of(BY_CLASS, HEART, volumes=True, missed=[(3, 0), (3, 2), (5, 1)])
        make_record(tmp_path, GROUP_DICE, images=rows, unit="mm")
        run = only_run(tmp_path)
        depth, *spacing = VOLUME
        diagonal = float(np.linalg.norm(np.array([depth, 30, 40]) * spacing))
        by_hand = rows.assign(hd95=rows["hd95"].fillna(diagonal)).groupby("id")
        for name in ("dice", "hd95"):
            np.testing.assert_allclose(run.values[name], by_hand[name].mean(), rtol=0, atol=1e-12)
            of_myo = rows[rows["class"] == "Myo"].sort_values("id")[name].fillna(diagonal)
            np.testing.assert_array_equal(run.values[f"{name}:Myo"], of_myo)
        assert run.units.diagonal == pytest.approx([diagonal] * 16)
        assert run.record.summary.missed == 3

    def test_rows_may_stand_in_any_order(self, tmp_path: Path) -> None:
        make_record(tmp_path, GROUP_DICE, images=rows_of(BY_CLASS, HEART))
        before = only_run(tmp_path)
        file = images_path(before.path)
        pd.read_csv(file).sample(frac=1, random_state=1).to_csv(file, index=False)
        after = only_run(tmp_path)
        assert after.units.key == before.units.key
        for name, values in before.values.items():
            np.testing.assert_array_equal(after.values[name], values)

    def test_a_report_of_one_class_is_that_of_its_rows_alone(self, tmp_path: Path) -> None:
        make_heart(tmp_path / "all")
        for file in sorted((tmp_path / "all").rglob(IMAGES_NAME)):
            rows = pd.read_csv(file)
            record = read_record(file.parent)
            alone = rows[rows["class"] == "LV"].assign(**{"class": "lesion"})
            cell = {"dataset": "acdc", "seed": record.spec.seed, "addon": record.spec.addon}
            make_record(tmp_path / "alone", GROUP_DICE, images=alone, unit="voxel", **cell)
        of_class = only(analyse(collect([tmp_path / "all"]), metric="hd95:LV"))
        alone_section = only(analyse(collect([tmp_path / "alone"]), metric="hd95"))
        one, other = (section.contrasts[0].difference for section in (of_class, alone_section))
        assert one is not None
        assert other is not None
        assert one.estimate == other.estimate
        assert (of_class.measure.label, of_class.measure.unit) == ("HD95 (pooled) of LV", "voxels")
        assert not of_class.over_classes

    def test_an_unknown_class_is_refused_with_those_that_there_are(self, tmp_path: Path) -> None:
        make_heart(tmp_path, seeds=1)
        with pytest.raises(UserError, match=r"'dice:Mio'.*dice:Myo"):
            analyse(collect([tmp_path]), metric="dice:Mio")

    def test_data_sets_without_the_class_are_named(self, tmp_path: Path) -> None:
        make_heart(tmp_path, seeds=1)
        make_record(tmp_path, GROUP_DICE)
        found = analyse(collect([tmp_path]), metric="dice:RV")
        assert [section.setting.dataset for section in found.sections] == ["acdc"]
        assert [problem.cause for problem in found.problems] == ["has no Dice of RV"]


def without_a_class(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(4)


def with_another_class(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{"class": rows["class"].replace("RV", "LA")})


def with_a_row_twice(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows.iloc[[4]]])


def with_two_groups(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(group=rows["group"].where(rows.index != 4, "g7"))


def with_better_dice(rows: pd.DataFrame) -> pd.DataFrame:
    """Two classes change by as much: no mean over classes does."""
    change = np.where(rows.index == 3, 0.1, np.where(rows.index == 4, -0.1, 0))
    return rows.assign(dice=rows["dice"] + change)


def test_classes_of_a_volume_have_one_depth_and_spacing(tmp_path: Path) -> None:
    path = make_record(tmp_path, GROUP_DICE, images=rows_of(BY_CLASS, HEART, volumes=True), unit="mm")
    rows = pd.read_csv(images_path(path))
    for name in ("depth", "spacing_width"):
        rows.assign(**{name: rows[name] + (rows.index == 4)}).to_csv(images_path(path), index=False)
        (problem,) = collect([tmp_path]).problems
        assert f"gives classes of volume volume001 each its own {name}" in problem.cause


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (without_a_class, "image image001 has not one row for each of RV, Myo, LV"),
        (with_another_class, "image image000 has not one row for each of RV, Myo, LV"),
        (with_a_row_twice, "two rows for image image001"),
        (with_two_groups, "gives classes of image image001 each its own group"),
        (with_better_dice, "gives dice of "),
    ],
)
def test_rows_that_are_not_of_the_records_classes_are_refused(
    tmp_path: Path, damage: Callable[[pd.DataFrame], pd.DataFrame], cause: str
) -> None:
    path = make_record(tmp_path, GROUP_DICE, images=rows_of(BY_CLASS, HEART))
    damage(pd.read_csv(images_path(path))).to_csv(images_path(path), index=False)
    collection = collect([tmp_path])
    assert collection.runs == []
    assert cause in collection.problems[0].cause


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twins on a set of three classes in voxels, of two classes in mm, and of one class in pixels."""
    folder = tmp_path_factory.mktemp("records")
    make_heart(folder, audited=True)
    make_heart(folder, classes=("anterior", "posterior"), unit="mm", dataset="hippocampus", audited=True)
    make_heart(folder, classes=("lesion",), unit="px", dataset="ph2")
    return folder


@pytest.fixture(scope="module")
def report(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report")
    write_report(analyse(collect([records])), output, html=True)
    return output


class TestTables:
    def test_a_column_for_each_class_and_the_mean(self, records: Path) -> None:
        found = {section.setting.dataset: section for section in analyse(collect([records])).sections}
        assert class_tables(found["ph2"]) == []
        (table,) = class_tables(found["acdc"])
        heads = [f"{measure}\n{name}" for measure in ("Dice %", "HD95 voxels") for name in (*HEART, "mean")]
        assert table.columns == ["Method", "Add-on", "Seeds", *heads]
        assert table.title == "Scores by class, mean over volumes and seeds"
        by_hand = pd.concat(pd.read_csv(file) for file in records.glob("*--k*-acdc/images.csv"))
        expected = [100 * by_hand[by_hand["class"] == name]["dice"].mean() for name in HEART]
        assert table.rows[0][:3] == ["mean_teacher", "--", "3"]
        assert [float(cell) for cell in table.rows[0][3:7]] == pytest.approx([*expected, np.mean(expected)], abs=0.0051)

    def test_the_measure_has_columns_too_where_it_is_neither(self, records: Path) -> None:
        section = analyse(collect([records]), metric="nsd_2px").sections[0]
        together, apart = class_tables(section)
        assert len(together.columns) == 3 + 8, "the columns of a measure stay together"
        assert apart.columns[3:] == [f"NSD at 2 voxels %\n{name}" for name in (*HEART, "mean")]

    def test_many_classes_take_several_tables(self, tmp_path: Path) -> None:
        classes = tuple(f"vertebra_{number}" for number in range(16))
        rows = rows_of(np.repeat(GROUP_DICE[:, None], 16, axis=1), classes)
        make_record(tmp_path, GROUP_DICE, images=rows)
        tables = class_tables(only(analyse(collect([tmp_path]))))
        assert [table.title.rpartition(", ")[2] for table in tables] == [
            f"part {part} of {len(tables)}" for part in range(1, len(tables) + 1)
        ]
        shown = [column for table in tables for column in table.columns[3:]]
        assert len(shown) == len(set(shown)) == 2 * 17
        assert all(sum(len(column.split("\n")[1]) + 2 for column in t.columns[3:]) <= 125 for t in tables)

    def test_sentences_say_what_is_averaged_and_in_which_unit(self, report: Path) -> None:
        text = (report / "report.md").read_text()
        assert text.count("Of several classes, Dice of an image or volume is the mean over all of them") == 3
        for distance in (
            "Means are over classes and volumes of a test group, then over groups and seeds; the median is over the "
            "volumes of a run, then averaged over seeds. HD95 in voxels, where one mask is empty the diagonal. Missed: "
            "% of volumes and classes of which there is something and nothing was predicted.",
            "HD95 in mm, where one mask",
            "Means are over images of a test group, then over groups and seeds",
            "HD95 in pixels of the original image, where one mask is empty the diagonal. Missed: % of images, those "
            "without any prediction of a lesion that is there.",
        ):
            assert distance in text
        for unit in ("voxels", "mm", "px"):
            assert f"HD95 {unit} mean over groups" in text

    def test_programs_get_classes_and_units_in_columns_of_their_own(self, report: Path, tmp_path: Path) -> None:
        table = pd.read_csv(report / "results.csv", keep_default_na=False, na_values=[""])
        cells = table[table["kind"] == "cell"].set_index(["dataset", "addon"])
        assert dict(table.groupby("dataset")["distance_unit"].first()) == {
            "acdc": "voxels",
            "hippocampus": "mm",
            "ph2": "px",
        }
        of_heart = cells.loc["acdc"][[f"image_dice:{name}" for name in HEART]]
        np.testing.assert_allclose(of_heart.mean(axis=1), cells.loc["acdc"]["image_dice"], atol=1e-12)
        assert cells.loc["ph2"].filter(like=":").isna().all(axis=None)
        audits = pd.read_csv(report / "audit.csv", keep_default_na=False)
        assert set(audits[audits["dataset"] == "acdc"]["class"]) == {"", *HEART}
        make_record(tmp_path / "runs", GROUP_DICE)
        write_report(analyse(collect([tmp_path / "runs"])), tmp_path / "out")
        columns = (tmp_path / "out" / "results.csv").read_text().partition("\n")[0]
        assert columns.endswith(",missed,spurious,reason"), "of one class and pictures as ever"
        assert (tmp_path / "out" / "audit.csv").read_text().partition("\n")[0].endswith(",defined,records")

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
    def test_the_latex_compiles_within_its_page(self, report: Path, tmp_path: Path) -> None:
        shutil.copy(report / "report.tex", tmp_path)
        said = compiled(tmp_path, "report.tex", passes=3)
        for complaint in ("Missing character", "Overfull", "Warning"):
            assert complaint not in said

    def test_pseudo_labels_of_volumes_are_audited_on_slices(self, report: Path) -> None:
        said = [line for line in (report / "report.md").read_text().splitlines() if "Pseudo-labels audited on" in line]
        assert "- Pseudo-labels audited on: unlabelled training slices." in said
        runs = [path.read_text() for path in (report / "page" / "runs").glob("acdc-*.html")]
        assert any("Scores against true Dice, on unlabelled training slices." in text for text in runs)

    def test_the_page_shows_classes_where_there_are_several(self, report: Path) -> None:
        index = (report / "page" / "index.html").read_text()
        classes = index[index.index('<div id="classes">') :]
        for heading in ("Dice %\nMyo", "HD95 voxels\nLV", "HD95 mm\nposterior", "HD95 mm\nmean"):
            assert f">{heading}</th>" in classes
        assert "mean over classes, test groups (patient" in index
        assert "HD95 mm / px / voxels <small>mean over groups</small>" in index
        runs = [path.read_text() for path in (report / "page" / "runs").glob("acdc-*.html")]
        assert len(runs) == 6
        for text in runs:
            assert '<th scope="row">Dice of <bdi>Myo</bdi> %</th>' in text
            assert text.count('<tr><th scope="row">volume') == 16 * 3
            assert "pseudo-labels, pooled, <bdi>RV</bdi> alone" in text
        (contrast,) = [path.read_text() for path in (report / "page" / "contrasts").glob("acdc-*.html")]
        assert '<th scope="row">HD95 (pooled) of LV voxels</th>' in contrast
        assert "16 volumes in 8 groups" in contrast
        cards = (report / "page" / "datasets.html").read_text()
        assert "<dt>classes</dt><dd>RV, Myo, LV</dd>" in cards
        assert "<dt>test volumes</dt><dd>16</dd>" in cards

    def test_a_page_of_one_class_has_no_page_of_classes(self, tmp_path: Path) -> None:
        make_record(tmp_path / "runs", GROUP_DICE)
        write_report(analyse(collect([tmp_path / "runs"])), tmp_path / "out", html=True)
        assert "classes" not in (tmp_path / "out" / "page" / "index.html").read_text()

    def test_verdicts_say_that_they_are_of_the_mean_over_classes(self, records: Path) -> None:
        for metric, said in (("dice", "Dice points, mean over classes, CI"), ("dice:LV", "Dice of LV points, CI")):
            section = analyse(collect([records]), metric=metric).sections[0]
            words = headline(section.contrasts[0], "ACDC", section.measure, section.noun, section.over_classes)
            assert said in words

    def test_a_report_of_one_class_has_its_distances_beside_it(self, records: Path) -> None:
        section = analyse(collect([records]), metric="dice:LV").sections[0]
        tables = {table.title: table for table in setting_chapter(section, [], {}).tables}
        shown = tables["Distances, surfaces and misses of LV"]
        (column,) = (number for number, name in enumerate(shown.columns) if name == "HD95 voxels\nmean over groups")
        for row, scores in zip(shown.rows, section.cells.values(), strict=True):
            assert row[column] == f"{scores.means['hd95:LV']:.2f}", "groups are of one size"
            assert scores.means["hd95:LV"] != scores.means["hd95"]

    def test_the_terminal_says_it_too(self, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
        print_report(analyse(collect([records])), [Path("report.md")])
        assert capsys.readouterr().out.startswith("Dice %, mean over classes, test groups and seeds")


class TestUnits:
    @pytest.fixture
    def hearts(self, tmp_path: Path) -> Path:
        make_heart(tmp_path)
        make_heart(tmp_path, classes=("anterior", "posterior"), unit="mm", dataset="hippocampus")
        return tmp_path

    def test_distances_in_different_units_are_never_averaged(self, hearts: Path) -> None:
        make_heart(hearts, unit="mm", dataset="mnms")
        collection = collect([hearts])
        (both,) = analyse(collection).across
        assert len(both.settings) == 3
        found = analyse(collection, metric="hd95")
        (across,) = found.across
        assert [setting.dataset for setting in across.settings] == ["hippocampus", "mnms"]
        assert across.title.endswith(", mm")
        assert across.measure.unit == "mm"
        assert found.measure.unit == "mm / voxels"
        assert (on_axes(found).label, on_axes(found).unit) == ("mean class HD95", "own unit")

    def test_nsd_at_pixels_and_at_voxels_is_never_averaged(self, hearts: Path) -> None:
        make_heart(hearts, unit="px", dataset="pictures")
        assert len(analyse(collect([hearts])).across[0].settings) == 3
        (across,) = analyse(collect([hearts]), metric="nsd_2px").across
        assert [setting.dataset for setting in across.settings] == ["acdc", "hippocampus"]
        assert across.title.endswith(", NSD at 2 voxels")
        question = DeclaredQuestion(
            "primary",
            "?",
            (("mean_teacher+qw", "mean_teacher"),),
            {dataset: ("n28@grouped",) * 2 for dataset in ("acdc", "pictures")},
            ("unet",),
        )
        collection = collect([hearts])
        suite = DeclaredSuite(
            "s", frozenset(r.record.spec.place for r in collection.runs), 1, (question,), metric="nsd_2px"
        )
        answers = analyse(collection, metric="nsd_2px", suite=suite).answers
        assert answers is not None
        assert answers.confirm[0].estimate is None
        assert "in points of NSD at 2 px and in points of NSD at 2 voxels" in answers.confirm[0].lacking[0]

    def test_a_suites_mean_over_data_sets_is_withheld(self, hearts: Path) -> None:
        collection = collect([hearts])
        regimes = {dataset: ("n28@grouped",) * 2 for dataset in ("acdc", "hippocampus")}
        pairs = (("mean_teacher+qw", "mean_teacher"),)
        question = DeclaredQuestion("primary", "Does QW help?", pairs, regimes, ("unet",))
        places = frozenset(run.record.spec.place for run in collection.runs)
        suite = DeclaredSuite("hearts", places, 1, (question,), metric="hd95")
        answers = analyse(collection, metric="hd95", suite=suite).answers
        assert answers is not None
        assert answers.confirm[0].estimate is None
        assert answers.confirm[0].lacking == ["no mean over data sets that are measured in mm and in voxels"]
        assert answers.confirm[0].by_dataset.keys() == {"acdc", "hippocampus"}
        write_report(analyse(collection, metric="hd95", suite=suite), hearts / "out")
        assert "| Name | acdc (voxels) | hippocampus (mm) |" in (hearts / "out" / "report.md").read_text()

    def test_a_suites_answers_are_told_by_class(self, hearts: Path) -> None:
        collection = collect([hearts])
        regimes = {dataset: ("n28@grouped",) * 2 for dataset in ("acdc", "hippocampus")}
        question = DeclaredQuestion("primary", "?", (("mean_teacher+qw", "mean_teacher"),), regimes, ("unet",))
        suite = DeclaredSuite("hearts", frozenset(run.record.spec.place for run in collection.runs), 1, (question,))
        found = analyse(collection, suite=suite)
        assert found.answers is not None
        primary = found.answers.confirm[0]
        assert primary.estimate is not None
        assert {dataset: [*by_class] for dataset, by_class in primary.by_class.items()} == {
            "acdc": [*HEART],
            "hippocampus": ["anterior", "posterior"],
        }
        of_lv = analyse(collection, metric="dice:LV").sections[0].contrasts[0].difference
        assert of_lv is not None
        assert primary.by_class["acdc"]["LV"].interval == of_lv.estimate.interval
        write_report(found, hearts / "out")
        text = (hearts / "out" / "report.md").read_text()
        assert "### The same by class, acdc (points)\n" in text
        assert "| Name | RV | Myo | LV | mean |" in text
        assert "Answer: Dice (mean over classes) differs by" in text

    def test_a_suite_may_ask_of_one_class(self, hearts: Path) -> None:
        collection = collect([hearts])
        pairs = (("mean_teacher+qw", "mean_teacher"),)
        question = DeclaredQuestion("primary", "Does it?", pairs, {"acdc": ("n28@grouped",) * 2}, ("unet",))
        places = frozenset(run.record.spec.place for run in collection.runs if run.record.spec.dataset == "acdc")
        for metric in ("dice", "dice:LV"):
            suite = DeclaredSuite("hearts", places, 1, (question,), metric=metric)
            found = analyse(collection, metric=metric, suite=suite)
            assert found.answers is not None
            answer, twin = found.answers.confirm[0].estimate, found.sections[0].contrasts[0].difference
            assert answer is not None
            assert twin is not None
            assert answer.interval == twin.estimate.interval
            assert found.answers.over_classes == (metric == "dice")
        wrong = analyse(collection, suite=DeclaredSuite("hearts", places, 1, (question,), metric="dice:LV")).answers
        assert wrong is not None
        assert wrong.reason == "it is about Dice of LV, and this report about Dice: report with --metric dice:LV"

    def test_a_list_of_runs_names_units_where_there_are_others_than_pixels(self, hearts: Path) -> None:
        def listed(folder: Path) -> str:
            console = Console(width=150, file=StringIO())
            print_runs([RunFolder(path.parent) for path in sorted(folder.rglob(IMAGES_NAME))], console)
            assert isinstance(console.file, StringIO)
            return console.file.getvalue()

        shown = listed(hearts)
        assert "HD95 px" not in shown
        assert shown.count(" mm ") == shown.count(" voxels ") == 6
        make_record(hearts / "pictures", GROUP_DICE)
        assert "HD95 px" in listed(hearts / "pictures")


def test_a_finished_run_prints_a_column_for_each_class(tmp_path: Path) -> None:
    rows = rows_of(BY_CLASS, HEART, volumes=True, missed=[(3, 0)])
    record = read_record(make_record(tmp_path, GROUP_DICE, images=rows, unit="mm"))
    console = Console(width=200, file=StringIO())
    for table in outcome_tables(record):
        console.print(table)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    dice = [rows["dice"].mean(), *(rows[rows["class"] == name]["dice"].mean() for name in HEART)]
    assert ["Dice, %", *(f"{100 * value:.2f}" for value in dice)] in cells
    assert [
        "Dice",
        f"{100 * dice[0]:.2f} %",
        "mean over 3 classes and 16 test volumes, not over their 8 groups",
    ] in cells
    assert ["missed", "1", "classes of volumes without any prediction; Dice 0"] in cells
    assert ["absent", "0", "of 48 classes of volumes, and not predicted; Dice 1"] in cells
    assert any(row[0] == "HD95 (pooled)" and row[1].endswith(" mm") for row in cells)
    (alone,) = outcome_tables(read_record(make_record(tmp_path, GROUP_DICE)))
    assert len(alone.columns) == 3
    for table in outcome_tables(
        read_record(make_record(tmp_path / "pictures", GROUP_DICE, images=rows_of(BY_CLASS, HEART)))
    ):
        console.print(table)
    assert "classes of images without any prediction" in console.file.getvalue()


def test_r_is_told_of_the_mean_over_classes_and_of_each(tmp_path: Path) -> None:
    make_heart(tmp_path, audited=True)
    rows = [row for row in audit(collect([tmp_path]).runs) if row.part == "pseudo_labels" and row.name.addon]  # type: ignore[union-attr]
    labels = [labels_of(HEART, seed) for seed in range(3)]
    for of_class in ("", *HEART):
        for progress in (0.25, 0.5, 0.75, 1.0, None):
            (found,) = [row for row in rows if (row.of_class, row.progress) == (of_class, progress)]
            expected = []
            for table in labels:
                kept = (table["class"] == of_class) | (of_class == "")
                own = table[kept & ((table["progress"] == progress) | (progress is None))]
                own = own.groupby(["progress", "id"])[["g", "dice"]].mean()
                expected.append(stats.pearsonr(own["g"], own["dice"]).statistic)
            assert found.averages["g_pearson"].value == pytest.approx(np.mean(expected), abs=1e-12)
    together, by_class = audit_tables(rows)
    assert len(together.rows) == 5
    assert [(row[2], row[3]) for row in by_class.rows] == [(c, p) for c in HEART for p in ("100 %", "pooled")]
    assert [row[5] for row in by_class.rows if row[2] == "RV"] == ["1.000", "1.000"], "g knows the first class"


def test_a_damaged_table_of_labels_is_a_problem(tmp_path: Path) -> None:
    make_heart(tmp_path, seeds=1, audited=True)
    file = next(tmp_path.glob("*-qw-*/labels.csv"))
    pd.read_csv(file).assign(dice=2.0).to_csv(file, index=False)
    collection = collect([tmp_path])
    assert len(collection.runs) == 1
    assert "labels.csv has a value that no score or Dice can have" in collection.problems[0].cause


def test_power_is_of_means_over_classes_and_of_patients(tmp_path: Path) -> None:
    noise = np.random.default_rng(5)
    differences = 0.01 + 0.02 * noise.standard_normal((8, 3, 3))
    for seed in range(3):
        for addon in ("", "qw"):
            dice = BY_CLASS + (differences[:, :, seed] if addon else 0)
            images = rows_of(dice, HEART, volumes=True)
            make_record(tmp_path, GROUP_DICE, images=images, unit="voxel", seed=seed, addon=addon)
    (case,), _ = cases_of(analyse(collect([tmp_path])))
    assert (case.groups, case.seeds, case.images_per_group) == (8, 3, 2)
    assert case.name.endswith("mean over classes")
    table = differences.mean(axis=1)
    (contrast,) = only(analyse(collect([tmp_path]))).contrasts
    assert contrast.difference is not None
    np.testing.assert_allclose(contrast.difference.table, table, atol=1e-12)
    assert contrast.difference.estimate.p == pytest.approx(estimate(table).p, rel=1e-9)
    assert set(power_rows([case], [0.02], [5])["run_groups"]) == {8}
    said = CliRunner().invoke(app, ["power", str(tmp_path), "--gain", "2"]).stdout
    assert "mean over classes" in said


def test_a_claim_may_be_of_one_class_or_of_their_mean(tmp_path: Path) -> None:
    make_heart(tmp_path, seeds=1)
    head = 'source = "Paper"\nreference = "arXiv 2606.01753"\ndiffers = "there 256 px; here 96"\n'
    claim = '[[claim]]\nabout = "segmentation"\ndataset = "acdc"\nmethod = "mean_teacher"\nleast = 0.9\nmost = 0.9\n'
    both = [f'{claim}metric = "{metric}"\nunit = "share"\n' for metric in ("dice", "dice:LV")]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "paper.toml").write_text(head + "".join(both))
    found = analyse(collect([tmp_path]))
    (table,) = claims_chapter(found).tables
    assert table.columns[-1].endswith("(Dice: mean over volumes)")
    assert [row[table.columns.index("What differs")] for row in table.rows] == ["there 256 px; here 96"] * 2
    means = found.sections[0].cells[ArmName("mean_teacher", "", "")].means
    assert [row[-1] for row in table.rows] == [
        f"{means['dice']:.3f} (n28@grouped, unet, small; mean over classes)",
        f"{means['dice:LV']:.3f} (n28@grouped, unet, small)",
    ]


# Pictures of cases

LABELS = np.zeros((3, 40, 60), np.uint8)  # three slices; the second shows most of the organ
LABELS[1, 5:25, 5:25], LABELS[1, 10:20, 30:50] = 1, 2
LABELS[2, 8:16, 8:16] = 3


class Hearts(Source):
    """One patient with two volumes of three slices."""

    def __init__(self) -> None:
        self.volumes = {
            f"volume00{number}_z{index:03}": Slice(f"volume00{number}", index, (5.0, 1.0, 1.0))
            for number in (0, 1)
            for index in (2, 0, 1)
        }
        self.ids, self.groups, self.labelled = sorted(self.volumes), ["p"] * 6, True

    def image(self, id: str) -> np.ndarray:
        return np.full((40, 60, 3), (90, 90, 90 + self.volumes[id].index), np.uint8)

    def mask(self, id: str) -> np.ndarray:
        return LABELS[self.volumes[id].index]

    def content_key(self) -> str:
        return "0" * 64

    card: Card


def near(pixels: np.ndarray, color: str) -> int:
    return int((np.abs(pixels - np.array(ImageColor.getrgb(color))).max(axis=2) < 40).sum())


def test_volumes_are_ranked_by_their_mean_over_classes() -> None:
    rows = rows_of(np.array([[0.9, 0.3], [0.7, 0.7]]), ("a", "b"))
    rows.loc[0, "hd95"] = np.nan
    first, *_ = choose_cases(rows, rows_of(np.array([[0.5, 0.5], [0.7, 0.7]]), ("a", "b")))["worst"]
    assert first.id == "image000"
    assert (first.dice, first.twin_dice) == pytest.approx((0.59, 0.49))
    assert first.by_class == pytest.approx({"a": 0.89, "b": 0.29})
    assert np.isnan(first.hd95)


def test_the_slice_with_the_largest_reference_is_shown_in_a_colour_for_each_class(tmp_path: Path) -> None:
    rows = rows_of(np.array([[0.8, 0.7, 0.6]]), HEART, volumes=True)
    file = make_record(tmp_path, GROUP_DICE, images=rows, unit="mm")
    (file.parent / STATUS_NAME).write_text('{"status": "done"}')
    moved = np.roll(LABELS, 3, axis=2)
    write_predictions(file.parent / PREDICTIONS_NAME, {"volume000": moved, "volume001": moved})
    seen: dict[str, list[drawn.Picture]] = {}
    original = drawn.compose

    def watched(title: str, pictured: Any, *rest: Any) -> Any:
        seen.update(pictured)
        return original(title, pictured, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, "compose", watched)
        draw_run(RunFolder(file.parent), read_record(file), Hearts())
    (best, _), *_ = seen.values()
    np.testing.assert_array_equal(best.reference, LABELS[1])
    np.testing.assert_array_equal(best.prediction, moved[1])
    assert best.image[0, 0].tolist() == [90, 90, 91]
    assert best.caption == [
        "Dice 71.0 %, HD95 5.8 mm",
        "RV 81.0, Myo 71.0, LV 61.0",
        "slice 2 of 3, largest reference area",
    ]
    assert next(iter(seen)) == "Best: highest Dice (mean over classes)"
    pixels = np.asarray(Image.open(file.with_name("cases.png")).convert("RGB")).astype(int)
    first, second, third, fourth = (near(pixels, color) for color in drawn.CLASS_COLORS[:4])
    assert first > 1000
    assert second > 1000
    assert 50 < third < first / 3, "in the legend alone"
    assert fourth < 50


def test_reference_prediction_and_twin_differ_in_their_dashes_alone() -> None:
    rows = {"one": [drawn.Picture(np.zeros((40, 60, 3), np.uint8), LABELS[1], LABELS[1], LABELS[1], "a", [])]}
    figure = drawn.compose("title", rows, "base", HEART)
    (axes,) = figure.axes
    lines = [line for line in axes.collections if line.get_linewidth()[0] < 2]
    styles = [(line.get_edgecolor()[0].tolist(), line.get_linestyle()[0][1]) for line in lines]
    assert len(styles) == 6, "of the class that is not there nothing"
    assert len({str(color) for color, _ in styles}) == 2
    assert len({str(dashes) for _, dashes in styles}) == 3
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} >= {"reference", "prediction", *HEART}


def test_each_class_has_its_entry_in_the_legend_whatever_it_is_called() -> None:
    named = ("reference", "a-very-long-name-of-a-class-1", "a-very-long-name-of-a-class-2")
    rows = {"one": [drawn.Picture(np.zeros((40, 60, 3), np.uint8), LABELS[1], LABELS[1], None, "a", [])]}
    (legend,) = drawn.compose("title", rows, "", named).legends
    assert [text.get_text() for text in legend.get_texts()][:3] == ["reference", "prediction", "reference"]
    assert len(legend.get_texts()) == 5


def test_captions_name_every_class_and_what_is_empty() -> None:
    case = Case("a", 0.5, None, np.nan, "ok", {f"a_long_name_{number}": 0.5 for number in range(6)})
    nothing = np.zeros((4, 4), np.uint8)
    (rows,) = pictures(
        {"best": [case]}, lambda id: np.zeros((4, 4, 3), np.uint8), lambda id: nothing, {"a": nothing}, None, ("x", "y")
    ).values()
    first, *middle, reference, prediction = rows[0].caption
    assert first == "Dice 50.0 %, HD95 undefined"
    assert all(len(line) <= 36 for line in middle)
    assert " ".join(middle) == ", ".join(f"a_long_name_{number} 50.0" for number in range(6))
    assert (reference, prediction) == ("no class is here", "nothing predicted")


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_first_classes_keep_apart_for_the_colour_blind(kind: str) -> None:
    def seen(color: str) -> np.ndarray:
        linear = (np.array(ImageColor.getrgb(color)) / 255) ** 2.2
        return np.clip(np.array(BLINDNESS[kind]) @ linear, 0, 1) ** (1 / 2.2)

    colors = [seen(color) for color in drawn.CLASS_COLORS[:4]]
    assert min(np.linalg.norm(one - two) for i, one in enumerate(colors) for two in colors[:i]) > 0.25
