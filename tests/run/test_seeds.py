"""Which random numbers runs share: those of one data set, regime and seed do, whatever their method; others do not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import _make_method
from qgbench.spec.run_spec import RunSpec
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
    method, _ = _make_method(of, of.resolve().model_copy(update={"encoder_weights": "none"}), kind, kind.Settings())
    return torch.cat([p.detach().flatten() for p in method.students[0].parameters()])


def drawn(of: RunSpec) -> list[Tensor]:
    """The first batch and the next numbers of torch's own generator, which dropout draws."""
    kind = load("method", "supervised")
    method, _ = _make_method(of, of.resolve(), kind, kind.Settings())
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


def test_a_folder_has_the_seeds_of_its_name_wherever_it_lies() -> None:
    assert spec(dataset="./mine").seed_of("weights") == spec(dataset="/elsewhere/mine/").seed_of("weights")
    assert spec(dataset="./mine").seed_of("weights") != spec(dataset="./other").seed_of("weights")


def test_streams_of_one_run_differ_from_each_other() -> None:
    seeds = [spec().seed_of(purpose) for purpose in ("weights", "training", "add-on")]
    assert len(np.unique(seeds)) == 3
