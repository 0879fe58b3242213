"""Attention gates against their equation, and the U-Net that they are put on."""

import math
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from qgbench.archs.attention_unet import AttentionGate, GatedBlock, build_attention_unet

DECODER = (32, 16, 16, 8, 8)


def set_gate(gate: AttentionGate, wx: list[float], wg: list[float], bg: float, psi: float, b: float) -> None:
    """Give every weight of a gate with one inner channel."""
    with torch.no_grad():
        gate.wx.weight.copy_(torch.tensor(wx).view_as(gate.wx.weight))
        gate.wg.weight.copy_(torch.tensor(wg).view_as(gate.wg.weight))
        assert gate.wg.bias is not None
        assert gate.psi.bias is not None
        gate.wg.bias.fill_(bg)
        gate.psi.weight.fill_(psi)
        gate.psi.bias.fill_(b)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_one_coefficient_by_hand() -> None:
    """A skip connection of 2 x 2 pixels and one of the signal: alpha = sigmoid(psi relu(Wx x + Wg g + b) + b')."""
    gate = AttentionGate(channels=1, gating=2)
    set_gate(gate, wx=[0.5, -1.0, 2.0, 0.25], wg=[1.5, -0.5], bg=0.1, psi=0.7, b=-0.3)
    x = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])
    g = torch.tensor([0.2, 0.6]).view(1, 2, 1, 1)
    # Wx x = 0.5 - 2 + 6 - 1 = 3.5, Wg g = 0.3 - 0.3 = 0
    alpha = sigmoid(0.7 * (3.5 + 0.0 + 0.1) - 0.3)
    torch.testing.assert_close(gate(x, g), x * alpha)


def test_a_negative_sum_is_cut_before_psi() -> None:
    gate = AttentionGate(channels=1, gating=1)
    set_gate(gate, wx=[1.0, 1.0, 1.0, 1.0], wg=[-1.0], bg=0.0, psi=5.0, b=0.4)
    x, g = torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 1), 10.0)  # 4 - 10 < 0
    torch.testing.assert_close(gate(x, g), x * sigmoid(0.4))


def test_coefficients_are_aligned_with_the_pixels_that_made_them() -> None:
    """Coefficients lie at the centres of 2 x 2 pixels; between two of them they change linearly, outside not at all."""
    gate = AttentionGate(channels=1, gating=1)
    set_gate(gate, wx=[0.0, 0.0, 0.0, 0.0], wg=[1.0], bg=0.0, psi=1.0, b=0.0)
    left, right = sigmoid(1.0), sigmoid(3.0)
    g = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    row = torch.tensor([left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right])
    torch.testing.assert_close(gate(torch.ones(1, 1, 4, 4), g), row.expand(1, 1, 4, 4))
    torch.testing.assert_close(gate(torch.ones(1, 1, 4, 4), g.mT), row.expand(1, 1, 4, 4).mT)


def test_all_channels_of_a_pixel_share_its_coefficient() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(channels=6, gating=5)
    assert gate.wx.weight.shape == (3, 6, 2, 2)
    x = torch.rand(2, 6, 8, 8) + 0.5
    alpha = gate(x, torch.randn(2, 5, 4, 4)).detach() / x
    torch.testing.assert_close(alpha, alpha[:, :1].expand_as(alpha))
    assert 0 < float(alpha.min()) < float(alpha.max()) < 1


class Fixed(nn.Module):
    """A gate whose coefficient is the same everywhere."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        assert [2 * side for side in g.shape[2:]] == list(x.shape[2:])
        return self.alpha * x


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "mit_b0"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_with_open_or_shut_gates_it_is_the_library_s_unet_with_all_or_no_skip_connections(
    encoder: str, alpha: float
) -> None:
    network = build_attention_unet(encoder, "none", DECODER, 64).eval()
    gates = [block for block in network.decoder.blocks if isinstance(block, GatedBlock)]
    assert len(gates) == (3 if encoder == "mit_b0" else 4)  # mit_b0 has no features at stride 2
    for block in gates:
        block.gate = Fixed(alpha)
    known = smp.Unet(encoder, encoder_weights=None, decoder_channels=DECODER).eval()
    state = {name.replace(".block.", "."): value for name, value in network.state_dict().items()}
    known.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = known.encoder(image)
        cut = [features[0], *(alpha * f for f in features[1:-1]), features[-1]]
        expected = known.segmentation_head(known.decoder(cut))
        assert torch.equal(network(image), expected)
        assert torch.equal(expected, known(image)) == (alpha == 1.0)


def test_every_gate_is_asked_by_the_next_coarser_stage() -> None:
    network = build_attention_unet("resnet18", "none", DECODER, 64)
    gates: list[Any] = [block.gate for block in network.decoder.blocks if isinstance(block, GatedBlock)]
    # Channels of ResNet-18's features: 64, 64, 128, 256, 512.
    assert [gate.wx.in_channels for gate in gates] == [256, 128, 64, 64]
    assert [gate.wg.in_channels for gate in gates] == [512, 32, 16, 16]


def test_parameters_on_resnet34_are_the_unet_s_and_those_of_four_gates() -> None:
    network = build_attention_unet("resnet34", "none", (256, 128, 64, 32, 16), 224)
    unet = 24_436_369  # tests/archs/test_build.py counts them layer by layer
    gates = sum(
        4 * x * (x // 2) + g * (x // 2) + x // 2 + x // 2 + 1 for x, g in [(256, 512), (128, 256), (64, 128), (64, 64)]
    )
    assert sum(p.numel() for p in network.parameters()) == unet + gates == 24_705_173
