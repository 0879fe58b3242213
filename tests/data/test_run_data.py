"""What a run gets of its data set and pools."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgbench.base.errors import UserError
from qgbench.data.acquire.given import read_given
from qgbench.data.cards import card_folder
from qgbench.data.content import CACHE_VARIABLE
from qgbench.data.readers import open_source
from qgbench.data.run_data import RunData, open_run_data
from qgbench.data.splits import HALF_TEST, draw_pool, load_split
from qgbench.spec.regime import Regime
from tests.data.test_readers import write_tree

IDS = tuple(f"i{number:02d}" for number in range(20))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 20 images and a pool of 12."""
    folder = tmp_path_factory.mktemp("data")
    write_tree(folder / "own", IDS)
    (folder / "pool/unlabelled").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(12):
        pixels = rng.integers(256, size=(30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"pool/unlabelled/p{number:02d}.png")
    return folder


def opened(data_dir: Path, regime: str, seed: int = 0, split_from: tuple[Path, ...] = ()) -> RunData:
    own = str(data_dir / "own")
    return open_run_data(own, Regime.parse(regime), seed, 12, HALF_TEST, split_from=split_from)


def test_the_two_regimes(data_dir: Path) -> None:
    """All labels and an external pool; or a budget, the rest unlabelled, with or without a pool."""
    pool = str(data_dir / "pool")
    paper = opened(data_dir, f"all+{pool}@image").training
    assert len(paper.labelled) == 8
    assert paper.unlabelled.ids == [f"p{number:02d}" for number in range(12)]
    field = opened(data_dir, "n3@image").training
    assert (len(field.labelled), len(field.unlabelled)) == (3, 5)
    both = opened(data_dir, f"n3+{pool}@image").training
    assert both.unlabelled.ids == [*field.unlabelled.ids, *paper.unlabelled.ids]


def test_a_share_of_the_training_part_is_rounded_half_up(data_dir: Path) -> None:
    numbers = {share: len(opened(data_dir, f"{share}@image").training.labelled) for share in ("p25", "p30", "p31.25")}
    assert numbers == {"p25": 2, "p30": 2, "p31.25": 3}
    assert set(opened(data_dir, "p25@image").training.labelled.ids) < set(
        opened(data_dir, "p50@image").training.labelled.ids
    )


def test_images_are_drawn_from_a_pool_by_the_seed_index(data_dir: Path) -> None:
    pool = f"{data_dir / 'pool'}"
    draws = [opened(data_dir, f"all+{pool}~5@image", seed).training.unlabelled.ids for seed in range(3)]
    assert all(len(set(draw)) == 5 for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 3
    larger = opened(data_dir, f"all+{pool}~9@image", 1).training.unlabelled.ids
    assert set(draws[1]) < set(larger)
    assert draws[1] == draw_pool([f"p{number:02d}" for number in range(11, -1, -1)], "pool", 5, "own", 1)


def test_a_pool_with_too_few_images_is_refused_before_anything_is_prepared(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    regime = Regime.parse(f"all+{data_dir / 'pool'}~13@image")
    with pytest.raises(UserError, match="13 images are to be drawn from the pool 'pool', which has 12"):
        open_run_data(str(data_dir / "own"), regime, 0, 12, HALF_TEST)
    assert not list(tmp_path.iterdir())


def test_a_run_on_masks_without_any_lesion_is_refused(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "own", tmp_path / "own")
    for file in (tmp_path / "own/masks").iterdir():
        Image.new("L", Image.open(file).size).save(file)
    with pytest.raises(UserError, match=r"none of the 3 labelled images \(seed index 0\) .* nor has any of the 8"):
        opened(tmp_path, "n3@image")


def test_the_split_of_own_images_is_balanced_in_area(data_dir: Path) -> None:
    source = open_source(str(data_dir / "own"))
    data = opened(data_dir, "n3@image")
    assert data.split.equals(load_split(source, "image", HALF_TEST, data.prepared))


def test_a_published_split_is_followed(data_dir: Path, tmp_path: Path) -> None:
    lists = {"labeled": IDS[:2], "unlabeled": (*IDS[2:6], "p03", "p07"), "val": IDS[6:9], "test": IDS[9:]}
    for name, ids in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(ids))
    from qgbench.data.readers import open_pool

    pool = str(data_dir / "pool")
    kind = read_given([tmp_path], open_source(str(data_dir / "own")), [open_pool(pool)]).kind
    for seed in (0, 3):
        data = opened(data_dir, f"n2+{pool}@{kind}", seed, (tmp_path,))
        assert data.training.labelled.ids == list(IDS[:2])
        assert data.training.unlabelled.ids == [*IDS[2:6], "p03", "p07"]
        assert data.training.val.ids == list(IDS[6:9])
        assert list(data.split.loc[data.split["split"] == "test", "id"]) == list(IDS[9:])
    with pytest.raises(UserError, match="names 2 labelled images, and the budget is 3"):
        opened(data_dir, f"n3+{pool}@{kind}", 0, (tmp_path,))
    with pytest.raises(UserError, match="has a split from files; name them with --split-from"):
        opened(data_dir, f"n2+{pool}@{kind}")
    with pytest.raises(UserError, match="names another; give one of them"):
        opened(data_dir, f"n2+{pool}@grouped", 0, (tmp_path,))
    (tmp_path / "val.txt").write_text("\n".join(IDS[6:8]))
    with pytest.raises(UserError, match=rf"and the regime is 'n2\+{pool}@{kind}': they, or the images, are not those"):
        opened(data_dir, f"n2+{pool}@{kind}", 0, (tmp_path,))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_pool_that_holds_an_image_of_another_part_is_refused(data_dir: Path, tmp_path: Path, part: str) -> None:
    split = opened(data_dir, "n3@image").split
    leaked = split.loc[split["split"] == part, "id"].iloc[1]
    shutil.copytree(data_dir / "pool", tmp_path / "pool")
    shutil.copy(data_dir / f"own/images/{leaked}.png", tmp_path / "pool/unlabelled/other_name.png")
    with pytest.raises(UserError, match=r"1 image \(other_name\) are images to validate or test on: remove them from"):
        opened(data_dir, f"n3+{tmp_path / 'pool'}@image")


def test_a_pool_that_repeats_training_images_is_taken(data_dir: Path, tmp_path: Path) -> None:
    split = opened(data_dir, "n3@image").split
    train = split.loc[split["split"] == "train", "id"].iloc[0]
    shutil.copytree(data_dir / "pool", tmp_path / "pool")
    shutil.copy(data_dir / f"own/images/{train}.png", tmp_path / "pool/unlabelled/again.png")
    assert "again" in opened(data_dir, f"n3+{tmp_path / 'pool'}@image").training.unlabelled.ids


@pytest.mark.real
@pytest.mark.parametrize(("patients", "slices"), [(3, 68), (7, 136), (0, 0)])
def test_the_split_of_acdc_that_the_field_uses_ships_under_the_name_that_it_has_of_itself(
    patients: int, slices: int
) -> None:
    """Slices and labelled slices as SSL4MIS and UniMatch count them."""
    source = open_source("acdc")
    splits = [Path(str(file)) for file in card_folder("acdc").joinpath("splits").iterdir()]
    given = {file.stem: read_given([file], source) for file in splits if file.stem.startswith("given-")}
    assert [kind for kind, split in given.items() if split.kind != kind] == []
    (split,) = (one for one in given.values() if len(one.labelled or []) == slices)
    assert len({id.partition("_")[0] for id in split.labelled or []}) == patients
    parts = split.table["id"].str.partition("_")[0].groupby(split.table["split"]).nunique()
    assert dict(parts) == {"train": 70, "val": 10, "test": 20}
    assert (split.table["split"] == "train").sum() == 1312
