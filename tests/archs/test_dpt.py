"""DPT: what it shares with timm's vision transformers and the library's decoder, its sizes, and its frozen encoder."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.decoders.dpt.decoder import FusionBlock
from torch import Tensor, nn

from qgbench.archs.build import SegmentationNetwork, build_network, normalisation
from qgbench.archs.dpt import DPT, GridFusion, build_dpt, is_plain_vit
from qgbench.archs.registry import ARCHS, require_fitting
from qgbench.archs.vit_patches import ENCODER, patch
from qgbench.archs.weights import weights_hash
from qgbench.base.errors import UserError
from qgbench.baselines.unimatch_v2 import UniMatchV2
from qgbench.engine.device import make_accelerator
from qgbench.methods import Batch, Method
from qgbench.plugins.registry import load, method_names
from qgbench.quality.guide import Guide
from qgbench.run.check import checked
from qgbench.run.request import make_spec
from qgbench.spec.arm import Arm
from qgbench.spec.method import declared
from qgbench.spec.task import Task
from qgbench.training.loop import Trainer
from qgbench.trust.toys import ONE, SIZE, THREE, toy_data, toy_protocol

TINY = "test_vit"  # six blocks of 64 channels, patches of 16 pixels
V2, V2_REGISTERS, V3 = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"
BASE = ["vit_base_patch14_dinov2", "vit_base_patch14_reg4_dinov2", "vit_base_patch16_dinov3"]


def images(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def tiny(size: int = 64, arch: str = "dpt", seed: int = 0, task: Task = ONE) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_network(arch, TINY, "none", (32,), size, task)


# Features


@pytest.mark.parametrize(
    ("encoder", "size", "taps"),
    [(V2, 98, (3, 6, 9, 12)), (V2_REGISTERS, 112, (3, 6, 9, 12)), (V3, 96, (3, 6, 9, 12)), (TINY, 64, (1, 3, 4, 6))],
)
def test_the_four_levels_are_normalised_patch_tokens_of_timm_s_blocks(
    encoder: str, size: int, taps: tuple[int, ...]
) -> None:
    """The blocks are counted from 1; their output is caught in a model of timm's own."""
    torch.manual_seed(0)
    ours = build_dpt(encoder, "none", (32,), size).eval().encoder
    theirs: Any = timm.create_model(encoder, num_classes=0, img_size=size).eval()
    theirs.load_state_dict(ours.model.state_dict())
    caught: list[Tensor] = []
    for tap in taps:
        theirs.blocks[tap - 1].register_forward_hook(lambda block, given, found: caught.append(found))
    image, grid = images(2, size), size // patch(encoder)
    with torch.no_grad():
        features = ours(image)
        last = theirs.forward_features(image)
        assert len(features) == len(caught) == 4
        for feature, tokens in zip(features, caught, strict=True):
            own = theirs.norm(tokens)[:, theirs.num_prefix_tokens :]
            assert torch.equal(feature, own.transpose(1, 2).reshape(2, -1, grid, grid))
    assert torch.equal(features[-1].flatten(2).transpose(1, 2), last[:, theirs.num_prefix_tokens :])


@pytest.mark.parametrize("encoder", [V2, V3, "vit_base_patch16_siglip_224"])
def test_nothing_that_features_do_not_need_is_kept(encoder: str) -> None:
    """Poolers and heads of timm's models would be parameters without a gradient."""
    with torch.device("meta"):
        network = build_dpt(encoder, "none", (32,), 112)
    kept = {name.partition(".")[0] for name, _ in network.encoder.model.named_parameters()}
    assert kept <= {"cls_token", "reg_token", "pos_embed", "patch_embed", "blocks", "norm"}


def test_training_mode_draws_nothing_in_the_encoder() -> None:
    network = tiny().train()
    with torch.no_grad():
        assert all(torch.equal(*pair) for pair in zip(*(network.encode(images(2, 64)) for _ in "ab"), strict=True))


@pytest.mark.parametrize(("encoder", "size"), [(V2, 98), (V3, 112)])
def test_two_networks_of_one_seed_are_equal(encoder: str, size: int) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(4)
        states.append(build_dpt(encoder, "none", (32,), size).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_images_are_normalised_as_timm_says() -> None:
    usual = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert {normalisation(name) for name in (V2, V2_REGISTERS, V3, *BASE)} == {usual}
    assert normalisation("vit_base_patch16_siglip_224") == ((0.5,) * 3, (0.5,) * 3)
    network = tiny().eval()
    config: Any = timm.get_pretrained_cfg(TINY)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (config.mean, config.std))
    with torch.no_grad():
        found, expected = network.encode(images(1, 64))[0], network.body.encoder((images(1, 64) - mean) / std)[0]
    torch.testing.assert_close(found, expected)


# Decoder


def library_s(network: DPT, size: int, classes: int) -> Any:
    """The library's own network with the same decoder and head."""
    widths = (8, 16, 32, 64)
    theirs = smp.DPT(
        f"tu-{TINY}",
        encoder_weights=None,
        decoder_readout="ignore",
        decoder_intermediate_channels=widths,
        decoder_fusion_channels=32,
        classes=classes,
        img_size=size,
    )
    theirs.decoder.load_state_dict(network.decoder.state_dict())
    theirs.segmentation_head.load_state_dict(network.segmentation_head.state_dict())
    return theirs


@pytest.mark.parametrize(("size", "classes"), [(64, 1), (96, 3)])
def test_on_even_grids_logits_and_gradients_are_the_library_s(size: int, classes: int) -> None:
    torch.manual_seed(0)
    ours = build_dpt(TINY, "none", (32,), size, classes)
    theirs = library_s(ours, size, classes)
    features = [torch.randn(2, 64, size // 16, size // 16) for _ in range(4)]
    target = torch.randn(2, classes, size, size)

    def found(decode: Callable[[], Tensor], network: Any) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(1)  # of the head's dropout
        logits = network.segmentation_head(decode())
        parameters = [*network.decoder.parameters(), *network.segmentation_head.parameters()]
        return logits, list(torch.autograd.grad((logits * target).mean(), parameters))

    logits, gradients = found(lambda: ours.decoder(features), ours)
    expected, known = found(lambda: theirs.decoder(features, [None] * 4), theirs)
    assert logits.shape == (2, classes, size, size)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for gradient, other in zip(gradients, known, strict=True):
        assert bool(gradient.any())
        torch.testing.assert_close(gradient, other, rtol=1e-2, atol=1e-6)


def test_the_library_alone_takes_no_odd_grid_and_no_patches_of_14() -> None:
    network = build_dpt(TINY, "none", (32,), 112)
    with pytest.raises(RuntimeError, match="size of tensor"):
        library_s(network, 112, 1)(images(1, 112))
    with pytest.raises(RuntimeError, match="size of tensor"):
        smp.DPT(f"tu-{V2}", encoder_weights=None, img_size=224)(images(1, 224))


def test_a_level_is_added_to_coarser_ones_that_are_resized_to_it() -> None:
    """Seven patches over four, by hand: without convolutions and normalisation the sum itself is left."""
    block = GridFusion(2)
    assert isinstance(block, FusionBlock)
    block.residual_conv_block1 = block.residual_conv_block2 = block.project = nn.Identity()
    fine, coarse = torch.zeros(1, 2, 7, 7), torch.arange(4.0).expand(1, 2, 4, 4)
    assert torch.equal(block(fine), fine)
    # Corners on corners: 4 columns over 7 are 0, 1/2, 1, ..., 3.
    torch.testing.assert_close(block(fine, coarse), (torch.arange(7.0) / 2).expand(1, 2, 7, 7))


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        (V2, 98),
        (V2_REGISTERS, 98),
        (V3, 112),
        *(pytest.param(name, 112, marks=pytest.mark.slow) for name in BASE),
    ],
)
def test_every_parameter_of_dinov2_and_dinov3_gets_a_gradient(encoder: str, size: int) -> None:
    torch.manual_seed(0)
    network = build_network("dpt", encoder, "none", (32,), size)
    side, width = size // patch(encoder), 768 if "base" in encoder else 384
    features = network.encode(images(2, size))
    assert [tuple(feature.shape) for feature in features] == [(2, width, side, side)] * 4
    assert ARCHS["dpt"].on(encoder).strides == (size // side,) * 4
    logits = network.head(network.decode(features))
    assert logits.shape == (2, 1, size, size)
    (logits * torch.randn_like(logits)).mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_parameters_are_those_counted_layer_by_layer() -> None:
    """Those of DINOv2's small model, as published but for the grid of 16 patches, and of DPT's decoder."""
    d, grid, fusion = 384, 16, 256
    block = 12 * d**2 + 15 * d  # attention, perceptron of four times the width, two normalisations, two scales
    encoder = 14**2 * 3 * d + d + d + (1 + grid**2) * d + 12 * block + 2 * d
    decoder = 0
    for width, kernel in ((48, 4), (96, 2), (192, 0), (384, 3)):
        decoder += d * width + width + 9 * width * fusion
        decoder += kernel**2 * width**2 + width if kernel else 0
    decoder += 4 * (2 * (2 * 9 * fusion**2 + 2 * 2 * fusion) + fusion**2 + fusion)
    decoder += 9 * fusion**2 + 2 * fusion + fusion + 1
    for arch, trained in (("dpt", encoder + decoder), ("dpt_frozen", decoder)):
        network = build_network(arch, V2, "none", (256, 128, 64, 32, 16), 224)
        assert sum(p.numel() for p in network.parameters()) == encoder + decoder
        assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trained
    published = 22_056_576  # with a token for masked patches, and position embeddings of 37 x 37 patches
    assert encoder == published - d - (37**2 - grid**2) * d


# Weights


def test_pretrained_weights_are_taken_whole_and_position_embeddings_resampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 37 x 37 patches, as the hub has them, for images of 7 x 7: a ramp stays that ramp."""

    def ramp(side: int) -> Tensor:
        return ((torch.arange(side) + 0.5) / side).expand(side, side)

    torch.manual_seed(1)
    hub: Any = timm.create_model(V2, num_classes=0)
    with torch.no_grad():
        hub.pos_embed[0, 1:] = ramp(37).reshape(-1, 1)
    torch.save(hub.state_dict(), tmp_path / "weights.pth")
    create = partial(timm.create_model, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")})
    monkeypatch.setattr("qgbench.archs.weights.timm.create_model", create)
    network = build_dpt(V2, "imagenet", (32,), 98)
    known, found = hub.state_dict(), network.encoder.model.state_dict()
    assert list(found) == list(known)
    positions = found.pop("pos_embed")
    assert torch.equal(positions[:, 0], known["pos_embed"][:, 0])  # of the class token
    assert all(torch.equal(value, known[name]) for name, value in found.items())
    grid = positions[0, 1:].view(7, 7, -1)
    assert bool((grid == grid[:, :, :1]).all())
    torch.testing.assert_close(grid[:, 1:-1, 0], ramp(7)[:, 1:-1], rtol=0, atol=5e-3)
    torch.testing.assert_close(grid[:, :, 0], ramp(7), rtol=0, atol=0.03)
    assert weights_hash(network.encoder) == weights_hash(build_dpt(V2, "imagenet", (64,), 98).encoder)


# Sizes and encoders


@pytest.mark.parametrize("encoder", [V2, V2_REGISTERS, V3, *BASE, TINY, "vit_small_patch8_224", "vit_base_patch32_224"])
def test_the_patch_that_a_name_tells_is_the_model_s(encoder: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(encoder)
    assert model.patch_embed.patch_size == (patch(encoder), patch(encoder))
    assert is_plain_vit(encoder)


@pytest.mark.parametrize(
    ("encoder", "fitting", "size", "nearest"),
    [
        (V2, (98, 112, 224, 518), 96, "84 and 98"),
        (V2_REGISTERS, (98, 224), 64, "56 and 70"),
        (V3, (64, 96, 112, 224), 98, "96 and 112"),
    ],
)
def test_sizes_are_those_that_the_encoder_s_patches_tile(
    encoder: str, fitting: tuple[int, ...], size: int, nearest: str
) -> None:
    for arch in ("dpt", "dpt_frozen"):
        for side in fitting:
            require_fitting(arch, ARCHS[arch], side, encoder)
        expected = (
            f"{size} pixels do not fit arch '{arch}': .* {patch(encoder)}, .* '{encoder}'; the nearest: {nearest}"
        )
        with pytest.raises(UserError, match=expected) as caught:
            require_fitting(arch, ARCHS[arch], size, encoder)
        assert f"Or type --encoder {ENCODER}." in str(caught.value) or size == 98
        with pytest.raises(UserError, match=expected):
            build_network(arch, encoder, "none", (32,), size)


def test_a_plan_refuses_a_size_without_building_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgbench.archs.build.build_network", None)

    def check(protocol: str, encoder: str, **method: str) -> None:
        overrides = {f"method.{name}": value for name, value in method.items()}
        arm = Arm(method="cross_teaching" if method else "fixmatch", overrides=overrides)
        arch = "unet" if method else "dpt"
        spec = make_spec(protocol, "phantom", "n12", arm, arch=arch, encoder=encoder, seed=0, device="cpu")
        checked(spec, declared(arm.method))

    check("small", "")
    check("paper", V2)
    check("small", "resnet18", second_arch="dpt")  # the second network has its own encoder
    with pytest.raises(UserError, match="96 pixels do not fit arch 'dpt'"):
        check("small", V2)


@pytest.mark.parametrize("encoder", ["resnet34", "swin_tiny_patch4_window7_224", "naflexvit_base_patch16_gap"])
def test_an_encoder_of_another_kind_is_refused_with_what_to_type(encoder: str) -> None:
    with pytest.raises(UserError, match=f"'dpt' .*'{encoder}' is none: type --encoder {ENCODER}, or --encoder {V2}"):
        build_network("dpt_frozen", encoder, "none", (32,), 64)


def test_an_unknown_encoder_names_the_nearest() -> None:
    with pytest.raises(UserError, match=rf"unknown vision transformer 'vit_smal_patch14_dinov2'.*Did you mean '{V2}"):
        build_network("dpt", "vit_smal_patch14_dinov2", "none", (32,), 224)
    with pytest.raises(UserError, match=r"unknown vision transformer 'DINOv3'.*vit_small_patch16_dinov3"):
        build_network("dpt", "DINOv3", "none", (32,), 64)
    with pytest.raises(UserError, match=r"a multiple of 16, as encoder 'dinov2' names no patch; the nearest: 96"):
        require_fitting("dpt", ARCHS["dpt"], 98, "dinov2")


@pytest.mark.parametrize("arch", ["unet", "segformer", "swin_unet"])
def test_other_archs_refuse_a_plain_transformer_and_name_this_one(arch: str) -> None:
    with pytest.raises(UserError, match=rf" An arch that takes '{V3}': --arch dpt\.$"):
        build_network(arch, V3, "none", (64, 32, 16, 16, 8), 64)
    with pytest.raises(UserError) as caught:
        build_network(arch, "naflexvit_base_patch16_gap", "none", (64, 32, 16, 16, 8), 64)
    assert "--arch" not in str(caught.value)


# Frozen


def test_a_frozen_encoder_gets_no_gradient_and_stays_in_evaluation_mode() -> None:
    network = tiny(arch="dpt_frozen")
    for one in (network, network.new_decoder(), copy.deepcopy(network)):
        one.train()
        assert not any(module.training for module in one.body.encoder.modules())
        assert one.body.decoder.training
        assert one.training
        image = images(2, 64).requires_grad_()
        assert not one.encode(images(2, 64))[0].requires_grad
        one(image).mean().backward()
        assert image.grad is not None  # what is upstream of the images is reached
        assert all(p.grad is None for p in one.body.encoder.parameters())
        assert all(p.grad is not None for p in one.body.decoder.parameters())
        assert not one.eval().body.decoder.training
    tuned, frozen = tiny().train(), tiny(arch="dpt_frozen").state_dict()
    assert all(module.training for module in tuned.body.encoder.modules())
    assert all(torch.equal(value, frozen[name]) for name, value in tuned.state_dict().items())


# Methods


def trained(name: str, arch: str, task: Task = ONE) -> tuple[Method, str]:
    """Two steps on toy images, unlabelled losses at their full weight: the method, and its encoder's hash before."""
    torch.manual_seed(0)
    kind = load("method", name)
    started = {"warmup": 0.0, "ramp": 0.0, "lambda_u": 1.0}
    method = kind(lambda _="": tiny(SIZE, arch, task=task), kind.Settings.model_validate(started))
    before = weights_hash(method.students[0].get_submodule("body.encoder"))
    trainer = Trainer(method, Guide([]), None, toy_data(task), toy_protocol(2), 0, make_accelerator("cpu", "fp32", 1))
    assert list(trainer.run()) == [1, 2]
    return method, before


# Of several classes, one that labels by its student and pastes views, and one that drops the levels' channels.
THREE_CLASSES = [("fixmatch", THREE), ("unimatch_v2", THREE)]


@pytest.mark.parametrize(("name", "task"), [*((name, ONE) for name in method_names()), *THREE_CLASSES])
def test_every_method_trains_what_stands_on_a_frozen_encoder_and_leaves_that_as_it_is(name: str, task: Task) -> None:
    method, before = trained(name, "dpt_frozen", task)
    parameters = {name: p for name, p in method.named_parameters() if not name.startswith("teacher.")}
    frozen = {name for name in parameters if ".body.encoder." in name}
    assert len(frozen) == len(method.students) * len(
        list(method.students[0].get_submodule("body.encoder").parameters())
    )
    assert {id(p) for p in method.trainable()} == {id(p) for name, p in parameters.items() if name not in frozen}
    for network in [*method.students, *([method.get_submodule("teacher")] if method.teacher is not None else [])]:
        assert weights_hash(network.get_submodule("body.encoder")) == before
    start = tiny(SIZE, "dpt_frozen", task=task).body
    assert weights_hash(method.students[0].get_submodule("body.decoder")) != weights_hash(start.decoder)
    assert_every_class_is_learnt(method, start, task)


def assert_every_class_is_learnt(method: Method, start: nn.Module, task: Task) -> None:
    """The last layer has a map for each of the task's channels, and each has moved."""
    (before,), (after,) = (
        [value for name, value in body.get_submodule("segmentation_head").named_parameters() if value.ndim == 1][-1:]
        for body in (start, method.students[0].get_submodule("body"))
    )
    assert before.shape == after.shape == (task.channels,)
    assert bool((before != after).all())


@pytest.mark.parametrize("name", [name for name in method_names() if load("method", name).needs_features])
def test_methods_that_take_its_features_take_grids_that_strides_of_8_do_not_divide(name: str) -> None:
    """Five patches of 14 pixels."""
    torch.manual_seed(0)
    kind = load("method", name)
    build = partial(build_network, encoder="eva02_tiny_patch14_224", weights="none", decoder_channels=(32,), size=70)
    method = kind(lambda _="": build("dpt"), kind.Settings()).train()
    views, cut = [torch.rand(2, 3, 70, 70) for _ in range(4)], torch.rand(2, 1, 70, 70) > 0.5
    step = method(Batch(views[0], (views[0][:, :1] > 0.5).float(), *views[1:], cut, ~cut, 0.9))
    total = step.supervised + torch.stack([term.coef * term.loss.sum() for term in step.terms]).sum()
    total.backward()
    gradients = [p.grad for p in method.student.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(("name", "task"), [("mean_teacher", ONE), *THREE_CLASSES])
def test_tuned_the_encoder_moves(name: str, task: Task) -> None:
    method, before = trained(name, "dpt", task)
    assert {id(p) for p in method.trainable()} == {id(p) for p in method.students.parameters()}
    assert weights_hash(method.students[0].get_submodule("body.encoder")) != before
    assert_every_class_is_learnt(method, tiny(SIZE, task=task).body, task)


def test_complementary_dropout_of_unimatch_v2_has_one_mask_for_all_four_levels() -> None:
    method = UniMatchV2(lambda _="": tiny(), UniMatchV2.Settings(whole=0.5))
    features = method.student.encode(images(8, 64))
    torch.manual_seed(0)
    dropped = method.drop(features)
    masks = [(after / before).round(decimals=4) for after, before in zip(dropped, features, strict=True)]
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    first, second = masks[0][:, :, 0, 0].chunk(2)
    assert torch.equal(first + second, torch.full((4, 64), 2.0))
    whole = (first == 1).all(1)
    assert int(whole.sum()) == 2
    assert set(first[~whole].unique().tolist()) == {0.0, 2.0}
