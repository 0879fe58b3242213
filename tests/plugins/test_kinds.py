"""One registry of six kinds: what a package or a file brings of each is named, loaded and told apart."""

import re
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.launch.job import Job, carry_out
from qgbench.plugins.registry import BUILT_IN, KINDS, Kind, catalogue, kinds_of, load, resolve, source
from qgbench.quality.guide import QualityWeighting, make_guide
from qgbench.quality.scores import Score
from qgbench.run.carry_out import rehearse
from qgbench.run.carry_out import run as carry_out_run
from qgbench.run.record import read_images
from qgbench.run.request import make_spec, metrics_of
from qgbench.spec.addons import ADDONS, SCORES, addon_settings, needs_g, needs_score, needs_truth, settings_of
from qgbench.spec.arm import CONTROL_SCORES, CORRECTORS, AddOnName, Arm, short_name
from qgbench.spec.run_spec import RunSpec
from qgbench.trust.conformance import Finding
from qgbench.trust.conformance_of_plugins import findings

ROOT = Path(__file__).parents[2]
WRONG = """
import torch
from torch import Tensor

from qgbench.metrics.table import Metric
from qgbench.quality.guide import AddOn
from qgbench.quality.scores import Labelling, Score


class Doubled(AddOn):
    def weigh(self, labelling):
        return 2 * torch.ones(len(labelling.prob))


class Idle(AddOn):
    pass


class Undeclared(AddOn):
    def weigh(self, labelling):
        return self.score(labelling)


class Sharper(AddOn):
    def correct(self, image, prob):
        return 5 * prob


class Fickle(Score):
    def __call__(self, labelling):
        return torch.rand(len(labelling.prob))


negative = Metric(name="negative", label="Negative", measure=lambda pred, ref, spacing: -1.0)
worse = Metric(name="worse", label="Worse", measure=lambda pred, ref, spacing: float((pred != ref).any()))
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of docs/how-to/addon.md that has an add-on, a score and a metric."""
    text = (ROOT / "docs/how-to/addon.md").read_text()
    (block,) = re.findall(r"`parts\.py` has[^\n]*:\n\n```python\n(.*?)```", text, re.DOTALL)
    file = tmp_path_factory.mktemp("lab") / "parts.py"
    file.write_text(block)
    return str(file)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("lab") / "wrong.py"
    file.write_text(WRONG)
    return str(file)


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_loads_and_is_of_its_kind(kind: Kind) -> None:
    names = [known.name for known in catalogue(kind).entries if known.origin == BUILT_IN]
    assert len(names) > 1
    for name in names:
        assert load(kind, name) is load(kind, name)
        assert source(kind, name) == ""
    with pytest.raises(UserError, match=f"unknown {kind} 'nosuch'. Known: "):
        load(kind, "nosuch")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_of_another_kind_is_refused(kind: Kind, parts: str) -> None:
    with pytest.raises(UserError, match=rf"is no {kind}: a .* is expected|unknown {kind} of .* 'bias'"):
        load(kind, f"{parts}:bias")


@pytest.mark.parametrize(("kind", "name"), [("addon", "Capped"), ("score", "Sharpness"), ("metric", "area_error")])
def test_a_file_brings_one_of_each(kind: Kind, name: str, parts: str) -> None:
    assert resolve(kind, name, [parts]) == f"{parts}:{name}"
    assert load(kind, parts) is not None
    assert kinds_of(name, [parts]) == [(kind, f"{parts}:{name}")]
    assert len(source(kind, f"{parts}:{name}")) == 64


def spec_of(arm: Arm) -> RunSpec:
    return make_spec("smoke", "phantom", "n12", arm, device="cpu")


def test_an_arm_of_ones_own_is_named_and_told_apart(parts: str, tmp_path: Path) -> None:
    asked = Arm(method="fixmatch", qg_mode=f"{parts}:Capped", qg_score=f"{parts}:Sharpness")
    spec = spec_of(asked)
    assert not spec.needs_g
    capped = spec_of(asked.model_copy(update={"overrides": {"qg.cap": 0.4}}))
    default = spec_of(asked.model_copy(update={"overrides": {"qg.cap": 0.5}}))
    assert spec.id == default.id != capped.id
    assert capped.addon == f"{short_name(f'{parts}:Capped')}-{short_name(f'{parts}:Sharpness')}-qg.cap=0.4"
    assert not AddOnName.parse(capped.addon).is_control, "only a control that ships stands in the place of g"
    (addon,) = make_guide(capped, None, 0).modes
    assert addon.settings.model_dump() == {"cap": 0.4}
    changed = tmp_path / "parts.py"
    changed.write_text(Path(parts).read_text() + "\n# changed\n")
    other = spec_of(Arm(method="fixmatch", qg_mode=f"{changed}:Capped", qg_score=f"{changed}:Sharpness"))
    assert (other.arm, other.addon_source) != (spec.arm, spec.addon_source)
    by_g = spec_of(Arm(method="fixmatch", qg_mode=f"{parts}:Capped"))
    assert by_g.needs_g, "what weighs by g needs one"


def test_several_add_ons_are_joined_and_each_setting_reaches_its_own(parts: str) -> None:
    arm = Arm(method="fixmatch", qg_mode=f"qw+{parts}:Capped", overrides={"qg.cap": 0.3, "qg.tau": 0.2})
    assert [own.model_dump() for own in addon_settings(arm)] == [{"tau": 0.2, "temperature": 2.0}, {"cap": 0.3}]
    with pytest.raises(UserError, match=r"unknown setting 'qg.capp'. Did you mean 'qg.cap'"):
        addon_settings(arm.model_copy(update={"overrides": {"qg.capp": 1}}))


@pytest.mark.parametrize(
    ("mode", "setting", "said"),
    [
        (
            "qar",
            "qg.tau",
            "qg.tau is a setting of qw, not of qar, which has: qg.lambda_qar, qg.qar_warmup, qg.qar_ramp.",
        ),
        ("qw", "qg.qar_ramp", "qg.qar_ramp is a setting of qar, not of qw, which has: qg.tau, qg.temperature."),
    ],
)
def test_a_setting_of_another_add_on_is_refused_with_its_owner(mode: str, setting: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        addon_settings(Arm(method="fixmatch", qg_mode=mode, overrides={setting: 0.5}))


OWN_TAU = """
import torch
from qgbench.quality.guide import AddOn, AddOnSettings
from torch import Tensor


class Tidy(AddOn):
    '''Labels cleared of what is less certain than a threshold; it asks neither a score nor g.'''

    class Settings(AddOnSettings):
        tau: float = 0.9

    settings: Settings

    def correct(self, image: Tensor, prob: Tensor) -> Tensor:
        return torch.where((prob - 0.5).abs() < self.settings.tau - 0.5, 0.5, prob)
"""


def test_a_setting_named_as_qws_is_the_add_ons_own(tmp_path: Path) -> None:
    """QW's tau is 0.5: that value is another one than Tidy's default, and the two cannot be had together."""
    file = tmp_path / "tidy.py"
    file.write_text(OWN_TAU)
    tidy = Arm(method="fixmatch", qg_mode=str(file))
    other, default = (
        spec_of(tidy.model_copy(update={"overrides": {"qg.tau": value}}))
        for value in (QualityWeighting.Settings().tau, 0.9)
    )
    assert (other.overrides, default.overrides) == ({"qg.tau": 0.5}, {})
    assert other.id != default.id
    (addon,) = make_guide(other, None, 0).modes
    assert addon.settings.model_dump() == {"tau": 0.5}
    assert addon.score is None
    with pytest.raises(UserError, match=r"both have a setting qg\.tau"):
        addon_settings(Arm(method="fixmatch", qg_mode=f"qw+{file}"))


def test_one_arm_has_one_id() -> None:
    asked = [spec_of(Arm(method="fixmatch", qg_mode=mode)) for mode in ("both", "qw+qar", "qar+qw")]
    assert len({spec.id for spec in asked}) == 1
    assert {spec.qg_mode for spec in asked} == {"both"}
    with pytest.raises(UserError, match="names one add-on twice"):
        Arm(method="fixmatch", qg_mode="qw+qw")


def test_of_what_ships_is_said_what_its_class_says() -> None:
    for name in ADDONS:
        assert needs_score(name) == load("addon", name).needs_score
        assert settings_of(name) is load("addon", name).Settings
    for name in SCORES:
        assert needs_truth(name) == load("score", name).needs_truth


def test_controls_are_the_scores_that_ship() -> None:
    assert set(SCORES) == {"g", "pixel", "both", *CONTROL_SCORES}


def test_what_asks_the_predictor_and_which_is_said_as_by_the_classes() -> None:
    for name in SCORES:
        arm, kind = Arm(method="fixmatch", qg_mode="qw", qg_score=name), load("score", name)
        assert (arm.needs_g, arm.form) == (kind.needs_g, kind.form)
        assert (name in CORRECTORS) == (kind.refined is not Score.refined)
    for name in ADDONS:
        assert needs_g(name) == load("addon", name).needs_g


def test_metrics_have_names_of_their_own(parts: str, wrong: str) -> None:
    (metric,) = metrics_of([f"{parts}:area_error", f"{parts}:area_error"])
    assert (metric.name, len(metric.source)) == ("area_error", 64)
    with pytest.raises(UserError, match="measured already"):
        metrics_of(["dice"])


TAKEN = """
from qgbench.metrics.table import Metric

globals()["{name}"] = Metric(name="{name}", label="Ratio"{more})
"""
MEASURED = ", measure=lambda pred, ref, spacing: 1.0"


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("dice", MEASURED, "the metric 'dice' is called as another column is"),
        ("status", MEASURED, "the metric 'status' is called as another column is"),
        ("hd95_percent", MEASURED, "the metric 'hd95_percent' is called as another column is"),
        ("ratio", "", "the metric 'ratio' says no way to measure it"),
    ],
)
def test_check_and_run_refuse_the_same_metrics(name: str, more: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(TAKEN.format(name=name, more=more))
    (finding,) = (finding for finding in findings(str(file)) if not finding.passed)
    assert finding.detail.startswith(message)
    with pytest.raises(UserError, match=message):
        metrics_of([str(file)])


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("", MEASURED, "name: String should match pattern"),
        ("a,b", MEASURED, "name: String should match pattern"),
        ("ratio", f"{MEASURED}, one_empty=7.0", "one_empty: Value error, 7.0 is not from 0 to 1.0"),
        ("ratio", f"{MEASURED}, both_empty=-1.0", "both_empty: Value error, -1.0 is not from 0 to 1.0"),
        ("ratio", f"{MEASURED}, percent_of='hd95'", "measure: Value error, a metric that is another one in per cent"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_where_it_is_written(
    name: str, more: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "taken.py"
    file.write_text(TAKEN.format(name=name, more=more))
    with pytest.raises(UserError, match=f"cannot be imported: ValidationError: {message}"):
        load("metric", str(file))


def test_a_metric_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(TAKEN.format(name="ratio", more=", measure=lambda pred, ref, spacing: 1 / 0"))
    (finding,) = (finding for finding in findings(str(file)) if not finding.passed)
    assert finding.detail == "the metric 'ratio' failed: ZeroDivisionError: division by zero (taken.py, line 4)."
    file.write_text(TAKEN.format(name="ratio", more=", measure=lambda pred, ref, spacing: None"))
    (finding,) = (finding for finding in findings(str(file)) if not finding.passed)
    assert finding.detail == "the metric 'ratio' gives None; expected a number."


UNPACKED = ", measure=lambda pred, ref, spacing: 1.0 * spacing[0] / max(spacing[0], (lambda h, w: w)(*pred.shape))"
REFUSED = """
from qgbench.base.errors import UserError
from qgbench.metrics.table import Metric


def measure(pred, ref, spacing):
    if pred.ndim == 3:
        raise UserError("ratio is of pictures [2D] alone")
    return 1.0


ratio = Metric(name="ratio", label="Ratio", measure=measure)
"""


def test_a_metric_is_asked_of_volumes_too(tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(TAKEN.format(name="ratio", more=UNPACKED))
    found = list(findings(str(file)))
    (finding,) = (finding for finding in found if not finding.passed)
    assert finding.rule == "it is in its range for masks that overlap in a volume"
    assert re.match(
        r"the metric 'ratio' failed: TypeError: .* \(taken\.py, line \d+\); write it for any", finding.detail
    )
    assert finding.detail.endswith("or refuse volumes with a message (a UserError)")
    file.write_text(REFUSED)
    found = list(findings(str(file)))
    assert all(finding.passed for finding in found)
    assert found[-1].rule == "it refuses volumes with a message: ratio is of pictures [2D] alone"


@pytest.mark.parametrize("text", [REFUSED, UNPACKED])
def test_a_run_on_volumes_refuses_a_metric_of_pictures_before_it_trains(text: str, tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(text if text == REFUSED else TAKEN.format(name="ratio", more=text))
    assert [metric.name for metric in metrics_of([str(file)])] == ["ratio"]
    with pytest.raises(UserError, match=r"the metric 'ratio' cannot be measured on volumes: .*ratio"):
        metrics_of([str(file)], volumes=True)
    spec = make_spec("smoke", "phantom3d", "n3patients", Arm(method="supervised"), device="cpu")
    for begin in (carry_out_run, rehearse):
        with pytest.raises(UserError, match="cannot be measured on volumes"):
            begin(spec, tmp_path / "runs", metrics=[str(file)])
    assert not list(tmp_path.glob("runs/*/record.json"))


def test_a_broken_metric_of_a_package_stops_only_who_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    info = tmp_path / "lab-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[qgbench.metrics]\nbroken = brokenlab:ratio\nratio = soundlab:ratio\nother = soundlab:ratio\n"
    )
    (tmp_path / "brokenlab.py").write_text("import nosuchthing\n")
    (tmp_path / "soundlab.py").write_text(TAKEN.format(name="ratio", more=MEASURED))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [metric.name for metric in metrics_of([])] == ["ratio"]
    warning, misnamed = caplog.messages
    assert misnamed.endswith("is left out: other is named 'ratio' within; give it one name.")
    assert warning.startswith("the metric 'broken' of package lab 1.2 (brokenlab:ratio) is left out: ")
    assert "No module named 'nosuchthing'" in warning
    with pytest.raises(UserError, match="nosuchthing"):
        metrics_of(["broken"])


@pytest.mark.slow
@pytest.mark.usefixtures("brief_runs")
def test_a_job_of_a_suite_measures_the_metrics_of_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    info = tmp_path / "lab-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[qgbench.metrics]\nratio = ratiolab:ratio\n")
    (tmp_path / "ratiolab.py").write_text(TAKEN.format(name="ratio", more=MEASURED))
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = spec_of(Arm(method="supervised", overrides={"train.steps": 2}))
    job = Job(kind="run", name=spec.id, spec=spec, output=tmp_path / "runs")
    carry_out(job)
    record = job.folder.record()
    assert record is not None
    assert record.summary.means["ratio"] == 1.0
    assert (read_images(job.folder.path / "images.csv", ["ratio"])["ratio"] == 1).all()


@pytest.mark.parametrize("name", ["Capped", "Sharpness", "area_error"])
def test_a_sound_part_keeps_every_rule(name: str, parts: str) -> None:
    found = list(findings(f"{parts}:{name}"))
    assert len(found) >= 4
    assert all(finding.passed for finding in found), found


@pytest.mark.parametrize("kind", ["addon", "score"])
def test_every_shipped_part_keeps_every_rule(kind: Kind) -> None:
    for known in catalogue(kind).entries:
        assert all(finding.passed for finding in findings(known.name)), known.name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Doubled", "its weights are one for each pseudo-label, in [0, 1]"),
        ("Idle", "it changes the student"),
        ("Sharper", "a corrected label has the label's shape and holds probabilities, in [0, 1]"),
        ("Fickle", "it draws no random numbers of the training's"),
        ("Fickle", "from the same state it gives the same"),
        ("negative", "it is in its range for masks that overlap"),
        ("worse", "equal masks are not worse than others"),
    ],
)
def test_a_part_that_breaks_a_rule_is_found(name: str, rule: str, wrong: str) -> None:
    broken = [finding for finding in findings(f"{wrong}:{name}") if not finding.passed]
    assert rule in [finding.rule for finding in broken]


def test_an_add_on_that_uses_what_it_did_not_ask_for_is_found(wrong: str) -> None:
    found = next(finding for finding in findings(f"{wrong}:Undeclared") if not finding.passed)
    assert found.detail.startswith("add-on Undeclared: weigh failed: TypeError: ")
    assert found.detail.endswith("(wrong.py, line 21).")


def test_what_cannot_be_checked_is_said(parts: str) -> None:
    def run(name: str) -> list[Finding]:
        return list(findings(name))

    with pytest.raises(UserError, match=r"several things .*parts\.py:Capped, .*parts\.py:Sharpness, .*area_error"):
        run(parts)
    with pytest.raises(UserError, match=r"unknown method 'fixmtch'. Did you mean 'fixmatch'"):
        run("fixmtch")
    with pytest.raises(UserError, match="'dice' ships with qgbench"):
        run("dice")
