"""A finished run applied to images: what it gave its own test images, it gives them again, bit for bit."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import qgbench
from qgbench.base.errors import QGBenchError, UserError
from qgbench.cli.main import app
from qgbench.data.images import read_image, read_labels
from qgbench.data.phantom3d import CLASSES, draw_patient
from qgbench.data.volume_files import VolumeFiles, read_volume, scaled
from qgbench.data.volume_files import read_labels as read_volume_labels
from qgbench.engine import onnx
from qgbench.report.audit import not_predicted
from qgbench.run import export as exporting
from qgbench.run.folder import RunFolder
from qgbench.run.predict import predict_folder
from qgbench.run.predictions import read_predictions
from qgbench.run.record import read_images, read_record
from qgbench.run.trained import TrainedRun, load_run
from tests.cli.test_main import call
from tests.commands import QUICK_G, RUN, only_run, small_data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief_runs")]

ROOT = Path(__file__).parents[2]

TINY = '''"""A network of one's own."""

from torch import Tensor, nn

from qgbench.archs.registry import Arch


class Last(nn.Module):
    """Passes the last of the features on."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return what the head gets."""
        return features[-1]


class Features(nn.Module):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return features."""
        return [self.layer(image).relu()]


class Network(nn.Module):
    """A convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = Features(), Last(), nn.Conv2d(4, 1, 1)


def build(encoder: str, weights: str, decoder_channels: tuple[int, ...], size: int) -> nn.Module:
    """Return it."""
    return Network()


tiny = Arch(build, "one convolution", "this file", "nothing", strides=(1,), own_encoder="none")
'''


def trained(output: Path, *words: str) -> Path:
    result = CliRunner().invoke(app, [*RUN, "-q", *words, "--output", str(output)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return only_run(output).path


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A guided run and a folder of its test images."""
    folder = tmp_path_factory.mktemp("guided")
    data = small_data(folder / "few")
    run = trained(folder / "runs", "--method", "mean_teacher", "--dataset", str(data), "--qg", *QUICK_G)
    (folder / "new").mkdir()
    for id in read_predictions(run / "predictions.npz"):
        shutil.copy(data / "images" / f"{id}.png", folder / "new")
    return run, folder / "new"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on volumes of three classes, whose files lie in several ways, and a folder of its test volumes."""
    folder = tmp_path_factory.mktemp("volumes")
    task = folder / "Task"
    for p in range(6):
        drawn = draw_patient(p, depth=4, size=40)[0]
        depth, height, width = drawn.spacing
        for part, array in (("imagesTr", drawn.image * 3.0 + 7), ("labelsTr", drawn.labels)):
            sign = np.array([-1 if p % 2 else 1, 1 if p % 3 else -1, 1 if p % 4 else -1])
            affine = np.diag([*(sign * (width, height, depth)), 1.0])
            affine[:3, 3] = 5, -6, 7
            image = nibabel.Nifti1Image(np.swapaxes(array, 0, 2)[:, : 40 - p], affine)
            image.header.set_xyzt_units("mm")
            image.header["cal_max"] = 900 if part == "imagesTr" else 0
            image.set_qform(affine, 2)
            (task / part).mkdir(parents=True, exist_ok=True)
            nibabel.save(image, task / part / f"case{p}.nii{'.gz' if p % 2 else ''}")
    told = {"labels": {"background": 0} | {name: k for k, name in enumerate(CLASSES, 1)}}
    (task / "dataset.json").write_text(json.dumps(told))
    added = ["data", "add", "heart", "--from", str(task), "--data-dir", str(folder / "data")]
    assert CliRunner().invoke(app, added, catch_exceptions=False).exit_code == 0
    words = ["--method", "supervised", "--dataset", "heart", "--data-dir", str(folder / "data"), "--labelled", "2"]
    run = trained(folder / "runs", *words)
    (folder / "new").mkdir()
    for id in read_predictions(run / "predictions.npz"):
        shutil.copy(next((task / "imagesTr").glob(f"{id}.nii*")), folder / "new")
    return run, folder / "new"


@pytest.fixture(scope="module")
def own(guided: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a network of one's own; it was started in the folder above `runs`, which holds lab.py."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "lab.py").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--method", "supervised", "--arch", "lab.py:tiny", "--dataset", str(guided[1].parent / "few")]
        return trained(folder / "runs", *words)


def test_own_test_pictures_get_the_runs_masks_and_scores(
    guided: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, new = guided
    result = CliRunner().invoke(
        app,
        ["predict", str(run), "--images", str(new), "--output", str(tmp_path / "out"), "--quality", "--probabilities"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    names = ["contact_sheet.png", "masks", "prediction.json", "probabilities", "quality.csv"]
    assert result.stdout.splitlines() == [str(tmp_path / "out" / name) for name in names]
    assert ("its g does not predict the quality of" in caplog.text) == bool(not_predicted(read_record(run)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    masks = read_predictions(run / "predictions.npz")
    assert len(masks) == 20
    for id, mask in masks.items():
        found = np.asarray(Image.open(tmp_path / "out/masks" / f"{id}.png"))
        assert set(np.unique(found)) <= {0, 255}
        np.testing.assert_array_equal(found > 0, mask)
        prob = np.load(tmp_path / "out/probabilities" / f"{id}.npz")["probabilities"]
        assert prob.shape == (1, *mask.shape)
        sure = np.abs(prob[0].astype(float) - 0.5) > 0.0005  # half a step of float16 below 1
        np.testing.assert_array_equal((prob[0] > 0.5)[sure], mask[sure])
    scores = pd.read_csv(tmp_path / "out/quality.csv")
    rows = read_images(run / "images.csv")
    assert list(scores.columns) == ["image", "class", "quality", "confidence"]
    assert scores["image"].tolist() == rows["id"].tolist()
    np.testing.assert_array_equal(scores["quality"], rows["q"])
    np.testing.assert_array_equal(scores["confidence"], rows["confidence"])
    told = json.loads((tmp_path / "out/prediction.json").read_text())
    assert told == {"run": run.name, "images": 20, "values": {"lesion": 255}}
    assert Image.open(tmp_path / "out/contact_sheet.png").width == 6 * 248 + 8


def test_own_test_volumes_get_the_runs_masks_where_their_images_lie(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    run, new = volumes
    values = predict_folder(run, new, tmp_path / "out", probabilities=True)
    assert values == {"rv": 1, "myo": 2, "lv": 3}
    masks = read_predictions(run / "predictions.npz")
    assert any(mask.any() for mask in masks.values())
    files = sorted(new.iterdir())
    assert len(files) == len(masks) > 1
    for file in files:
        written = tmp_path / "out/masks" / file.name
        labels = read_volume_labels(VolumeFiles((file,), (written,)))
        id = file.name.partition(".")[0]
        np.testing.assert_array_equal(labels, masks[id])
        image, mask = nibabel.load(file), nibabel.load(written)
        np.testing.assert_array_equal(mask.affine, image.affine)
        for field in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
            np.testing.assert_array_equal(mask.header[field], image.header[field])
        assert mask.get_data_dtype() == np.uint8
        assert mask.header["cal_max"] == 0
        prob = np.load(tmp_path / "out/probabilities" / f"{id}.npz")["probabilities"].astype(float)
        assert prob.shape == (4, *image.shape)
        np.testing.assert_allclose(prob.sum(0), 1, atol=2e-3)
        best = np.take_along_axis(prob, np.asarray(mask.dataobj)[None].astype(int), 0)[0]
        np.testing.assert_allclose(best, prob.max(0), atol=1e-3)
    assert not (tmp_path / "out/quality.csv").exists()


def test_python_takes_paths_bytes_and_tensors(guided: tuple[Path, Path]) -> None:
    run, new = guided
    files, masks = sorted(new.iterdir()), read_predictions(run / "predictions.npz")
    loaded: TrainedRun = qgbench.load_run(run, quality=True)
    found = loaded.predict(files)
    for file, one in zip(files, found, strict=True):
        np.testing.assert_array_equal(one.mask, masks[file.stem])
        assert one.probabilities().shape == (1, *one.mask.shape)
    arrays = [read_image(file) for file in files]
    tensors = torch.stack([torch.tensor(array).permute(2, 0, 1) / 255 for array in arrays])
    for given in (arrays, [str(file) for file in files], tensors, list(tensors)):
        again = loaded.predict(given)
        assert [one.mask.tobytes() for one in again] == [one.mask.tobytes() for one in found]
        assert [one.quality.tolist() for one in again] == [one.quality.tolist() for one in found]
    (alone,) = loaded.predict(arrays[0])
    np.testing.assert_array_equal(alone.mask, masks[files[0].stem])
    (grey,) = loaded.predict(arrays[0][..., 0])
    (same,) = loaded.predict(np.repeat(arrays[0][..., :1], 3, 2))
    np.testing.assert_array_equal(grey.mask, same.mask)
    assert loaded.spec == read_record(run).spec
    assert loaded.task.classes == ("lesion",)
    assert not loaded.network.training
    logits = loaded.network(tensors[:2])
    assert logits.shape == (2, 1, *tensors.shape[2:])


def test_what_the_readme_types_in_python_works(
    guided: tuple[Path, Path], volumes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/ID").symlink_to(guided[0])
    shutil.copy(next(guided[1].iterdir()), "a.png")
    volume = nibabel.load(next(volumes[1].iterdir()))
    nibabel.save(volume, "b.nii.gz")
    (code,) = re.findall(
        r"```python\n(import qgbench\n.*?)```", (ROOT / "docs/how-to/predict.md").read_text(), re.DOTALL
    )
    known: dict[str, Any] = {}
    exec(code, known)
    assert known["found"].mask.shape == volume.shape
    assert known["found"].quality.shape == (1,)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"array \(4, 4, 4\) of uint8"),
        (np.zeros((4, 4, 3)), "of float64"),
        (torch.full((3, 4, 4), 255.0), "values from 255 to 255"),
        (torch.zeros(1, 4, 4), r"tensor \(1, 4, 4\)"),
        ({"image": 1}, "is a dict"),
        ("absent.png", "absent.png is gone"),
    ],
)
def test_what_is_no_image_is_said(guided: tuple[Path, Path], image: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_run(guided[0]).predict([image])  # type: ignore[list-item]


def test_a_run_of_pictures_takes_grey_volumes_of_hdf5(guided: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    volume = draw_patient(0, depth=3, size=40)[0].image.astype(np.float32)
    with h5py.File(tmp_path / "new/v.h5", "w") as file:
        file["image"] = volume
    predict_folder(guided[0], tmp_path / "new", tmp_path / "out", quality=True)
    with h5py.File(tmp_path / "out/masks/v.h5") as file:
        mask = np.asarray(file["label"])
    bytes_of_volume = read_volume(VolumeFiles((tmp_path / "new/v.h5",), ()))
    slices = load_run(guided[0], quality=True).predict(list(bytes_of_volume))
    np.testing.assert_array_equal(mask, np.stack([one.mask for one in slices]))
    scores = pd.read_csv(tmp_path / "out/quality.csv")
    assert scores["quality"].item() == pytest.approx(np.mean([one.quality for one in slices]))
    assert json.loads((tmp_path / "out/prediction.json").read_text())["values"] == {"lesion": 1}


def test_slices_of_hdf5_are_predicted_one_by_one_and_said_to_be(
    guided: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As SSL4MIS has them: image and label of one slice in a file. Each is a picture, scaled by its own greys."""
    (tmp_path / "new").mkdir()
    first, second = (draw_patient(0, depth=3, size=40)[0].image[:2, :, :30] / 255).astype(np.float32)
    for number, grey in enumerate((first, second), start=1):
        with h5py.File(tmp_path / f"new/patient001_frame01_slice_{number}.h5", "w") as file:
            file["image"], file["label"] = grey, np.zeros(grey.shape, np.uint8)
    predict_folder(guided[0], tmp_path / "new", tmp_path / "out", probabilities=True, quality=True)
    assert "2 slices (patient001_frame01_slice_1, patient001_frame01_slice_2): the greys of each" in caplog.text
    with h5py.File(tmp_path / "out/masks/patient001_frame01_slice_2.h5") as file:
        mask = np.asarray(file["label"])
    (alone,) = load_run(guided[0]).predict([scaled(second.astype(np.float64))])
    np.testing.assert_array_equal(mask, alone.mask)
    probabilities = np.load(tmp_path / "out/probabilities/patient001_frame01_slice_2.npz")["probabilities"]
    assert probabilities.shape == (1, 40, 30)
    assert len(pd.read_csv(tmp_path / "out/quality.csv")) == 2


def test_masks_of_several_classes_are_palettes_of_their_numbers(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    picture = read_volume(VolumeFiles((sorted(volumes[1].iterdir())[0],), ()))[1]
    Image.fromarray(picture).save(tmp_path / "new/a.png")
    values = predict_folder(volumes[0], tmp_path / "new", tmp_path / "out")
    mask = tmp_path / "out/masks/a.png"
    assert Image.open(mask).mode == "P"
    (expected,) = load_run(volumes[0]).predict([picture])
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected.mask)
    np.testing.assert_array_equal(read_labels(mask, tmp_path / "new/a.png", values), expected.mask)


def _unfinished(run: Path) -> None:
    (run / "record.json").unlink()
    (run / "status").write_text("interrupted\n")
    RunFolder(run).set_log([{"step": 4, "total": 1.0}])


def _weightless(run: Path) -> None:
    (run / "last.pt").unlink()


def _cut(run: Path) -> None:
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:1000])


def _earlier(run: Path) -> None:
    content = torch.load(run / "last.pt", weights_only=True)
    content["state"]["trainer"]["history"]["step"] = 7
    torch.save(content, run / "last.pt")


def _misfit(run: Path) -> None:
    content = torch.load(run / "last.pt", weights_only=True)
    method = content["state"]["trainer"]["method"]
    method.pop(next(name for name in method if name.startswith("students.0.")))
    torch.save(content, run / "last.pt")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "there is no folder"),
        (_unfinished, r"is not finished \(interrupted, 4 of 10 steps are done\)"),
        (_weightless, "has no last.pt"),
        (_cut, "damaged or cut off"),
        (_earlier, "written after step 7 of 10"),
        (_misfit, "do not fit arch 'unet'"),
    ],
)
def test_a_run_that_cannot_be_applied_is_said(
    own: Path, guided: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    run = tmp_path / "runs" / guided[0].name
    shutil.copytree(guided[0], run)
    damage(run)
    with pytest.raises(UserError, match=said):
        load_run(run)
    with pytest.raises(UserError, match=said):
        predict_folder(run, guided[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_said(guided: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"give one of those in it, such as {guided[0]}")):
        load_run(guided[0].parent)
    with pytest.raises(UserError, match="is no folder of a run; give a run's"):
        load_run(tmp_path)


def test_a_g_that_is_missing_or_another_is_said(
    guided: tuple[Path, Path], volumes: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / guided[0].name
    shutil.copytree(guided[0], run)
    with pytest.raises(UserError, match=r"is not in .*predictors.*; bring it back, or leave quality out"):
        load_run(run, quality=True)
    shutil.copytree(guided[0].parent / "predictors", tmp_path / "predictors")
    assert load_run(run, quality=True)
    record = json.loads((run / "record.json").read_text())
    record["provenance"]["g_weights"] = "1" * 64
    (run / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is another one than"):
        load_run(run, quality=True)
    with pytest.raises(UserError, match="had no quality predictor g"):
        load_run(volumes[0], quality=True)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no images"),
        ({"notes.txt": b"text"}, "holds no images"),
        ({"b.png": b"no picture"}, "b.png is damaged or not a PNG"),
        ({"b.nii.gz": b"no volume"}, "holds pictures and 1 volume (b.nii.gz); give a folder of one kind"),
        ({"B.png": None, "b.png": None}, "differ in nothing but case"),
        ({"a.jpg": None}, "share the name 'a'"),
    ],
)
def test_images_that_cannot_be_predicted_are_said_and_leave_nothing(
    guided: tuple[Path, Path],
    tmp_path: Path,
    files: dict[str, bytes | None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    if not said.startswith("holds no"):
        Image.new("RGB", (9, 9)).save(new / "a.png")
    for name, content in files.items():
        if content is None:
            Image.new("RGB", (9, 9)).save(new / name)
        else:
            (new / name).write_bytes(content)
    words = ["predict", str(guided[0]), "--images", str(new), "--output", str(tmp_path / "deep/out"), "-q"]
    assert call(monkeypatch, *words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert error.count("error: ") == 1
    assert not [path for path in (tmp_path / "deep").rglob("*") if path.name != "deep"]


def test_nothing_is_overwritten(guided: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="holds files already, and nothing is overwritten"):
        predict_folder(*guided, tmp_path)
    with pytest.raises(UserError, match="is a file, and nothing is overwritten"):
        predict_folder(*guided, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_network_of_ones_own_is_found_as_the_record_names_it(
    own: Path, guided: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent.parent)
    masks = read_predictions(own / "predictions.npz")
    files = [guided[1] / f"{id}.png" for id in masks]
    assert [one.mask.tobytes() for one in load_run(own).predict(files)] == [mask.tobytes() for mask in masks.values()]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'lab.py:tiny', which is needed as it was: .* lab.py cannot be read"):
        load_run(own)
    (tmp_path / "lab.py").write_text(TINY + "\n")
    with pytest.raises(UserError, match="is not the code that it was when the run began"):
        load_run(own)


def test_an_exported_network_predicts_the_same(
    volumes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = volumes
    assert call(monkeypatch, "export", str(run), "--output", str(tmp_path / "net"), "--onnx") == 0
    names = ["network.json", "network.onnx", "network.safetensors"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "net" / name) for name in names]
    (tmp_path / "elsewhere").mkdir()
    net = shutil.move(tmp_path / "net", tmp_path / "elsewhere/net")
    files = sorted(new.iterdir())
    ours, theirs = (load_run(folder).predict(files) for folder in (run, net))
    assert [one.mask.tobytes() for one in ours] == [one.mask.tobytes() for one in theirs]
    card, record = json.loads((net / "network.json").read_text()), read_record(run)
    assert (card["classes"], card["size"], card["spec"]["arch"]) == (list(CLASSES), 64, "unet")
    assert card["test"] == {"volumes": record.summary.images, "means": record.summary.means}
    assert card["provenance"]["data"] == record.provenance.data
    assert "labelled_ids" not in card["provenance"]
    assert card["terms"] == {
        "heart": "not known: its card is not on this machine",
        "ImageNet weights of tf_efficientnet_lite0": "apache-2.0",
    }
    assert card["onnx"]["largest difference to torch"] <= onnx.TOLERANCE
    with pytest.raises(UserError, match="is an exported network, which has no g"):
        load_run(net, quality=True)
    with pytest.raises(UserError, match="is an exported network already"):
        exporting.export(net, tmp_path / "again")

    session = onnxruntime.InferenceSession(net / "network.onnx")
    for count in (1, 5):
        images = np.random.default_rng(count).random((count, 3, 64, 64), np.float32)
        (found,) = session.run(None, {"images": images})
        with torch.no_grad():
            logits = load_run(net).network(torch.from_numpy(images)).double().numpy()
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=onnx.TOLERANCE)

    weights = bytearray((net / "network.safetensors").read_bytes())
    weights[-1] ^= 1
    (net / "network.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="does not belong to the card beside it"):
        load_run(net)
    (net / "network.safetensors").write_bytes(weights[:-9])
    with pytest.raises(UserError, match="damaged or cut off"):
        load_run(net)
    (net / "network.json").write_text("{}")
    with pytest.raises(UserError, match=r"network.json is not the card of an exported network: run_id"):
        load_run(net)


def test_onnx_that_disagrees_or_cannot_be_made_is_said(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent.parent)
    with monkeypatch.context() as patch:
        patch.setattr(onnx, "TOLERANCE", -1.0)
        with pytest.raises(QGBenchError, match=r"onnxruntime and torch differ by .* in probabilities"):
            exporting.export(own, tmp_path / "net", onnx=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
        with pytest.raises(QGBenchError, match=r"'lab.py:tiny' cannot be exported to ONNX: ZeroDivisionError"):
            exporting.export(own, tmp_path / "net", onnx=True)
    with monkeypatch.context() as patch:
        patch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else sys)
        with pytest.raises(UserError, match=r"onnxruntime is not installed: pip install 'qgbench\[onnx\]'"):
            exporting.export(own, tmp_path / "net", onnx=True)
    assert list(tmp_path.iterdir()) == []
