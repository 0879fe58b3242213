"""Reports from synthetic records whose truth is known."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy import stats

from qgbench.base.errors import QGBenchError, UserError
from qgbench.metrics.table import CLASS, EMPTY_MASK_RULE, DistanceUnit
from qgbench.quality.audit import Agreement, CheckpointAudit, QualityAudit
from qgbench.report.analysis import analyse
from qgbench.report.audit import audit
from qgbench.report.chapters.audit import audit_tables
from qgbench.report.chapters.table import Chapter, Table
from qgbench.report.collect import collect
from qgbench.report.figures import budgets
from qgbench.report.outcome import outcome_table
from qgbench.report.render.document import Document
from qgbench.report.render.latex import escape_latex, latex
from qgbench.report.render.markdown import markdown_name
from qgbench.report.sections import Section
from qgbench.report.select import Filters
from qgbench.report.write import write_report
from qgbench.run.record import (
    Guidance,
    Provenance,
    Record,
    Times,
    images_path,
    summarise,
    write_images,
    write_record,
)
from qgbench.spec.arm import ArmName
from qgbench.stats.crossed import estimate
from tests.records import settings_of, spec_of

GROUP_DICE = np.array([0.50, 0.60, 0.65, 0.70, 0.72, 0.80, 0.85, 0.90])
GROUP_GAIN = np.array([0.00, 0.01, 0.02, 0.03, 0.02, 0.01, 0.04, 0.03])


def make_images(by_group: np.ndarray, missed: int = 0) -> pd.DataFrame:
    """Two images a group, 0.01 above and below the group's Dice; the first `missed` images are missed (Dice 0)."""
    rows: list[dict[str, Any]] = []
    for group, dice in enumerate(by_group):
        for side in (-1, 1):
            value = float(dice) + 0.01 * side
            lost = len(rows) < missed
            ok = {"dice": value, "jaccard": value / (2 - value), "precision": value, "recall": value}
            ok |= {"hd95": 5.0, "hd95_max": 6.0, "assd": 2.0, "nsd_2px": 0.5, "nsd_2pct": 0.75}
            none = {name: math.nan if name in ("hd95", "hd95_max", "assd") else 0.0 for name in ok}
            rows.append(
                {
                    "id": f"image{len(rows):03}",
                    "class": CLASS,
                    "group": f"g{group}",
                    "height": 30,
                    "width": 40,
                    "n_ref": 100 + len(rows),
                    "n_pred": 0 if lost else 100,
                    "n_tp": 0 if lost else 90,
                    **(none if lost else ok),
                    "status": "missed" if lost else "ok",
                    "q": 0.8,
                    "confidence": 0.9,
                }
            )
    return pd.DataFrame(rows)


def make_record(
    folder: Path,
    by_group: np.ndarray,
    *,
    missed: int = 0,
    images: pd.DataFrame | None = None,
    audited: bool = False,
    unit: DistanceUnit = "px",
    fields: dict[str, Any] | None = None,
    **cell: Any,
) -> Path:
    """Return the JSON's path of a written record; `cell` and `fields` replace fields of its spec and of `Record`."""
    images = make_images(by_group, missed) if images is None else images
    spec = spec_of(**cell)
    seed = spec.seed
    scores = {
        "g": Agreement(masks=10, pearson=min(0.5 + 0.1 * seed, 1), spearman=0.6, mae=0.1),
        "confidence": Agreement(masks=10, pearson=0.3, spearman=0.2, mae=0.2),
        "agreement": Agreement(masks=10, pearson=None if seed == 0 else 0.4, spearman=0.2, mae=0.3),
    }
    moments = (0.25, 0.5, 0.75, 1.0, None)
    checkpoints = [
        CheckpointAudit(progress=moment, mean_dice=min(0.6 + 0.1 * seed, 1), scores=scores) for moment in moments
    ]
    quality = QualityAudit(
        synthetic=Agreement(masks=50, pearson=min(0.9 + 0.02 * seed, 1), spearman=0.85, mae=0.06),
        weak_models=Agreement(masks=50, pearson=0.8, spearman=0.7, mae=0.12),
        image_dependence=min(0.6 + 0.2 * seed, 1),
        image_dependent=seed == 0,
    )
    guidance = Guidance(mean_q=0.7, kept_share=0.8, effective_sample_size=0.9, val_q_minus_dice=0.01)
    name = f"{spec.method}-{spec.variant}-{spec.addon}-k{seed}-{spec.dataset}".replace("/", "_")
    values: dict[str, Any] = {
        "run_id": name,
        "spec": spec,
        "settings": settings_of(spec),
        "summaries": {"student": summarise(images)},
        "best_val_step": None,
        "val_dice": [],
        "audit": quality if audited else None,
        "pseudo_labels": checkpoints if audited else [],
        "pseudo_labels_on": "unlabelled training images",
        "guidance": guidance if audited else None,
        "times": Times(g=100.0 if audited else 0.0, g_reused=audited and seed == 1, train=60.0 + seed, evaluate=3.0),
        "peak_memory_mib": 100.0,
        "provenance": Provenance(
            created="2026-01-01T00:00:00Z",
            git_commit=None,
            packages={},
            python="3.11",
            hardware={},
            data="d",
            split="s",
            labelled_ids=["a"],
            g=f"g-k{seed}" if audited else None,
            classes=None if (classes := tuple(images["class"].unique())) == (CLASS,) else classes,
            distance_unit=unit,
        ),
        **(fields or {}),
    }
    write_images(folder / name / "images.csv", images)
    write_record(folder / name, Record(**values))
    return folder / name / "record.json"


def with_labels(path: Path, count: int) -> None:
    """Let a record have so many labelled images."""
    record = json.loads(path.read_text())
    record["provenance"]["labelled_ids"] = [str(number) for number in range(count)]
    path.write_text(json.dumps(record))


def make_twins(folder: Path, seeds: int = 3, groups: int = 8, **cell: Any) -> None:
    """A base and a +qw cell; the gain differs by group, not by seed: a one-sample t-test knows the answer."""
    for seed in range(seeds):
        base = GROUP_DICE[:groups] + 0.02 * seed
        make_record(folder, base, missed=0, seed=seed, **cell)
        make_record(folder, base + GROUP_GAIN[:groups], audited=True, addon="qw", seed=seed, **cell)


def only_section(folder: Path) -> Section:
    (section,) = analyse(collect([folder])).sections
    return section


def report(folder: Path, output: Path) -> list[Path]:
    return write_report(analyse(collect([folder])), output)


class TestNumbers:
    def test_contrast_with_known_truth(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        section = only_section(tmp_path)
        (row,) = section.contrasts
        assert row.reference_scores is not None
        assert row.scores is not None
        assert row.difference is not None
        judge = stats.ttest_1samp(GROUP_GAIN, 0)
        assert row.name == ArmName("mean_teacher", "", "qw")
        assert row.difference.estimate.mean == pytest.approx(0.02)
        assert row.difference.estimate.interval == pytest.approx(tuple(judge.confidence_interval()), rel=1e-6)
        assert row.difference.estimate.p == pytest.approx(judge.pvalue, rel=1e-6)
        assert row.difference.estimate.p_one_sided == pytest.approx(judge.pvalue / 2, rel=1e-6)
        assert row.holm_p == row.difference.estimate.p
        assert row.reference_scores.estimate.mean == pytest.approx(GROUP_DICE.mean() + 0.02)
        assert row.reference_scores.seeds == [0, 1, 2]
        assert (row.reference_scores.images, row.reference_scores.estimate.groups) == (16, 8)
        assert section.problems == []

    def test_unequal_groups_count_once_each(self, tmp_path: Path) -> None:
        images = make_images(GROUP_DICE)
        images.loc[0, "group"] = "g7"  # group 0 keeps one image (0.51), group 7 gets a third (0.49)
        make_record(tmp_path, GROUP_DICE, images=images)
        scores = only_section(tmp_path).cells[ArmName("mean_teacher", "", "")]
        expected = np.array([0.51, *GROUP_DICE[1:7], (0.49 + 0.89 + 0.91) / 3]).mean()
        assert scores.estimate.mean == pytest.approx(expected)
        assert scores.means["dice"] == pytest.approx(GROUP_DICE.mean())

    def test_missed_images_count_with_their_diagonal(self, tmp_path: Path) -> None:
        make_record(tmp_path, GROUP_DICE, missed=2, seed=0)
        make_record(tmp_path, GROUP_DICE, missed=0, seed=1)
        scores = only_section(tmp_path).cells[ArmName("mean_teacher", "", "")]
        assert scores.means["missed"] == 1
        assert scores.means["hd95"] == pytest.approx(((2 * 50 + 14 * 5) / 16 + 5) / 2)  # 30 x 40: the diagonal is 50
        assert scores.means["hd95_percent"] == pytest.approx(((2 * 100 + 14 * 10) / 16 + 10) / 2)

    def test_p_values_of_a_table_are_holm_adjusted(self, tmp_path: Path) -> None:
        for method, scale in (("supervised", 1), ("ict", 0.3), ("cps", -0.5)):
            for seed in range(3):
                noise = np.roll(GROUP_GAIN, seed) - GROUP_GAIN.mean()
                make_record(tmp_path, GROUP_DICE, method=method, seed=seed)
                make_record(tmp_path, GROUP_DICE + scale * GROUP_GAIN + noise, method=method, addon="qar", seed=seed)
        rows = only_section(tmp_path).contrasts
        assert [row.name.method for row in rows] == ["supervised", "cps", "ict"]
        plain = [
            row.difference.estimate.p
            for row in rows
            if row.difference is not None and row.difference.estimate.p is not None
        ]
        smallest, middle, largest = sorted(plain)
        expected = {smallest: 3 * smallest}
        expected[middle] = max(3 * smallest, 2 * middle)
        expected[largest] = max(expected[middle], largest)
        assert len(set(plain)) == 3
        assert [row.holm_p for row in rows] == pytest.approx([min(1, expected[p]) for p in plain])

    def test_a_control_is_compared_with_the_base_and_with_the_add_on(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        for seed in range(3):
            make_record(tmp_path, GROUP_DICE + 0.02 * seed, addon="qw-shuffled", seed=seed)
        twin, control, rival = only_section(tmp_path).contrasts
        kinds = [(c.kind, c.name.addon, c.reference.addon) for c in (twin, control, rival)]
        assert kinds == [("twin", "qw", ""), ("control", "qw-shuffled", ""), ("control", "qw", "qw-shuffled")]
        assert control.difference is not None
        assert control.difference.estimate.mean == 0
        assert rival.difference is not None
        assert twin.difference is not None
        assert rival.difference.estimate.interval == twin.difference.estimate.interval
        assert (twin.tested, control.tested, rival.tested) == (True, False, False)
        assert twin.holm_p == twin.difference.estimate.p
        assert (rival.holm_p, rival.difference.estimate.p) == (None, None)

    def test_settings_of_an_add_on_do_not_make_it_a_control(self, tmp_path: Path) -> None:
        for seed in range(2):
            make_record(tmp_path, GROUP_DICE, seed=seed)
            for addon in ("qw-quality.steps=6", "qw-oracle-quality.steps=6"):
                make_record(tmp_path, GROUP_DICE + 0.01, addon=addon, seed=seed)
        kinds = [(c.kind, c.name.addon, c.reference.addon) for c in only_section(tmp_path).contrasts]
        assert kinds == [
            ("twin", "qw-quality.steps=6", ""),
            ("control", "qw-oracle-quality.steps=6", ""),
            ("control", "qw-quality.steps=6", "qw-oracle-quality.steps=6"),
        ]

    def test_contrasts_that_are_asked_for(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        for seed in range(3):
            make_record(tmp_path, GROUP_DICE - 0.05 + 0.02 * seed, method="ict", variant="method.x=1", seed=seed)
        collection = collect([tmp_path])
        (section,) = analyse(collection, asked=["mean_teacher+qw:ict(method.x=1)"]).sections
        (asked,) = [c for c in section.contrasts if c.kind == "asked"]
        assert asked.difference is not None
        assert asked.difference.estimate.mean == pytest.approx(0.02 + 0.05)
        with pytest.raises(
            UserError, match=r"no record of 'ict'; there are: ict\(method.x=1\), mean_teacher, mean_teach"
        ):
            analyse(collection, asked=["mean_teacher+qw:ict"])
        with pytest.raises(UserError, match="expected A:B"):
            analyse(collection, asked=["mean_teacher"])

    def test_filters(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        make_twins(tmp_path, dataset="other", method="ict")
        collection = collect([tmp_path])
        (section,) = analyse(collection, Filters(dataset=("other",))).sections
        assert (section.setting.dataset, {name.method for name in section.cells}) == ("other", {"ict"})
        with pytest.raises(UserError, match=r"no record has the dataset 'ph2'; there are: other, phantom"):
            analyse(collection, Filters(dataset=("ph2",)))
        with pytest.raises(UserError, match="no record passes all filters together"):
            analyse(collection, Filters(dataset=("other",), method=("mean_teacher",)))

    def test_claims_are_those_about_the_data_sets_of_the_report(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        own = only_section(tmp_path).setting.dataset
        (tmp_path / "claims").mkdir()
        claim = '[[claim]]\nabout = "segmentation"\nmethod = "cps"\nmetric = "dice"\nleast = 0.5\nunit = "share"\n'
        told = "".join(f'{claim}dataset = "{name}"\n' for name in (own, "another", ""))
        (tmp_path / "claims/a.toml").write_text(
            f'source = "A paper"\nreference = "arXiv 2606.01753"\ndiffers = "the data"\n{told}'
        )
        assert [claim.dataset for claim in analyse(collect([tmp_path])).claims] == [own, ""]

    def test_another_metric(self, tmp_path: Path) -> None:
        """Distances are better when they are smaller, and count with the diagonal where a lesion is missed."""
        for seed in range(3):
            make_record(tmp_path, GROUP_DICE, missed=2, seed=seed)
            make_record(tmp_path, GROUP_DICE, missed=0, addon="qw", seed=seed)
        (section,) = analyse(collect([tmp_path]), metric="hd95").sections
        (twin,) = section.contrasts
        assert twin.difference is not None
        assert twin.difference.estimate.mean == pytest.approx(-45 / 8)  # one group of eight: from 50 to 5 pixels
        assert twin.improvement == pytest.approx((1 + 7 / 2) / 8)
        assert ArmName("mean_teacher", "", "qw") in section.best
        with pytest.raises(UserError, match="unknown metric 'hd59'"):
            analyse(collect([tmp_path]), metric="hd59")

    def test_bold_are_the_best_mean_and_what_it_is_not_told_apart_from(self, tmp_path: Path) -> None:
        """ict is as good as the best one up to noise, cps five points below in every group, ua_mt without a verdict."""
        noise = np.array([1, -1, 1, -1, 1, -1, 1, -1]) * 0.004
        for seed in range(3):
            for method, shift in (("mean_teacher", 0.0), ("ict", noise - 0.0005), ("cps", noise / 4 - 0.05)):
                make_record(tmp_path, GROUP_DICE + shift + 0.001 * seed, method=method, seed=seed)
        make_record(tmp_path, GROUP_DICE - 0.05, method="ua_mt")
        section = only_section(tmp_path)
        assert sorted(name.method for name in section.best) == ["ict", "mean_teacher", "ua_mt"]
        report(tmp_path, tmp_path / "out")
        text = (tmp_path / "out" / "report.md").read_text()
        rows = {line.split("`")[1]: line for line in text.splitlines()[::-1] if line.startswith("| `")}  # first table
        methods = ("ict", "mean_teacher", "ua_mt", "cps")
        assert [("**" in rows[method]) for method in methods] == [True, True, True, False]
        assert "Bold: the best mean of this setting" in text
        assert r"\textbf{" in (tmp_path / "out" / "report.tex").read_text()

    def test_runs_that_collapsed_are_counted(self, tmp_path: Path) -> None:
        """More than 5 points under supervised training of their own seed, however good the other seeds are."""
        for seed in range(3):
            base = GROUP_DICE + 0.02 * seed
            make_record(tmp_path, base, method="supervised", seed=seed)
            make_record(tmp_path, base - (0.051 if seed == 1 else 0.049), method="ict", seed=seed)
            make_record(tmp_path, base + 0.1, method="cps", seed=seed + 2)
        section = only_section(tmp_path)
        assert {name.method: found for name, found in section.collapsed.items()} == {"ict": (1, 3), "cps": (0, 1)}
        report(tmp_path, tmp_path / "out")
        text = (tmp_path / "out" / "report.md").read_text()
        rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.endswith((" of 3 |", " of 1 |"))}
        assert [rows[f"`{name}`"].split("|")[-2].strip() for name in ("ict", "cps")] == ["1 of 3", "0 of 1"]
        table = pd.read_csv(tmp_path / "out" / "results.csv")
        assert table.set_index("method")["collapsed"].loc["ict"] == 1

    def test_distances_and_misses_have_the_intervals_of_the_crossed_model(self, tmp_path: Path) -> None:
        """Where enough groups show a miss; a difference that nobody's miss decides has one, too."""
        noise = np.random.default_rng(0)
        tables: dict[str, list[np.ndarray]] = {"": [], "qw": []}
        for seed in range(3):
            for addon, found in tables.items():
                images = make_images(GROUP_DICE)
                distances = noise.uniform(2, 20, (8, 2)) - (1 if addon else 0)
                images["hd95"] = distances.ravel()
                found.append(distances.mean(axis=1))
                make_record(tmp_path, GROUP_DICE, images=images, addon=addon, seed=seed)
        section = only_section(tmp_path)
        (twin,) = section.contrasts
        assert twin.difference is not None
        base, addon = (np.column_stack(found) for found in tables.values())
        judge = estimate(addon - base)
        assert twin.difference.beside["hd95"].interval == pytest.approx(judge.interval)
        assert twin.difference.beside["missed_share"].interval is None
        assert twin.difference.beside["nsd_2px"].interval == (0, 0)
        alone = section.cells[ArmName("mean_teacher", "", "")].beside
        assert alone["hd95"].mean == pytest.approx(base.mean())
        assert alone["hd95"].interval is None
        assert "0 test groups show an empty mask beside one that is not, at least 8" in alone["hd95"].reason
        assert "0 test groups show a miss, at least 8" in alone["missed_share"].reason

    @pytest.mark.parametrize(("groups", "given"), [(1, False), (2, False), (3, True)])
    def test_what_is_predicted_where_nothing_is_counts_with_the_diagonal_as_a_miss_does(
        self, tmp_path: Path, groups: int, given: bool
    ) -> None:
        """The difference of HD95 is the diagonals of one, two or three of eight groups, and none is missed."""
        both_empty: dict[str, Any] = {"n_ref": 0, "n_tp": 0, "n_pred": 0, "hd95": 0.0, "hd95_max": 0.0, "assd": 0.0}
        both_empty |= {"status": "both_empty", "dice": 1.0, "jaccard": 1.0, "precision": 1.0, "recall": 1.0}
        spurious: dict[str, Any] = {
            "n_pred": 100,
            "hd95": math.nan,
            "hd95_max": math.nan,
            "assd": math.nan,
            "status": "spurious",
        }
        spurious |= {"dice": 0.0, "jaccard": 0.0, "precision": 0.0, "recall": 0.0}
        for seed, addon in product(range(2), ("", "qw")):
            images = make_images(GROUP_DICE)
            for row in range(0, 2 * groups, 2):
                for name, value in {**both_empty, **(spurious if addon else {})}.items():
                    images.loc[row, name] = value
                images.loc[row, ["nsd_2px", "nsd_2pct"]] = 0.0 if addon else 1.0
            make_record(tmp_path, GROUP_DICE, images=images, addon=addon, seed=seed)
        (twin,) = only_section(tmp_path).contrasts
        assert twin.difference is not None
        assert twin.difference.beside["hd95"].mean == pytest.approx(groups * 25 / 8)
        assert (twin.difference.beside["hd95"].interval is not None) == given
        assert twin.difference.beside["missed_share"].interval is None

    def test_shares_missed_are_of_each_group(self, tmp_path: Path) -> None:
        for seed in range(2):
            make_record(tmp_path, GROUP_DICE, missed=15 + seed, seed=seed)  # two images in each of eight groups
            make_record(tmp_path, GROUP_DICE, missed=0, addon="qw", seed=seed)
        section = only_section(tmp_path)
        base = section.cells[ArmName("mean_teacher", "", "")].beside["missed_share"]
        assert base.mean == pytest.approx((15 + 16) / 32)
        assert base.interval is not None
        assert base.mean > base.interval[0] > 0.5
        assert base.interval[1] == 1, "no more than all"
        (twin,) = section.contrasts
        assert twin.difference is not None
        assert twin.difference.beside["missed_share"].mean == pytest.approx(-(15 + 16) / 32)
        assert twin.difference.beside["missed_share"].interval is not None
        assert twin.difference.beside["hd95"].interval is not None

    def test_headroom_is_what_all_labels_would_give(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        for seed in range(3):
            make_record(tmp_path, GROUP_DICE - 0.02, method="supervised", seed=seed)
            make_record(tmp_path / "all", GROUP_DICE + 0.06, method="supervised", regime="all@grouped", seed=seed)
        by_regime = {section.setting.regime: section for section in analyse(collect([tmp_path])).sections}
        (twin,) = [c for c in by_regime["n28@grouped"].contrasts if c.name.addon == "qw"]
        assert twin.headroom == pytest.approx(0.02 / 0.08)

    def test_headroom_and_curves_are_of_equal_settings_on_one_partition_of_a_given_split(self, tmp_path: Path) -> None:
        """Each budget has a name of its own; what is of another size, or of other parts, is another training."""
        own = {"variant": "size=128"}
        for seed in range(3):
            for few, gain in (("n28@given-00000001", 0.0), ("n56@given-00000002", 0.04)):
                for addon, more in (("", 0.0), ("qw", 0.02)):
                    cell = {"regime": few, "addon": addon, "seed": seed, **own}
                    provenance = make_record(tmp_path / few, GROUP_DICE + gain + more, **cell)
                    with_labels(provenance, 28 if gain == 0 else 56)
                for variant, less in (("size=128", 0.02), ("", 0.3)):
                    cell = {"regime": few, "variant": variant, "seed": seed}
                    make_record(tmp_path / few, GROUP_DICE + gain - less, method="supervised", **cell)
            for variant, more in (("size=128", 0.06), ("", 0.01)):
                cell = {"regime": "all@given-00000003", "variant": variant, "seed": seed}
                make_record(tmp_path / "all", GROUP_DICE + more, method="supervised", **cell)
        found = analyse(collect([tmp_path]))
        by_regime = {section.setting.regime: section for section in found.sections}
        (twin,) = [c for c in by_regime["n28@given-00000001"].contrasts if c.name.addon == "qw"]
        assert twin.headroom == pytest.approx(0.02 / 0.08)
        (figure,) = [draw() for draw in budgets.plan(found).draws]
        assert any("given" in text.get_text() and "0000" not in text.get_text() for text in figure.findobj(Text))
        for file in (tmp_path / "all").rglob("record.json"):
            record = json.loads(file.read_text())
            record["provenance"]["split"] = "other parts"
            file.write_text(json.dumps(record))
        assert all(c.headroom is None for s in analyse(collect([tmp_path])).sections for c in s.contrasts)

    def test_settings_apart_from_each_other(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        make_twins(tmp_path, dataset="other")
        assert [section.setting.dataset for section in analyse(collect([tmp_path])).sections] == ["other", "phantom"]

    def test_variants_are_not_twins(self, tmp_path: Path) -> None:
        make_record(tmp_path, GROUP_DICE)
        make_record(tmp_path, GROUP_DICE, addon="qw", variant="method.threshold=0.9")
        rows = only_section(tmp_path).contrasts
        assert [row.difference for row in rows] == [None, None]


class TestNothingIsDroppedInSilence:
    def test_missing_twin(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        make_record(tmp_path, GROUP_DICE, method="ict")
        make_record(tmp_path, GROUP_DICE, method="cps", addon="qw")
        section = only_section(tmp_path)
        assert [(p.where, p.cause) for p in section.problems] == [
            ("cps + qw", "no usable record without an add-on"),
            ("ict", "no usable record with an add-on"),
        ]
        report(tmp_path, tmp_path / "out")
        text = (tmp_path / "out" / "report.md").read_text()
        (ict,) = [line for line in text.splitlines() if line.startswith("| `ict` | -- | 1 | **71.50 [")]
        assert ict.removesuffix(" |").split(" | ")[4:] == ["--"] * 6
        assert "| `ict` | -- | 1 | 5.00 | 5.00 | 10.00 |" in text
        assert "- `ict`: no usable record with an add-on" in text

    def test_missing_seeds(self, tmp_path: Path) -> None:
        make_twins(tmp_path, seeds=3)
        make_record(tmp_path, GROUP_DICE - 0.3, seed=7)
        section = only_section(tmp_path)
        (row,) = section.contrasts
        assert row.reference_scores is not None
        assert row.reference_scores.seeds == [0, 1, 2]
        assert row.reference_scores.estimate.mean == pytest.approx(GROUP_DICE.mean() + 0.02)
        assert section.cells[ArmName("mean_teacher", "", "")].seeds == [0, 1, 2, 7]
        assert section.problems == [("mean_teacher + qw", "seeds 7 only without the add-on: left out")]

    @pytest.mark.parametrize(
        ("other", "cause"),
        [
            ({"precision": "bf16"}, "refused: precision differs at seed 0: fp32 without the add-on, bf16 with"),
            ({"processes": 2}, "refused: number of processes differs at seed 0: 1 without the add-on, 2 with"),
            ({"device": "cuda"}, "refused: device class differs at seed 0: cpu without the add-on, cuda with"),
        ],
    )
    def test_other_hardware_is_refused_by_name(self, tmp_path: Path, other: dict[str, Any], cause: str) -> None:
        make_record(tmp_path, GROUP_DICE)
        make_record(tmp_path, GROUP_DICE, addon="qw", **other)
        section = only_section(tmp_path)
        assert section.problems == [("mean_teacher + qw", cause)]
        assert section.contrasts[0].difference is None
        assert section.contrasts[0].reference_scores is not None
        report(tmp_path, tmp_path / "out")
        assert "| refused | refused |" in (tmp_path / "out" / "report.md").read_text()
        results = pd.read_csv(tmp_path / "out" / "results.csv")
        assert results.loc[results["kind"] == "twin", "reason"].tolist() == [cause]

    @pytest.mark.parametrize("column", ["id", "group", "n_ref"])
    def test_other_test_images_are_refused(self, tmp_path: Path, column: str) -> None:
        make_record(tmp_path, GROUP_DICE)
        images = make_images(GROUP_DICE)
        images.loc[3, column] = 7 if column == "n_ref" else "elsewhere"
        make_record(tmp_path, GROUP_DICE, addon="qw", images=images)
        section = only_section(tmp_path)
        assert section.problems == [("mean_teacher + qw", "refused: the test images differ")]
        assert section.contrasts[0].refused == "the test images differ"

    def test_seeds_of_one_cell_on_different_images(self, tmp_path: Path) -> None:
        make_twins(tmp_path, seeds=2)
        make_record(tmp_path, GROUP_DICE[:7], seed=2)
        section = only_section(tmp_path)
        assert ("mean_teacher", "refused: seeds 0, 1, 2 were tested on different images") in section.problems
        assert section.contrasts[0].reference_scores is None
        assert section.contrasts[0].difference is None

    def test_no_seed_in_common(self, tmp_path: Path) -> None:
        make_record(tmp_path, GROUP_DICE, seed=0)
        make_record(tmp_path, GROUP_DICE, addon="qw", seed=1)
        assert only_section(tmp_path).problems == [("mean_teacher + qw", "refused: the two have no seed in common")]

    def test_order_of_rows_in_the_file_does_not_matter(self, tmp_path: Path) -> None:
        make_record(tmp_path, GROUP_DICE)
        shuffled = make_images(GROUP_DICE + 0.01).sample(frac=1, random_state=0)
        make_record(tmp_path, GROUP_DICE, addon="qw", images=shuffled)
        difference = only_section(tmp_path).contrasts[0].difference
        assert difference is not None
        assert difference.estimate.mean == pytest.approx(0.01)
        assert difference.estimate.standard_error == pytest.approx(0, abs=1e-12)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def edit_dice(path: Path) -> None:
    images = pd.read_csv(path)
    images["dice"] += 0.0016 * (images.index == 2)
    images.to_csv(path, index=False)


def blank_dice(path: Path) -> None:
    images = pd.read_csv(path)
    images.loc[2, "dice"] = math.nan
    images.to_csv(path, index=False)


def endless_distance(path: Path) -> None:
    path.write_text(path.read_text().replace(",5,6,", ",inf,6,", 1))


def nan_setting(path: Path) -> None:
    path.write_text(path.read_text().replace('"grad_clip": 1.0', '"grad_clip": NaN'))


def word_for_number(path: Path) -> None:
    path.write_text(path.read_text().replace(",5,6,", ",five,6,", 1))


def double_row(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], *lines[1:]]))


def drop_column(path: Path) -> None:
    pd.read_csv(path).drop(columns="n_tp").to_csv(path, index=False)


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("which", "damage", "cause"),
        [
            ("json", cut, "is not a record"),
            ("json", lambda path: path.write_text(""), "is not a record"),
            ("json", lambda path: path.write_bytes(b"\xff\x00"), "is not a record"),
            ("json", lambda path: path.write_text("{}"), "is not a record: schema_version"),
            ("csv", cut, "is cut off in its last row"),
            ("csv", edit_dice, "gives dice = 0.7151, the record says 0.715: one of the two was changed"),
            (
                "json",
                nan_setting,
                "has no number for settings.protocol.train.grad_clip, but NaN or infinity",
            ),
            ("csv", blank_dice, "images.csv has no finite dice for image image002"),
            ("csv", endless_distance, "images.csv has no finite hd95 for image image000"),
            ("csv", word_for_number, "a cell that is not a number"),
            ("csv", double_row, "two rows for image image000"),
            ("csv", drop_column, "lacks the columns n_tp"),
            ("csv", Path.unlink, "cannot be read"),
            ("csv", lambda path: path.write_text(""), "cannot be read"),
        ],
    )
    def test_listed_with_its_cause(self, tmp_path: Path, which: str, damage: Any, cause: str) -> None:
        make_record(tmp_path, GROUP_DICE)
        broken = make_record(tmp_path, GROUP_DICE, method="ict")
        damage(broken if which == "json" else images_path(broken))
        collection = collect([tmp_path])
        assert [run.record.spec.method for run in collection.runs] == ["mean_teacher"]
        (problem,) = collection.problems
        assert problem.where == str(broken)
        assert any(part in problem.cause for part in cause.split("|"))
        report(tmp_path, tmp_path / "out")
        assert str(broken) in (tmp_path / "out" / "report.md").read_text()

    def test_nothing_but_broken_files_still_gives_a_report(self, tmp_path: Path) -> None:
        cut(make_record(tmp_path, GROUP_DICE))
        for path in report(tmp_path, tmp_path / "out"):
            assert path.stat().st_size > 0

    def test_copies_count_once(self, tmp_path: Path) -> None:
        record = make_record(tmp_path / "runs", GROUP_DICE)
        submitted = tmp_path / "results" / "seed0.json"
        submitted.parent.mkdir()
        shutil.copy(record, submitted)
        shutil.copy(images_path(record), submitted.with_suffix(".csv"))
        collection = collect([tmp_path / "runs", tmp_path / "results", tmp_path / "runs" / "."])
        assert [run.path for run in collection.runs] == [record]
        assert collection.problems == [(str(submitted), f"a copy of {record}, used once")]

    def test_a_run_that_a_former_g_guides_is_left_out_beside_newer_ones(self, tmp_path: Path) -> None:
        def guided(folder: str, version: int, seed: int = 0) -> Path:
            protocol = {"g_version": version, "train": {"steps": 10}}
            fields = {"settings": {"protocol": protocol, "method": {}, "qg": {}}}
            return make_record(tmp_path / folder, GROUP_DICE, addon="qw", audited=True, seed=seed, fields=fields)

        base = make_record(tmp_path / "new", GROUP_DICE)
        former = guided("old", 1)
        assert len(collect([tmp_path]).runs) == 2, "alone they are as good as any"
        newer = guided("new", 2, seed=1)
        collection = collect([tmp_path])
        assert {run.path for run in collection.runs} == {base, newer}
        assert collection.problems == [
            (str(former), "guided by a g of version 1, others here by 2; run it anew"),
        ]

    def test_many_records_are_read_on_all_cores_with_the_same_outcome(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_twins(tmp_path)
        cut(make_record(tmp_path, GROUP_DICE, method="ict"))
        alone = collect([tmp_path])
        monkeypatch.setattr("qgbench.report.collect._WORTH_A_PROCESS", 2)
        monkeypatch.setattr("qgbench.base.cores.usable_cores", lambda: 2)
        together = collect([tmp_path])
        assert together.problems == alone.problems
        assert [run.path for run in together.runs] == [run.path for run in alone.runs]
        assert [run.content for run in together.runs] == [run.content for run in alone.runs]
        assert len({id(run.units) for run in together.runs}) == 1

    def test_two_records_of_one_seed_are_both_refused(self, tmp_path: Path) -> None:
        first = make_record(tmp_path / "a", GROUP_DICE)
        second = make_record(tmp_path / "b", GROUP_DICE, precision="bf16")
        collection = collect([tmp_path])
        assert collection.runs == []
        (problem,) = collection.problems
        assert problem.where == str(first)
        assert str(second) in problem.cause

    def test_empty_and_absent_folders(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no records under .*qgbench run"):
            report(tmp_path, tmp_path / "out")
        with pytest.raises(UserError, match=r"no folder .*nowhere"):
            collect([tmp_path / "nowhere"])
        with pytest.raises(UserError, match="no records"):
            collect([])
        assert not (tmp_path / "out").exists()

    def test_output_that_is_a_file(self, tmp_path: Path) -> None:
        make_record(tmp_path, GROUP_DICE)
        (tmp_path / "out").write_text("")
        with pytest.raises(QGBenchError, match="cannot write"):
            report(tmp_path, tmp_path / "out")


class TestAudit:
    def test_averages_over_seeds(self, tmp_path: Path) -> None:
        make_twins(tmp_path, seeds=2)
        rows = audit(only_section(tmp_path).runs)
        (predictor,) = [row for row in rows if row.part == "predictor"]
        assert predictor.records == 2
        assert predictor.averages["synthetic_pearson"] == pytest.approx((0.91, 2))
        assert predictor.averages["image_dependence"] == pytest.approx((0.7, 2))
        assert predictor.averages["image_dependent"] == pytest.approx((0.5, 2))
        labels = [row for row in rows if row.part == "pseudo_labels"]
        assert [row.progress for row in labels] == [0.25, 0.5, 0.75, 1.0, None]
        assert {row.name for row in labels} == {ArmName("mean_teacher", "", "qw")}
        assert labels[0].averages["mean_dice"] == pytest.approx((0.65, 2))
        assert labels[0].averages["g_pearson"] == pytest.approx((0.55, 2))
        assert labels[0].averages["agreement_pearson"] == (0.4, 1)
        runs = {row.name: row for row in rows if row.part == "run" and row.name is not None}
        guided = runs[ArmName("mean_teacher", "", "qw")].averages
        assert guided["train_seconds"] == pytest.approx((60.5, 2))
        assert guided["g_reused"] == (0.5, 2)
        assert guided["kept_share"] == pytest.approx((0.8, 2))
        assert runs[ArmName("mean_teacher", "", "")].averages["kept_share"] == (None, 0)

    def test_the_releases_test_mixture_has_columns_of_its_own_where_a_record_has_it(self, tmp_path: Path) -> None:
        make_twins(tmp_path, seeds=2)
        runs = only_section(tmp_path).runs
        (before,) = [
            part for part in audit_tables(audit(runs)) if part.title.startswith("Quality predictor audit: masks")
        ]
        assert not any("test mixture" in column for column in before.columns)
        place, run = next((place, run) for place, run in enumerate(runs) if run.record.audit is not None)
        assert run.record.audit is not None
        of_test = Agreement(masks=50, pearson=0.5, spearman=0.4, mae=0.3)
        tested = run.record.audit.model_copy(update={"synthetic_test": of_test})
        runs[place] = replace(run, record=run.record.model_copy(update={"audit": tested}))
        rows = audit(runs)
        (predictor,) = [row for row in rows if row.part == "predictor"]
        assert predictor.averages["synthetic_test_pearson"] == (0.5, 1)
        (shown,) = [part for part in audit_tables(rows) if part.title.startswith("Quality predictor audit: masks")]
        cells = dict(zip(shown.columns, shown.rows[0], strict=True))
        assert cells["Synthetic, test mixture\nMAE"] == "0.300 (1 of 2)"
        assert cells["Synthetic\nMAE"] == "0.060"

    def test_a_run_during_which_the_machine_slept_does_not_move_the_seconds(self, tmp_path: Path) -> None:
        make_twins(tmp_path, seeds=3)
        runs = only_section(tmp_path).runs
        for place, run in enumerate(runs):
            if run.record.spec.seed == 2:
                times = run.record.times.model_copy(update={"train": 3600.0})
                runs[place] = replace(run, record=run.record.model_copy(update={"times": times}))
        for row in audit(runs):
            if row.part == "run":
                assert row.averages["train_seconds"] == (61.0, 3), "of 60, 61 and 3600"

    def test_a_predictor_shared_by_methods_counts_once(self, tmp_path: Path) -> None:
        for method in ("ict", "cps", "mean_teacher"):
            make_record(tmp_path, GROUP_DICE, audited=True, method=method, addon="qw", seed=0)
        make_record(tmp_path, GROUP_DICE, audited=True, addon="qw", seed=1)
        (predictor,) = [row for row in audit(only_section(tmp_path).runs) if row.part == "predictor"]
        assert predictor.records == 2
        assert predictor.averages["synthetic_pearson"].value == pytest.approx((0.90 + 0.92) / 2)

    def test_another_predictor_is_not_averaged_with_g_nor_called_g(self, tmp_path: Path) -> None:
        make_twins(tmp_path, seeds=1)
        make_record(tmp_path, GROUP_DICE, audited=True, addon="qw-pixel", seed=1)
        runs = only_section(tmp_path).runs
        first, _, _ = shown = audit_tables(audit(runs))
        assert [row[:2] for row in first.rows] == [["g", "1"], ["pixel", "1"]]
        found = [dict(zip(first.columns, row, strict=True))["Synthetic\nPearson"] for row in first.rows]
        assert found == ["0.900", "0.920"]
        assert all("Where an add-on asks another predictor" in part.says for part in shown)
        (of_pixel,) = [run for run in runs if run.record.spec.qg_score == "pixel"]
        names = list(outcome_table(of_pixel.record).columns[0].cells)
        rows = [name for name in names if str(name).startswith(("g,", "g ", "pixel"))]
        assert rows == [
            *(f"pixel, {what}" for what in ("synthetic masks", "weak models' masks", "image dependence")),
            "pixel predicts quality",
            "pixel against true Dice",
        ]


class TestFiles:
    def test_markdown(self, tmp_path: Path) -> None:
        make_twins(tmp_path, seeds=2)
        written = report(tmp_path, tmp_path / "out")
        names = [path.relative_to(tmp_path / "out").as_posix() for path in written]
        assert names[:5] == ["report.md", "report.tex", "results.csv", "audit.csv", "report.json"]
        start = "tables/001-phantom-n28-grouped-unet-tf-efficientnet-lite0-methods-with-and-without"
        assert names[5].startswith(start)
        assert len(names) == 5 + 8
        lines = (tmp_path / "out" / "report.md").read_text().splitlines()
        interval = stats.ttest_1samp(GROUP_GAIN, 0).confidence_interval()
        difference = f"2.00 [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
        (row,) = [line for line in lines if difference in line]
        assert row.startswith("| `mean_teacher` | `qw` | 2 | 72.50 [")
        assert [line for line in lines if line.startswith("| `mean_teacher` | `qw` | 2 | 5.00 | 5.00 | 10.00 |")]
        sentence = (
            "protocol small v1: not a replication of the paper's experiments (96 px or less, EfficientNet-Lite0, few "
            "steps, stand-in sets and pools)"
        )
        titles = [i for i, line in enumerate(lines) if line.startswith("### ") and line != "### Problems"]
        assert len(titles) == 8
        assert all(lines[i + 2] == sentence and lines[i + 6].startswith("| ") for i in titles)
        assert all(re.search("[Mm]ean|[Aa]verage", lines[i + 4]) for i in titles), "each table says what it averages"
        text = "\n".join(lines)
        assert EMPTY_MASK_RULE in text
        assert "- test group: what a new patient brings anew" in text
        assert "| `mean_teacher` | `qw` | 2 | 25 % | 65.00 | 0.550 | 0.300 | 0.400 (1 of 2) |" in text
        assert "| 2 | 0.910 | 0.850 | 0.060 | 0.800 | 0.700 | 0.120 | 0.700 | 1 of 2 |" in text
        assert "| `mean_teacher` | `qw` | 2 | 100.0 | 1 of 2 | 60.5 | 3.0 | 0.800 | 0.900 |" in text
        for header in [i for i, line in enumerate(lines) if line.startswith("| ---")]:
            width = lines[header].count("|")
            assert all(line.count("|") == width for line in (lines[header - 1], lines[header + 1]))

    @pytest.mark.parametrize(("protocol", "said"), [("smoke", True), ("small", True), ("paper", False)])
    def test_what_is_not_a_replication_says_so(self, tmp_path: Path, protocol: str, said: bool) -> None:
        make_record(tmp_path, GROUP_DICE, protocol=protocol, protocol_version=3)
        report(tmp_path, tmp_path / "out")
        for name in ("report.md", "report.tex"):
            text = (tmp_path / "out" / name).read_text()
            assert f"protocol {protocol} v3" in text
            assert ("not a replication" in text) == said
            assert ("its scores mean nothing" in text) == (protocol == "smoke")
            assert ("cps by 1.8" in text) == (protocol == "small"), "which its steps do not settle"

    @pytest.mark.parametrize(
        ("seeds", "groups", "reason"),
        [
            (1, 8, "p withheld: one seed says nothing about other seeds; the interval is over test groups only"),
            (3, 3, "p withheld: 3 test groups, at least 6 are needed"),
        ],
    )
    def test_withheld_with_the_reason(self, tmp_path: Path, seeds: int, groups: int, reason: str) -> None:
        make_twins(tmp_path, seeds=seeds, groups=groups)
        (row,) = only_section(tmp_path).contrasts
        assert row.holm_p is None
        report(tmp_path, tmp_path / "out")
        text = (tmp_path / "out" / "report.md").read_text()
        assert "| withheld | withheld | withheld | withheld |" in text
        assert f"- {reason} (mean\\_teacher + qw)." in text

    def test_csv_has_full_precision(self, tmp_path: Path) -> None:
        make_twins(tmp_path)
        report(tmp_path, tmp_path / "out")
        results = pd.read_csv(tmp_path / "out" / "results.csv")
        assert results["kind"].tolist() == ["cell", "cell", "twin"]
        (row,) = only_section(tmp_path).contrasts
        assert row.difference is not None
        contrast = results.iloc[2]
        assert contrast["mean"] == pytest.approx(row.difference.estimate.mean, rel=1e-14)
        assert (contrast["ci_low"], contrast["ci_high"]) == pytest.approx(row.difference.estimate.interval, rel=1e-14)
        assert (contrast["p"], contrast["p_holm"]) == pytest.approx((row.difference.estimate.p, row.holm_p), rel=1e-14)
        assert contrast["seeds"] == "0 1 2"
        audits = pd.read_csv(tmp_path / "out" / "audit.csv")
        picked = audits.query("part == 'pseudo_labels' and progress == 0.5 and quantity == 'g_pearson'")
        assert picked["value"].tolist() == pytest.approx([0.6])
        assert picked["records"].tolist() == [3]

    def test_same_records_give_the_same_bytes(self, tmp_path: Path) -> None:
        make_twins(tmp_path / "runs")
        make_twins(tmp_path / "runs", method="ict")
        one = [path.read_bytes() for path in report(tmp_path / "runs", tmp_path / "one")]
        other = [path.read_bytes() for path in report(tmp_path / "runs", tmp_path / "other")]
        assert one == other


class TestLatex:
    NASTY = r"my_method 50% $x$ a&b #1 {y} ~z ^ \end{document} <|> [1] * -- é"

    def test_specials_are_escaped(self) -> None:
        assert escape_latex("a_b") == r"a\_\allowbreak{}b"
        assert escape_latex(r"50% & $ # {x}") == r"50\% \& \$ \# \{x\}"
        assert escape_latex("\\") == r"\textbackslash{}"
        assert escape_latex("a--b---c") == "a-{}-b-{}-{}-c"
        assert escape_latex("one\ntwo\x07") == "one two"
        assert escape_latex("é") == "U+00E9"
        assert escape_latex("in ±0.5") == r"in $\pm$0.5", "a margin of equivalence"

    def test_markdown_names_stay_within_their_cell(self) -> None:
        assert markdown_name("a|b`c\nd") == "`a\\|b'c d`"

    def test_tables_have_as_many_cells_as_columns(self, tmp_path: Path) -> None:
        make_twins(tmp_path, method="a & b")
        report(tmp_path, tmp_path / "out")
        tex = (tmp_path / "out" / "report.tex").read_text()
        assert r"a \& b & \raggedright qw & 3 & 73.50 {[}" in tex
        for table in tex.split(r"\begin{longtable}")[1:]:
            spec, *lines = table.partition(r"\end{longtable}")[0].splitlines()
            numeric = re.search(r"(r+)@", spec)
            assert numeric is not None
            columns = spec.count("p{") + len(numeric[1])
            rows = [line for line in lines if line.endswith(r" \\") and not line.startswith(r"\multicolumn")]
            assert len(rows) > 1
            assert {line.replace(r"\&", "").count("&") + 1 for line in rows} == {columns}

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
    def test_a_table_wider_than_a_page_is_set_smaller(self, tmp_path: Path) -> None:
        cells = ["mean_teacher", "qw", *["0.500 (1 of 3)"] * 11]
        wide = Table("Audit", ["Method", "Add-on", *["Pearson\ng"] * 11], [cells] * 3, names=2)
        chapter = Chapter("A setting", [], [wide, replace(wide, columns=wide.columns[:5], rows=[cells[:5]])], [], [])
        text = latex(Document([chapter], [], [], []))
        assert text.count(r"\begingroup\tiny") == text.count(r"\endgroup") == 1
        for name, content in {
            "smaller": text,
            "plain": text.replace(r"\begingroup\tiny", r"\begingroup"),
        }.items():
            (tmp_path / f"{name}.tex").write_text(content)
            command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
            for _ in range(2):
                done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
            assert ("Overfull" in done.stdout) == (name == "plain")

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
    def test_compiles(self, tmp_path: Path) -> None:
        make_twins(tmp_path, method=self.NASTY, dataset="100%_{set}")
        make_twins(tmp_path, method="supervised", variant="[method.x]=1")
        make_record(tmp_path, GROUP_DICE, method="*starred")
        for number in range(9):  # more settings than a page is wide
            for method in ("cps", "ict"):
                make_record(tmp_path, GROUP_DICE, method=method, dataset=f"a_long_name_of_set_{number}", arch="fpn")
        found, none = (Agreement(masks=9, pearson=r, spearman=r, mae=0.1) for r in (0.5, None))
        for seed in range(3):  # each number of the widest audit has "(1 of 3)" behind it
            one = none if seed else found
            masks = {"synthetic": one, "synthetic_test": None if seed else one, "weak_models": one}
            audit = QualityAudit(**masks, image_dependence=0.5, image_dependent=True)
            fields = {"audit": audit}
            make_record(tmp_path, GROUP_DICE, audited=True, method="bcp", addon="qw", seed=seed, fields=fields)
        cut(make_record(tmp_path, GROUP_DICE, method="ict"))
        report(tmp_path, tmp_path / "out")
        tex = (tmp_path / "out" / "report.tex").read_text()
        assert re.findall(r"Average ranks over 9 settings, part (\d of \d)", tex) == ["1 of 2", "2 of 2"]
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
        for _ in range(2):
            done = subprocess.run(
                command, cwd=tmp_path / "out", capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "out" / "report.pdf").stat().st_size > 10_000
        for complaint in ("Missing character", "Overfull", "Warning"):
            assert complaint not in done.stdout
