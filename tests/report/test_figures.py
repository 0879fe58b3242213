"""Figures: what is drawn equals the analysis, fits on the page and is the same every time."""

import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.text import Text

from qgbench.metrics.table import METRICS, MISSED, ONE_EMPTY, metric_named
from qgbench.quality.audit import Agreement, CheckpointAudit, QualityAudit
from qgbench.report.analysis import Analysis, analyse
from qgbench.report.collect import Collection, Run, Units
from qgbench.report.contrasts import Contrast
from qgbench.report.declared import DeclaredQuestion, DeclaredSuite, answers
from qgbench.report.figures import (
    CAPTIONS,
    MOST_FILES,
    answer,
    budgets,
    draw_figures,
    forest,
    groups,
    learning,
    quality,
    questions,
    ranks,
    why_not,
)
from qgbench.report.figures.style import RC, Plan, fitted, text_width
from qgbench.run.record import Guidance, Provenance, Record, Summary, Times
from qgbench.spec.arm import ArmName
from tests.records import settings_of, spec_of

PLANS = {
    "answer": answer.plan,
    "questions": questions.plan_confirm,
    "exploratory": questions.plan_exploratory,
    "forest": forest.plan,
    "rank_frequencies": ranks.plan_frequencies,
    "groups": groups.plan,
    "quality_audit": quality.plan_audit,
    "quality_training": quality.plan_training,
    "budgets": budgets.plan,
    "learning": learning.plan,
}
HOSTILE = {
    "fixmatch": r"$x_1^{2}$ \frac %&#_{",
    "cps": "日本語の方法 <script>" + "W" * 200,
    "qw": "qw-qg.tau=q$w",
    "phantom": "長い" * 60,
}
UNWEIGHED = Guidance(mean_q=None, kept_share=None, effective_sample_size=None, val_q_minus_dice=None)
FORMATS = ("pdf", "svg")
LINE_OF_ADDON, DASHED = "-", "--"


def a_run(
    method: str = "fixmatch",
    addon: str = "",
    seed: int = 0,
    *,
    dataset: str = "phantom",
    regime: str = "n28@grouped",
    labelled: int = 28,
    gain: float = 0.0,
    count: int = 8,
    device: str = "cpu",
    with_g: bool = True,
) -> Run:
    """A run on `count` groups of one image; Dice differs by group, seed and method, and by `gain`."""
    rng = np.random.default_rng([count, seed, labelled, len(method), len(addon)])
    dice = np.clip(np.linspace(0.5, 0.8, count) + gain + rng.normal(0, 0.01, count), 0, 1)
    ids = [f"image{index:03}" for index in range(count)]
    values = {name: 50 * (1 - dice) if name.startswith(("hd95", "assd")) else dice for name in METRICS}
    values |= {name: np.zeros(count) for name in (MISSED.name, ONE_EMPTY.name)}
    mean = float(dice.mean())
    means = {name: 5.0 if name.startswith(("hd95", "assd")) else mean for name in METRICS}
    student = Summary(images=count, groups=count, means=means, missed=0, spurious=0)
    scores = {
        "g": Agreement(masks=9, pearson=0.6 + 0.1 * seed, spearman=0.6, mae=0.1),
        "confidence": Agreement(masks=9, pearson=0.4, spearman=0.2, mae=0.2),
        "agreement": Agreement(masks=9, pearson=None if seed == 0 else 0.2, spearman=0.2, mae=0.3),
    }
    if not with_g:
        scores = {"confidence": Agreement(masks=9, pearson=-0.9, spearman=0, mae=0.9)}
    quality_audit = QualityAudit(
        synthetic=Agreement(masks=50, pearson=0.9 + 0.01 * seed, spearman=0.85, mae=0.06),
        weak_models=Agreement(masks=50, pearson=0.8, spearman=0.7, mae=0.12),
        image_dependence=0.4,
        image_dependent=True,
    )
    spec = spec_of(addon, dataset=dataset, regime=regime, encoder="e", method=method, seed=seed, device=device)
    record = Record(
        run_id=f"{dataset}-{regime}-{method}-{addon}-{seed}",
        spec=spec,
        settings=settings_of(spec, steps=40),
        summaries={"student": student},
        best_val_step=None,
        val_dice=[(step, 0.4 + step / 100 + gain + 0.02 * seed) for step in (10, 20, 40)],
        audit=quality_audit if addon else None,
        pseudo_labels=[
            CheckpointAudit(progress=moment, mean_dice=0.5 + 0.1 * seed, scores=scores)
            for moment in (0.25, 0.5, 1.0, None)
        ],
        pseudo_labels_on="unlabelled training images",
        guidance=UNWEIGHED if addon == "qar" else None,
        times=Times(g=300.0 + seed if addon else 0.0, g_reused=False, train=100.0 + seed, evaluate=1.0),
        peak_memory_mib=1.0,
        provenance=Provenance(
            created="2026-01-01T00:00:00Z",
            git_commit=None,
            packages={},
            python="3.11",
            hardware={},
            data="d",
            split="s",
            labelled_ids=[str(index) for index in range(labelled)],
            g=f"g{seed}" if addon else None,
        ),
    )
    key = hashlib.sha256(f"{dataset}{count}".encode()).digest()
    return Run(Path(record.run_id), record, Units(ids, ids, np.full(count, 500.0), key), values, key)


def some_runs(count: int = 8, seeds: int = 3, rename: dict[str, str] | None = None, **both: Any) -> list[Run]:
    """Two regimes of three methods, two of them with QW, one of these with a control too."""
    called = {name: (rename or {}).get(name, name) for name in ("fixmatch", "cps", "qw", "phantom")}
    runs = []
    for regime, labelled, more in (("n28@grouped", 28, 0.0), ("n120@grouped", 120, 0.08)):
        for seed in range(seeds):
            shared = {"dataset": called["phantom"], "regime": regime, "labelled": labelled, "count": count, **both}
            runs.append(a_run("supervised", seed=seed, gain=more - 0.05, **shared))
            for method, gain in ((called["fixmatch"], 0.02), (called["cps"], -0.015)):
                runs.append(a_run(method, seed=seed, gain=more, **shared))
                runs.append(a_run(method, called["qw"], seed, gain=more + gain, **shared))
            control = f"{called['qw']}-shuffled"
            runs.append(a_run(called["fixmatch"], control, seed, gain=more + 0.005, **shared))
    return runs


def few_runs(**both: Any) -> list[Run]:
    """One of the two regimes: nothing is compared across settings, which takes a second."""
    return [run for run in some_runs(**both) if run.record.spec.regime == "n28@grouped"]


def analysis_of(runs: list[Run], metric: str = "dice") -> Analysis:
    """The analysis, with answers to a question about each method that has an add-on."""
    asked = [question(run) for run in runs if run.record.spec.addon and run.seed == 0]
    found = analyse(Collection(runs, []), metric=metric)
    if not asked:
        return found
    suite = DeclaredSuite("some", frozenset(), 2, (asked[0],), tuple(asked[1:]), metric)
    return replace(found, answers=answers(suite, runs, metric_named(metric), frozenset()))


def question(run: Run) -> DeclaredQuestion:
    cell = run.record.spec
    name = cell.arm
    return DeclaredQuestion(
        name=f"{name.typed} {cell.regime}",
        text=f"Does the add-on {cell.addon} change the method {cell.method} with the regime {cell.regime}?",
        pairs=((name.typed, name.without_addon.typed),),
        regimes={cell.dataset: (cell.regime, cell.regime)},
        archs=(cell.arch,),
    )


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analysis_of(some_runs())


@pytest.fixture(scope="module")
def small() -> Analysis:
    """The least of which there is a figure of each kind, in one file."""
    runs = [run for run in some_runs(seeds=2) if run.record.spec.method != "cps"]
    return analysis_of([run for run in runs if run.record.spec.addon in ("", "qw")])


@pytest.fixture(scope="module")
def written(small: Analysis) -> dict[str, bytes]:
    """Contents of the files by name, of every kind."""
    return {name: content for files in draw_figures(small).values() for name, content in files.items()}


def figures(plan: Plan) -> list[Figure]:
    with matplotlib.style.context(["default", RC]):
        return [draw() for draw in plan.draws]


def only_figure(plan: Plan) -> Figure:
    (figure,) = figures(plan)
    return figure


def tagged(where: Figure | Axes, tag: str) -> list[Any]:
    return where.findobj(lambda artist: artist.get_gid() == tag)


def texts(where: Figure | Axes) -> list[str]:
    return [text.get_text() for text in where.findobj(Text) if text.get_text()]


def panel(figure: Figure, heading: str) -> Axes:
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").split("\n")[0] == heading]
    return axes


def contrasts(analysis: Analysis, *kinds: str) -> list[Contrast]:
    return [c for section in analysis.sections for c in section.contrasts if c.kind in kinds]


def with_section(analysis: Analysis, **changes: Any) -> Analysis:
    """The analysis with its first section changed, and nothing else in it."""
    return replace(analysis, sections=[replace(analysis.sections[0], **changes)], across=[])


class TestFiles:
    def test_each_kind_is_drawn_in_each_format(
        self, analysis: Analysis, small: Analysis, written: dict[str, bytes]
    ) -> None:
        assert list(written) == [f"{kind}.{suffix}" for kind in CAPTIONS for suffix in FORMATS]
        assert why_not(analysis) == why_not(small) == {}
        for name, content in written.items():
            if name.endswith(".pdf"):
                assert content.startswith(b"%PDF")
                assert b"CreationDate" not in content
            else:
                assert (b'width="252pt"' if "answer" in name else b'width="496.8pt"') in content
                assert b">fixmatch" in content or b"</text>" in content, "text stays text"
                assert b"'DejaVu Sans', sans-serif" in content, "whatever fonts a browser has"
                assert b"<dc:date>" not in content

    def test_captions_are_of_the_kinds_that_are_drawn(self) -> None:
        assert list(CAPTIONS) == list(PLANS)
        assert all(len(caption) > 80 for caption in CAPTIONS.values())

    def test_nothing_at_all(self) -> None:
        nothing = analysis_of([])
        assert draw_figures(nothing) == {}
        assert list(why_not(nothing)) == list(CAPTIONS)

    def test_one_run(self) -> None:
        one = analysis_of([a_run()])
        drawn = [kind for kind, plan in PLANS.items() if figures(plan(one))]
        assert sorted([*drawn, *why_not(one)]) == sorted(CAPTIONS)
        assert drawn == ["quality_audit", "quality_training", "learning"]
        assert why_not(one)["forest"] == "no contrast has a difference"

    def test_same_bytes_in_another_process_whatever_the_users_settings(
        self, small: Analysis, written: dict[str, bytes], tmp_path: Path
    ) -> None:
        (tmp_path / "matplotlibrc").write_text("font.size: 20\nsavefig.dpi: 30\nfont.family: serif\npdf.fonttype: 3\n")
        code = (
            "import sys; from qgbench.report.figures import draw_figures\n"
            "loaded = [module for module in ('torch', 'matplotlib') if module in sys.modules]\n"
            "import pickle; drawn = draw_figures(pickle.load(sys.stdin.buffer))\n"
            "pickle.dump((loaded, drawn), sys.stdout.buffer)"
        )
        environment = {**os.environ, "PYTHONHASHSEED": "5", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
        command = [sys.executable, "-c", code]
        given = pickle.dumps(small)
        done = subprocess.run(command, check=True, input=given, env=environment, timeout=120, stdout=subprocess.PIPE)
        loaded, drawn = pickle.loads(done.stdout)
        assert loaded == [], "importing the package needs neither"
        other = {name: content for files in drawn.values() for name, content in files.items()}
        assert len(written) == 20
        assert [name for name, content in written.items() if other[name] != content] == []

    def test_what_is_sent_to_other_processes_is_only_what_is_drawn(self, analysis: Analysis) -> None:
        for kind, plan in PLANS.items():
            for draw in plan(analysis).draws:
                sent = pickle.dumps(draw)
                assert not re.search(rb"\b(Analysis|Section|Contrast|Scores|Run|Record)\b", sent), kind

    def test_the_limit_of_files_is_stated(self, analysis: Analysis, tmp_path: Path, monkeypatch: Any) -> None:
        many = with_section(analysis, contrasts=analysis.sections[0].contrasts * 80, runs=[], cells={})
        files = len(forest.plan(many).draws)
        assert files > MOST_FILES
        assert f"the first {MOST_FILES} of {files} files" in why_not(many)["forest"]


@pytest.fixture(scope="module", params=["plain", "hostile", "distance"])
def drawn(request: pytest.FixtureRequest, analysis: Analysis) -> dict[str, list[Figure]]:
    what = analysis
    if request.param == "distance":
        what = analysis_of(some_runs(count=5), metric="hd95")
    elif request.param == "hostile":
        what = analysis_of(some_runs(rename=HOSTILE))
    return {kind: figures(plan(what)) for kind, plan in PLANS.items()}


class TestPage:
    @pytest.mark.parametrize("kind", PLANS)
    def test_no_text_is_cut_small_or_on_another(self, drawn: dict[str, list[Figure]], kind: str) -> None:
        for figure in drawn[kind]:
            assert figure.get_figwidth() == (3.5 if kind == "answer" else 6.9), "a column, or a page"
            assert figure.get_figheight() < 9.7
            figure.set_dpi(200)
            with matplotlib.style.context(["default", RC]):
                figure.draw_without_rendering()
                shown = list(_boxes(figure))
            assert all(float(text.get_fontsize()) >= 7 for text, _ in shown)
            assert not any(text.get_parse_math() for text, _ in shown), "a name may hold dollar signs"
            boxes = np.array([box for _, box in shown])
            page = np.array([figure.bbox.width, figure.bbox.height])
            off = np.any([*(boxes[:, :2] < -1).T, *(boxes[:, 2:] > page + 1).T], axis=0)
            assert [text.get_text() for (text, _), beyond in zip(shown, off, strict=True) if beyond] == []
            low, high = boxes[:, None, :2], boxes[:, None, 2:]
            shared = np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1))
            pairs = np.argwhere(np.triu((shared > 4).all(axis=2), 1))
            assert [(shown[one][0].get_text(), shown[two][0].get_text()) for one, two in pairs] == []

    def test_names_are_cut_in_the_middle(self) -> None:
        text = "begin " + "W" * 200 + " end"
        shown = fitted(text, 2.0)
        assert shown.startswith("begin")
        assert shown.endswith("end")
        assert "\N{HORIZONTAL ELLIPSIS}" in shown
        assert 1.8 < text_width(shown) <= 2.0
        assert fitted("short", 2.0) == "short"
        assert fitted("日", 2.0) == "\\u65e5"
        assert "\n" not in fitted("a\nb", 2.0)


def _boxes(figure: Figure) -> Iterator[tuple[Text, tuple[float, float, float, float]]]:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().strip() and text.get_visible() and _is_drawn(text, figure):
            box = text.get_window_extent(canvas.get_renderer())
            yield text, (box.x0, box.y0, box.x1, box.y1)


def _is_drawn(text: Text, figure: Figure) -> bool:
    """Tick labels outside the limits of their axis are kept but not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                if text in (tick.label1, tick.label2):
                    return bool(low <= tick.get_loc() <= high) and axes.axison
    return True


class TestAnswer:
    def test_a_suites_first_question_stands_above_its_data_sets(self, analysis: Analysis) -> None:
        assert analysis.answers is not None
        first = analysis.answers.confirm[0]
        assert first.estimate is not None
        (own,) = first.by_dataset.values()
        several = replace(first, by_dataset={"one": own, "another": own})
        figure = only_figure(answer.plan(replace(analysis, answers=replace(analysis.answers, confirm=[several]))))
        (diamond,) = tagged(figure, "answer")
        assert diamond.get_xy()[1, 0] == pytest.approx(100 * first.estimate.mean)
        assert [line.get_xdata()[0] for line in tagged(figure, "mean")] == pytest.approx([100 * own.mean] * 2)
        assert {"mean of all", "one", "another"} <= set(texts(figure))

    def test_without_a_suite_it_is_each_method_below_the_mean_of_its_add_on(self, analysis: Analysis) -> None:
        figure = only_figure(answer.plan(replace(analysis, answers=None)))
        drawn = {
            row.get_text(): line.get_xdata()[0]
            for row, line in zip(
                [text for text in figure.axes[0].texts if "+ qw" in text.get_text()],
                tagged(figure, "mean"),
                strict=True,
            )
        }
        twins = [c for c in contrasts(analysis, "twin") if c.difference is not None and c.name.addon == "qw"]
        gains = {
            f"{method} + qw": 100 * np.mean([c.difference.estimate.mean for c in twins if c.name.method == method])
            for method in ("fixmatch", "cps")
        }
        assert drawn == pytest.approx(gains)
        (diamond,) = tagged(figure, "answer")
        assert diamond.get_xy()[1, 0] == pytest.approx(np.mean(list(gains.values())))


class TestQuestions:
    def test_answers_are_those_of_the_analysis_and_nothing_lies_on_them(self, analysis: Analysis) -> None:
        assert analysis.answers is not None
        for plan, asked in (
            (questions.plan_confirm(analysis), analysis.answers.confirm),
            (questions.plan_exploratory(analysis), analysis.answers.others),
        ):
            figure = only_figure(plan)
            diamonds = [patch.get_xy() for patch in tagged(figure, "answer")]
            assert len(diamonds) == len(asked) > 0
            for diamond, one in zip(diamonds, asked, strict=True):
                assert one.estimate is not None
                assert one.estimate.interval is not None
                low, high = one.estimate.interval
                assert diamond[:4, 0] == pytest.approx(
                    [100 * low, 100 * one.estimate.mean, 100 * high, 100 * one.estimate.mean]
                )
            rows = [diamond[0, 1] for diamond in diamonds]
            marked = [line.get_ydata()[0] for line in tagged(figure, "mean")]
            assert len({*rows, *marked}) == len(rows) + len(marked), "each estimate has a row of its own"

    def test_only_what_is_tested_has_a_p(self, analysis: Analysis) -> None:
        assert analysis.answers is not None
        primary = analysis.answers.confirm[0]
        assert primary.estimate is not None
        assert primary.estimate.p is not None

        def ps(plan: Plan) -> list[str]:
            return [text for text in texts(only_figure(plan)) if text.startswith("0.") and "[" not in text]

        assert ps(questions.plan_confirm(analysis)) == [f"{primary.estimate.p:.3f}"]
        assert ps(questions.plan_exploratory(analysis)) == []
        shown = texts(only_figure(questions.plan_exploratory(analysis)))
        assert any(text.startswith("Does the add-on qw change the method") and "\n" in text for text in shown)
        assert "p" not in shown

    def test_data_sets_stand_below_a_question_with_their_intervals(self, analysis: Analysis) -> None:
        assert analysis.answers is not None
        primary = analysis.answers.confirm[0]
        (own,) = primary.by_dataset.values()
        assert own.interval is not None
        low, high = own.interval
        far = replace(own, mean=own.mean, interval=(low - 0.9, high))
        several = replace(primary, by_dataset={"one": own, "another": far})
        figure = only_figure(
            questions.plan_confirm(replace(analysis, answers=replace(analysis.answers, confirm=[several])))
        )
        assert [line.get_xdata()[0] for line in tagged(figure, "mean")] == pytest.approx([100 * own.mean] * 2)
        near, cut = (line.get_xdata() for line in tagged(figure, "interval"))
        assert list(near) == pytest.approx([100 * low, 100 * high])
        assert cut[0] == figure.axes[0].get_xlim()[0] > 100 * (low - 0.9)
        arrows = [line.get_marker() for line in figure.axes[0].lines if line.get_marker() in (4, 5)]
        assert arrows == [4]
        assert {"one", "another"} <= set(texts(figure))

    def test_more_questions_than_a_page_holds_take_another(self, analysis: Analysis) -> None:
        assert analysis.answers is not None
        many = replace(analysis.answers, others=analysis.answers.others * 9)
        plan = questions.plan_exploratory(replace(analysis, answers=many))
        assert len(plan.draws) == 2
        assert sum(len(tagged(figure, "answer")) for figure in figures(plan)) == 45

    def test_questions_without_an_answer_are_counted(self, analysis: Analysis) -> None:
        assert analysis.answers is not None
        first, *others = analysis.answers.others
        some = replace(analysis.answers, others=[replace(first, estimate=None), *others])
        plan = questions.plan_exploratory(replace(analysis, answers=some))
        assert plan.left_out == ["questions without an answer: 1"]
        nothing = replace(analysis, answers=None)
        assert questions.plan_confirm(nothing).draws == questions.plan_exploratory(nothing).draws == []


class TestForest:
    def test_means_and_intervals_are_those_of_the_analysis(self, analysis: Analysis) -> None:
        figure = only_figure(forest.plan(analysis))
        expected = [c.difference.estimate for c in contrasts(analysis, "twin", "control") if c.difference is not None]
        assert len(expected) == 8  # in each of two regimes two twins, the control minus none, QW minus the control
        means = [line.get_xdata()[0] for line in tagged(figure, "mean")]
        assert means == pytest.approx([100 * estimate.mean for estimate in expected])
        limit = figure.axes[0].get_xlim()[1]
        for line, estimate in zip(tagged(figure, "interval"), expected, strict=True):
            assert estimate.interval is not None
            assert list(line.get_xdata()) == pytest.approx(
                [max(100 * estimate.interval[0], -limit), min(100 * estimate.interval[1], limit)]
            )

    def test_numbers_beside_a_row(self, analysis: Analysis) -> None:
        contrast = contrasts(analysis, "twin")[1]
        assert contrast.difference is not None
        estimate = contrast.difference.estimate
        assert estimate.interval is not None
        assert contrast.holm_p is not None
        found = texts(only_figure(forest.plan(with_section(analysis, contrasts=[replace(contrast, holm_p=0.0321)]))))
        low, high = (f"{100 * end:.1f}".replace("-", "−") for end in estimate.interval)
        assert f"{100 * estimate.mean:+.1f} [{low}, {high}]".replace("-", "−") in found
        assert "0.032" in found
        assert "8 × 3" in found
        assert str(contrast.name) in found

    def test_combined_estimate_is_a_diamond(self, analysis: Analysis) -> None:
        figure = only_figure(forest.plan(analysis))
        diamonds = tagged(figure, "combined")
        addons = analysis.across[0].addons
        assert [addon.addon for addon in addons] == ["qw", "qw-shuffled"]
        for diamond, addon in zip(diamonds, addons, strict=True):
            assert isinstance(diamond, Polygon)
            assert addon.combined is not None
            assert addon.combined.interval is not None
            x = diamond.get_xy()[:, 0]
            assert (x.min(), x.max()) == pytest.approx(tuple(100 * end for end in addon.combined.interval))
            assert x[1] == pytest.approx(100 * addon.combined.mean)
        assert "qw: methods 2, settings 2" in texts(figure)

    def test_combined_estimates_of_several_kinds_of_regime_are_told_apart(self) -> None:
        places = [(dataset, regime) for dataset in ("ph2", "scd") for regime in ("n28@grouped", "all@grouped")]
        runs = [
            a_run(addon=addon, seed=seed, dataset=dataset, regime=regime)
            for dataset, regime in places
            for addon in ("", "qw")
            for seed in range(2)
        ]
        headings = [text for text in texts(only_figure(forest.plan(analysis_of(runs)))) if text.startswith("combined ")]
        assert headings == [
            f"combined over methods and settings: {kind}@grouped, unet, e, small v1" for kind in ("all", "budget")
        ]

    def test_withheld_p_is_said_with_its_reason(self) -> None:
        found = texts(only_figure(forest.plan(analysis_of(few_runs(seeds=1)))))
        assert "withheld (a)" in found
        assert any(text.startswith("(a) p withheld: one seed") for text in found)

    def test_refused_and_missing_comparisons_are_rows(self) -> None:
        runs = [run for run in few_runs() if run.record.spec.method != "cps" or run.record.spec.addon]
        moved = [a_run("fixmatch", "qw", seed, device="cuda", gain=0.02) for seed in range(3)]
        runs = [run for run in runs if (run.record.spec.method, run.record.spec.addon) != ("fixmatch", "qw")]
        found = texts(only_figure(forest.plan(analysis_of(runs + moved))))
        assert any(text.startswith("refused: device class differs at seed 0") for text in found)
        assert found.count("no usable record without an add-on") == 1  # cps
        assert found.count("no usable record with an add-on") == 1  # supervised
        assert found.count("fixmatch + qw") == 1

    def test_not_a_finite_number(self, analysis: Analysis) -> None:
        twin = contrasts(analysis, "twin")[1]
        assert twin.difference is not None
        broken = replace(twin.difference, estimate=replace(twin.difference.estimate, mean=np.nan))
        other = contrasts(analysis, "twin")[2]
        figure = only_figure(forest.plan(with_section(analysis, contrasts=[replace(twin, difference=broken), other])))
        assert "the difference is not a finite number" in texts(figure)
        assert len(tagged(figure, "mean")) == 1

    def test_band_of_one_point_for_dice_only(self, analysis: Analysis) -> None:
        (band,) = tagged(only_figure(forest.plan(analysis)), "rope")
        assert isinstance(band, Rectangle)
        assert (band.get_x(), band.get_width()) == pytest.approx((-1.0, 2.0))
        distances = only_figure(forest.plan(analysis_of(few_runs(), metric="hd95")))
        assert tagged(distances, "rope") == []
        assert distances.axes[0].get_xlabel() == "Difference of HD95 (pooled) (px); left of 0 is better"

    def test_a_wide_interval_does_not_hide_the_others(self, analysis: Analysis) -> None:
        found = contrasts(analysis, "twin", "control")
        twin = next(c for c in found if c.difference is not None)
        assert twin.difference is not None
        wide = replace(twin.difference, estimate=replace(twin.difference.estimate, interval=(-9.0, 9.0)))
        figure = only_figure(forest.plan(with_section(analysis, contrasts=[replace(twin, difference=wide), *found])))
        limit = figure.axes[0].get_xlim()[1]
        assert limit < 50
        assert list(tagged(figure, "interval")[0].get_xdata()) == [-limit, limit]
        assert any("[−900.0, 900.0]" in text for text in texts(figure))

    def test_two_hundred_contrasts_take_several_pages_and_none_is_lost(self, analysis: Analysis) -> None:
        twin = contrasts(analysis, "twin")[1]
        many = [replace(twin, name=ArmName(f"m{index:03}", "", "qw")) for index in range(200)]
        pages = figures(forest.plan(with_section(analysis, contrasts=many)))
        assert len(pages) == 5
        found = [text for page in pages for text in texts(page) if text.startswith("m")]
        assert found == [f"m{index:03} + qw" for index in range(200)]
        assert all(any("(continued)" in text for text in texts(page)) for page in pages[1:])


class TestRanks:
    def test_frequencies(self, analysis: Analysis) -> None:
        figure = only_figure(ranks.plan_frequencies(analysis))
        (mesh,) = tagged(figure, "frequencies")
        assert isinstance(mesh, QuadMesh)
        assert np.asarray(mesh.get_array()).ravel() == pytest.approx(100 * analysis.across[0].frequencies.ravel())
        assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # the best on top
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == [str(name) for name in analysis.across[0].names]

    def test_unknown_frequencies_are_not_drawn(self, analysis: Analysis) -> None:
        across = replace(analysis.across[0], frequencies=np.full((6, 6), np.nan))
        assert ranks.plan_frequencies(replace(analysis, across=[across])).draws == []
        assert "share no seeds" in why_not(replace(analysis, across=[across]))["rank_frequencies"]

    def test_one_setting_has_no_ranks(self, analysis: Analysis) -> None:
        assert "two settings or more" in why_not(replace(analysis, across=[]))["rank_frequencies"]


class TestGroups:
    @pytest.mark.parametrize("metric", ["dice", "hd95"])
    def test_dots_are_groups_averaged_over_seeds(self, metric: str) -> None:
        what = analysis_of(few_runs(), metric=metric)
        figure = only_figure(groups.plan(what))
        twins = [c for c in contrasts(what, "twin") if c.difference is not None]
        scale = 100 if metric == "dice" else 1
        for axes, twin in zip(figure.axes, twins, strict=True):
            assert twin.scores is not None
            assert twin.reference_scores is not None
            (dots,) = tagged(axes, "groups")
            assert dots.get_xdata() == pytest.approx(scale * twin.reference_scores.table.mean(axis=1))
            assert dots.get_ydata() == pytest.approx(scale * twin.scores.table.mean(axis=1))
            assert axes.get_xlim() == axes.get_ylim()
            gained = dots.get_ydata() > dots.get_xdata() if metric == "dice" else dots.get_ydata() < dots.get_xdata()
            assert axes.texts[0].get_text() == f"{gained.sum()} of 8\nbetter"
        assert 0 < sum(int(axes.texts[0].get_text()[0]) for axes in figure.axes) < 8 * len(twins)


class TestQuality:
    def test_audit_shows_means_over_the_runs_in_which_g_was_asked(self) -> None:
        runs = few_runs() + [a_run("ict", seed=seed, with_g=False) for seed in range(3)]
        figure = only_figure(quality.plan_audit(analysis_of(runs)))
        pearson, mae = figure.axes
        assert [line.get_ydata()[0] for line in tagged(pearson, "g")] == pytest.approx([0.91, 0.8, *[0.7] * 4])
        assert [line.get_ydata()[0] for line in tagged(pearson, "confidence")] == pytest.approx([0.4] * 4)
        assert [line.get_ydata()[0] for line in tagged(pearson, "agreement")] == pytest.approx([0.2] * 4)
        assert [line.get_ydata()[0] for line in tagged(mae, "g")] == pytest.approx([0.06, 0.12, *[0.1] * 4])
        labels = [label.get_text() for label in pearson.get_xticklabels()]
        assert sorted(labels) == sorted(["synthetic", "weak\nmodels", "25", "50", "100", "pooled"])

    def test_training_shows_each_cell_over_the_run(self, analysis: Analysis) -> None:
        figure = only_figure(quality.plan_training(analysis))
        assert len(figure.axes) == 10  # the control is left out
        axes = figure.axes[0]
        for tag, value in (("g", 0.7), ("confidence", 0.4), ("agreement", 0.2), ("dice", 0.6)):
            (line,) = tagged(axes, tag)
            assert list(line.get_xdata()) == [25, 50, 100]
            assert list(line.get_ydata()) == pytest.approx([value] * 3)

    def test_nothing_was_audited(self) -> None:
        reasons = why_not(analysis_of([a_run(with_g=False)]))
        assert reasons["quality_audit"] == "no record has an audit of g"
        assert "two checkpoints" in reasons["quality_training"]


class TestBudgets:
    def test_curves(self, analysis: Analysis) -> None:
        figure = only_figure(budgets.plan(analysis))
        axes = panel(figure, "fixmatch")
        assert axes.get_xscale() == "log"
        supervised, base, addon = tagged(axes, "curve")
        by_regime = {section.setting.regime: section.cells for section in analysis.sections}
        for line, name in (
            (supervised, ArmName("supervised", "", "")),
            (base, ArmName("fixmatch", "", "")),
            (addon, ArmName("fixmatch", "", "qw")),
        ):
            expected = [100 * by_regime[regime][name].estimate.mean for regime in ("n28@grouped", "n120@grouped")]
            assert list(line.get_ydata()) == pytest.approx(expected)
            assert list(line.get_xdata()) == pytest.approx([28, 120], rel=0.05)
        assert base.get_color() == addon.get_color() != supervised.get_color()
        assert (base.get_linestyle(), addon.get_linestyle()) == (DASHED, LINE_OF_ADDON)
        ticks = [label.get_text() for label in axes.get_xticklabels() if label.get_text()]
        assert ticks == ["28", "120"]

    def test_pools_and_splits_are_kept_apart(self) -> None:
        runs = [a_run(regime="n28@grouped"), a_run(regime="n60+pool@grouped", labelled=60)]
        assert budgets.plan(analysis_of(runs)).draws == []
        runs.append(a_run(regime="p50@grouped", labelled=60))
        assert len(only_figure(budgets.plan(analysis_of(runs))).axes) == 1


class TestLearning:
    def test_means_over_seeds(self, analysis: Analysis) -> None:
        figure = only_figure(learning.plan(analysis))
        axes = panel(figure, "phantom, n28@grouped")
        (base,) = tagged(axes, "fixmatch")
        (addon,) = tagged(axes, "fixmatch + qw")
        assert list(base.get_xdata()) == [10, 20, 40]
        assert list(base.get_ydata()) == pytest.approx([52, 62, 82])
        assert list(addon.get_ydata()) == pytest.approx([54, 64, 84])
        assert base.get_color() == addon.get_color()
        assert (base.get_linestyle(), addon.get_linestyle()) == (DASHED, LINE_OF_ADDON)

    def test_a_single_panel_is_as_wide_as_the_figure(self) -> None:
        one = only_figure(learning.plan(analysis_of([a_run()])))
        two = only_figure(learning.plan(analysis_of([a_run(), a_run(dataset="scd")])))
        assert one.axes[0].get_position().width > 0.85 > 0.45 > two.axes[0].get_position().width
        assert one.get_figheight() == two.get_figheight() < 3, "no room is kept for legends that are not there"

    def test_what_is_not_finite_is_passed_over(self) -> None:
        run = a_run()
        broken = run.record.model_copy(update={"val_dice": [(10, 0.4), (20, np.nan), (40, 0.6)]})
        figure = only_figure(learning.plan(analysis_of([replace(run, record=broken)])))
        (line,) = tagged(figure, "fixmatch")
        assert list(line.get_xdata()) == [10, 40]

    def test_many_cells_take_several_panels(self) -> None:
        runs = [a_run(f"m{index:02}", addon) for index in range(10) for addon in ("", "qw")]
        figure = only_figure(learning.plan(analysis_of(runs)))
        assert len(figure.axes) == 3
        lines = [line.get_gid() for axes in figure.axes for line in axes.lines]
        assert lines == [f"m{index:02}{addon}" for index in range(10) for addon in ("", " + qw")]
