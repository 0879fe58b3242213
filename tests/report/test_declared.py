"""A question is answered from all of its cells or not at all; few are tested, in order; what is missing is named."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from qgbench.base.errors import UserError
from qgbench.report.analysis import Analysis, analyse
from qgbench.report.chapters.setting import _counted
from qgbench.report.collect import collect
from qgbench.report.contrasts import Contrast
from qgbench.report.declared import Answer, DeclaredQuestion, DeclaredSuite, declared
from qgbench.report.select import Filters
from qgbench.report.write import write_report
from qgbench.run.record import read_record
from qgbench.spec.suite import load_suite
from qgbench.stats.sets import image_weighted, interval, population, these_sets
from tests.report.test_report import GROUP_DICE, GROUP_GAIN, make_record

GAINS = {("ph2", "cps"): 1.0, ("ph2", "fixmatch"): 3.0, ("scd", "cps"): 2.0, ("scd", "fixmatch"): 0.5}
QUESTION = "Does QW change Dice, averaged over methods and data sets?"


def gain(dataset: str, method: str, seed: int) -> np.ndarray:
    return GAINS[dataset, method] * GROUP_GAIN + 0.001 * seed * (1 if method == "cps" else -2)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with and without QW on two data sets, 3 seeds; a third data set that belongs to no suite."""
    folder = tmp_path_factory.mktemp("records")
    for dataset, method in GAINS:
        for seed in range(3):
            cell = {"dataset": dataset, "method": method, "seed": seed}
            make_record(folder, GROUP_DICE - 0.05, **cell)
            make_record(folder, GROUP_DICE - 0.05 + gain(dataset, method, seed), addon="qw", **cell)
    make_record(folder, GROUP_DICE, dataset="busi", method="fixmatch")
    return folder


@pytest.fixture(scope="module")
def suite(records: Path) -> DeclaredSuite:
    files = [path for path in records.glob("*/record.json") if "busi" not in path.parent.name]
    specs = [read_record(path).spec for path in files]
    places = frozenset(spec.place for spec in specs)
    return DeclaredSuite("tiny", places, specs[0].protocol_version, (asked(),))


def asked(
    methods: tuple[str, ...] = ("cps", "fixmatch"),
    datasets: tuple[str, ...] = ("ph2", "scd"),
    regime: str = "n28@grouped",
    addon: str = "qw",
    arch: str = "unet",
) -> DeclaredQuestion:
    pairs = tuple((f"{method}+{addon}", method) for method in methods)
    return DeclaredQuestion("primary", QUESTION, pairs, dict.fromkeys(datasets, (regime, regime)), (arch,))


def first(found: Analysis) -> Answer:
    assert found.answers is not None
    return found.answers.confirm[0]


def test_the_answer_averages_methods_inside_data_sets(records: Path, suite: DeclaredSuite) -> None:
    found = analyse(collect([records]), suite=suite)
    assert {section.setting.dataset for section in found.sections} == {"ph2", "scd"}
    assert found.answers is not None
    assert (found.answers.absent, first(found).lacking, found.answers.reason) == ([], [], "")
    estimate = first(found).estimate
    assert estimate is not None
    assert estimate.mean == pytest.approx(
        np.mean([np.mean([gain(*place, seed) for seed in range(3)]) for place in GAINS])
    )
    tables = {
        dataset: np.column_stack(
            [np.mean([gain(dataset, method, k) for method in ("cps", "fixmatch")], 0) for k in range(3)]
        )
        for dataset in suite.confirm[0].regimes
    }
    seeds = dict.fromkeys(tables, (0, 1, 2))  # of a former protocol, whose data sets share them
    judge = these_sets(tables, seeds)
    assert estimate.interval == pytest.approx(judge.interval)
    assert estimate.p == pytest.approx(judge.p)
    answer = first(found)
    assert answer.sets is not None
    judge_of_sets = population(tables, seeds)
    assert judge_of_sets is not None
    assert answer.sets.estimate.interval == pytest.approx(judge_of_sets.estimate.interval)
    assert answer.by_images is not None
    even = {name: image_weighted(table, np.full(8, 2)) for name, table in tables.items()}
    assert answer.by_images.interval == pytest.approx(these_sets(even, seeds).interval), "two images in each group"


def test_a_missing_run_is_named_and_the_answer_withheld(records: Path, suite: DeclaredSuite, tmp_path: Path) -> None:
    whole = collect([records])
    gone = next(r for r in whole.runs if r.record.run_id == "fixmatch--qw-k2-scd")
    found = analyse(replace(whole, runs=[run for run in whole.runs if run is not gone]), suite=suite)
    assert found.answers is not None
    assert first(found).estimate is None
    assert found.answers.absent == ["fixmatch + qw on scd n28@grouped, unet, seed 2"]
    assert first(found).lacking == ["scd, n28@grouped, unet: fixmatch+qw, seed 2"]
    write_report(found, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Answer: withheld" in text
    assert "scd, n28@grouped, unet: fixmatch+qw, seed 2" in text
    assert "`fixmatch + qw on scd n28@grouped, unet, seed 2`: no usable record" in text
    assert "of the suite's 24 runs 1 have no usable record" in text
    assert json.loads((tmp_path / "report.json").read_text())["suite"]["confirm"][0]["estimate"] is None


def test_what_a_suite_never_declared_is_no_problem(records: Path, suite: DeclaredSuite) -> None:
    """A cell with the add-on alone, and one without it alone, where the suite asks for no twin."""
    whole = collect([records])
    alone = {("ph2", "fixmatch", "qw"), ("scd", "cps", "")}
    chosen = [
        run for run in whole.runs if (run.record.spec.dataset, run.record.spec.method, run.record.spec.addon) in alone
    ]
    places = frozenset(place for place in suite.places if (place.dataset, place.arm.method, place.arm.addon) in alone)
    assert len(chosen) == len(places) == 6
    asked_for = replace(suite, places=places)
    found = analyse(replace(whole, runs=chosen), suite=asked_for)
    assert found.answers is not None
    assert (found.answers.absent, found.problems) == ([], [])
    assert [section.problems for section in found.sections] == [[], []]
    assert [c.kind for section in found.sections for c in section.contrasts] == ["twin", "twin"], "bases keep their row"
    besides = analyse(replace(whole, runs=chosen), suite=asked_for, asked=["fixmatch+qw:cps"])
    assert [section.problems for section in besides.sections] == [
        [("fixmatch + qw : cps", "no usable record of cps")],
        [("fixmatch + qw : cps", "no usable record of fixmatch + qw")],
    ]
    without = analyse(replace(whole, runs=chosen))
    assert sum(len(section.problems) for section in without.sections) == 2


@pytest.mark.parametrize(
    ("changed", "lacking"),
    [
        ({"methods": ("cps", "ict")}, "ph2, n28@grouped, unet: ict+qw, no record"),
        ({"datasets": ("ph2", "scd", "glas")}, "glas: no record"),
        ({"regime": "n14@grouped"}, "scd, n14@grouped, unet: no record"),
        ({"arch": "fpn"}, "ph2, n28@grouped, fpn: no record"),
        ({"addon": "qar"}, "scd, n28@grouped, unet: cps+qar, no record"),
    ],
)
def test_cells_that_were_never_run_are_named(
    records: Path, suite: DeclaredSuite, changed: dict[str, Any], lacking: str
) -> None:
    found = analyse(collect([records]), suite=replace(suite, confirm=(asked(**changed),)))
    assert found.answers is not None
    assert first(found).estimate is None
    assert lacking in first(found).lacking


def test_a_refused_comparison_withholds_the_answer(suite: DeclaredSuite, tmp_path: Path) -> None:
    for dataset, method in GAINS:
        for seed in range(3):
            cell = {"dataset": dataset, "method": method, "seed": seed}
            make_record(tmp_path, GROUP_DICE, **cell)
            other = {"precision": "bf16"} if (dataset, method) == ("ph2", "cps") else {}
            make_record(tmp_path, GROUP_DICE, addon="qw", **other, **cell)
    found = analyse(collect([tmp_path]), suite=suite)
    assert found.answers is not None
    assert first(found).estimate is None
    assert first(found).lacking == [
        "ph2, n28@grouped, unet: cps+qw : cps, refused: "
        "precision differs at seed 0: fp32 of the second, bf16 of the first"
    ]


def test_another_metric_or_a_filter_does_not_answer_the_question(records: Path, suite: DeclaredSuite) -> None:
    distance = analyse(collect([records]), metric="hd95", suite=suite)
    assert distance.answers is not None
    assert first(distance).estimate is None
    assert "report with --metric dice" in distance.answers.reason
    filtered = analyse(collect([records]), Filters(dataset=("ph2",)), suite=suite)
    assert filtered.answers is not None
    assert first(filtered).lacking == ["scd: no record"]
    assert filtered.answers.absent == [], "the records are there, only not asked for"


def test_a_suite_without_records_is_a_clear_mistake(records: Path, suite: DeclaredSuite) -> None:
    with pytest.raises(UserError, match="no record belongs to the suite 'tiny'"):
        analyse(collect([records]), suite=replace(suite, places=frozenset()))


def with_version(records: Path, target: Path, versions: dict[str, int]) -> None:
    """Copy records as those of another version of the protocol or of g."""
    for path in records.rglob("record.json"):
        data = json.loads(path.read_text())
        if "protocol" in versions:
            data["spec"]["protocol_version"] = versions["protocol"]
        if "g" in versions and data["spec"]["qg_mode"] == "qw":
            data["provenance"]["g"] = "g of then"
            data["settings"]["protocol"]["g_version"] = versions["g"]
        shutil.copytree(path.parent, target / path.parent.name)
        (target / path.parent.name / "record.json").write_text(json.dumps(data))


def test_the_newest_version_of_the_protocol_that_a_record_has_answers(
    records: Path, suite: DeclaredSuite, tmp_path: Path
) -> None:
    with_version(records, tmp_path / "former", {"protocol": 0})
    found = analyse(collect([tmp_path / "former"]), suite=suite).answers
    both = analyse(collect([records, tmp_path / "former"]), suite=suite).answers
    alone = analyse(collect([records]), suite=suite).answers
    assert found is not None
    assert both is not None
    assert alone is not None
    assert (found.suite.version, both.suite.version, alone.suite.version) == (0, 1, 1)
    assert both.missing == alone.missing
    assert both.confirm[0].estimate == alone.confirm[0].estimate


def test_runs_that_a_former_g_guides_do_not_answer_beside_those_of_a_newer(
    records: Path, suite: DeclaredSuite, tmp_path: Path
) -> None:
    with_version(records, tmp_path / "all", {"g": 2})
    former = next(path for path in (tmp_path / "all").rglob("record.json") if read_record(path).spec.addon == "qw")
    data = json.loads(former.read_text())
    data["settings"]["protocol"]["g_version"] = 1
    former.write_text(json.dumps(data))
    found = analyse(collect([tmp_path / "all"]), suite=suite).answers
    assert found is not None
    alone = analyse(collect([records]), suite=suite).answers
    assert alone is not None
    assert found.missing == alone.missing + 1


@pytest.fixture(scope="module")
def written(records: Path, suite: DeclaredSuite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("written")
    write_report(analyse(collect([records]), suite=suite), output, html=True)
    return output


@pytest.mark.parametrize(
    ("file", "plain"),
    [
        ("report.md", lambda text: text.replace("\\", "")),
        ("report.tex", lambda text: text.replace(r"\allowbreak{}", "").replace("$-$", "-")),
        ("page/index.html", lambda text: re.sub(r"<[^>]+>", "", text)),
    ],
)
def test_every_report_begins_with_the_suite_and_its_answer(
    written: Path, file: str, plain: Callable[[str], str]
) -> None:
    text = plain((written / file).read_text())
    mean = 100 * np.mean([np.mean([gain(*place, seed) for seed in range(3)]) for place in GAINS])
    places = [
        text.index("Suite tiny") if "html" in file or "tex" in file else text.index("Suite"),
        text.index(f"Confirmatory question, declared before the runs: {QUESTION}"),
        text.index(f"Answer: Dice differs by {mean:+.2f}"),
        text.index("averaged over cps+qw : cps, fixmatch+qw : fixmatch inside each of ph2, scd"),
        text.index("All other questions and all rows about cells are exploratory"),
        text.index("fixmatch" if "html" not in file else "Search", text.index("are exploratory")),
    ]
    assert places == sorted(places)


def test_reports_of_no_suite_say_nothing_of_one(records: Path, tmp_path: Path) -> None:
    write_report(analyse(collect([records])), tmp_path, html=True)
    assert json.loads((tmp_path / "report.json").read_text())["suite"] is None
    assert "Confirmatory" not in (tmp_path / "report.md").read_text() + (tmp_path / "page" / "index.html").read_text()


def test_a_suite_tests_its_questions_and_pairs_asked_for_and_a_report_without_one_its_twins(
    records: Path, suite: DeclaredSuite, tmp_path: Path
) -> None:
    def comparisons(found: Analysis) -> list[Contrast]:
        return [contrast for section in found.sections for contrast in section.contrasts]

    def judged(contrasts: list[Contrast]) -> list[float]:
        p_values = [contrast.difference.estimate.p for contrast in contrasts if contrast.difference is not None]
        return list(multipletests(p_values, method="holm")[1])

    in_suite = analyse(collect([records]), suite=suite, asked=["cps+qw:fixmatch"])
    asked_for = [contrast for contrast in comparisons(in_suite) if contrast.kind == "asked"]
    assert [contrast.holm_p for contrast in asked_for] == pytest.approx(judged(asked_for))
    assert in_suite.tested == {"twin": 0, "control": 0, "asked": 2}
    for contrast in comparisons(in_suite):
        assert contrast.difference is not None
        assert contrast.tested == (contrast.kind == "asked") == (contrast.difference.estimate.p is not None)
    free = analyse(collect([records]))
    twins = [contrast for contrast in comparisons(free) if contrast.difference is not None]
    assert [contrast.holm_p for contrast in twins] == pytest.approx(judged(twins))
    assert free.tested["twin"] == len(twins) == 4
    write_report(free, tmp_path / "free", figures=False)
    said = "adjusted for all comparisons of this kind in the report, of which there are 4 pairs of twins"
    assert said in (tmp_path / "free" / "report.md").read_text()
    write_report(analyse(collect([records]), suite=suite), tmp_path / "suite", figures=False)
    text = (tmp_path / "suite" / "report.md").read_text()
    assert "Holm)" not in text.replace("(Holm-adjusted", "")
    assert text.count(" p |") == 1, "the table of what is confirmed"


def test_questions_are_tested_in_their_order_and_no_further_than_the_first_that_is_not_shown(
    records: Path, suite: DeclaredSuite
) -> None:
    """CPS gains 2 to 4 points on both data sets, 3 seeds; its difference from itself is 0."""
    gains = replace(asked(methods=("fixmatch",)), name="gains", margin=9.0)
    nothing = replace(asked(methods=("cps",)), name="nothing", pairs=(("cps", "cps"),), margin=0.5)
    found = analyse(collect([records]), suite=replace(suite, confirm=(gains, nothing, replace(gains, name="late"))))
    assert found.answers is not None
    shown, null, late = found.answers.confirm
    verdicts = [one.verdict for one in (shown, null, late)]
    assert [one and (one.tested, one.shown, one.equivalent) for one in verdicts] == [
        (True, True, True),
        (True, False, True),
        (False, False, False),
    ]
    assert [one and one.words for one in verdicts] == [
        "a difference is shown; shown to be within 9",
        "not shown to differ; shown to be within 0.5",
        "not tested: 'nothing' was not shown",
    ]
    assert late.estimate is not None
    assert shown.estimate is not None
    assert (late.estimate.mean, late.estimate.interval, late.estimate.p) == (
        shown.estimate.mean,
        shown.estimate.interval,
        None,
    )
    tables = {
        dataset: np.column_stack([gain(dataset, "fixmatch", seed) for seed in range(3)]) for dataset in ("ph2", "scd")
    }
    narrow = interval(tables, dict.fromkeys(tables, (0, 1, 2)), 0.1)
    assert narrow is not None
    assert verdicts[0] is not None
    assert verdicts[0].narrow == pytest.approx(tuple(100 * end for end in narrow))


def test_records_of_a_protocol_with_seeds_of_each_sets_own_are_not_crossed(
    records: Path, suite: DeclaredSuite, tmp_path: Path
) -> None:
    with_version(records, tmp_path, {"protocol": 3})
    own, shared = (first(analyse(collect([folder]), suite=suite)).estimate for folder in (tmp_path, records))
    assert own is not None
    assert shared is not None
    assert (own.method, shared.method) == ("these sets", "these sets, shared seeds")


def test_further_questions_are_answered_each_or_not_and_have_no_p(records: Path, suite: DeclaredSuite) -> None:
    def named(name: str, question: DeclaredQuestion) -> DeclaredQuestion:
        return replace(question, name=name)

    both = dict.fromkeys(("ph2", "scd"), ("n28@grouped", "n28@grouped"))
    further = (
        named("qw-cps", asked(methods=("cps",))),
        named("qw-fixmatch", asked(methods=("fixmatch",))),
        named("qw-ict", asked(methods=("ict",))),
        DeclaredQuestion("rivals", "Is CPS + QW better?", (("cps+qw", "fixmatch+qw"),), both, ("unet",)),
    )
    found = analyse(collect([records]), suite=replace(suite, others=further)).answers
    assert found is not None
    answers = {one.question.name: one for one in found.others}
    assert answers["qw-ict"].estimate is None
    assert answers["qw-ict"].lacking == [
        f"{dataset}, n28@grouped, unet: {cell}, no record" for dataset in ("ph2", "scd") for cell in ("ict+qw", "ict")
    ]
    for method in ("cps", "fixmatch"):
        for dataset in ("ph2", "scd"):
            expected = np.mean([gain(dataset, method, seed) for seed in range(3)])
            assert mean_of(answers[f"qw-{method}"], dataset) == pytest.approx(expected)
    differences = [
        np.mean([gain(dataset, "cps", seed) - gain(dataset, "fixmatch", seed) for seed in range(3)])
        for dataset in ("ph2", "scd")
    ]
    assert mean_of(answers["rivals"]) == pytest.approx(np.mean(differences))
    assert all(one.estimate.p is None and one.verdict is None for one in found.others if one.estimate is not None)
    assert found.confirm[0].estimate is not None
    assert found.confirm[0].estimate.p is not None


def mean_of(answer: Answer, dataset: str = "") -> float:
    found = answer.by_dataset[dataset] if dataset else answer.estimate
    assert found is not None
    return found.mean


def test_a_question_may_compare_two_regimes_of_one_split_and_refuses_other_test_images(
    records: Path, suite: DeclaredSuite, tmp_path: Path
) -> None:
    for seed in range(3):
        for regime, images in (("all@grouped", None), ("n28@image", GROUP_DICE[:-1])):
            shared = {"dataset": "ph2", "method": "cps", "seed": seed, "regime": regime}
            make_record(tmp_path / regime, GROUP_DICE + 0.1 if images is None else images, **shared)
    whole = collect([records, tmp_path])
    others = tuple(
        DeclaredQuestion(regime, "Worth?", (("cps", "cps"),), {"ph2": (regime, "n28@grouped")}, ("unet",))
        for regime in ("all@grouped", "n28@image")
    )
    places = suite.places | {read_record(path).spec.place for path in tmp_path.rglob("record.json")}
    found = analyse(whole, suite=replace(suite, places=places, others=others)).answers
    assert found is not None
    headroom, leak = found.others
    assert mean_of(headroom) == pytest.approx(0.15)
    assert leak.estimate is None
    assert leak.lacking == ["ph2, n28@image, unet: cps : cps, refused: the test images differ"]


def test_questions_stand_in_every_report(records: Path, suite: DeclaredSuite, tmp_path: Path) -> None:
    further = (replace(asked(methods=("cps",)), name="qw-cps", text="Does QW change cps_or_*?"),)
    write_report(analyse(collect([records]), suite=replace(suite, others=further)), tmp_path, html=True)
    mean = 100 * np.mean([gain(dataset, "cps", seed) for dataset in ("ph2", "scd") for seed in range(3)])
    markdown = (tmp_path / "report.md").read_text()
    assert rf"| Does QW change cps\_or\_\*? | `qw-cps` | 1 | 2 | {mean:.2f} [" in markdown
    assert "| `qw-cps` | " in markdown
    assert r"Does QW change cps\_\allowbreak{}or" in (tmp_path / "report.tex").read_text()
    page = (tmp_path / "page" / "index.html").read_text().replace("<wbr>", "")
    assert "<bdi>Does QW change cps_or_*?</bdi>" in page
    assert f"{mean:.2f} [" in page
    assert "-" not in "".join(re.findall(r"<td class=\"num\">([^<]*)<", page)).replace("--", ""), (
        "minus signs are true ones"
    )
    told = json.loads((tmp_path / "report.json").read_text())["suite"]["questions"][0]
    assert told["name"] == "qw-cps"
    assert 100 * told["estimate"]["mean"] == pytest.approx(mean)
    assert told["by_dataset"].keys() == {"ph2", "scd"}


def test_a_shipped_suite_is_recognised_in_records_of_any_machine(tmp_path: Path) -> None:
    suite = declared(load_suite("small"))
    core = ("pseudo_label", "pseudo_label_confidence", "mean_teacher", "fixmatch", "unimatch")
    assert suite.confirm[0].pairs == tuple((f"{method}+qw", method) for method in core)
    teacher = "pseudo_label(method.labels_from=teacher,method.loss=bce_dice,method.threshold=0.0)"
    assert declared(load_suite("paper")).confirm[0].pairs[0] == (f"{teacher}+qw", teacher)
    headroom = next(question for question in suite.others if question.name == "headroom")
    assert headroom.regimes["isic2017"] == ("all@grouped", "n7@grouped")
    cell = {"protocol": "small", "protocol_version": suite.version, "dataset": "ph2", "method": "fixmatch"}
    for seed in range(2):
        make_record(tmp_path, GROUP_DICE, regime="n7@grouped", seed=seed, device="cuda", **cell)
    make_record(tmp_path / "former", GROUP_DICE, regime="n7@grouped", seed=2, **cell | {"protocol_version": 1})
    make_record(tmp_path / "other", GROUP_DICE, regime="n29@grouped", seed=0, **cell)
    found = analyse(collect([tmp_path]), suite=suite)
    assert found.answers is not None
    assert found.answers.missing == len(suite.places) - 2
    assert len(found.answers.absent) == 21, "the first cells are named, the others counted"
    assert re.fullmatch(r"and \d+ cells more", found.answers.absent[-1])


def test_a_report_that_withholds_every_p_says_that_it_tests_none() -> None:
    assert _counted({"twin": 0, "control": 0, "asked": 0}) == "none"
    assert _counted({"twin": 4, "control": 0, "asked": 0}) == "4 pairs of twins"
