"""MC-Net: Dice of two decoders on one encoder, and MSE to each other's sharpened probabilities (arXiv 2103.02911)."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qgbench.archs.build import build_network
from qgbench.methods import Batch, Method
from qgbench.plugins.registry import load
from tests.baselines import assert_same_gradient, make_batch, objective, sharpen, written_gradient
from tests.baselines.test_equations import make


def mc_net(**settings: object) -> Any:
    """On the toy network; probabilities of both decoders spread over (0, 1)."""
    method: Any = make("mc_net", **settings)
    sharpen(method.student, 2.0)
    sharpen(method.second, 2.0)
    return method


def written(method: Any, batch: Batch) -> tuple[Tensor, Tensor, list[torch.nn.Module]]:
    """Supervised and mutual loss by the networks' parts: one batch through the encoder and through each decoder."""
    first, second = (copy.deepcopy(part).train() for part in (method.student, method.second))
    features = first.encode(torch.cat([batch.x_l, batch.u_w]))
    probs = [torch.sigmoid(each.head(each.decode(features))) for each in (first, second)]
    supervised = torch.zeros(())
    for prob in probs:
        lesion = prob[: len(batch.y_l)]  # the labelled images come first
        for p, y in ((lesion, batch.y_l), (1 - lesion, 1 - batch.y_l)):
            supervised = supervised + (1 - 2 * (p * y).sum() / ((p * p).sum() + (y * y).sum())) / 2
    sharp = [(p**10 / (p**10 + (1 - p) ** 10)).detach() for p in probs]
    mutual = ((probs[0] - sharp[1]) ** 2).mean() + ((probs[1] - sharp[0]) ** 2).mean()
    return supervised, mutual, [first.encoder, first.decoder, first.head, second.decoder, second.head]


@pytest.mark.parametrize("unlabelled", [2, 5])
@pytest.mark.parametrize("progress", [0.3, 1.0])
def test_loss_and_gradient_are_the_written_ones(unlabelled: int, progress: float) -> None:
    method, batch = mc_net(), make_batch(unlabelled, progress=progress)
    supervised, mutual, parts = written(method, batch)
    weight = 0.1 * math.exp(-5 * (1 - progress) ** 2)
    found, ours = objective(method, batch)
    assert found["supervised"] == pytest.approx(float(supervised.detach()), rel=1e-5)
    assert found["total"] == pytest.approx(float((supervised + weight * mutual).detach()), rel=1e-5)
    assert_same_gradient(ours, written_gradient(supervised + weight * mutual, parts))


def test_a_label_is_the_other_decoders_and_names_the_network_that_made_it() -> None:
    method, batch = mc_net(), make_batch()
    terms = copy.deepcopy(method)(batch).terms
    assert [term.label.view for term in terms] == ["weak", "weak", "labelled", "labelled"]
    network = copy.deepcopy(method)
    features = network.student.encode(torch.cat([batch.x_l, batch.u_w]))
    probs = [torch.sigmoid(n.head(n.decode(features)))[3:].detach() for n in (network.student, network.second)]
    assert not torch.allclose(probs[0], probs[1], atol=0.05)
    np.testing.assert_allclose(terms[0].label.prob.numpy(), probs[1].numpy(), rtol=1e-5)
    np.testing.assert_allclose(terms[1].label.prob.numpy(), probs[0].numpy(), rtol=1e-5)
    method.eval()
    found = method(batch).terms
    for term, labeller in zip(found, (method.second, method.student) * 2, strict=True):
        assert term.label.network is labeller
        image = torch.cat([batch.x_l, batch.u_w])
        expected = torch.sigmoid(labeller(image)).split([3, 4])[term.label.view == "weak"]
        torch.testing.assert_close(term.label.prob, expected)


def test_the_optimiser_moves_one_encoder_and_two_decoders() -> None:
    method: Method = mc_net()
    moved = method.trainable()
    assert len(moved) == len({id(parameter) for parameter in moved})
    count = sum(parameter.numel() for parameter in method.student.parameters())
    encoder = sum(parameter.numel() for parameter in method.students[0].get_submodule("encoder").parameters())
    assert sum(parameter.numel() for parameter in moved) == 2 * count - encoder
    assert method.teacher is None


def test_a_restored_method_has_one_encoder_still() -> None:
    method, other = mc_net(), mc_net()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    image = make_batch().u_w
    assert torch.equal(other.eval().second(image), method.eval().second(image))
    assert other.second.encoder is other.student.encoder


@pytest.mark.parametrize(("arch", "differ"), [("unet", True), ("segformer", False)])
def test_the_second_decoder_interpolates_where_the_first_repeats_pixels(arch: str, differ: bool) -> None:
    kind = load("method", "mc_net")
    method = kind(lambda: build_network(arch, "resnet18", "none", (16, 16, 16, 16, 16), 64), kind.Settings())
    networks: list[Any] = [method.student, method.second]
    modes = [{getattr(block, "interpolation_mode", None) for block in n.body.decoder.modules()} for n in networks]
    assert modes == ([{None, "nearest"}, {None, "bilinear"}] if differ else [{None}, {None}])
    weights = [next(p for p in n.body.decoder.parameters() if p.ndim > 1) for n in networks]
    assert not torch.equal(*weights)
    assert networks[1].body.encoder is networks[0].body.encoder


def test_settings_are_those_of_the_authors_code() -> None:
    settings = load("method", "mc_net").Settings().model_dump()
    assert settings == {"lambda_u": 0.1, "warmup": 0.0, "ramp": 0.0, "temperature": 0.1}
