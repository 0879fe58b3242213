"""What a method may ask for: a second decoder, another architecture, an optimiser of its own."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from qgbench.archs.build import build_network
from qgbench.archs.registry import ARCHS
from qgbench.archs.weights import weights_hash
from qgbench.base.errors import UserError
from qgbench.cli.main import app
from qgbench.engine.device import make_accelerator
from qgbench.methods import Batch, Method, MethodSettings, Step
from qgbench.methods.losses import segmentation_loss
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import _make_method
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.task import Task
from qgbench.training.loop import Trainer
from qgbench.trust.toys import ToySegmenter, toy_data, toy_protocol


@pytest.mark.parametrize("arch", sorted(ARCHS))
def test_a_new_decoder_sits_on_the_same_encoder_with_weights_of_its_own(arch: str) -> None:
    torch.manual_seed(0)
    network = build_network(arch, ARCHS[arch].own_encoder or "resnet18", "none", (32, 32, 16, 16, 16), 64)
    image, before = torch.rand(2, 3, 64, 64), copy.deepcopy(network.state_dict())
    sibling = network.new_decoder()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert sibling.body.encoder is network.body.encoder
    ours, theirs = dict(network.body.decoder.named_parameters()), dict(sibling.body.decoder.named_parameters())
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert {value.data_ptr() for value in ours.values()}.isdisjoint(value.data_ptr() for value in theirs.values())
    assert sibling.min_batch == network.min_batch
    with torch.no_grad():
        logits = sibling.eval().head(sibling.decode(network.eval().encode(image)))
        assert torch.equal(logits, sibling(image))
        assert not torch.allclose(logits, network(image))


class TwoRates(Method):
    """Plain gradient descent; the head's rate is ten times the decoder's."""

    pseudo_labels = False

    def optimiser(self, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        parts: list[Any] = [self.students[0].get_submodule(name) for name in ("encoder", "decoder", "head")]
        groups = [{"params": part.parameters(), "lr": lr * rate} for part, rate in zip(parts, (1, 1, 10), strict=True)]
        return torch.optim.SGD(groups, momentum=0.9)

    def step(self, batch: Batch) -> Step:
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l))


def trainer_of(kind: type[Method], steps: int) -> Trainer:
    torch.manual_seed(0)
    method, accelerator = kind(ToySegmenter, kind.Settings()), make_accelerator("cpu", "fp32", 1)
    return Trainer(method, Guide([]), None, toy_data(), toy_protocol(steps), 0, accelerator)


def test_an_optimiser_of_a_method_keeps_its_multiples_of_the_schedule_after_a_resume_too() -> None:
    whole = trainer_of(TwoRates, 6)
    list(whole.run())
    first = trainer_of(TwoRates, 6)
    for done in first.run():
        if done == 3:
            break
    state = copy.deepcopy(first.state_dict())
    second = trainer_of(TwoRates, 6)
    second.load_state_dict(state)
    list(second.run())
    expected = whole.method.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.method.state_dict().items())
    rates = [group["lr"] for group in second._optimiser.param_groups]
    assert rates == pytest.approx([rates[0], rates[0], 10 * rates[0]])
    settings = toy_protocol(6).train
    assert settings.lr_end < rates[0] < settings.lr


def test_the_first_step_is_that_of_the_methods_own_optimiser() -> None:
    trainer = trainer_of(TwoRates, 3)
    before = copy.deepcopy(trainer.method.state_dict())
    next(trainer.run())
    rate = toy_protocol(3).train.lr
    for name, parameter in trainer.method.students[0].named_parameters():
        moved = before[f"students.0.{name}"] - parameter
        assert parameter.grad is not None
        step = rate * (10 if name.startswith("head") else 1) * parameter.grad
        torch.testing.assert_close(moved, step, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_are_those_of_adamw_in_any_layout_of_the_weights(layout: torch.memory_format) -> None:
    """Algorithm 2 of arXiv 1711.05101 in float64: a fused step that took memory as it lies would mix weights up."""
    trainer = trainer_of(load("method", "supervised"), 4)
    parameters = dict(trainer.method.to(memory_format=layout).students.named_parameters())
    expected = {name: value.detach().double().numpy().copy() for name, value in parameters.items()}
    first, second = ({name: np.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    decay = toy_protocol(4).train.weight_decay
    for step in trainer.run():
        rate = trainer._optimiser.param_groups[0]["lr"]
        for name, value in parameters.items():
            assert value.grad is not None
            grad = value.grad.double().numpy()
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.999 * second[name] + 0.001 * grad**2
            root = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            expected[name] -= rate * (decay * expected[name] + first[name] / (1 - 0.9**step) / root)
    for name, value in parameters.items():
        np.testing.assert_allclose(value.detach().numpy(), expected[name], rtol=0, atol=1e-6)


class NoOptimiser(TwoRates):
    """It forgets to return one."""

    def optimiser(self, lr: float, weight_decay: float) -> Any:
        super().optimiser(lr, weight_decay)


def test_what_is_no_optimiser_is_refused() -> None:
    with pytest.raises(UserError, match=r"^NoOptimiser\.optimiser returned None; expected a torch\.optim\.Optimizer"):
        trainer_of(NoOptimiser, 3)


def spec_of(method: str, **overrides: object) -> RunSpec:
    fields = {"protocol": "smoke", "dataset": "phantom", "regime": "n12", "arch": "unet", "seed": 0, "threads": 1}
    fields |= {"encoder": "tf_efficientnet_lite0", "precision": "fp32", "device": "cpu", "method": method}
    return RunSpec.model_validate(fields | {"overrides": {"encoder_weights": "none"} | overrides})


def test_the_hash_tells_the_encoders_of_both_architectures() -> None:
    def made(spec: RunSpec, settings: MethodSettings) -> tuple[Method, str]:
        return _make_method(spec, spec.resolve(), Task(), load("method", spec.method), settings)

    kind = load("method", "cross_teaching")
    found = [made(spec_of("cross_teaching"), kind.Settings(second_arch=arch)) for arch in ("fpn", "segformer")]
    alone = made(spec_of("fixmatch"), load("method", "fixmatch").Settings())
    method, digest = made(spec_of("cross_teaching"), kind.Settings(second_arch="unet"))
    assert method.archs(method.settings) == ("", "unet")
    assert digest != alone[1]  # of two encoders that were drawn apart
    for pair, of_pair in found:
        assert of_pair != weights_hash(pair.students[0].get_submodule("body.encoder")) == alone[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "method.second_arch=segfromer"], "unknown arch 'segfromer'. Did you mean 'segformer'?"),
        (["--set", "method.second_arch=lab.py:tiny"], "arch file lab.py cannot be read"),
        (["--set", "method.second_arch="], "method.second_arch"),
        (["--arch", "unet", "--encoder", "resnet18.nope"], "resnet18.nope"),
    ],
)
def test_a_second_architecture_that_cannot_be_is_refused_before_anything_is_read(
    options: Sequence[str], message: str
) -> None:
    words = ["run", "--method", "cross_teaching", "--protocol", "smoke", "--set", "encoder_weights=none", "--dry-run"]
    result = CliRunner().invoke(app, [*words, *options])
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_a_second_architecture_that_a_batch_or_an_image_does_not_suit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["run", "--method", "cross_teaching", "--protocol", "smoke", "--set", "encoder_weights=none", "--dry-run"]
    needy = dict(ARCHS) | {"swin_unet": replace(ARCHS["swin_unet"], min_batch=9999)}
    monkeypatch.setattr("qgbench.archs.registry.ARCHS", needy)
    result = CliRunner().invoke(app, words)
    assert "arch 'swin_unet' needs 9999 or more images" in str(result.exception)
    needy["swin_unet"] = ARCHS["swin_unet"].__class__(
        **vars(ARCHS["swin_unet"]) | {"fits": lambda size: size % 1000 == 0}
    )
    result = CliRunner().invoke(app, words)
    assert "pixels do not fit arch 'swin_unet'" in str(result.exception)
