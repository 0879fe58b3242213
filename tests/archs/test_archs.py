"""What every architecture in the registry must do, and which encoders suit it."""

import copy
import functools
import io
import pickle
import re
from typing import NoReturn

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from qgbench.archs.build import SegmentationNetwork, build_network, require_buildable
from qgbench.archs.registry import ARCHS, nearest_sizes, require_fitting
from qgbench.archs.swin_sizes import ENCODER as SWIN
from qgbench.archs.weights import Weights, packaged_state, weights_hash
from qgbench.base.errors import UserError
from qgbench.data.phantom import generate_phantom
from qgbench.engine.device import make_accelerator
from qgbench.methods.losses import segmentation_loss
from qgbench.spec.protocol import load_protocol, protocol_names
from qgbench.spec.task import Task

LITE = "tf_efficientnet_lite0"
DECODER = (64, 32, 16, 16, 8)
IN_LIBRARY = {
    "unet": smp.Unet,
    "unetpp": smp.UnetPlusPlus,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "segformer": smp.Segformer,
    "upernet": smp.UPerNet,
    "manet": smp.MAnet,
    "fpn": smp.FPN,
}
every_arch = pytest.mark.parametrize("arch", ARCHS)


def images(count: int, size: int = 64, seed: int = 0) -> Tensor:
    """Images with coarse structure, in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, size=size, mode="bilinear")


def build(arch: str, size: int = 64, seed: int = 0) -> SegmentationNetwork:
    """A light network with weights where pip has them."""
    torch.manual_seed(seed)
    encoder = ARCHS[arch].own_encoder or LITE
    weights: Weights = "imagenet" if encoder == LITE else "none"
    return build_network(arch, encoder, weights, DECODER, size)


@functools.cache
def fresh(arch: str) -> SegmentationNetwork:
    """As it was built; not to be changed."""
    return build(arch)


@functools.cache
def _ready(arch: str) -> SegmentationNetwork:
    network = copy.deepcopy(fresh(arch)).train()
    with torch.no_grad():  # running statistics of these images, so that a network in evaluation mode is alive
        for seed in range(3):
            network(images(4, seed=seed))
    return network.eval()


def ready(arch: str) -> SegmentationNetwork:
    """A network of its own in evaluation mode."""
    return copy.deepcopy(_ready(arch))


def logits(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image)


# The registry


@every_arch
def test_every_description_can_be_printed(arch: str) -> None:
    entry = ARCHS[arch]
    for text in (entry.description, entry.source, entry.decoder, entry.sizes):
        assert text
        assert "\n" not in text
        assert len(text) < 100
    assert re.search(r"arXiv \d{4}\.\d{5}|doi 10\.", entry.source)


# Parameters


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("arch", IN_LIBRARY)
def test_with_the_paper_s_widths_it_is_the_library_s_own_network(arch: str, classes: int) -> None:
    """The paper's decoder_channels give the defaults of segmentation-models-pytorch, which are the publications'."""
    torch.manual_seed(0)
    expected = IN_LIBRARY[arch]("resnet18", encoder_weights=None, classes=classes)
    torch.manual_seed(0)
    channels = load_protocol("paper").decoder_channels
    found = ARCHS[arch].builder("resnet18", "none", channels, 224, classes)
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert repr(found.segmentation_head) == repr(expected.segmentation_head)


@every_arch
def test_every_arch_segments_several_classes(arch: str) -> None:
    task = Task(("ventricle", "muscle"))
    encoder = ARCHS[arch].own_encoder or "resnet18"
    network = build_network(arch, encoder, "none", DECODER, 64, task)
    one = build_network(arch, encoder, "none", DECODER, 64)
    assert network.task == task
    prob = task.probabilities(logits(network, images(2)))
    assert prob.shape == (2, 3, 64, 64)
    assert torch.allclose(prob.sum(1), torch.ones(2, 64, 64), atol=1e-5)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    others = {name for name, value in one.state_dict().items() if shapes[name] != value.shape}
    assert others
    assert all(name.startswith("body.segmentation_head.") for name in others)


@pytest.mark.parametrize(
    ("arch", "widths"),
    [
        ("deeplabv3plus", {"decoder_channels": 96}),
        ("segformer", {"decoder_segmentation_channels": 96}),
        ("upernet", {"decoder_channels": 96}),
        ("fpn", {"decoder_pyramid_channels": 96, "decoder_segmentation_channels": 64}),
        ("unetpp", {"decoder_channels": (96, 64, 32, 16, 8)}),
        ("manet", {"decoder_channels": (96, 64, 32, 16, 8)}),
    ],
)
def test_other_widths_are_those_of_the_protocol(arch: str, widths: dict[str, int]) -> None:
    expected = IN_LIBRARY[arch]("resnet18", encoder_weights=None, **widths)
    found = ARCHS[arch].builder("resnet18", "none", (96, 64, 32, 16, 8), 64)
    shapes, known = ({k: v.shape for k, v in network.state_dict().items()} for network in (found, expected))
    assert shapes == known


def test_widths_that_a_feature_pyramid_cannot_normalise_are_refused() -> None:
    with pytest.raises(UserError, match=r"'fpn'.*decoder_channels, 48,.*multiple of 32"):
        build_network("fpn", LITE, "none", (64, 48, 16, 16, 8), 64)


# Shapes and sizes


@every_arch
@pytest.mark.parametrize("size", [64, 96])
def test_features_and_logits_have_their_shapes(arch: str, size: int) -> None:
    network = (build(arch, size) if size != 64 else copy.deepcopy(fresh(arch))).eval()
    with torch.no_grad():
        features = network.encode(images(2, size))
        found = network.head(network.decode(features))
    assert [tuple(f.shape[2:]) for f in features] == [(size // s, size // s) for s in ARCHS[arch].strides]
    assert found.shape == (2, 1, size, size)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert float(found.std()) > 0
    assert torch.equal(found, logits(network, images(2, size)))


@every_arch
def test_decoded_features_are_the_body_s_own_forward_pass(arch: str) -> None:
    """Bit for bit, with the upsampling that some heads do."""
    network = ready(arch)
    normalised = ((images(2) - network.mean) / network.std).contiguous(memory_format=torch.channels_last)
    assert torch.equal(logits(network.body, normalised), logits(network, images(2)))


@every_arch
@pytest.mark.parametrize("size", [33, 100, 248])
def test_a_side_that_does_not_fit_is_refused_with_the_nearest_that_fit(arch: str, size: int) -> None:
    step = {"dpt": 16, "dpt_frozen": 16}.get(arch, 32)
    with pytest.raises(UserError, match=rf"{size} pixels do not fit arch '{arch}': .* multiple of {step}") as caught:
        build_network(arch, (ARCHS[arch].own_encoder or LITE), "none", DECODER, size)
    named = [int(side) for side in re.findall(r"\d+", str(caught.value).partition("nearest:")[2])]
    assert named == nearest_sizes(ARCHS[arch], size)
    expected = [size // step * step, -(-size // step) * step]
    assert named == (expected[1:] if (arch, size) == ("swin_unet", 33) else expected)


def test_multiples_of_32_that_windows_cannot_tile_are_refused() -> None:
    with pytest.raises(UserError, match=r"352 pixels .*'swin_unet'.* nearest: 320 and 384"):
        build_network("swin_unet", SWIN, "none", (), 352)


# Training and evaluation


@every_arch
def test_gradients_reach_every_parameter(arch: str) -> None:
    # Not the light encoder, on which MA-Net's bottlenecks of one or two units can be dead from the start.
    network = build_network(arch, (ARCHS[arch].own_encoder or "resnet34"), "none", DECODER, 64)
    torch.manual_seed(0)
    image = images(4)
    segmentation_loss(network.task, network(image), (image[:, :1] > 0.5).float()).backward()
    lost = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    encoder = [name for name, _ in network.named_parameters() if name.startswith("body.encoder.")]
    assert lost == (encoder if arch == "dpt_frozen" else [])


@every_arch
def test_in_evaluation_an_image_does_not_see_its_batch(arch: str) -> None:
    network = ready(arch)
    together = logits(network, images(3))
    for row in range(3):
        alone = logits(network, images(3)[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-4, atol=1e-4 * float(together.std()))


@every_arch
def test_training_takes_the_least_batch_and_refuses_less(arch: str) -> None:
    network = ready(arch).train()
    least = ARCHS[arch].min_batch
    assert bool(network(images(least)).isfinite().all())
    network(images(2)).mean().backward()
    if least > 1:
        with pytest.raises(UserError, match=r"batch of 1 in training; it needs 2"):
            network(images(1))
        # The library alone does not train on one image, so the rule is not too strict.
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network.body(images(1))
        assert logits(network.eval(), images(1)).shape == (1, 1, 64, 64)


@every_arch
def test_bfloat16_gives_finite_float32_logits_near_those_of_float32(arch: str) -> None:
    network = ready(arch)
    expected = logits(network, images(2))
    autocast = make_accelerator("cpu", "bf16", 1).autocast
    with autocast():
        found = logits(network, images(2))
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert not torch.equal(found, expected)  # the body did compute in bfloat16
    assert float(cosine_similarity(found.flatten() - found.mean(), expected.flatten() - expected.mean(), 0)) > 0.98
    network.train()
    with autocast():
        loss = segmentation_loss(network.task, network(images(4)), (images(4)[:, :1] > 0.5).float())
    loss.backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)


@every_arch
def test_weights_are_channels_last_and_the_memory_format_of_images_does_not_matter(arch: str) -> None:
    network = ready(arch)
    kernels = [p for p in network.parameters() if p.dim() == 4]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    image = images(2)
    assert torch.equal(logits(network, image), logits(network, image.contiguous(memory_format=torch.channels_last)))


# Copies


@every_arch
def test_saved_and_loaded_it_is_equal_to_the_bit(arch: str) -> None:
    network = ready(arch)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = build(arch, seed=1).eval()
    assert not torch.equal(logits(other, images(2)), logits(network, images(2)))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(logits(other, images(2)), logits(network, images(2)))


@every_arch
def test_a_deep_copy_shares_no_tensor(arch: str) -> None:
    network = ready(arch)
    twin = copy.deepcopy(network)
    pointers = [{t.data_ptr() for t in (*copied.parameters(), *copied.buffers())} - {0} for copied in (network, twin)]
    assert pointers[0].isdisjoint(pointers[1])
    before = logits(network, images(1))
    assert torch.equal(logits(twin, images(1)), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert torch.equal(logits(network, images(1)), before)
    assert not torch.equal(logits(twin, images(1)), before)


@every_arch
def test_it_pickles(arch: str) -> None:
    network = ready(arch)
    assert torch.equal(logits(pickle.loads(pickle.dumps(network)), images(1)), logits(network, images(1)))


# Weights


@pytest.mark.parametrize("arch", [arch for arch, entry in ARCHS.items() if entry.own_encoder is None])
def test_the_packaged_weights_are_in_the_encoder_whatever_is_put_on_it(arch: str) -> None:
    found = fresh(arch).body.encoder
    known = packaged_state(LITE)
    state = found.state_dict()
    assert state
    assert all(torch.equal(value, known[name.removeprefix("model.")]) for name, value in state.items())
    assert weights_hash(found) == weights_hash(fresh("unet").body.encoder)


# Encoders that do not suit


def unreachable(*args: object, **kwargs: object) -> NoReturn:
    raise OSError("Network is unreachable")


@pytest.mark.parametrize(
    ("arch", "encoder", "size", "reason"),
    [
        ("unet", "vit_tiny_patch16_224", 224, "Unsupported model downsampling pattern"),
        ("unet", "mixer_b16_224", 224, "Unsupported model downsampling pattern"),
        ("manet", "vit_small_patch14_dinov2", 224, "Unsupported model downsampling pattern"),
        ("unetpp", "mit_b0", 64, "not support"),
        ("unetpp", "convnext_atto", 64, "no features at half the resolution"),
        ("deeplabv3plus", "densenet121", 64, "do not support dilated mode"),
        ("deeplabv3plus", "swin_tiny_patch4_window7_224", 64, "output_stride"),
        ("fpn", "efficientformer_l1", 96, "at 96 pixels, The size of tensor"),
    ],
)
def test_an_encoder_that_does_not_suit_is_refused_with_the_reason_and_ones_that_do(
    arch: str, encoder: str, size: int, reason: str
) -> None:
    with pytest.raises(UserError, match=f"'{encoder}' cannot be used with arch '{arch}': .*{reason}") as caught:
        build_network(arch, encoder, "none", DECODER, size)
    # Both are used with every architecture in this file.
    assert re.findall(r"--encoder (\w+)", str(caught.value)) == [LITE, "resnet34"]


@pytest.mark.parametrize(
    ("arch", "encoder", "reason"),
    [
        ("unet", "vit_tiny_patch16_224", "Unsupported model downsampling pattern"),
        ("unetpp", "mit_b0", "not support"),
        ("deeplabv3plus", "densenet121", "do not support dilated mode"),
    ],
)
def test_when_the_hub_fails_too_the_encoder_is_the_reason(
    arch: str, encoder: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", unreachable)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    with pytest.raises(UserError, match=f"'{encoder}' cannot be used with arch '{arch}': .*{reason}"):
        build_network(arch, encoder, "imagenet", DECODER, 64)


@pytest.mark.parametrize("encoder", ["resnext101_32x16d", "darknet17"])
def test_imagenet_weights_that_were_never_published_are_not_looked_for(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", unreachable)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    with pytest.raises(UserError, match=rf"no published ImageNet weights of '{encoder}'.*encoder_weights=none"):
        build_network("unet", encoder, "imagenet", DECODER, 64)


@pytest.mark.parametrize(("arch", "size"), [("unet", 96), ("upernet", 64)])
def test_a_swin_transformer_can_be_the_encoder_of_other_decoders(arch: str, size: int) -> None:
    name = "swin_tiny_patch4_window7_224"
    network = build_network(arch, name, "none", DECODER, size).eval()
    theirs = timm.create_model(name, features_only=True, img_size=size).eval()
    theirs.load_state_dict(network.body.encoder.get_submodule("model").state_dict())
    normalised = (images(1, size) - network.mean) / network.std
    with torch.no_grad():
        found = network.encode(images(1, size))
        expected = theirs(normalised)
    assert [f.shape[1] for f in found] == [3, 0, 96, 192, 384, 768]
    for ours, known in zip(found[2:], expected, strict=True):
        torch.testing.assert_close(ours, known.permute(0, 3, 1, 2))


# Learning


@pytest.mark.slow
@every_arch
def test_it_overfits_four_images(arch: str) -> None:
    pictures = generate_phantom(groups=4, images_per_group=1, size=64)
    image = torch.stack([torch.from_numpy(p.image).permute(2, 0, 1) / 255 for p in pictures])
    mask = torch.stack([torch.from_numpy(p.mask)[None].float() for p in pictures])
    network = build(arch)
    own = ARCHS[arch].own_encoder is not None  # from random weights
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-4 if own else 3e-3)

    def dice() -> float:
        found = (logits(network.eval(), image) > 0).float()
        network.train()
        return float((2 * (found * mask).sum((1, 2, 3)) / (found + mask).sum((1, 2, 3))).mean())

    assert dice() < 0.6
    for step in range(1, 121):
        optimiser.zero_grad()
        segmentation_loss(network.task, network(image), mask).backward()
        optimiser.step()
        if step % 10 == 0 and dice() >= 0.95:
            return
    pytest.fail(f"Dice {dice():.3f}")


@every_arch
@pytest.mark.parametrize("name", protocol_names())
def test_each_protocol_can_build_it(arch: str, name: str) -> None:
    """A plan of a suite relies on it: it builds no network of an architecture that ships."""
    protocol, entry = load_protocol(name), ARCHS[arch]
    encoder, channels = entry.own_encoder or protocol.encoder, protocol.decoder_channels
    require_fitting(arch, entry, protocol.size, encoder)
    require_buildable(arch, "", encoder, protocol.encoder_weights, channels, protocol.size, Task())
