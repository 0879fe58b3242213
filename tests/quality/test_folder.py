"""g on two folders: trained, interrupted, scored, audited, exported; against the harness's own functions."""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.interruption import Interrupted
from qgbench.data.acquire.pairs import open_pairs
from qgbench.data.cache import Prepared, prepare
from qgbench.data.experiment import ImageSet, whole
from qgbench.data.readers import Source, open_source
from qgbench.engine import onnx, stage
from qgbench.engine.device import make_accelerator
from qgbench.quality import folder
from qgbench.quality.audit import agreement
from qgbench.quality.export import ONNX_NAME, export_onnx
from qgbench.quality.folder import (
    StoredPredictor,
    audit_on_folder,
    hold_back,
    open_predictor,
    score_masks,
    train_on_folder,
)
from qgbench.quality.likeness import LIKENESS_NAME
from qgbench.quality.predictor import CARD_NAME, WEIGHTS_NAME
from qgbench.quality.scores import overlap, predicted_quality
from qgbench.quality.store import as_labelled
from qgbench.spec.protocol import Protocol, load_protocol
from tests.commands import small_data
from tests.data.acquire.test_pairs import HEART, nnunet

pytestmark = pytest.mark.slow

QUICK = {"steps": 24, "batch": 16, "validations": 2, "weak_epochs": (1, 2), "weak_epoch_min_steps": 1}


def quick(size: int = 48, **changes: object) -> Protocol:
    known = load_protocol("small")
    quality = known.quality.model_copy(update={**QUICK, **changes})
    return known.model_copy(update={"size": size, "quality": quality})


def trained(source: Source, output: Path, seed: int = 0, size: int = 48, **changes: object) -> StoredPredictor:
    accelerator = make_accelerator("cpu", "fp32", 1)
    return train_on_folder(source, output, quick(size, **changes), seed, accelerator, "fp32")


def scored(g: StoredPredictor, source: Source) -> pd.DataFrame:
    return score_masks(g, source, make_accelerator("cpu", "fp32", 1))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="module")
def source(phantom: Path) -> Source:
    return open_pairs(phantom / "images", phantom / "masks", groups=phantom / "groups.csv")


@pytest.fixture(scope="module")
def g(source: Source, tmp_path_factory: pytest.TempPathFactory) -> StoredPredictor:
    return trained(source, tmp_path_factory.mktemp("g") / "own")


def test_a_fifth_of_the_groups_is_held_back_and_none_is_parted(source: Source, g: StoredPredictor) -> None:
    prepared = prepare(source, 48)
    split = hold_back(prepared, 0)
    parts = split.groupby("group")["split"].unique()
    assert all(len(part) == 1 for part in parts)
    assert sum(part[0] == "val" for part in parts) == 4  # of 20
    assert sorted(g.card.labelled_ids) == sorted(split.loc[split["split"] == "train", "id"])
    assert not hold_back(prepared, 1).equals(split)
    assert hold_back(prepared, 0).equals(split)


def named(groups: str) -> Prepared:
    """Images of these groups, of which nothing else is known."""
    ids = [str(place) for place in range(len(groups))]
    return Prepared(ids, list(groups), np.empty(0), None, np.empty(0), "", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", ["aabbccddee", "abcd", "aabb", "abcdefghijklmno"])
def test_small_folders_have_two_images_in_either_part(groups: str) -> None:
    for seed in range(8):
        counts = hold_back(named(groups), seed)["split"].value_counts()
        assert counts["val"] == max(2, len(groups) // 5)


@pytest.mark.parametrize("groups", ["aa", "abc", "aaaa", "aab"])
def test_too_few_images_are_refused_whatever_the_seed(groups: str) -> None:
    for seed in range(8):
        with pytest.raises(UserError, match="too few"):
            hold_back(named(groups), seed)


def test_the_folder_of_g_is_whole_and_moves(g: StoredPredictor, source: Source, tmp_path: Path) -> None:
    assert {file.name for file in g.folder.iterdir()} - {".lock"} == {CARD_NAME, WEIGHTS_NAME, LIKENESS_NAME}
    moved = tmp_path / "elsewhere"
    g.folder.rename(moved)
    try:
        assert scored(open_predictor(moved), source).equals(scored(g, source))
    finally:
        moved.rename(g.folder)
    with pytest.raises(UserError, match=f"holds no whole quality predictor: expected {CARD_NAME}"):
        open_predictor(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        open_predictor(tmp_path / "nothing")
    for name in ("first", "second"):
        shutil.copytree(g.folder, tmp_path / "predictors" / name)
    with pytest.raises(
        UserError, match=r"holds 2 quality predictors \(first, second\): name one, .*predictors/first\."
    ):
        open_predictor(tmp_path / "predictors")


def test_an_interrupted_training_goes_on_and_gives_the_same_g(
    g: StoredPredictor, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in g's training, and once more between its end and its storing."""
    monkeypatch.setattr(stage, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    run, save = folder.fit_predictor.__globals__["PredictorFit"].run, folder.save_predictor

    def stopped(fit: object) -> object:
        for step in run(fit):
            yield step
            if step == 7:
                raise Interrupted(15)

    def unsaved(*_: object) -> None:
        raise Interrupted(15)

    output = tmp_path / "g"
    for name, where, other in (("run", folder.fit_predictor.__globals__["PredictorFit"], stopped),
                               ("save_predictor", folder, unsaved)):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(where, name, other)
            with pytest.raises(Interrupted):
                trained(source, output)
        with pytest.raises(UserError, match="the same command continues"):
            open_predictor(output)
        with pytest.raises(UserError, match="made with other settings"):
            trained(source, output, seed=0, lr=1e-3)
    assert folder.save_predictor is save
    again = trained(source, output)
    for name, value in g.predictor.state_dict().items():
        assert torch.equal(value, again.predictor.state_dict()[name]), name
    assert scored(again, source).equals(scored(g, source))


def test_a_finished_g_is_only_opened_and_no_other_takes_its_place(
    g: StoredPredictor, source: Source, phantom: Path
) -> None:
    before = (g.folder / WEIGHTS_NAME).stat().st_mtime_ns
    assert trained(source, g.folder).card == g.card
    ungrouped = open_pairs(phantom / "images", phantom / "masks")
    for other in (lambda: trained(source, g.folder, seed=1), lambda: trained(ungrouped, g.folder)):
        with pytest.raises(UserError, match="holds a quality predictor of other images, masks, groups or settings"):
            other()
    assert (g.folder / WEIGHTS_NAME).stat().st_mtime_ns == before


def test_scores_are_the_harnesss_own(g: StoredPredictor, source: Source) -> None:
    table = scored(g, source).set_index("image").loc[source.ids]
    known = as_labelled(ImageSet([whole(prepare(source, 48))]))
    with torch.no_grad():
        expected = predicted_quality(g.predictor, g.task, known.image, known.mask)
    assert np.array_equal(table["quality"].to_numpy(), expected.numpy())
    assert scored(g, source)["quality"].is_monotonic_increasing
    assert list(table.columns) == ["quality", "distance", "unlike"]


def inverted(source: Source, folder: Path) -> Source:
    """The same pictures with black for white."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for id in source.ids:
        Image.fromarray(255 - source.image(id)).save(folder / f"images/{id}.png")
        Image.fromarray(source.mask(id)).save(folder / f"masks/{id}.png")
    return open_pairs(folder / "images", folder / "masks")


def test_inverted_pictures_are_unlike_and_further_ones_of_the_phantom_are_not(
    g: StoredPredictor, source: Source, tmp_path: Path
) -> None:
    phantom, later = open_source("phantom"), tmp_path / "later"
    for part in ("images", "masks"):
        (later / part).mkdir(parents=True)
    for id in phantom.ids[100:140]:
        Image.fromarray(phantom.image(id)).save(later / f"images/{id}.png")
        Image.fromarray(phantom.mask(id)).save(later / f"masks/{id}.png")
    alike = scored(g, open_pairs(later / "images", later / "masks"))
    assert alike["unlike"].mean() < 0.2
    assert scored(g, inverted(source, tmp_path / "inverted"))["unlike"].mean() > 0.95


@pytest.mark.real
def test_skin_is_unlike_colon(tmp_path: Path) -> None:
    def some(dataset: str, places: range) -> Source:
        source, place = open_source(dataset), tmp_path / f"{dataset}{places.start}"
        for part in ("images", "masks"):
            (place / part).mkdir(parents=True)
        for id in [source.ids[place] for place in places]:
            Image.fromarray(source.image(id)).save(place / f"images/{id}.png")
            Image.fromarray(source.mask(id)).save(place / f"masks/{id}.png")
        return open_pairs(place / "images", place / "masks")

    g = trained(some("ph2", range(60)), tmp_path / "g")
    assert scored(g, some("ph2", range(100, 140)))["unlike"].mean() < 0.25
    assert scored(g, some("cvc_colondb", range(0, 380, 10)))["unlike"].mean() > 0.9


def test_an_audit_of_the_held_back_images_is_that_of_the_card(
    g: StoredPredictor, source: Source, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same synthetic masks come where the images, their order and the seed are the same."""
    held_back = [id for id in source.ids if id not in g.card.labelled_ids]
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for id in held_back:
            (tmp_path / part / f"{id}.png").symlink_to(phantom / part / f"{id}.png")
    table = pd.read_csv(phantom / "groups.csv", dtype=str)
    table[table["stem"].isin(held_back)].to_csv(tmp_path / "groups.csv", index=False)
    truth = open_pairs(tmp_path / "images", tmp_path / "masks", groups=tmp_path / "groups.csv")
    accelerator = make_accelerator("cpu", "fp32", 1)
    seed = folder.salted("g", "folder", len(g.card.labelled_ids), 0)
    predictor = copy.deepcopy(g.predictor)
    predictor.card = g.card.model_copy(update={"seed": seed})
    found = audit_on_folder(StoredPredictor(g.folder, predictor, None), truth, accelerator)
    assert found.masks == g.card.synthetic.masks
    assert found.groups == 4
    assert found.pearson.value == pytest.approx(g.card.synthetic.pearson)
    assert found.spearman.value == pytest.approx(g.card.synthetic.spearman)
    assert found.mae.value == pytest.approx(g.card.synthetic.mae)
    assert found.image_dependence is not None
    assert found.image_dependence.value == pytest.approx(g.card.image_dependence)


def test_given_masks_are_judged_by_their_true_dice(g: StoredPredictor, source: Source, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for id in source.ids:
        mask = np.roll(source.mask(id), rng.integers(0, 40), axis=1)
        Image.fromarray(mask).save(tmp_path / f"masks/{id}.png")
    judged = open_pairs(source._images[source.ids[0]].parent, tmp_path / "masks")  # type: ignore[attr-defined]
    found = audit_on_folder(g, source, make_accelerator("cpu", "fp32", 1), judged)
    own, given = (as_labelled(ImageSet([whole(prepare(each, 48))])) for each in (source, judged))
    dice = overlap(given.mask > 0.5, own.mask > 0.5).numpy()
    score = scored(g, judged).set_index("image").loc[source.ids, "quality"].to_numpy()
    expected = agreement(score, dice)
    assert (found.masks, found.failures) == (40, (dice < 0.7).sum())
    assert found.mean_dice == pytest.approx(dice.mean())
    assert found.pearson.value == pytest.approx(expected.pearson, abs=1e-5)
    assert found.mae.value == pytest.approx(expected.mae, abs=1e-5)
    fewer = open_pairs(*_without_one(source, tmp_path / "fewer"))
    with pytest.raises(UserError, match=r"1 image \(g000_0\) have a true mask or one to be judged, not both"):
        audit_on_folder(g, source, make_accelerator("cpu", "fp32", 1), fewer)


def _without_one(source: Source, place: Path) -> Sequence[Path]:
    for part in ("images", "masks"):
        (place / part).mkdir(parents=True)
    for id in source.ids[1:]:
        Image.fromarray(source.image(id)).save(place / f"images/{id}.png")
        Image.fromarray(source.mask(id)).save(place / f"masks/{id}.png")
    return place / "images", place / "masks"


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, StoredPredictor]:
    """Six volumes of three classes in nnU-Net's layout, and a g of them."""
    place = tmp_path_factory.mktemp("heart")
    source = open_pairs(*nnunet(place, cases=6), HEART)
    return source, trained(source, place / "g", size=32, steps=6)


def test_a_volume_has_one_row_of_its_slices(heart: tuple[Source, StoredPredictor]) -> None:
    source, g = heart
    assert g.card.values == HEART
    table = scored(g, source)
    classes = ["quality_rv", "quality_myo", "quality_lv"]
    others = ["distance", "slices", "worst_slice", "worst_quality", "unlike"]
    assert list(table.columns) == ["image", "quality", *classes, *others]
    assert sorted(table["image"]) == [f"heart_{case:03}" for case in range(6)]
    known = as_labelled(ImageSet([whole(prepare(source, 32))]))
    with torch.no_grad():
        quality = predicted_quality(g.predictor, g.task, known.image, known.mask).numpy()
        of_class = g.predictor(known.image, known.mask[:, 1:]).numpy()
    for row in table.to_dict("records"):
        own = [place for place, id in enumerate(source.ids) if source.volumes[id].volume == row["image"]]
        assert row["quality"] == pytest.approx(quality[own].mean())
        assert row["slices"] == 4
        assert row["worst_slice"] == quality[own].argmin()
        assert row["worst_quality"] == quality[own].min()
        assert [row[name] for name in classes] == pytest.approx(of_class[own].mean(0).tolist())


def test_classes_have_the_values_of_the_training_unless_others_are_named(
    heart: tuple[Source, StoredPredictor], g: StoredPredictor
) -> None:
    _, of_heart = heart
    assert of_heart.values_of(None) == HEART
    assert list(of_heart.values_of({"lv": 7, "rv": 9, "myo": 8}).items()) == [("rv", 9), ("myo", 8), ("lv", 7)]
    with pytest.raises(UserError, match=r"--classes names lv; .* was trained on rv, myo, lv"):
        of_heart.values_of({"lv": 1})
    assert g.values_of(None) == {}
    assert g.values_of({"tumour": 2}) == {"tumour": 2}


def test_onnx_gives_what_torch_gives(
    g: StoredPredictor, heart: tuple[Source, StoredPredictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    for name, stored, size, classes in (("one", g, 48, 1), ("three", heart[1], 32, 3)):
        files = export_onnx(stored, tmp_path / name)
        assert files[0] == tmp_path / name / ONNX_NAME
        session = runtime.InferenceSession(files[0].read_bytes(), providers=["CPUExecutionProvider"])
        for batch in (1, 5):
            image, mask = torch.rand(batch, 3, size, size), (torch.rand(batch, classes, size, size) > 0.7).float()
            (found,) = session.run(["quality"], {"image": image.numpy(), "mask": mask.numpy()})
            with torch.no_grad():
                expected = stored.predictor(image, mask).reshape(batch, classes)
            assert found == pytest.approx(expected.numpy(), abs=1e-5)
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    with pytest.raises(QGBenchError, match=r"the backbone .*: onnxruntime and torch differ by .* in quality"):
        export_onnx(g, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
