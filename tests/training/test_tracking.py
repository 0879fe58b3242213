"""Curves in a tracker are those of log.jsonl, each entry once, and no tracker can stop a run."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from qgbench.base.errors import UserError
from qgbench.engine.device import make_accelerator
from qgbench.training.tracking import require_tracker, tracking

ENTRIES = [
    {"step": 1, "total": 1.5, "lr": 1e-3},
    {"step": 2, "val_dice": 0.5, "val_q": None},
    {"step": 2, "total": 1.375},
    {"step": 11, "total": 1.25, "lr": 9e-4},
]
CURVES = {"total": [(1, 1.5), (2, 1.375), (11, 1.25)], "lr": [(1, 1e-3), (11, 9e-4)], "val_dice": [(2, 0.5)]}
CONFIG = {"method": "fixmatch", "seed": 0, "source": None, "overrides": {"method.threshold": 0.9, "x.y": [1, 2]}}
FLAT = {"id": "run-k0", "method": "fixmatch", "seed": 0, "source": "None"}
FLAT |= {"overrides.method.threshold": 0.9, "overrides.x.y": "[1, 2]"}


@pytest.fixture(autouse=True)
def accelerator() -> None:
    make_accelerator("cpu", "fp32", 1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "run-k0"
    folder.mkdir(parents=True)
    return folder


class Fake(GeneralTracker):
    """Keeps what it is told; fails when asked to."""

    name = "fake"
    requires_logging_directory = False
    made: list["Fake"]
    fails_at: str
    error: BaseException

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.told: list[Any] = [run_name]
        self.made.append(self)

    @property
    def tracker(self) -> None:
        return None

    def _act(self, what: str, told: Any = None) -> None:
        if self.fails_at == what:
            raise self.error
        self.told.append(what if told is None else told)

    def start(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ClearML, for one, handles signals itself
        self._act("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._act("configure", values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._act(f"step {step}", (step, values))

    def finish(self) -> None:
        self._act("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """A tracker that other code registered with accelerate."""
    Fake.made, Fake.fails_at, Fake.error = [], "", ConnectionError("no network\nat all")
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "fake", Fake)
    return Fake


def track_in_three_parts(name: str, folder: Path) -> None:
    with tracking(name, folder, CONFIG) as send:
        send(ENTRIES[:1])
        send(ENTRIES[:2])
        send(ENTRIES)


def test_configuration_and_every_number_are_sent_once(fake: type[Fake], run: Path) -> None:
    track_in_three_parts("fake", run)
    (tracker,) = fake.made
    entries = [(1, {"total": 1.5, "lr": 1e-3}), (2, {"val_dice": 0.5}), (2, {"total": 1.375})]
    entries.append((11, {"total": 1.25, "lr": 9e-4}))
    assert tracker.told == ["run-k0", "start", FLAT, *entries, "finish"]


@pytest.mark.parametrize("when", ["start", "configure", "step 2", "finish"])
@pytest.mark.parametrize("error", [ConnectionError("no network\nat all"), SystemExit("no key")])
def test_a_tracker_that_fails_is_warned_of_once_and_stops_nothing(
    fake: type[Fake], run: Path, caplog: pytest.LogCaptureFixture, when: str, error: BaseException
) -> None:
    fake.fails_at, fake.error = when, error
    with caplog.at_level(logging.WARNING, logger="qgbench"):
        track_in_three_parts("fake", run)
    (message,) = caplog.messages
    assert message.startswith(f"fake failed and gets no more curves: {type(error).__name__}: no ")
    assert "\n" not in message
    assert "finish" not in fake.made[0].told  # it may wait for what does not answer


def test_an_interrupt_is_not_taken_for_a_failure(fake: type[Fake], run: Path) -> None:
    fake.fails_at, fake.error = "step 2", KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        track_in_three_parts("fake", run)
    assert fake.made[0].told[-1] == "finish"


def test_signals_still_come_to_the_run(fake: type[Fake], run: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tracking("fake", run, CONFIG):
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_tracker_nothing_is_written(run: Path) -> None:
    with tracking(None, run, CONFIG) as send:
        send(ENTRIES)
    assert list(run.iterdir()) == []


def test_unknown_trackers_are_refused_with_those_of_the_installed_accelerate() -> None:
    with pytest.raises(UserError, match="Did you mean 'tensorboard'") as refusal:
        require_tracker("tensorbord")
    for name in LOGGER_TYPE_TO_CLASS:
        assert str(name) in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tensorboard", "pip install 'qgbench[tensorboard]'"),
        ("wandb", "pip install wandb"),
        ("comet_ml", "pip install comet-ml"),
    ],
)
def test_the_line_that_installs_a_missing_package_is_given(
    monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    monkeypatch.setattr("qgbench.training.tracking.find_spec", lambda name: None)
    with pytest.raises(UserError) as refusal:
        require_tracker(name)
    assert str(refusal.value).endswith(line)


# Real ones


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_has_each_curve_once_after_a_resumption_too(run: Path) -> None:
    with tracking("tensorboard", run, CONFIG) as send:
        send(ENTRIES[:3])
    assert events(run)["total"] == CURVES["total"][:2]
    # A process that continues sends all that its checkpoint knows.
    track_in_three_parts("tensorboard", run)
    assert events(run) == CURVES


def test_dvclive_has_each_curve_once_after_a_resumption_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvclive")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(run.parent)
    with tracking("dvclive", run, CONFIG) as send:
        send(ENTRIES[:3])
    track_in_three_parts("dvclive", run)
    for name, curve in CURVES.items():
        lines = (run / f"dvclive/plots/metrics/{name}.tsv").read_text().splitlines()
        assert [(int(step), float(value)) for step, value in map(str.split, lines[1:])] == curve
    assert "overrides.method.threshold: 0.9" in (run / "dvclive/params.yaml").read_text()
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_mlflow_has_a_run_for_each_process_the_last_one_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with tracking("mlflow", run, CONFIG) as send:
        send(ENTRIES[:3])
    track_in_three_parts("mlflow", run)
    client = mlflow.MlflowClient()
    (experiment,) = [found for found in client.search_experiments() if found.name == "qgbench"]
    whole, cut_off = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    assert whole.info.run_name == cut_off.info.run_name == "run-k0"
    assert whole.data.params["overrides.method.threshold"] == "0.9"

    def curves(of: str) -> dict[str, list[tuple[int, float]]]:
        return {
            name: [(point.step, point.value) for point in client.get_metric_history(of, name)]
            for name in CURVES
            if client.get_metric_history(of, name)
        }

    assert curves(whole.info.run_id) == CURVES
    assert curves(cut_off.info.run_id)["total"] == CURVES["total"][:2]
