"""Swin-Unet: windows, patch expanding, and what it shares with timm's Swin Transformer."""

import copy
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerStage
from torch import Tensor, nn

from qgbench.archs.build import build_network
from qgbench.archs.swin_sizes import ENCODER, STRIDES, fits, windows
from qgbench.archs.swin_unet import SwinUnet, build_swin_unet, expand_pixels
from qgbench.base.errors import UserError


def build(size: int) -> SwinUnet:
    torch.manual_seed(0)
    return build_swin_unet(ENCODER, "none", (), size).eval()


@pytest.fixture(scope="module")
def swin96() -> SwinUnet:
    return build(96)


# Sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, (4, 4, 4, 2)),
        (96, (6, 6, 6, 3)),
        (128, (4, 4, 4, 4)),
        (160, (5, 5, 5, 5)),
        (192, (6, 6, 6, 6)),
        (224, (7, 7, 7, 7)),
        (256, (4, 4, 4, 4)),
        (448, (7, 7, 7, 7)),
    ],
)
def test_windows_are_the_largest_of_at_most_7_that_tile_every_grid(size: int, expected: tuple[int, ...]) -> None:
    assert windows(size) == expected
    assert fits(size)


@pytest.mark.parametrize("size", [32, 48, 100, 230, 352, 416])
def test_sizes_that_cannot_be_tiled_do_not_fit(size: int) -> None:
    assert not fits(size)


def stages(network: SwinUnet) -> list[Any]:
    return [*network.encoder.model.layers, *(up.stage for up in network.decoder.stages)]


def test_the_blocks_have_these_windows_and_nothing_is_padded(swin96: SwinUnet) -> None:
    shifts, sides = [], []
    for stage in stages(swin96):
        assert len(stage.blocks) == 2
        for block in stage.blocks:
            resolution, window = block.input_resolution, block.window_size
            assert [side % w for side, w in zip(resolution, window, strict=True)] == [0, 0]
            assert block.attn.window_size == window
            assert block.attn.relative_position_bias_table.shape[0] == (2 * window[0] - 1) ** 2
        sides.append((stage.blocks[0].input_resolution[0], stage.blocks[0].window_size[0]))
        shifts.append([block.shift_size[0] for block in stage.blocks])
    assert sides == [(24, 6), (12, 6), (6, 6), (3, 3), (6, 6), (12, 6), (24, 6)]
    # Every second block is shifted by half a window, where there is more than one window.
    assert shifts == [[0, 3], [0, 3], [0, 0], [0, 0], [0, 0], [0, 3], [0, 3]]


@pytest.mark.parametrize(("old", "new"), [(7, 6), (7, 4), (7, 3), (7, 2)])
def test_resized_tables_of_relative_positions_keep_the_bias_of_an_offset(old: int, new: int) -> None:
    """What timm does to pretrained tables; it indexes in a way that later versions of torch may read otherwise."""

    def picture(window: int) -> Tensor:
        """Bias of an offset of so many patches down and right, (2 * window - 1)**2 of them."""
        offset = torch.arange(1.0 - window, window)
        return 3 * offset[:, None] + offset.abs()

    stage: Any = SwinTransformerStage(8, 8, (old * 2, old * 2), 1, False, 1, window_size=old)
    attention = stage.blocks[0].attn
    with torch.no_grad():
        attention.relative_position_bias_table.copy_(picture(old).reshape(-1, 1))
    stage.set_input_size((new * 2, new * 2), new)
    found = attention.relative_position_bias_table.detach().view(2 * new - 1, 2 * new - 1)
    torch.testing.assert_close(found, picture(new), rtol=0.03, atol=1e-6 + 0.12 * (new - 1))


# Patches


def test_expanding_undoes_the_arrangement_of_patch_merging() -> None:
    merging = PatchMerging(3)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()  # type: ignore[assignment]  # typed as timm's
    picture = torch.arange(2 * 6 * 4 * 3.0).view(2, 6, 4, 3)
    assert torch.equal(expand_pixels(merging(picture), 2), picture)


def test_channels_become_pixels_by_hand() -> None:
    """One patch of four channels: first column downwards, then the second."""
    assert expand_pixels(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), 2)[0, :, :, 0].tolist() == [[1, 3], [2, 4]]
    two = torch.arange(8.0).view(1, 1, 1, 8)
    assert expand_pixels(two, 2).tolist() == [[[[0, 1], [4, 5]], [[2, 3], [6, 7]]]]
    side_by_side = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]])
    assert expand_pixels(side_by_side, 2)[0, :, :, 0].tolist() == [[1, 3, 5, 7], [2, 4, 6, 8]]
    assert expand_pixels(torch.arange(16.0).view(1, 1, 1, 16), 4)[0, :, 0, 0].tolist() == [0, 1, 2, 3]


# What is published


def block(dim: int, heads: int, window: int = 7) -> int:
    """Parameters of a Swin block: attention, perceptron of four times the width, two normalisations, its table."""
    return 4 * dim**2 + 4 * dim + 8 * dim**2 + 5 * dim + 4 * dim + heads * (2 * window - 1) ** 2


def test_parameters_at_224_pixels_are_those_of_the_publication() -> None:
    """The 27.17 million that are quoted for it; counted here layer by layer, two blocks a stage."""
    widths, heads = (96, 192, 384, 768), (3, 6, 12, 24)
    encoder = 48 * 96 + 96 + 2 * 96 + 2 * 768  # patches and their normalisation, the last normalisation
    encoder += sum(2 * block(d, h) for d, h in zip(widths, heads, strict=True))
    encoder += sum(8 * d + 4 * d * 2 * d for d in widths[:-1])  # merging
    decoder = sum(2 * block(d, h) for d, h in zip(widths[:-1], heads[:-1], strict=True))
    decoder += sum(2 * d * 4 * d + 2 * d for d in widths[:-1])  # expanding from 2d to d
    decoder += sum(2 * d * d + d for d in widths[:-1])  # joining
    decoder += 2 * 96 + 96 * 16 * 96 + 2 * 96 + 96  # normalisation, patches of 4 x 4, head
    network = build(224)
    assert sum(p.numel() for p in network.parameters()) == encoder + decoder == 27_168_132


@pytest.mark.parametrize("size", [96, 224])
def test_features_are_timm_s_own(size: int) -> None:
    network = build(size)
    options: dict[str, Any] = {"depths": (2, 2, 2, 2), "img_size": size, "window_size": windows(size)}
    timm_s: Any = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **options).eval()
    timm_s.load_state_dict(network.encoder.model.state_dict())
    listed = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, **options).eval()
    listed.load_state_dict({k.replace("layers.", "layers_"): v for k, v in timm_s.state_dict().items()}, strict=False)
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.encoder(image)
        assert [tuple(f.shape) for f in found] == [
            (1, 96 * 2**i, size // stride, size // stride) for i, stride in enumerate(STRIDES)
        ]
        assert torch.equal(found[-1], timm_s.forward_features(image).permute(0, 3, 1, 2))
        for ours, theirs in zip(found[:-1], listed(image), strict=False):
            assert torch.equal(ours, theirs.permute(0, 3, 1, 2))


def test_the_first_two_blocks_of_the_named_model_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ImageNet weights the decoder's stages start from the encoder's that they mirror."""
    torch.manual_seed(1)
    named = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    known = {name: value.clone() for name, value in named.state_dict().items()}
    monkeypatch.setattr("qgbench.archs.swin_unet.timm_backbone", lambda *args, **options: named)
    network = build_swin_unet(ENCODER, "imagenet", (), 224)
    encoder = network.encoder.model.state_dict()
    assert {name for name in known if name not in encoder} == {
        name for name in known if name.startswith(tuple(f"layers.2.blocks.{i}." for i in (2, 3, 4, 5)))
    }
    assert all(torch.equal(value, known[name]) for name, value in encoder.items())
    for number, mirrored in enumerate((2, 1, 0)):
        state = stages(network)[4 + number].blocks.state_dict()
        assert state
        for name, value in state.items():
            assert torch.equal(value, known[f"layers.{mirrored}.blocks.{name}"])
            assert value.data_ptr() != encoder[f"layers.{mirrored}.blocks.{name}"].data_ptr()


def test_without_weights_encoder_and_decoder_start_apart(swin96: SwinUnet) -> None:
    encoder, decoder = (stages(swin96)[i].blocks[0].attn.qkv.weight for i in (0, -1))
    assert encoder.shape == decoder.shape
    assert not torch.equal(encoder, decoder)


def test_stochastic_depth_is_in_training_alone(swin96: SwinUnet) -> None:
    network = copy.deepcopy(swin96)
    image = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))

    def outputs() -> list[Tensor]:
        with torch.no_grad():
            return [network(image) for _ in range(2)]

    assert torch.equal(*outputs())
    network.train()
    assert not torch.equal(*outputs())


# Encoders


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet34", "swinv2_tiny_window8_256"])
def test_an_encoder_of_another_kind_is_refused_with_what_to_type(encoder: str) -> None:
    with pytest.raises(UserError, match=f"'swin_unet' .*'{encoder}' is not.*--encoder {ENCODER}"):
        build_network("swin_unet", encoder, "none", (), 64)


def test_an_unknown_swin_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown timm backbone 'swin_tiny'.*Did you mean 'swin_"):
        build_network("swin_unet", "swin_tiny", "none", (), 64)


@pytest.mark.parametrize(
    "encoder", ["swin_tiny_patch4_window7_224", "swin_s3_tiny_224", "swin_small_patch4_window7_224"]
)
def test_other_swin_transformers_of_timm_can_be_named(encoder: str) -> None:
    network = build_network("swin_unet", encoder, "none", (), 64)
    assert isinstance(network.body.encoder.model, SwinTransformer)
