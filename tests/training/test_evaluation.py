"""Evaluation by class and by volume: against masks put together by hand, medpy, and one class relabelled as two."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from medpy.metric import binary
from numpy.typing import NDArray
from torch import Tensor, nn

from qgbench.data.cache import Prepared
from qgbench.data.source import Slice
from qgbench.data.units import distance_unit, units_of, volume_of
from qgbench.data.volumes import slice_id
from qgbench.engine.device import make_accelerator
from qgbench.metrics.masks import measure
from qgbench.metrics.table import VOLUME_COLUMNS, Metric, image_columns
from qgbench.run.record import summarise
from qgbench.spec.task import Task
from qgbench.training.evaluation import evaluate

SIZE = 8
HEART = ("rv", "myo", "lv")


class Painted(nn.Module):
    """Predicts what an image is painted with: label k is grey 60 k."""

    def __init__(self, task: Task, sureness: float = 20.0) -> None:
        super().__init__()
        self.task, self.sureness = task, sureness

    def forward(self, image: Tensor) -> Tensor:
        label = (image[:, :1] * 255 / 60).round()
        if self.task.channels == 1:
            return self.sureness * (2 * (label == 1).float() - 1)
        return self.sureness * (label == torch.arange(self.task.channels).view(1, -1, 1, 1)).float()


class Grey(nn.Module):
    """A g: the share of each class in the picture."""

    def forward(self, image: Tensor, lesions: Tensor) -> Tensor:
        return lesions.mean((2, 3)).squeeze(1)


def prepared_of(
    labels: NDArray[np.uint8],
    refs: NDArray[np.uint8],
    classes: tuple[str, ...],
    volumes: dict[str, Slice] | None = None,
) -> Prepared:
    """Pictures painted with labels (N, S, S), whose masks are `refs` of the same size, all of one group in two."""
    ids = list(volumes or (f"picture{number:02}" for number in range(len(labels))))
    several = len(classes) > 1
    return Prepared(
        ids=ids,
        groups=[f"g{number // 2}" for number in range(len(ids))],
        images=np.repeat(60 * labels[..., None], 3, axis=3),
        masks=refs,
        sizes=np.full((len(ids), 2), labels.shape[1]),
        fingerprint="f",
        originals=refs.ravel() if several else np.concatenate([np.packbits(ref) for ref in refs]),
        classes=classes,
        volumes=None if volumes is None else list(volumes.values()),
    )


def evaluated(
    prepared: Prepared, g: nn.Module | None = None, metrics: tuple[Metric, ...] = ()
) -> tuple[pd.DataFrame, dict[str, NDArray[Any]]]:
    split = pd.DataFrame({"id": prepared.ids, "group": prepared.groups, "split": "test"})
    network: Any = Painted(Task(prepared.classes))
    accelerator = make_accelerator("cpu", "fp32", 1)
    tables, masks = evaluate({"student": network}, g, prepared, split, accelerator, metrics)
    return tables["student"], dict(masks)


def drawn(number: int, classes: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels and references that share about half of their pixels."""
    rng = np.random.default_rng(seed)
    refs = rng.integers(0, classes + 1, (number, SIZE, SIZE), dtype=np.uint8)
    labels = np.where(rng.random(refs.shape) < 0.5, refs, rng.integers(0, classes + 1, refs.shape, dtype=np.uint8))
    return labels.astype(np.uint8), refs


def assert_measured(row: Any, pred: NDArray[np.bool_], ref: NDArray[np.bool_], spacing: tuple[float, ...]) -> None:
    expected = vars(measure(pred, ref, spacing))
    np.testing.assert_equal({name: row[name] for name in expected}, expected)
    if pred.any() or ref.any():
        assert row["dice"] == pytest.approx(binary.dc(pred, ref), abs=1e-12)
    if pred.any() and ref.any():
        for name in ("hd95", "assd"):
            assert row[name] == pytest.approx(getattr(binary, name)(pred, ref, spacing), abs=1e-9)


def test_each_class_of_a_picture_has_a_row() -> None:
    labels, refs = drawn(40, 3)  # more than a batch
    refs[3][refs[3] == 2] = 0
    labels[5] = refs[5] = 0
    rows, masks = evaluated(prepared_of(labels, refs, HEART), Grey())
    assert list(rows.columns) == image_columns(volumes=False)
    assert rows["id"].tolist() == [f"picture{number:02}" for number in range(40) for _ in HEART]
    assert rows["class"].tolist() == [*HEART] * 40
    for place, row in rows.iterrows():
        picture, k = divmod(int(str(place)), 3)
        assert_measured(row, labels[picture] == k + 1, refs[picture] == k + 1, (1.0, 1.0))
        assert row["group"] == f"g{picture // 2}"
        assert row["q"] == pytest.approx((labels[picture] == k + 1).mean())
    assert (rows["status"] == "spurious").sum() == 1
    assert (rows["status"] == "both_empty").sum() == 3
    sure = np.exp(20) / (np.exp(20) + 3)
    assert rows["confidence"].to_numpy() == pytest.approx(np.where(rows["n_pred"] > 0, sure, 0), abs=1e-6)
    assert masks["picture07"].dtype == np.uint8
    assert all(np.array_equal(mask, labels[int(name[-2:])]) for name, mask in masks.items())
    summary = summarise(rows)
    assert summary.means["dice"] == pytest.approx(rows.groupby("id")["dice"].mean().mean(), abs=1e-12)
    assert summary.by_class["myo"]["dice"] == rows[rows["class"] == "myo"]["dice"].mean()
    assert (summary.images, summary.groups, [*summary.by_class]) == (40, 20, [*HEART])


def test_one_class_relabelled_as_one_of_two_has_the_same_rows() -> None:
    labels, refs = drawn(6, 1)
    one, masks = evaluated(prepared_of(labels, refs, ("lesion",)), Grey())
    two, maps = evaluated(prepared_of(2 * labels, 2 * refs, ("other", "lesion")), Grey())
    second = two[two["class"] == "lesion"].reset_index(drop=True)
    left_out = ["confidence"]  # of a softmax over three
    pd.testing.assert_frame_equal(second.drop(columns=left_out), one.drop(columns=left_out), check_exact=True)
    assert (two[two["class"] == "other"]["status"] == "both_empty").all()
    assert masks["picture00"].dtype == bool
    assert all(np.array_equal(masks[name], maps[name] == 2) for name in masks)
    assert "by_class" not in summarise(one).model_dump()


VOXEL = (4.0, 0.5, 2.0)


def heart(spacing: tuple[float, float, float] | None = VOXEL) -> dict[str, Slice]:
    """Two volumes; ids of the first are not in the order of its slices."""
    ids = {f"b_z{index}": Slice("b", index, spacing) for index in (10, 11, 9)}
    return ids | {slice_id("a", index): Slice("a", index, VOXEL) for index in range(3)}


@pytest.mark.parametrize(("spacing", "unit"), [(VOXEL, "mm"), (None, "voxel")])
def test_volumes_are_measured_whole_with_their_spacing(spacing: Any, unit: str) -> None:
    volumes, (labels, refs) = heart(spacing), drawn(6, 3, seed=1)
    seen: list[tuple[tuple[int, ...], tuple[float, ...]]] = []

    def depth_error(pred: NDArray[np.bool_], ref: NDArray[np.bool_], voxel: tuple[float, ...]) -> float:
        seen.append((pred.shape, voxel))
        return float(abs(pred.any((1, 2)).sum() - ref.any((1, 2)).sum()))

    own = Metric(name="slices_off", label="Slices", highest=None, both_empty=0, one_empty=None, measure=depth_error)
    rows, masks = evaluated(prepared_of(labels, refs, HEART, volumes), Grey(), (own,))
    voxel = VOXEL if unit == "mm" else (1.0, 1.0, 1.0)  # where one is not known, all are in voxels
    assert distance_unit(volumes) == unit
    assert list(rows.columns) == [*image_columns(volumes=True), "slices_off"]
    assert list(zip(rows["id"], rows["class"], strict=True)) == [(volume, name) for volume in "ab" for name in HEART]
    assert (rows[VOLUME_COLUMNS] == pd.Series((3, *voxel), VOLUME_COLUMNS)).all(axis=None)
    whole = {"a": slice(3, 6), "b": [2, 0, 1]}  # slices 9, 10, 11
    for _, row in rows.iterrows():
        k, order = HEART.index(row["class"]) + 1, whole[row["id"]]
        assert_measured(row, labels[order] == k, refs[order] == k, voxel)
        assert row["q"] == pytest.approx((labels[order] == k).mean((1, 2)).mean()), "the mean over slices"
        assert row["slices_off"] == 0
    assert all(np.array_equal(masks[name], labels[order]) for name, order in whole.items())
    assert set(seen) == {((3, SIZE, SIZE), voxel)}
    assert volume_of("patient_z1_z007") == "patient_z1"
    assert [one.images for one in units_of(volumes, volumes)][1] == ["b_z9", "b_z10", "b_z11"]


def test_volumes_of_one_class_are_masks() -> None:
    labels, refs = drawn(6, 1, seed=2)
    rows, masks = evaluated(prepared_of(labels, refs, ("nodule",), heart()))
    assert masks["a"].dtype == bool
    assert masks["a"].shape == (3, SIZE, SIZE)
    assert_measured(rows.iloc[0], labels[3:] == 1, refs[3:] == 1, VOXEL)
    assert rows["class"].tolist() == ["nodule"] * 2
    assert rows["q"].isna().all()
    assert not summarise(rows).by_class


def test_an_empty_prediction_counts_as_the_diagonal_of_the_volume() -> None:
    labels, refs = drawn(6, 2, seed=3)
    labels[labels == 2] = 0
    rows, _ = evaluated(prepared_of(labels, refs, ("one", "two"), heart()))
    diagonal = np.sqrt((3 * VOXEL[0]) ** 2 + (SIZE * VOXEL[1]) ** 2 + (SIZE * VOXEL[2]) ** 2)
    summary = summarise(rows)
    assert summary.by_class["two"]["hd95"] == pytest.approx(diagonal)
    assert summary.by_class["two"]["hd95_percent"] == pytest.approx(100)
    assert summary.means["hd95"] == pytest.approx((diagonal + summary.by_class["one"]["hd95"]) / 2)
    assert (summary.missed, summary.images) == (2, 2)
