"""The main job from end to end, on the protocol `smoke`: runs, twins, records, resumption, report."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from qgbench.cli.main import app
from qgbench.data.cache import prepare
from qgbench.data.readers import open_source
from qgbench.engine.checkpoint import Checkpoints
from qgbench.metrics.masks import measure
from qgbench.metrics.table import IMAGE_COLUMNS
from qgbench.quality.audit import LABEL_COLUMNS, audits_of
from qgbench.run.folder import RunFolder
from qgbench.run.predictions import read_predictions
from qgbench.run.record import Record, read_images, read_labels, read_record, summarise, write_record
from qgbench.spec.task import Task
from qgbench.trust.verify import verify_records
from tests.commands import BRIEF

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief_runs")]

QUICK = ["--protocol", "smoke", "--threads", "1", "--steps", "8", "--set", "method.threshold=0.5"]
QUICK_G = ["--set", "quality.steps=6", "--set", "quality.weak_epochs=[1,2]", "--set", "quality.weak_epoch_min_steps=1"]


def run(output: Path, *options: str, quick: list[str] = QUICK) -> tuple[Path, str]:
    result = CliRunner().invoke(app, ["run", *quick, "--output", str(output), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = Path(result.stdout.split("record: ")[1].splitlines()[0]).parent
    return folder, result.stdout


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(output: Path) -> tuple[Path, str]:
    return run(output, "--method", "fixmatch", "--arch", "unet")


@pytest.fixture(scope="module")
def guided(output: Path, base: tuple[Path, str]) -> tuple[Path, str]:
    """After its twin, which it compares itself with."""
    return run(output, "--method", "fixmatch", "--qg", "--arch", "unet", *QUICK_G)


@pytest.fixture(scope="module")
def neutral(output: Path, base: tuple[Path, str]) -> tuple[Path, str]:
    """With weights of one, after the run without weights."""
    return run(output, "--method", "fixmatch", "--qg", "--qg-score", "one")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True)["state"]["trainer"]["method"]


def numbers(record: Record) -> dict[str, object]:
    """Everything in a record that the same command must give again."""
    kept = record.model_dump(exclude={"times", "peak_memory_mib", "provenance"})
    return kept | {"labelled": record.provenance.labelled_ids, "data": record.provenance.data}


def test_a_run_leaves_status_config_log_checkpoint_record_and_rows(guided: tuple[Path, str]) -> None:
    folder, text = guided
    assert (folder / "status").read_text() == "done\n"
    assert json.loads((folder / "config.json").read_text())["method"] == "fixmatch"
    entries = RunFolder(folder).log()
    trained, validated = ([entry for entry in entries if key in entry] for key in ("lr", "val_dice"))
    assert [entry["step"] for entry in trained] == [1, 8]
    assert [entry["step"] for entry in validated] == [2, 4, 6, 8]
    assert {"supervised", "unlabelled_0", "total", "lambda_u", "mean_q", "kept_share"} <= set(trained[-1])
    assert {"effective_sample_size", "pseudo_dice", "pearson_q", "pearson_confidence"} <= set(trained[-1])
    assert {"val_q", "val_q_minus_dice", "val_pearson_q", "val_pearson_confidence"} <= set(validated[-1])
    assert not (folder / "previous.pt").exists()
    assert {path.name for path in (folder.parent / "predictors").glob("*/[!.]*")} == {
        "predictor.json",
        "predictor.safetensors",
    }
    record = read_record(folder)
    settings = sorted(option for option in QUICK_G if "=" in option)
    assert record.spec.addon == "-".join(["qw", *settings]).replace("[1,2]", "[1, 2]")
    assert record.guidance is not None
    assert record.audit is not None
    assert [audit.progress for audit in record.pseudo_labels] == [0.25, 0.5, 0.75, 1.0, None]
    assert set(record.pseudo_labels[0].scores) == {"g", "confidence", "agreement"}
    for shown in (
        "Dice",
        "HD95 (pooled)",
        "HD95 (max)",
        "HD95 of diagonal",
        "missed",
        "kept share",
        "effective sample",
    ):
        assert shown in text
    assert "twin without the add-on: qgbench run --method fixmatch" in text


def test_predictions_and_pictures_are_those_of_the_rows(base: tuple[Path, str], guided: tuple[Path, str]) -> None:
    source = open_source("phantom")
    for folder, _ in (base, guided):
        rows = read_images(folder / "images.csv").set_index("id")
        masks = read_predictions(folder / "predictions.npz")
        assert set(masks) == set(rows.index)
        for name in rows.index[:5]:
            assert measure(masks[name], source.mask(name)).dice == rows.loc[name, "dice"]
            assert masks[name].sum() == rows.loc[name, "n_pred"]
        with Image.open(folder / "cases.png") as picture:
            assert picture.width > 4 * BRIEF["qgbench.report.figures.cases._RESOLUTION"]  # inches
    # The guided run finished second and knows its twin: one more row of pictures.
    with Image.open(base[0] / "cases.png") as alone, Image.open(guided[0] / "cases.png") as beside:
        assert beside.height / beside.width > 1.2 * alone.height / alone.width


def test_every_summary_can_be_recomputed_from_the_rows(base: tuple[Path, str], guided: tuple[Path, str]) -> None:
    for folder, _ in (base, guided):
        record = read_record(folder)
        assert list(read_images(folder / "images.csv").columns) == IMAGE_COLUMNS
        for network, summary in record.summaries.items():
            name = "images.csv" if network == "student" else f"images.{network}.csv"
            assert summarise(read_images(folder / name)) == summary


def test_audits_can_be_recomputed_from_the_labels(base: tuple[Path, str], guided: tuple[Path, str]) -> None:
    for (folder, _), scores in ((base, []), (guided, ["g"])):
        labels, record = read_labels(folder / "labels.csv"), read_record(folder)
        assert list(labels.columns) == [*LABEL_COLUMNS, *scores, "confidence", "agreement"]
        assert audits_of(labels) == record.pseudo_labels
        unlabelled = {id for id in labels["id"] if id not in record.provenance.labelled_ids}
        assert len(labels) == 4 * len(unlabelled) == 4 * record.pseudo_labels[0].scores["confidence"].masks


def test_a_record_has_the_hash_of_the_weights_of_its_g(base: tuple[Path, str], guided: tuple[Path, str]) -> None:
    (file,) = (guided[0].parent / "predictors").glob("*/predictor.safetensors")
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode() + tensor.numpy().tobytes())
    assert read_record(guided[0]).provenance.g_weights == digest.hexdigest()
    assert read_record(base[0]).provenance.g_weights is None


def test_twins_share_images_draw_and_split(base: tuple[Path, str], guided: tuple[Path, str]) -> None:
    first, second = (read_record(folder) for folder, _ in (base, guided))
    assert first.provenance.labelled_ids == second.provenance.labelled_ids
    assert len(first.provenance.labelled_ids) == 12
    assert first.provenance.split == second.provenance.split
    assert first.provenance.data == second.provenance.data
    assert first.spec.variant == second.spec.variant
    assert first.guidance is None
    assert first.audit is None
    assert set(read_images(base[0] / "images.csv")["id"]) == set(read_images(guided[0] / "images.csv")["id"])
    assert read_images(base[0] / "images.csv")["q"].isna().all()
    assert read_images(guided[0] / "images.csv")["q"].between(0, 1).all()


def test_weights_of_one_change_no_bit(base: tuple[Path, str], neutral: tuple[Path, str]) -> None:
    ours, theirs = weights(base[0]), weights(neutral[0])
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    pd.testing.assert_frame_equal(
        read_images(base[0] / "images.csv"), read_images(neutral[0] / "images.csv"), check_exact=True
    )


def test_weights_of_g_change_the_student(base: tuple[Path, str], guided: tuple[Path, str]) -> None:
    ours, theirs = weights(base[0]), weights(guided[0])
    assert any(not torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_finished_run_trains_nothing(base: tuple[Path, str], output: Path) -> None:
    before = (base[0] / "record.json").read_bytes()
    folder, text = run(output, "--method", "fixmatch", "--arch", "unet")
    assert folder == base[0]
    assert "done already" in text
    assert (folder / "record.json").read_bytes() == before


def test_g_is_reused_by_a_run_with_the_same_draw_and_qar_trains_with_it(output: Path, guided: tuple[Path, str]) -> None:
    predictors = sorted((output / "predictors").iterdir())
    folder, _ = run(output, "--method", "supervised", "--qg", *QUICK_G, quick=QUICK[:-2])
    record = read_record(folder)
    assert record.spec.addon.startswith("qar")
    assert record.guidance is not None
    assert record.guidance.mean_q is None
    assert record.guidance.val_q_minus_dice is not None
    assert record.times.g_reused
    theirs = read_record(guided[0]).provenance
    assert (record.provenance.g, record.provenance.g_weights) == (theirs.g, theirs.g_weights)
    assert sorted((output / "predictors").iterdir()) == predictors


@pytest.mark.parametrize("score", ["shuffled", "confidence", "agreement", "oracle"])
def test_every_control_score_runs_and_is_named_in_the_cell(score: str, output: Path, guided: tuple[Path, str]) -> None:
    settings = QUICK_G if score == "shuffled" else []
    folder, _ = run(output, "--method", "fixmatch", "--qg", "--qg-score", score, *settings)
    record = read_record(folder)
    assert record.spec.addon.startswith(f"qw-{score}")
    assert record.guidance is not None
    assert record.guidance.mean_q is not None
    assert 0 < record.guidance.mean_q <= 1
    assert (record.provenance.g is None) == (score != "shuffled")


@pytest.mark.real
def test_a_real_set_with_a_pool(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgbench.training.loop.AUDIT_IMAGES", 128)  # more than there are
    folder, _ = run(output, "--method", "fixmatch", "--dataset", "ph2", "--regime", "n28+isic_pool@grouped")
    record = read_record(folder)
    assert record.spec.regime == "n28+isic_pool@grouped"
    assert len(record.provenance.labelled_ids) == 28
    assert record.summary.images == 100
    assert record.pseudo_labels_on == "unlabelled training images"
    assert record.pseudo_labels[0].scores["confidence"].masks == 80 - 28


def test_a_dry_run_prints_the_spec_its_id_and_every_setting_and_does_nothing(
    guided: tuple[Path, str], tmp_path: Path
) -> None:
    words = [
        "--method",
        "fixmatch",
        "--qg",
        "--arch",
        "unet",
        *QUICK_G,
        "--dry-run",
        "--output",
        str(tmp_path / "none"),
    ]
    result = CliRunner().invoke(app, ["run", *QUICK, *words], catch_exceptions=False)
    assert result.exit_code == 0
    described = json.loads(result.stdout)
    record = read_record(guided[0])
    assert described["id"] == guided[0].name
    assert described["spec"] == record.spec.model_dump(mode="json")
    assert described["settings"] == record.settings
    assert not (tmp_path / "none").exists()


def test_a_quiet_run_prints_its_record_only_and_tracks(
    base: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "fixmatch", "--arch", "unet", "-q", "--track", "tensorboard", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, ["run", *QUICK, *words], catch_exceptions=False)
    folder = tmp_path / base[0].name
    assert result.stdout == f"{folder / 'record.json'}\n"
    assert result.stderr == ""
    assert list((folder / "tensorboard").glob("events.*"))
    # Elsewhere, quiet or not, the same command gives the same numbers.
    assert numbers(read_record(folder)) == numbers(read_record(base[0]))
    assert (folder / "images.csv").read_bytes() == (base[0] / "images.csv").read_bytes()
    assert (folder / "predictions.npz").read_bytes() == (base[0] / "predictions.npz").read_bytes()


def test_runs_and_show_present_what_is_there(output: Path, guided: tuple[Path, str]) -> None:
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["runs", "--output", str(output)], catch_exceptions=False)
    assert guided[0].name in listed.stdout.replace("\n", "")
    assert "done" in listed.stdout
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(
        app, ["show", guided[0].name, "--output", str(output)], catch_exceptions=False
    )
    for expected in (
        "done",
        "effective sample size",
        "g against true Dice",
        "cases.png",
        f"{100 * read_record(guided[0]).summary.means['dice']:.2f}",
    ):
        assert expected in shown.stdout, expected


def test_another_seed_index_draws_other_labels(output: Path, base: tuple[Path, str]) -> None:
    folder, _ = run(output, "--method", "fixmatch", "--seed", "1")
    ours, theirs = read_record(folder).provenance, read_record(base[0]).provenance
    assert set(ours.labelled_ids) != set(theirs.labelled_ids)
    assert ours.split == theirs.split


def test_rows_measure_the_prediction_at_original_resolution(base: tuple[Path, str], cache_dir: Path) -> None:
    """The counts of the reference come from the phantom itself, not from its resized copy."""
    rows = read_images(base[0] / "images.csv").set_index("id")
    source = open_source("phantom")
    for name in rows.index[:10]:
        mask = source.mask(name)
        assert rows.loc[name, "n_ref"] == mask.sum()
        assert (rows.loc[name, "height"], rows.loc[name, "width"]) == mask.shape
        dice = 2 * rows.loc[name, "n_tp"] / (rows.loc[name, "n_ref"] + rows.loc[name, "n_pred"])
        assert dice == pytest.approx(rows.loc[name, "dice"], abs=1e-12)


def test_a_perfect_network_gets_a_nearly_perfect_score(cache_dir: Path) -> None:
    """A network that returns the prepared mask loses only what resizing loses."""
    from accelerate import Accelerator

    from qgbench.data.splits import load_split
    from qgbench.engine.device import make_accelerator
    from qgbench.training.evaluation import evaluate

    source = open_source("phantom")
    prepared = prepare(source, 96, cache_dir)
    split = load_split(source)
    assert prepared.masks is not None
    known = {prepared.images[i].tobytes(): prepared.masks[i] for i in range(len(prepared.ids))}

    class Perfect(torch.nn.Module):
        task = Task()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            pixels = (image * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            masks = np.stack([known[picture.tobytes()] for picture in pixels])
            return torch.from_numpy(masks).unsqueeze(1).float() * 20 - 10

    accelerator: Accelerator = make_accelerator("cpu", "fp32", 1)
    tables, masks = evaluate({"student": Perfect()}, None, prepared, split, accelerator)
    rows = tables["student"]
    assert sorted(rows["id"]) == sorted(split.loc[split["split"] == "test", "id"])
    assert rows["dice"].min() > 0.85
    assert rows["dice"].mean() > 0.96
    assert rows["hd95"].max() <= 3
    row = rows.iloc[0]
    expected = measure(source.mask(row["id"]), source.mask(row["id"]))
    assert expected.n_ref == row["n_ref"]
    assert masks[row["id"]].sum() == row["n_pred"]


def test_the_older_checkpoint_is_gone_before_the_record_says_that_the_run_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both: list[bool] = []
    left: list[str] = []
    save = Checkpoints.save

    def saved(checkpoints: Checkpoints, state: dict[str, Any]) -> None:
        save(checkpoints, state)
        both.append(any(tmp_path.rglob("previous.pt")))

    def written(folder: Path, record: Record) -> None:
        left.extend(path.name for path in folder.glob("*.pt"))
        write_record(folder, record)

    monkeypatch.setattr(Checkpoints, "save", saved)
    monkeypatch.setattr("qgbench.run.carry_out.write_record", written)
    monkeypatch.setattr("qgbench.engine.stage.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    run(tmp_path, "--method", "fixmatch")
    assert any(both)
    assert left == ["last.pt"], "a kill after the record would leave the other one for good"


def test_the_report_of_these_runs_names_base_add_on_and_difference(
    output: Path, base: tuple[Path, str], guided: tuple[Path, str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["report", str(output), "--output", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    text = (tmp_path / "report.md").read_text()
    assert "phantom" in text
    assert "fixmatch" in text
    dice = [100 * read_record(folder).summary.means["dice"] for folder, _ in (base, guided)]
    table = pd.read_csv(tmp_path / "results.csv")
    assert len(table) > 0
    assert (tmp_path / "report.tex").read_text().startswith("\\documentclass")
    rows = [line for line in text.splitlines() if "qw" in line and "fixmatch" in line]
    assert any(f"{dice[1]:.1f}"[:2] in row for row in rows)


def test_volumes_of_several_classes_come_from_data_to_a_record_that_medpy_believes(output: Path) -> None:
    folder, text = run(output, "--method", "fixmatch", "--dataset", "phantom3d", "--labelled", "3")
    record, rows = read_record(folder), read_images(folder / "images.csv")
    assert record.spec.regime == "n3patients@grouped"
    assert (record.classes, record.distance_unit) == (("rv", "myo", "lv"), "mm")
    assert [*record.summary.by_class] == ["rv", "myo", "lv"]
    assert record.summary == summarise(rows)
    assert len(rows) == 3 * record.summary.images
    assert [*rows["class"][:3]] == ["rv", "myo", "lv"]
    masks = read_predictions(folder / "predictions.npz")
    assert sorted(masks) == sorted(set(rows["id"]))
    for (id, name), row in rows.set_index(["id", "class"]).iterrows():
        label = 1 + record.classes.index(name)
        assert (masks[id] == label).sum() == row["n_pred"]
        assert masks[id].shape == (row["depth"], row["height"], row["width"])
    labels = read_labels(folder / "labels.csv")
    assert set(labels["class"]) == {"rv", "myo", "lv"}
    assert audits_of(labels) == record.pseudo_labels
    assert [fault for fault in verify_records([folder], "medpy") if fault.severity == "fault"] == []
    assert "mm" in text
