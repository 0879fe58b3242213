"""Records beside each other: one fact of one record is changed, and named once, where it is."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgbench.run.record import find_records, images_path, read_images, read_record, summarise, write_images
from qgbench.spec.suite import Block, load_suite
from qgbench.trust.near_copies import LIMIT, near_copies, telling
from qgbench.trust.verify import Fault, verify_records
from tests.trust.test_verify import averaged, present, write_result, write_run

RESULTS = Path(__file__).parents[2] / "results/v1/small"
CELL = "ph2/n7@grouped/unet"
ONE = f"v1/small/{CELL}/fixmatch+qw/seed1.json"


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """Records of protocol 2 as they are committed: three methods and their twins, three seeds, and nothing else."""
    for method in ("fixmatch", "fixmatch+qw", "mean_teacher", "mean_teacher+qw", "unimatch", "unimatch+qw"):
        shutil.copytree(RESULTS / CELL / method, tmp_path / "v1/small" / CELL / method)
    return tmp_path


def put(file: Path, where: str, value: Any) -> None:
    data = json.loads(file.read_text())
    *parents, last = where.split(".")
    reduce(lambda part, name: part[name], parents, data)[last] = value
    file.write_text(json.dumps(data))


def faults_of(folder: Path, severity: str = "fault") -> list[Fault]:
    return [fault for fault in verify_records([folder]) if fault.severity == severity]


def best(data: dict[str, Any]) -> None:
    data["others"]["best_val"]["dice"] -= 0.2


def later(data: dict[str, Any]) -> None:
    data["val_dice"][-1][1] = 0.999


@pytest.mark.parametrize(
    ("where", "value", "rule", "said"),
    [
        (
            "settings.method.threshold",
            0.9,
            "spec",
            "settings.method.threshold is 0.9, expected 0.95, the default of version 2",
        ),
        ("settings.protocol.train.lr", 0.01, "spec", "settings.protocol.train.lr is 0.01, expected 0.001, the default"),
        ("settings.protocol.qg.tau", 0.7, "spec", "settings.qg.tau is 0.7, expected 0.5, the default"),
        ("audit.synthetic.pearson", 0.999, "g", "audit.synthetic.pearson of ph2-n7-"),
        ("audit.image_dependence", 0.001, "g", "audit.image_dependence of ph2-n7-"),
    ],
)
def test_a_fact_that_other_records_of_its_kind_have_otherwise(
    committed: Path, where: str, value: Any, rule: str, said: str
) -> None:
    assert faults_of(committed) == []
    put(committed / ONE, where, value)
    found = [fault for fault in verify_records([committed]) if fault.rule in {"spec", "g"}]
    assert [(fault.path, fault.rule) for fault in found] == [(committed / ONE, rule)]
    assert said in found[0].text


def test_a_setting_that_all_records_of_a_former_version_have_otherwise(committed: Path) -> None:
    """Nobody else's record tells: the version's default does."""
    files = sorted(committed.glob("v1/small/*/*/*/fixmatch*/seed*.json"))
    assert len(files) == 6
    for file in files:
        put(file, "settings.method.threshold", 0.9)
    found = [fault for fault in verify_records([committed]) if fault.rule == "spec"]
    assert {fault.path for fault in found} == set(files)
    assert all("threshold is 0.9, expected 0.95, the default of version 2" in fault.text for fault in found)


@pytest.mark.parametrize(("change", "said"), [(best, "best_val.means.dice is -"), (later, "is higher after step")])
def test_a_best_step_that_the_curve_does_not_give(
    committed: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    records = [path for path in find_records(committed) if "best_val" in read_record(path).summaries]
    data = json.loads(records[0].read_text())
    change(data)
    records[0].write_text(json.dumps(data))
    (fault,) = faults_of(committed)
    assert (fault.path, fault.rule) == (records[0], "contradiction")
    assert said in fault.text


def test_an_override_is_what_the_settings_have(committed: Path) -> None:
    folder = next(RESULTS.glob("*/*/*/pseudo_label,method.*"))
    target = committed / folder.relative_to(RESULTS.parents[1])
    shutil.copytree(folder, target)
    assert faults_of(committed) == []
    put(target / "seed0.json", "settings.method.threshold", 0.5)
    (fault,) = faults_of(committed)
    assert (fault.path, fault.rule) == (target / "seed0.json", "spec")
    assert "settings.method.threshold is 0.5, expected 0.0, its override" in fault.text


def test_rows_of_another_method_with_a_few_pixels_changed_are_found(tmp_path: Path) -> None:
    record, images = present()
    write_run(tmp_path / "a", record, images)
    other, _ = present(method="unimatch")
    stream = np.random.default_rng(0)
    lost = np.minimum(stream.integers(0, 4, len(images)), images["n_tp"])
    touched = images.assign(n_tp=images["n_tp"] - lost, n_pred=images["n_pred"] - lost)
    ref, pred, tp = (touched[name] for name in ("n_ref", "n_pred", "n_tp"))
    touched = touched.assign(dice=2 * tp / (ref + pred), jaccard=tp / (ref + pred - tp), precision=tp / pred)
    touched = touched.assign(recall=tp / ref)
    write_run(tmp_path / "b", averaged(other, touched), touched)
    (fault,) = faults_of(tmp_path)
    assert (fault.rule, fault.path) == ("copied rows", tmp_path / "b/record.json")
    assert str(tmp_path / "a/record.json") in fault.text


def test_measurements_of_two_seeds_that_were_exchanged_are_found_in_both(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), *present(seed)) for seed in (0, 1)]
    assert faults_of(tmp_path) == []
    first, second = (read_images(run / "images.csv") for run in runs)
    for run, rows in zip(runs, (second, first), strict=True):
        write_images(run / "images.csv", rows)
        put(run / "record.json", "summaries.student", summarise(rows).model_dump())
    assert [(fault.rule, fault.path) for fault in faults_of(tmp_path)] == [("rows", run / "images.csv") for run in runs]


def test_last_seeds_that_a_suite_asks_for_are_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block(name="own", rows=("fixmatch", "fixmatch+qw"), regimes={"ph2": ("n28",)}, seeds=(0, 1, 2))
    suite = load_suite("small").model_copy(update={"block": (block,)})
    monkeypatch.setattr("qgbench.trust.verify_together.load_suite", lambda name: suite)
    monkeypatch.setattr("qgbench.trust.verify_together.suite_names", lambda: ["small"])
    for seed in (0, 1, 2):
        write_result(tmp_path, *present(seed, qg_mode="none"))
    for seed in (0, 1):
        write_result(tmp_path, *present(seed))
    (note,) = verify_records([tmp_path])
    assert (note.rule, note.severity) == ("gap", "note")
    assert note.text == "the suite 'small' asks for seed 2 of the cell as well"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"git_commit": "0" * 40}, "trained by another commit than its twin without the add-on"),
        ({"hardware": {"processor": "Z80"}}, "trained on another processor than its twin without the add-on"),
    ],
)
def test_twins_made_otherwise_are_noted(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    for seed in (0, 1, 2):
        write_result(tmp_path, *present(seed, qg_mode="none"))
        record, images = present(seed)
        source = record.provenance.model_copy(update=change if seed == 1 else {})
        target = write_result(tmp_path, record.model_copy(update={"provenance": source}), images)
    assert [(note.path, note.text, note.severity) for note in verify_records([tmp_path])] == [
        (target.with_name("seed1.json"), said, "note")
    ]


@cache
def nearest() -> float:
    """Return the largest share of images in which two committed records of different rows agree."""
    groups: dict[Any, list[np.ndarray]] = defaultdict(list)
    for path in find_records(RESULTS):
        rows = read_images(images_path(path)).sort_values("id")
        n_ref, n_pred, n_tp = rows[["n_ref", "n_pred", "n_tp"]].to_numpy(float).T
        told = telling(n_ref, n_pred, n_tp, (rows["height"] * rows["width"]).to_numpy(float))
        groups[tuple(rows["id"]), tuple(n_ref)].append(np.where(told, [n_pred, n_tp], np.nan))
    found = [pair for (_, ref), group in groups.items() for pair in near_copies(np.array(ref), group, limit=0.0)]
    assert len(found) > 2000
    return max(share for _, _, share in found if share < 1)


def test_no_committed_record_is_near_the_limit_of_copies() -> None:
    assert nearest() < 0.6 * LIMIT
