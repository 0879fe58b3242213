"""kill -9 at random moments: the same command continues, and the record is the uninterrupted run's in every number."""

import random
import shutil
import time
from pathlib import Path

import pytest
import torch

from qgbench.run.record import Record, read_record
from tests.commands import QUICK_G, RUN, Command, only_run, small_data

pytestmark = pytest.mark.slow

KILLS = 2  # of each method's run
RUNS = {  # between them: a teacher, g, both add-ons, a score that draws; two networks, and arithmetic without autocast
    "mean_teacher": ["--qg-mode", "both", "--qg-score", "shuffled", "--set", "qg.qar_warmup=0.1", *QUICK_G],
    "cps": ["--precision", "fp32"],
}


def numbers(record: Record) -> dict[str, object]:
    """Everything but wall-clock, memory, date, and the state of the checkout."""
    unlike = {"times": True, "peak_memory_mib": True, "provenance": {"created", "git_commit"}}
    return record.model_dump(exclude=unlike)


def leaves(state: object, name: str = "") -> dict[str, object]:
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in leaves(value, f"{name}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in leaves(value, f"{name}/{i}").items()}
    return {name: state.numpy().tobytes() if isinstance(state, torch.Tensor) else state}


@pytest.fixture(scope="module", autouse=True)
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Start the fork server, which imports torch, before the first run is timed."""
    home = tmp_path_factory.mktemp("warm")
    assert Command(["--version"], home / "said", home).finish() == 0


@pytest.mark.parametrize("method", list(RUNS))
def test_kills_change_no_number(method: str, tmp_path: Path) -> None:
    words = [*RUN, "--dataset", str(small_data(tmp_path / "mine")), "--method", method, *RUNS[method]]
    begin = time.monotonic()
    command = Command([*words, "--output", str(tmp_path / "whole")], tmp_path / "said", tmp_path / "cache")
    assert command.finish() == 0, command.said()
    whole_seconds = time.monotonic() - begin
    output, cache = tmp_path / "killed", tmp_path / "other_cache"
    moment = random.Random(method)
    kills = 0
    while kills < KILLS:
        command = Command([*words, "--output", str(output)], tmp_path / "said", cache)
        command.process.join(moment.uniform(0.05, 0.8) * whole_seconds)
        if command.process.exitcode is not None:  # finished before its time came: everything anew
            assert command.process.exitcode == 0, command.said()
            shutil.rmtree(output)
            continue
        command.process.kill()
        command.process.join()
        kills += 1
    command = Command([*words, "--output", str(output)], tmp_path / "said", cache)
    assert command.finish() == 0, command.said()
    whole, killed = only_run(tmp_path / "whole").path, only_run(output).path
    assert numbers(read_record(killed)) == numbers(read_record(whole))
    assert not list(output.rglob(".*.partial"))
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names
    for name in names:
        if name.startswith(("images", "predictions", "log.jsonl")):
            assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = (
        leaves(torch.load(path / "last.pt", weights_only=True)["state"]["trainer"]) for path in (killed, whole)
    )
    assert ours == theirs
    predictors = sorted((tmp_path / "whole" / "predictors").glob("*/predictor.safetensors"))
    assert len(predictors) == (1 if method == "mean_teacher" else 0)
    for path in predictors:
        assert (output / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
