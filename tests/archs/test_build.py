import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable
from typing import NoReturn

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate
from torchvision.transforms.functional import normalize

from qgbench.archs.build import SegmentationNetwork, build_network, normalisation, require_buildable, weights_in_truth
from qgbench.archs.depthwise import speed_up_depthwise
from qgbench.archs.registry import ARCHS, Arch
from qgbench.base.errors import QGBenchError, UserError
from qgbench.engine.device import make_accelerator
from qgbench.methods import probabilities
from qgbench.methods.losses import segmentation_loss
from qgbench.spec.task import Task

LITE = "tf_efficientnet_lite0"
CHANNELS = (32, 16, 16, 8, 8)


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Images with coarse structure, in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, size=size, mode="bilinear")


# Weights in truth


def built(encoder: Callable[[str], nn.Module]) -> Arch:
    """An architecture of one's own with the encoder that is built for 'imagenet' or 'none'."""

    def build(name: str, weights: str, decoder_channels: tuple[int, ...], size: int) -> nn.Module:
        body = nn.Module()
        body.encoder, body.decoder, body.segmentation_head = encoder(weights), nn.Identity(), nn.Conv2d(8, 1, 1)
        return body

    return Arch(build, "", "", "", strides=(1,))


def random_encoder(weights: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout2d(0.1))


def loaded(encoder: nn.Module) -> nn.Module:
    nn.init.constant_(encoder.get_submodule("0").weight, 0.1)
    nn.init.zeros_(encoder.get_submodule("0").bias)
    return encoder


@pytest.mark.parametrize(
    ("encoder", "truth"),
    [
        (random_encoder, "none"),
        (lambda weights: loaded(random_encoder(weights)), None),
        (lambda weights: (loaded if weights == "imagenet" else nn.Identity())(random_encoder(weights)), "imagenet"),
    ],
    ids=["ignores weights", "always has them", "does as it is told"],
)
def test_imagenet_weights_that_an_arch_ignores_are_none(
    encoder: Callable[[str], nn.Module], truth: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgbench.archs.build.load", lambda *_: built(encoder))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert weights_in_truth("mine", "none", CHANNELS, 64) == truth
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_built_is_refused_without_fetching_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> NoReturn:
        raise AssertionError("weights are fetched")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    require_buildable("unet", "", "resnet18", "imagenet", CHANNELS, 64, Task())
    for arch, encoder, size, said in (
        ("swin_unet", "resnet18", 64, "is made of Swin Transformer blocks"),
        ("unet", "resnet18", 65, "the side must be a multiple of 32"),
        ("unet", "resnet19", 64, "unknown encoder 'resnet19'"),
        ("unet", "test_vit", 64, "cannot be used with arch 'unet'"),
        ("unet", "resnetaa34d", 64, "no published ImageNet weights of 'resnetaa34d'"),
    ):
        with pytest.raises(UserError, match=said):
            require_buildable(arch, "", encoder, "imagenet", CHANNELS, size, Task())


# Shapes and sizes


@pytest.mark.parametrize(("encoder", "weights"), [(LITE, "imagenet"), (LITE, "none"), ("resnet18", "none")])
@pytest.mark.parametrize("size", [64, 96])
def test_logits_have_the_size_of_the_images(encoder: str, weights: str, size: int) -> None:
    network = build_network("unet", encoder, weights, CHANNELS, size).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        logits = network(images(2, size))
    assert logits.shape == (2, 1, size, size)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 0


def unet_decoder_parameters(encoder: tuple[int, ...], decoder: tuple[int, ...]) -> int:
    """Parameters of a U-Net decoder and head: two 3 x 3 convolutions with batch normalisation a stage.

    `encoder` holds the channels of the features, fine to coarse.
    """
    total, channels = 0, encoder[-1]
    for skip, width in zip([*encoder[-2::-1], 0], decoder, strict=True):
        total += 9 * (channels + skip) * width + 9 * width * width + 2 * 2 * width
        channels = width
    return total + 9 * channels + 1


def test_parameters_of_resnet34_are_the_published_ones() -> None:
    network = build_network("unet", "resnet34", "none", (256, 128, 64, 32, 16), 224)
    published = 21_797_672 - 513_000  # ResNet-34 of He et al. as in torchvision, without its classifier
    expected = published + unet_decoder_parameters((64, 64, 128, 256, 512), (256, 128, 64, 32, 16))
    assert sum(p.numel() for p in network.parameters()) == expected == 24_436_369


def test_parameters_of_the_light_network_are_the_published_ones() -> None:
    decoder = (128, 64, 32, 16, 16)
    network = build_network("unet", LITE, "none", decoder, 96)
    top = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000  # head convolution, its normalisation, classifier
    expected = 4_652_008 - top + unet_decoder_parameters((16, 24, 40, 112, 320), decoder)
    assert sum(p.numel() for p in network.parameters()) == expected


# Names


def test_an_unknown_arch_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown arch 'unett'.*Did you mean 'unet'"):
        build_network("unett", LITE, "none", CHANNELS, 64)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("resnt34", "resnet34"),
        ("tf_eficientnet_lite0", LITE),
        ("resnet-18", "resnet18"),
        ("resnet18.a1_in1", "resnet18.a1_in1k"),
        ("tu-resnet34", "resnet34"),
    ],
)
def test_an_unknown_encoder_names_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"unknown encoder '{given}'.*Did you mean '{nearest}'"):
        build_network("unet", given, "none", CHANNELS, 64)


# Weights


@pytest.mark.parametrize(
    ("arch", "encoder"),
    [
        ("unet", "resnet18"),
        ("unet", "mobilenetv3_small_100"),
        ("attention_unet", "resnet18"),
        ("deeplabv3plus", "mobilenetv3_small_100"),
        ("swin_unet", "swin_tiny_patch4_window7_224.ms_in22k"),
        ("dpt", "vit_small_patch16_dinov3"),
    ],
)
def test_weights_that_the_hub_does_not_give_are_never_replaced_by_random_ones(
    arch: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> NoReturn:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", unreachable)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    with pytest.raises(QGBenchError) as caught:
        build_network(arch, encoder, "imagenet", CHANNELS, 64)
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert f"'{encoder}'" in message
    assert "Network is unreachable" in message
    assert f"--encoder {LITE}" in message
    assert "--set encoder_weights=none" in message


def test_the_packaged_weights_are_in_the_encoder_and_none_means_random() -> None:
    torch.manual_seed(0)
    pretrained = build_network("unet", LITE, "imagenet", CHANNELS, 64)
    torch.manual_seed(1)
    again = build_network("unet", LITE, "imagenet", CHANNELS, 64)
    ours, theirs = (network.body.get_submodule("encoder").state_dict() for network in (pretrained, again))
    assert ours
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    random = build_network("unet", LITE, "none", CHANNELS, 64)
    other = build_network("unet", LITE, "none", CHANNELS, 64)
    first, second, known = (
        next(p for p in network.parameters() if p.ndim == 4) for network in (random, other, pretrained)
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, known)


# Normalisation


class Listed(nn.Module):
    """An encoder whose only feature is its input."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [image]


class Last(nn.Module):
    """A decoder that gives the last feature."""

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return features[-1]


def test_the_network_normalises_its_own_input() -> None:
    mean, std = normalisation("resnet34")
    assert len({*mean, *std}) == 6
    body = nn.Module()
    body.encoder, body.decoder, body.segmentation_head = Listed(), Last(), nn.Identity()
    network = SegmentationNetwork(lambda: body, "resnet34", 32)
    expected = normalize(images(2, 32), list(mean), list(std))
    torch.testing.assert_close(network(images(2, 32)), expected)
    torch.testing.assert_close(network.encode(images(2, 32))[-1], expected)
    assert torch.equal(network.head(network.decode([expected])), expected)
    assert not network.state_dict()


def test_features_and_their_decoding_are_the_library_s_own_forward_pass() -> None:
    network = build_network("unet", "resnet18", "none", CHANNELS, 64).eval()
    with torch.no_grad():
        features = network.encode(images(2, 64))
        assert [tuple(f.shape[2:]) for f in features] == [(64 // 2**i,) * 2 for i in range(6)]
        normalised = (images(2, 64) - network.mean) / network.std
        assert torch.equal(
            network.head(network.decode(features)),
            network.body(normalised.contiguous(memory_format=torch.channels_last)),
        )


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "mit_b0", "convnext_atto.d2_in1k", LITE])
def test_normalisation_is_that_of_the_weights(encoder: str) -> None:
    expected = ((0.5,) * 3, (0.5,) * 3) if encoder == LITE else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalisation(encoder) == expected
    network = build_network("unet", encoder, "none", CHANNELS, 64)
    assert tuple(network.mean.flatten().tolist()) == pytest.approx(expected[0])
    assert tuple(network.std.flatten().tolist()) == pytest.approx(expected[1])


@pytest.mark.parametrize(
    ("encoder", "same_weights_in_timm"),
    [
        ("timm-tf_efficientnet_lite0", "tf_efficientnet_lite0"),
        ("xception", "legacy_xception"),
        ("inceptionv4", "inception_v4"),
        ("inceptionresnetv2", "inception_resnet_v2.tf_in1k"),
        ("dpn68", "dpn68"),
        ("densenet121", "densenet121"),
    ],
)
def test_normalisation_of_encoders_under_names_of_smp(encoder: str, same_weights_in_timm: str) -> None:
    assert encoder in smp.encoders.encoders
    config = timm.get_pretrained_cfg(same_weights_in_timm)
    assert config is not None
    mean, std = normalisation(encoder)
    assert mean == pytest.approx(config.mean, abs=1e-4)
    assert std == pytest.approx(config.std, abs=1e-4)


# Precision


def test_logits_are_float32_under_bfloat16_autocast() -> None:
    network = build_network("unet", LITE, "imagenet", CHANNELS, 64).eval()
    with torch.no_grad():
        expected = network(images(2, 64))
        with make_accelerator("cpu", "bf16", 1).autocast():
            logits = network(images(2, 64))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, expected)  # the body did compute in bfloat16
    assert float(cosine_similarity(logits.flatten(), expected.flatten(), 0)) > 0.99


@pytest.mark.parametrize(
    ("encoder", "weights", "training"),
    [(LITE, "imagenet", True), (LITE, "imagenet", False), ("resnet18", "none", True)],
)
def test_labelling_before_training_under_autocast_loses_no_gradient(encoder: str, weights: str, training: bool) -> None:
    torch.manual_seed(0)
    start = build_network("unet", encoder, weights, CHANNELS, 64).train(training)  # type: ignore[arg-type]
    image = images(4, 64)
    target = (image[:, :1] > 0.5).float()

    def gradients(context: contextlib.AbstractContextManager[None]) -> list[Tensor | None]:
        network = copy.deepcopy(start)
        with context:
            probabilities(network, image)
            loss = segmentation_loss(network.task, network(image), target)
        loss.backward()
        return [p.grad for p in network.parameters()]

    expected = gradients(contextlib.nullcontext())
    found = gradients(make_accelerator("cpu", "bf16", 1).autocast())
    assert all(a is not None and b is not None and bool(a.any()) for a, b in zip(found, expected, strict=True))
    both = [torch.cat([g.flatten() for g in given if g is not None]) for given in (found, expected)]
    assert float(cosine_similarity(both[0], both[1], 0)) > 0.98
    assert not torch.equal(both[0], both[1])


def test_the_autocast_cache_is_off() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.is_autocast_cache_enabled()
    with make_accelerator("cpu", "bf16", 1).autocast():
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_autocast_cache_enabled()


# Depthwise convolutions


def grouped(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]


def test_depthwise_layers_give_what_plain_ones_give_bit_for_bit() -> None:
    torch.manual_seed(0)
    plain = timm.create_model(LITE).eval()
    changed = copy.deepcopy(plain)
    speed_up_depthwise(changed)
    assert list(changed.state_dict()) == list(plain.state_dict())
    before, after = grouped(plain), grouped(changed)
    assert len(after) == 16  # one in every block of EfficientNet-Lite0
    assert all(type(a) is not type(b) and isinstance(b, type(a)) for a, b in zip(before, after, strict=True))
    others = [m for m in changed.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    assert {type(m) for m in others} <= {type(m) for m in plain.modules()}
    for training in (False, True):
        first, second = (network.train(training)(images(2, 64)) for network in (plain, changed))
        assert torch.equal(first, second)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, (3, 5)])
@pytest.mark.parametrize("same", [False, True])
def test_gradients_of_depthwise_layers_are_those_of_finite_differences(
    stride: int, size: int | tuple[int, int], same: bool
) -> None:
    torch.manual_seed(0)
    pad = 0 if same or not isinstance(size, int) else size // 2
    kind = Conv2dSame if same else nn.Conv2d
    plain = kind(2, 2, size, stride, pad, groups=2, bias=stride > 1).double()
    layer = copy.deepcopy(plain)
    speed_up_depthwise(layer)
    assert type(layer) is not type(plain)
    image = torch.rand(2, 2, 8, 9, dtype=torch.double, requires_grad=True)
    given = dict(layer.named_parameters())
    names = list(given)

    def output(image: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), image)

    assert torch.autograd.gradcheck(output, (image, *given.values()))
    found, expected = (
        torch.autograd.grad(one(image).sin().sum(), [image, *one.parameters()]) for one in (layer, plain)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("stride", "size"), [(1, 5), (2, 5), (2, 3)])
def test_depthwise_layers_under_autocast_are_plain_ones_but_for_rounding(stride: int, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(64, 64, size, stride, size // 2, groups=64)
    layer = copy.deepcopy(plain)
    speed_up_depthwise(layer)
    image = torch.randn(2, 64, 17, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, expected = layer(image), plain(image)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, expected)
    exact = torch.autograd.grad(plain(image).square().sum(), [image, *plain.parameters()])
    found = torch.autograd.grad(rounded.float().square().sum(), [image, *layer.parameters()])
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-6 * float(other.abs().max()))


def test_only_plain_depthwise_layers_are_changed() -> None:
    others = [
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 1, groups=4, padding=1),
        nn.Conv2d(4, 4, 3),
    ]
    network = nn.Sequential(*others)
    speed_up_depthwise(network)
    assert {type(layer) for layer in network} == {nn.Conv2d}


def test_a_deep_copy_keeps_the_classes_and_is_independent() -> None:
    network = build_network("unet", LITE, "none", CHANNELS, 64).eval()
    twin = copy.deepcopy(network)
    assert [type(m) for m in twin.modules()] == [type(m) for m in network.modules()]
    assert any(type(m) is not nn.Conv2d and type(m).__module__ == "qgbench.archs.depthwise" for m in grouped(twin))
    pointers = {value.data_ptr() for value in network.state_dict().values()}
    assert pointers.isdisjoint(value.data_ptr() for value in twin.state_dict().values())
    with torch.no_grad():
        before = network(images(1, 64))
        assert torch.equal(twin(images(1, 64)), before)
        for parameter in twin.parameters():
            parameter.add_(1.0)
        assert torch.equal(network(images(1, 64)), before)
        assert not torch.equal(twin(images(1, 64)), before)


def test_two_networks_of_one_seed_are_equal() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(4)
        states.append(build_network("unet", "resnet18", "none", CHANNELS, 64).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert math.isfinite(sum(float(value.float().sum()) for value in states[0].values()))


def test_whatever_a_builder_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(encoder: str, weights: str, decoder_channels: tuple[int, ...], size: int) -> NoReturn:
        raise ValueError("of two\nlines")

    mine = dataclasses.replace(ARCHS["unet"], build=fail)
    monkeypatch.setattr("qgbench.archs.build.load", lambda *_: mine)
    with pytest.raises(UserError, match=r"^arch 'mine' cannot be built with encoder 'resnet18': ValueError: of two$"):
        build_network("mine", "resnet18", "none", CHANNELS, 64)


# Several classes


ORGANS = Task(("ventricle", "muscle", "atrium"))


def test_a_network_of_several_classes_has_a_logit_for_each_and_for_the_background() -> None:
    torch.manual_seed(0)
    network = build_network("unet", "resnet18", "none", CHANNELS, 64, ORGANS)
    torch.manual_seed(0)
    one = build_network("unet", "resnet18", "none", CHANNELS, 64)
    assert (network.task, one.task) == (ORGANS, Task())
    assert network.eval()(images(2, 64)).shape == (2, 4, 64, 64)
    theirs = dict(network.body.encoder.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in one.body.encoder.named_parameters())
    second = network.new_decoder()
    assert second.task == ORGANS
    assert second.eval()(images(1, 64)).shape == (1, 4, 64, 64)


def test_an_arch_of_one_s_own_says_whether_it_segments_several_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    one = built(random_encoder)
    monkeypatch.setattr("qgbench.archs.build.load", lambda *_: one)
    assert build_network("mine", "none", "none", CHANNELS, 64, Task(("polyp",))).task.classes == ("polyp",)
    with pytest.raises(UserError, match=r"^arch 'mine' segments one class, and there are 3: .* 'classes: int = 1'"):
        build_network("mine", "none", "none", CHANNELS, 64, ORGANS)

    def build(name: str, weights: str, decoder_channels: tuple[int, ...], size: int, classes: int = 1) -> nn.Module:
        body = one.builder(name, weights, decoder_channels, size)
        body.segmentation_head = nn.Conv2d(8, classes, 1)
        return body

    several = dataclasses.replace(one, build=build)
    monkeypatch.setattr("qgbench.archs.build.load", lambda *_: several)
    assert build_network("mine", "none", "none", CHANNELS, 64, ORGANS)(images(1, 64)).shape[1] == 4
