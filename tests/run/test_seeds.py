"""Which random numbers runs share: those of one data set, regime and seed do, whatever their method; others do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import _make_method, _open_data
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.task import Task
from qgbench.training.loop import Trainer
from qgbench.trust.toys import toy_data, toy_protocol

HERE: dict[str, Any] = {
    **{"protocol": "smoke", "dataset": "ph2", "regime": "n7@grouped", "method": "supervised", "arch": "unet"},
    **{"encoder": "tf_efficientnet_lite0", "precision": "fp32", "device": "cpu", "threads": 1, "seed": 0},
}
SHARE = [{"method": "fixmatch"}, {"method": "fixmatch", "qg_mode": "qw"}, {"qg_mode": "qar"}]
DIFFER = [{"dataset": "scd"}, {"regime": "n14@grouped"}, {"seed": 1}]


def spec(**changes: Any) -> RunSpec:
    return RunSpec.model_validate(HERE | changes)


def weights(of: RunSpec) -> Tensor:
    """Parameters of the first student as a run begins."""
    kind = load("method", of.method)
    protocol = of.resolve().model_copy(update={"encoder_weights": "none"})
    method, _ = _make_method(of, protocol, Task(), kind, kind.Settings())
    return torch.cat([p.detach().flatten() for p in method.students[0].parameters()])


def drawn(of: RunSpec) -> list[Tensor]:
    """The first batch and the next numbers of torch's own generator, which dropout draws."""
    kind = load("method", "fixmatch")  # which reads a strong view
    method, _ = _make_method(of, of.resolve(), Task(), kind, kind.Settings())
    accelerator = make_accelerator("cpu", "fp32", 1)
    trainer = Trainer(method, Guide([]), None, toy_data(), toy_protocol(2), of.seed_of("training"), accelerator)
    batch, _ = trainer._streams.next(0.0)
    return [batch.x_l, batch.u_w, batch.u_s1, batch.cut1, torch.rand(8), torch.from_numpy(trainer._audit_index)]


def same(first: list[Tensor], second: list[Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


@pytest.fixture(scope="module")
def here() -> tuple[Tensor, list[Tensor]]:
    return weights(spec()), drawn(spec())


@pytest.mark.parametrize("changes", SHARE, ids=str)
def test_methods_and_twins_of_a_setting_share_weights_orders_and_draws(changes: Any, here: Any) -> None:
    assert torch.equal(weights(spec(**changes)), here[0])
    assert all(same(drawn(spec(**changes)), here[1]))


@pytest.mark.parametrize("changes", DIFFER, ids=str)
def test_data_sets_regimes_and_seeds_share_none(changes: Any, here: Any) -> None:
    others = weights(spec(**changes))
    drawn_weights = here[0] != here[0][0]
    assert float((others == here[0])[drawn_weights].float().mean()) < 0.05  # those that begin as 0 or 1
    assert not any(same(drawn(spec(**changes)), here[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of the same names, groups and pixels, and a pool."""
    folder, stream = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(40):
        image, mask = stream.integers(256, size=(8, 8, 3), dtype=np.uint8), np.full((8, 8), 255, np.uint8)
        for part, pixels in (("one/images", image), ("one/masks", mask), ("two/images", image), ("two/masks", mask)):
            save(pixels, folder / part / f"{number:02d}.png")
        save(255 - image, folder / "pool/unlabelled" / f"p{number:02d}.png")
    return folder


def save(pixels: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def images_of(of: RunSpec) -> list[set[str]]:
    """Labelled images, and those drawn from the pool."""
    data = _open_data(of, of.resolve(), None, ()).training
    return [set(data.labelled.ids), {id for id in data.unlabelled.ids if id.startswith("p")}]


def test_images_are_drawn_for_a_data_set_and_seed_whatever_the_method(folder: Path) -> None:
    def drawn_for(name: str, **changes: Any) -> list[set[str]]:
        regime = f"n7+{folder / 'pool'}~9@image"
        return images_of(spec(**{"dataset": str(folder / name), "regime": regime} | changes))

    here = drawn_for("one")
    assert [len(images) for images in here] == [7, 9]
    assert all(drawn_for("one", **changes) == here for changes in SHARE)
    for others in (drawn_for("two"), drawn_for("one", seed=1)):
        assert all(ours != theirs for ours, theirs in zip(here, others, strict=True))


def test_a_folder_has_the_seeds_of_its_name_wherever_it_lies() -> None:
    assert spec(dataset="./mine").seed_of("weights") == spec(dataset="/elsewhere/mine/").seed_of("weights")
    assert spec(dataset="./mine").seed_of("weights") != spec(dataset="./other").seed_of("weights")


def test_streams_of_one_run_differ_from_each_other() -> None:
    seeds = [spec().seed_of(purpose) for purpose in ("weights", "training", "add-on")]
    assert len(np.unique(seeds)) == 3
