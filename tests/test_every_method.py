"""Every method with every form of the add-on; every architecture in a run from end to end."""

from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from qgbench.archs.registry import ARCHS
from qgbench.cli.main import app
from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load, method_names
from qgbench.quality.guide import AddOn, Guide, QualityRegularisation, QualityWeighting
from qgbench.run.folder import RunFolder
from qgbench.run.predictions import read_predictions
from qgbench.run.record import read_images, read_record
from qgbench.run.trained import load_run
from qgbench.spec.addons import SCORES
from qgbench.training.loop import Trainer
from qgbench.trust.toys import ToyQuality, ToySegmenter, toy_data, toy_protocol
from tests.commands import small_data

ADD_ONS = ["", "qar", *(f"qw-{score}" for score in SCORES), *(f"qw-{score}+qar" for score in SCORES)]
LABELLING = [name for name in method_names() if load("method", name).pseudo_labels]
# Sorted and turned so that a method with heads on features meets the transformer; the last ones take U-Net.
PAIRS = list(zip(method_names(), [*sorted(ARCHS)[6:], *sorted(ARCHS)[:6], *repeat("unet", 99)], strict=False))


def trained(name: str, add_on: str, **settings: object) -> list[dict[str, float | None]]:
    """Three steps on toy images, unlabelled losses at their full weight: the log."""
    torch.manual_seed(3)
    g = ToyQuality().requires_grad_(False).eval()
    torch.manual_seed(0)
    kind = load("method", name)
    started = {"warmup": 0.0, "ramp": 0.0, "lambda_u": 1.0}
    method = kind(ToySegmenter, kind.Settings.model_validate(started | settings))
    protocol = toy_protocol(3)
    modes: list[AddOn] = []
    if add_on.startswith("qw"):
        score = add_on.removeprefix("qw-").removesuffix("+qar")
        modes.append(QualityWeighting(QualityWeighting.Settings(tau=0.0), load("score", score)(g)))
    if add_on.endswith("qar"):
        modes.append(QualityRegularisation(QualityRegularisation.Settings(qar_warmup=0.0, qar_ramp=0.0), predictor=g))
    trainer = Trainer(method, Guide(modes), g, toy_data(), protocol, 0, make_accelerator("cpu", "fp32", 1))
    assert list(trainer.run()) == [1, 2, 3]
    return [entry for entry in trainer.history.log if "total" in entry]


@pytest.mark.parametrize("add_on", ADD_ONS)
@pytest.mark.parametrize("name", method_names())
def test_every_method_trains_with_every_form_of_the_add_on(name: str, add_on: str) -> None:
    if name not in LABELLING and "qw" in add_on:
        pytest.skip("it makes no pseudo-labels; qgbench run refuses QW for it")
    log = trained(name, add_on)
    for entry in log:
        assert entry["total"] is not None
        assert ("mean_q" in entry) == ("qw" in add_on)
        assert ("added" in entry) == add_on.endswith("qar")
        if add_on.startswith("qw-one"):
            assert entry["mean_q"] == entry["kept_share"] == entry["effective_sample_size"] == 1
        if "qw" in add_on:
            assert 0 <= entry["mean_q"] <= 1  # type: ignore[operator]  # not None: the mode is there
        if entry.get("added") is not None:
            assert 0 < entry["added"] < 0.02  # type: ignore[operator]  # not None, as above


@pytest.mark.parametrize("name", ["pseudo_label", "contrastive"])
def test_the_fair_twins_of_the_papers_rows_differ_by_quality_alone(name: str) -> None:
    """PL-QW and CL-QW: threshold 0, labels of the teacher; their twins: the same without QW."""
    twin = {"threshold": 0.0, "labels_from": "teacher"}
    base, neutral, guided = (trained(name, add_on, **twin) for add_on in ("", "qw-one", "qw-g"))
    assert [entry["total"] for entry in base] == [entry["total"] for entry in neutral]
    assert [entry["total"] for entry in base][1:] != [entry["total"] for entry in guided][1:]


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("pictures") / "few")


def test_the_runs_cover_every_method_and_architecture() -> None:
    assert {method for method, _ in PAIRS} == set(method_names())
    assert {arch for _, arch in PAIRS} == set(ARCHS)
    assert ("contrastive", "swin_unet") in PAIRS


@pytest.mark.slow
@pytest.mark.usefixtures("brief_runs")
@pytest.mark.parametrize(("method", "arch"), PAIRS)
def test_every_method_and_architecture_runs_from_end_to_end(
    method: str, arch: str, output: Path, pictures: Path
) -> None:
    """With both add-ons; g is trained by the first of these runs and reused by the others."""
    words = ["--method", method, "--arch", arch, "--qg-mode", "both" if method in LABELLING else "qar"]
    words += ["--dataset", str(pictures), "--labelled", "6"]
    words += ["--protocol", "smoke", "--threads", "1", "--steps", "2", "--output", str(output)]
    words += ["--set", "quality.steps=4", "--set", "quality.weak_epochs=[1]", "--set", "quality.weak_epoch_min_steps=1"]
    words += ["--set", "method.warmup=0", "--set", "method.ramp=0", "--set", "train.validations=1"]
    words += ["--set", "qg.tau=0"] if method in LABELLING else []
    archs = [other or arch for other in load("method", method).archs(load("method", method).Settings())]
    words += ["--set", "encoder_weights=none"] if any(ARCHS[each].own_encoder for each in archs) else []
    result = CliRunner().invoke(app, ["run", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = Path(result.stdout.split("record: ")[1].splitlines()[0]).parent
    record = read_record(folder)
    masks = read_predictions(folder / "predictions.npz")
    again = load_run(folder, quality=True).predict([pictures / "images" / f"{id}.png" for id in masks])
    assert all(np.array_equal(one.mask, masks[id]) for id, one in zip(masks, again, strict=True))
    assert [one.quality.item() for one in again] == read_images(folder / "images.csv")["q"].tolist()
    assert (record.spec.method, record.spec.arch) == (method, arch)
    assert record.spec.encoder == (ARCHS[arch].own_encoder or "tf_efficientnet_lite0")
    assert record.summary.images == 20
    assert record.provenance.encoder is not None
    last = [entry for entry in RunFolder(folder).log() if "total" in entry][-1]
    assert last["added"]
    assert ("mean_q" in last) == (method in LABELLING)
    assert ("unlabelled_0" in last) == (method in LABELLING)
