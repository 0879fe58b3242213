import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from qgbench.base.errors import QGBenchError, UserError
from qgbench.run.record import Record, images_path, read_record, result_path
from qgbench.spec.protocol import load_protocol
from qgbench.trust import submit as submission
from qgbench.trust.submit import submit
from qgbench.trust.verify import verify_records
from tests.trust.test_verify import present, write_run

GOLDEN = Path(__file__).parents[1] / "golden/records"
RESULTS = Path(__file__).parents[2] / "results"
PLACE = "v2/small/ph2/n28@grouped/unet/fixmatch+qw/seed0.json"


SAID = submission._is_provisional


@pytest.fixture(autouse=True)
def declared_protocol() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "_is_provisional", lambda record: False)
        yield


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs/a", *present())


def rewrite(run: Path, **changes: Any) -> None:
    write_run(run, read_record(run).model_copy(update=changes), present()[1])


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_both_files_are_copied_as_they_are_to_their_place(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    json_file, csv_file, _ = submit(run, results)
    assert (json_file, csv_file) == (results / PLACE, (results / PLACE).with_suffix(".csv"))
    assert json_file.read_bytes() == (run / "record.json").read_bytes()
    assert csv_file.read_bytes() == (run / "images.csv").read_bytes()
    assert len(files_below(results)) == 3
    assert {fault.rule for fault in verify_records([results])} == {"twin"}


def test_audited_labels_are_copied_with_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", *present())
    kept = (run / "labels.csv").rename(tmp_path / "kept.csv")
    with pytest.raises(UserError, match=r"(?s)does not pass.*labels\.csv: audits"):
        submit(run, tmp_path / "results")
    shutil.copy(kept, run / "labels.csv")
    written = submit(run, tmp_path / "results")
    copied = written[0].with_name("seed0.labels.csv")
    assert written[1:] == [written[0].with_name("seed0.csv"), copied]
    assert copied.read_bytes() == (run / "labels.csv").read_bytes()
    assert {fault.rule for fault in verify_records([tmp_path / "results"])} == {"twin"}
    copied.unlink()
    assert {fault.rule for fault in verify_records([tmp_path / "results"])} == {"twin", "audits"}
    assert submit(run, tmp_path / "results") == written
    written[0].unlink()
    assert {fault.path for fault in verify_records([tmp_path]) if fault.rule == "pair"} == set(written[1:])


def test_the_same_again_is_said_and_changes_nothing(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = submit(run, tmp_path / "results")
    with caplog.at_level(logging.INFO, logger="qgbench"):
        assert submit(run, tmp_path / "results") == written
    assert "is there already, and is the same" in caplog.text


@pytest.mark.parametrize("missing", ["json", "csv"])
def test_half_a_pair_is_completed(run: Path, tmp_path: Path, missing: str) -> None:
    written = submit(run, tmp_path / "results")
    (tmp_path / "results" / PLACE).with_suffix(f".{missing}").unlink()
    assert submit(run, tmp_path / "results") == written
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize("missing", ["json", "csv"])
def test_a_full_disk_leaves_nothing_that_is_taken_for_a_record(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    original = submission.write_atomically

    def full(path: Path, data: bytes) -> None:
        if path.suffix == f".{missing}":
            raise QGBenchError(f"cannot write {path}: {os.strerror(errno.ENOSPC)}")
        original(path, data)

    monkeypatch.setattr(submission, "write_atomically", full)
    with pytest.raises(QGBenchError, match="No space left"):
        submit(run, tmp_path / "results")
    assert [file for file in files_below(tmp_path / "results") if file.endswith(".json")] == []
    monkeypatch.undo()
    submit(run, tmp_path / "results")
    assert len(files_below(tmp_path / "results")) == 3


def test_another_record_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    written = submit(run, tmp_path / "results")
    before = [path.read_bytes() for path in written]
    rewrite(run, peak_memory_mib=1.0)
    with pytest.raises(UserError, match=r"another record of the same cell and seed, and is not overwritten"):
        submit(run, tmp_path / "results")
    assert [path.read_bytes() for path in written] == before


def test_a_record_of_a_former_version_in_the_place_is_called_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1", tmp_path / "old")
    target = tmp_path / "results" / PLACE
    target.parent.mkdir(parents=True)
    (tmp_path / "old/record.json").rename(target)
    (tmp_path / "old/images.csv").rename(images_path(target))
    with pytest.raises(UserError, match=r", of version 1 of the protocol, and is not overwritten"):
        submit(run, tmp_path / "results")


def better(record: Record) -> dict[str, Any]:
    means = record.summary.means | {"dice": 0.99}
    return {"summaries": {"student": record.summary.model_copy(update={"means": means})}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (better, r"(?s)does not pass.*summary"),
        (
            lambda record: {"provenance": record.provenance.model_copy(update={"git_commit": "abc+dirty"})},
            r"commit abc does not hold.*--force",
        ),
        (
            lambda record: {"spec": record.spec.model_copy(update={"protocol_version": 1})},
            r"'small' version 1, and the present is \d+; run it anew",
        ),
        (
            lambda record: {"settings": record.settings | {"protocol": record.settings["protocol"] | {"g_version": 1}}},
            r"guided by the g of 'small' version 1, and the present is \d+; run it anew",
        ),
    ],
)
def test_what_cannot_be_trusted_is_refused(
    run: Path, tmp_path: Path, change: Callable[[Record], dict[str, Any]], message: str
) -> None:
    rewrite(run, **change(read_record(run)))
    with pytest.raises(UserError, match=message):
        submit(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_provisional_protocol_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_is_provisional", SAID)
    assert load_protocol("small").provisional, "when it is declared, this test and the fixture go"
    with pytest.raises(UserError, match="'small', which is provisional: it may still change"):
        submit(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_smoke_and_data_named_by_a_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scores mean nothing"):
        submit(write_run(tmp_path / "smoke", *present(protocol="smoke")), tmp_path / "results")
    with pytest.raises(UserError, match=r"by a path, '/data/own'"):
        submit(write_run(tmp_path / "path", *present(dataset="/data/own")), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_run_that_is_not_done_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "record.json").unlink()
    with pytest.raises(UserError, match="status: none, it is no run"):
        submit(run, tmp_path / "results")
    (run / "status").write_text("interrupted\n")
    with pytest.raises(UserError, match="status: interrupted"):
        submit(run, tmp_path / "results")


def test_a_method_that_does_not_ship_is_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(
        tmp_path / "run", *present(method="here/lab.py:Mine", source="ab" * 32, overrides={"train.lr": 0.5})
    )
    with caplog.at_level(logging.INFO, logger="qgbench"):
        target, *_ = submit(run, tmp_path / "results")
    assert target.parent.name.startswith("lab_Mine@")
    assert target.parent.name.endswith(",train.lr=0.5+qw")
    assert "outside code: the method 'here/lab.py:Mine' does not ship" in caplog.text
    other, _ = present(method="here/lab.py:Mine", source="cd" * 32)
    assert result_path(other).parent.name.partition(",")[0] != target.parent.name.partition(",")[0]


# Places


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"qg_mode": "none"}, "unet/fixmatch/seed0.json"),
        ({"qg_mode": "both", "qg_score": "shuffled", "seed": 3}, "unet/fixmatch+qw+qar-shuffled/seed3.json"),
        ({"encoder": "resnet34"}, "unet-resnet34/fixmatch+qw/seed0.json"),
        ({"overrides": {"method.threshold": 0.9}}, "unet/fixmatch,method.threshold=0.9+qw/seed0.json"),
        ({"overrides": {"qg.tau": 0.6}}, "unet/fixmatch+qw-qg.tau=0.6/seed0.json"),
    ],
)
def test_places_tell_cells_apart(changes: dict[str, Any], place: str) -> None:
    assert str(result_path(present(**changes)[0])) == f"v2/small/ph2/n28@grouped/{place}"


@pytest.mark.parametrize("name", ["../../etc", "a b", "a\nb", ".hidden", "x" * 300, "a/b", "a\\b", "a:b"])
def test_no_name_leaves_its_folder_or_meets_another(name: str) -> None:
    record, _ = present()
    path = result_path(record.model_copy(update={"spec": record.spec.model_copy(update={"dataset": name})}))
    assert len(path.parts) == 7
    assert path.parts[2].startswith(name[0] if name[0].isalnum() else "_")
    assert path.parts[2][-9] == "~"
    assert not {"/", "\\", ":", "\n", " "} & set(path.parts[2])


def test_a_run_is_not_changed_by_being_submitted(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    submit(run, tmp_path / "results")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def test_an_interrupt_between_the_two_files_leaves_no_record(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = submission.write_atomically
    monkeypatch.setattr(
        submission,
        "write_atomically",
        lambda path, data: (original if path.suffix == ".csv" else interrupt)(path, data),
    )
    with pytest.raises(KeyboardInterrupt):
        submit(run, tmp_path / "results")
    assert [fault.rule for fault in _after_completion(run, tmp_path, monkeypatch)] == ["twin"]


def _after_completion(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.undo()
    submit(run, tmp_path / "results")
    return verify_records([tmp_path / "results"])
