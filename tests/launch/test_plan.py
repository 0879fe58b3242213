"""From a suite to jobs: what is shared is made once, and everything that is unknown is named at once."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pandas as pd
import pytest

from qgbench.base.errors import AbsentDataError, QGBenchError, UserError
from qgbench.data.splits import split_fingerprint
from qgbench.launch.job import Job
from qgbench.launch.plan import Plan, load_plan, make_plan, require_same_data
from qgbench.run.record import read_record, write_record
from qgbench.spec.protocol import load_protocol
from qgbench.spec.suite import load_suite, suite_names
from tests.cli.test_main import ARCH
from tests.spec.test_suite import TINY, written

RUNS = TINY.partition("[[confirm]]")[0] + TINY.partition("# further questions")[2]  # and nothing asked of them
GOLDEN = Path(__file__).parents[1] / "golden/records/v1"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(load_suite("smoke"), tmp_path_factory.mktemp("runs"), None, "cpu")


def test_what_runs_share_is_planned_once_and_before_its_first_user(smoke: Plan) -> None:
    assert Counter(job.kind for job in smoke.jobs) == {"data": 1, "g": 2, "run": 10}
    names = [job.name for job in smoke.jobs]
    for job in smoke.jobs:
        assert all(names.index(need) < names.index(job.name) for need in job.needs)
    with_g = {job.words.split(" on ")[0] for job in smoke.runs if any(need.startswith("g-") for need in job.needs)}
    assert with_g == {"supervised+qar", "fixmatch+qw"}, "a control by confidence asks no g"
    assert {job.spec.threads for job in smoke.jobs} == {1}
    assert {smoke.blocks[job.name] for job in smoke.runs} == {"core", "controls"}


def test_one_predictor_serves_a_budget_whatever_the_pool_and_another_setting_of_it_makes_another(
    tmp_path: Path,
) -> None:
    text = RUNS.replace('phantom = ["n12"]', 'ph2 = ["n28", "n28+isic_pool", "n56"]\nphantom = ["n12"]').replace(
        "qg.tau", "quality.steps"
    )
    plan = make_plan(load_suite(written(tmp_path, text.replace("0.5, 0.9", "24, 12"))), tmp_path, None, "cpu")
    predictors = [job.words for job in plan.jobs if job.kind == "g"]
    where = ("ph2 n28@grouped", "ph2 n56@grouped", "phantom n12@grouped")
    each = [f"g on {place}, seed {seed}" for place in where for seed in (0, 1)]
    half_the_steps = "g on phantom n12@grouped, seed 0"
    assert sorted(predictors) == sorted([*each, half_the_steps])
    data = [job.words for job in plan.jobs if job.kind == "data"]
    assert data == ["ph2 at 64 px", "isic_pool at 64 px", "phantom at 64 px"]


def test_another_version_of_g_makes_other_jobs_of_g_and_of_what_it_guides(
    smoke: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = load_protocol("smoke").model_copy(update={"g_version": 99})
    monkeypatch.setattr("qgbench.spec.run_spec.load_protocol", lambda name: newer)
    names = {job.name for job in make_plan(load_suite("smoke"), tmp_path, None, "cpu").jobs}
    asks_g = {job.name for job in smoke.jobs if job.kind == "g" or any(need.startswith("g-") for need in job.needs)}
    assert {job.name for job in smoke.jobs} - names == asks_g


def test_everything_that_a_suite_names_and_nobody_knows_is_listed_at_once(tmp_path: Path) -> None:
    text = TINY.replace('method = "pseudo_label"', 'method = "pseudo_lable"')
    text = text.replace('phantom = ["n12"]', 'phantom = ["n12"]\nph3 = ["n28+isic_pol"]')
    text = text.replace("seeds = [0]", 'seeds = [0]\narchs = ["unnet"]').replace("qg.tau", "qg.taw")
    with pytest.raises(UserError) as failure:
        make_plan(load_suite(written(tmp_path, text)), tmp_path, None, "cpu")
    said = str(failure.value)
    named = ("'pseudo_lable'", "'ph3'. Did you mean 'ph2'", "'isic_pol'", "'unnet'. Did you mean 'unet'")
    for part in (*named, "'qg.taw'. Did you mean 'qg.tau'"):
        assert said.count(part) == 1


def test_an_add_on_or_score_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    for row, said in (
        ("fixmatch+wq", "unknown addon 'wq'"),
        ("fixmatch+qw-shufled", "'shufled'. Did you mean 'shuffled'"),
    ):
        text = TINY.replace('"fixmatch+qw"', f'"fixmatch+qw", "{row}"', 1)
        with pytest.raises(UserError, match=re.escape(said)):
            make_plan(load_suite(written(tmp_path, text)), tmp_path, None, "cpu")


def test_a_suite_names_data_sets_as_every_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    by_path = TINY.replace('phantom = ["n12"]', 'phantom = ["n12"]\n"./mine" = ["n12"]')
    assert "./mine at 64 px" in {
        job.words for job in make_plan(load_suite(written(tmp_path, by_path)), tmp_path, None, "cpu").jobs
    }
    with pytest.raises(UserError, match=r"'mine' is no data set that is known; .* type \./mine"):
        make_plan(load_suite(written(tmp_path, by_path.replace("./mine", "mine"))), tmp_path, None, "cpu")


def test_a_row_that_repeats_a_default_is_refused_because_its_record_would_not_say_so(tmp_path: Path) -> None:
    text = TINY.replace('"method.threshold" = 0.8', '"method.threshold" = 0.9')
    with pytest.raises(UserError, match=r"row 'sharp': method\.threshold repeats the default"):
        make_plan(load_suite(written(tmp_path, text)), tmp_path, None, "cpu")


def test_qw_for_a_method_without_pseudo_labels_is_refused(tmp_path: Path) -> None:
    text = TINY.replace('"sharp"]', '"sharp", "supervised+qw"]')
    with pytest.raises(UserError, match="'supervised' makes no pseudo-labels"):
        make_plan(load_suite(written(tmp_path, text)), tmp_path, None, "cpu")


def test_only_keeps_the_runs_that_are_named_and_what_they_need(smoke: Plan) -> None:
    kept = smoke.only(["fixmatch+qw-confidence"])
    assert [job.kind for job in kept.jobs] == ["data", "run", "run"]
    assert [job.kind for job in smoke.only(["supervised+qar on phantom n12@grouped, unet, seed 1"]).jobs] == [
        "data",
        "g",
        "run",
    ]
    assert len(smoke.only(["controls", "supervised"]).runs) == 6
    assert smoke.only([]) == smoke
    with pytest.raises(UserError, match="no run of the suite smoke has ph2"):
        smoke.only(["ph2"])


def test_a_suite_does_not_count_runs_that_are_done_with_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(load_suite("smoke"), tmp_path, None, "cpu").only(["fixmatch on"])
    record = read_record(GOLDEN)
    for job in plan.runs:
        write_record(job.folder.path, record)
    split = pd.DataFrame({"id": ["a"], "group": ["a"], "split": ["test"]})
    provenance = record.provenance.model_copy(update={"split": split_fingerprint(split)})
    write_record(plan.runs[0].folder.path, record.model_copy(update={"provenance": provenance}))
    opened: list[str] = []

    def open_data(dataset: str, *_: object, **__: object) -> SimpleNamespace:
        opened.append(dataset)
        return SimpleNamespace(fingerprint=provenance.data, split=split)

    monkeypatch.setattr("qgbench.data.run_data.open_run_data", open_data)
    others = len(plan.runs) - 1
    assert others > 0
    with pytest.raises(UserError, match=f"^{others} of the runs were finished with other images, masks or splits than"):
        require_same_data(plan)
    assert opened == ["phantom"], "once for all of them"
    require_same_data(plan.model_copy(update={"jobs": (plan.runs[0],)}))

    def absent(*_: object, **__: object) -> NoReturn:
        raise AbsentDataError("there is no folder")

    monkeypatch.setattr("qgbench.data.run_data.open_run_data", absent)
    require_same_data(plan)
    assert caplog.messages == ["the data were not looked at, so nothing was compared with them: there is no folder"]


def test_a_tracker_that_no_run_would_take_is_refused_when_the_suite_is_planned(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown tracker 'nosuch'"):
        make_plan(load_suite("smoke"), tmp_path, None, "cpu", "nosuch")


def test_a_plan_is_kept_beside_the_runs_for_other_terminals(smoke: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not begun"):
        load_plan("smoke", tmp_path)
    smoke.save(tmp_path)
    assert load_plan("smoke", tmp_path) == smoke
    with pytest.raises(UserError, match="begun there: smoke"):
        load_plan("small", tmp_path)
    (tmp_path / "suites" / "smoke.json").write_text('{"suite": ', encoding="utf-8")
    with pytest.raises(UserError, match="Remove it"):
        load_plan("smoke", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(QGBenchError, match="cannot write"):
        smoke.save(tmp_path / "file")


def test_a_job_travels_as_json(smoke: Plan) -> None:
    for job in smoke.jobs:
        assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_can_be_planned_without_their_data_and_have_as_many_runs_as_documented(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    plan = make_plan(load_suite(name), tmp_path, None, "cpu")
    documented = (Path(__file__).parents[2] / "docs" / "how-to" / "suite.md").read_text(encoding="utf-8")
    (runs,) = re.findall(rf"^\| `{name}` \| (\d+) \|", documented, re.MULTILINE)
    assert len(plan.runs) == int(runs)
    assert not list(tmp_path.iterdir())


# Classes and volumes


def test_an_arch_of_one_class_is_refused_for_a_data_set_of_several(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(ARCH)
    block = f'seeds = [0, 1]\narchs = ["{tmp_path / "nets.py"}:flat"]\nset = {{ encoder_weights = "none" }}'
    text, _, _ = RUNS.replace("seeds = [0, 1]", block).rpartition("[[block]]")
    assert make_plan(load_suite(written(tmp_path, text)), tmp_path, None, "cpu").runs
    both = text.replace('phantom = ["n12"]', 'phantom = ["n12"]\nphantom3d = ["n2patients"]')
    with pytest.raises(UserError, match=r"nets\.py:flat' segments one class, and there are 3"):
        make_plan(load_suite(written(tmp_path, both)), tmp_path, None, "cpu")


def test_regimes_that_count_what_a_data_set_has_not_are_listed(tmp_path: Path) -> None:
    wrong = """
phantom = ["n12", "n2patients"]
phantom3d = ["n2", "p10", "n2patients@image", "n2patients"]
"""
    text = RUNS.replace('\nphantom = ["n12"]\n', wrong)
    with pytest.raises(UserError) as failure:
        make_plan(load_suite(written(tmp_path, text)), tmp_path, None, "cpu")
    assert str(failure.value).splitlines()[1:] == [
        "  regime 'n2patients@grouped': 'phantom' is pictures, whose budget counts images; write 'n2@grouped'.",
        "  regime 'n2@grouped': 'phantom3d' is volumes, whose budget counts patients; write 'n2patients@grouped'.",
        "  regime 'p10@grouped': of volumes a number of patients has labels, not a share of the slices; give a number "
        "(--labelled 7), or all.",
        "  regime 'n2patients@image': 'phantom3d' is volumes, and slices of one would be trained and tested on; write "
        "'n2patients@grouped'.",
    ]


def test_a_metric_or_class_that_nobody_knows_is_listed(tmp_path: Path) -> None:
    asked = TINY.replace('phantom = ["n12"]', 'phantom3d = ["n2patients"]')
    for metric, regimes, said in (
        ("dice:nosuch", asked, r"unknown class 'nosuch'.*lv, myo, rv.*'phantom3d'"),
        ("dize:lv", asked, r"unknown metric 'dize'. Did you mean 'dice'"),
        ("dice:lesion", TINY, r"'dice:lesion' is of a class, and 'phantom' has only one"),
    ):
        text = regimes.replace('"smoke"', f'"smoke"\nmetric = "{metric}"')
        with pytest.raises(UserError, match=said):
            make_plan(load_suite(written(tmp_path, text)), tmp_path, None, "cpu")
    known = asked.replace('"smoke"', '"smoke"\nmetric = "hd95:lv"')
    assert make_plan(load_suite(written(tmp_path, known)), tmp_path, None, "cpu").runs
