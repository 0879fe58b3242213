import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qgbench.archs.weights import packaged_state
from qgbench.engine.device import make_accelerator
from qgbench.quality.audit import Agreement
from qgbench.quality.predictor import (
    CARD_NAME,
    WEIGHTS_NAME,
    PredictorCard,
    QualityPredictor,
    load_predictor,
    save_predictor,
)
from qgbench.spec.protocol import QualitySettings, load_protocol
from tests.later import later_setting

SETTINGS = load_protocol("smoke").quality


def card() -> PredictorCard:
    some = Agreement(masks=4, pearson=0.5, spearman=None, mae=0.1)
    return PredictorCard(
        id="g-0",
        dataset="phantom",
        seed=0,
        size=64,
        precision="fp32",
        settings=SETTINGS,
        labelled_ids=["a", "b"],
        data="d",
        split="s",
        synthetic=some,
        synthetic_test=some.model_copy(update={"mae": 0.2}),
        weak_models=some,
        weak_dice=[0.5],
        image_dependence=0.1,
        best_step=3,
        seconds=1.5,
    )


def test_a_card_without_a_setting_that_came_later_says_what_was_done_before(tmp_path: Path) -> None:
    save_predictor(tmp_path, QualityPredictor(SETTINGS, "none"), card())
    with later_setting(QualitySettings, default=0.5, before=0.25):
        stored = load_predictor(tmp_path)
        assert stored is not None
        assert stored.card.settings.model_dump() == {**SETTINGS.model_dump(), "later": 0.25}


def test_a_card_of_version_2_is_read_as_what_was_done_then(tmp_path: Path) -> None:
    save_predictor(tmp_path, QualityPredictor(SETTINGS, "none"), card())
    stored = json.loads((tmp_path / CARD_NAME).read_text())
    del stored["synthetic_test"]
    for later in (
        "lr_end",
        "cycles",
        "grad_clip",
        "head_init",
        "mask_scaled",
        "noise",
        "select",
        "mixture",
        "warp_floor",
    ):
        del stored["settings"][later]
    (tmp_path / CARD_NAME).write_text(json.dumps(stored))
    loaded = load_predictor(tmp_path)
    assert loaded is not None
    assert loaded.card.synthetic_test is None
    assert loaded.card.synthetic == card().synthetic
    done = loaded.card.settings
    assert (done.mixture, done.noise, done.select, done.cycles) == ("harsh", "none", "correlation", 1)
    assert (done.lr_end, done.grad_clip, done.mask_scaled, done.warp_floor) == (0, 0, True, False)
    assert done.head_init == "torch"


def images_and_masks(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, mask = torch.rand(count, 3, 64, 64, generator=generator), torch.zeros(count, 1, 64, 64)
    for i in range(count):
        mask[i, :, 10 : 30 + 5 * i, 20:50] = 1
    return image, mask


@pytest.fixture(scope="module")
def predictor() -> QualityPredictor:
    """A g whose statistics and weights are no longer those that it started with, frozen."""
    torch.manual_seed(0)
    g = QualityPredictor(SETTINGS, "imagenet")
    g(*images_and_masks())  # moves the running statistics
    with torch.no_grad():
        for parameter in g.head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return g.requires_grad_(False).eval()


# The widened first convolution


def test_the_first_convolution_keeps_its_rgb_weights_and_gives_the_mask_their_mean() -> None:
    g = QualityPredictor(SETTINGS, "imagenet")
    stem = g.backbone.get_submodule("conv_stem")
    weight, known = stem.get_parameter("weight").detach(), packaged_state("tf_efficientnet_lite0")["conv_stem.weight"]
    assert weight.shape == (32, 4, 3, 3)
    assert torch.equal(weight[:, :3], known)
    torch.testing.assert_close(weight[:, 3], (known[:, 0] + known[:, 1] + known[:, 2]) / 3)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def with_head(init: str) -> QualityPredictor:
    torch.manual_seed(0)
    return QualityPredictor(SETTINGS.model_copy(update={"head_init": init}), "none")


def test_the_head_starts_with_variance_2_by_outputs_and_no_bias_or_as_torch_would() -> None:
    kaiming, default = with_head("kaiming"), with_head("torch")
    for place, outputs, inputs in ((1, 256, 1280), (4, 1, 256)):
        layer, other = kaiming.head[place], default.head[place]
        assert layer.weight.shape == (outputs, inputs)
        assert float(layer.weight.detach().std()) == pytest.approx((2 / outputs) ** 0.5, rel=0.1)
        assert not layer.bias.any()
        assert float(other.weight.detach().std()) == pytest.approx((3 * inputs) ** -0.5, rel=0.1)
        assert other.bias.all()


def test_a_fresh_predictor_can_be_trained_in_all_its_parts() -> None:
    g = with_head("torch")  # logits near 0: q has a gradient
    assert g.training
    g(*images_and_masks()).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in g.parameters())
    assert bool(g.backbone.get_submodule("conv_stem").get_parameter("weight").grad[:, 3].any())  # type: ignore[index]


# What it computes


@pytest.mark.parametrize("mask_scaled", [False, True])
def test_the_output_is_that_of_backbone_and_head_on_an_image_scaled_to_plus_minus_one(
    predictor: QualityPredictor, mask_scaled: bool
) -> None:
    image, mask = images_and_masks()
    weights = predictor.state_dict()
    predictor = QualityPredictor(SETTINGS.model_copy(update={"mask_scaled": mask_scaled}), "none").eval()
    predictor.load_state_dict(weights)
    with torch.no_grad():
        features = predictor.backbone(torch.cat([2 * image - 1, 2 * mask - 1 if mask_scaled else mask], 1))
        hidden = predictor.head[1](features).clamp_min(0)
        expected = 1 / (1 + torch.exp(-predictor.head[4](hidden)[:, 0]))
        torch.testing.assert_close(predictor(image, mask), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_float32_value_in_0_to_1_per_mask(predictor: QualityPredictor, precision: str) -> None:
    with make_accelerator("cpu", precision, 1).autocast(), torch.no_grad():
        for count in (1, 4):
            quality = predictor(*images_and_masks(count))
            assert quality.shape == (count,)
            assert quality.dtype == torch.float32
            assert bool(((quality >= 0) & (quality <= 1)).all())
    assert len(set(quality.tolist())) == 4


def test_each_mask_is_judged_by_itself(predictor: QualityPredictor) -> None:
    image, mask = images_and_masks()
    together = predictor(image, mask)
    for i in range(4):
        torch.testing.assert_close(predictor(image[i : i + 1], mask[i : i + 1]), together[i : i + 1])


def test_the_gradient_in_the_mask_is_that_of_finite_differences(predictor: QualityPredictor) -> None:
    image, hard = images_and_masks()
    mask = (0.2 + 0.6 * hard).requires_grad_()
    (gradient,) = torch.autograd.grad(predictor(image, mask).sum(), mask)
    assert all(p.grad is None for p in predictor.parameters())
    direction = gradient / gradient.norm()
    with torch.no_grad():
        step = 0.05
        above, below = (predictor(image, mask + sign * step * direction).sum() for sign in (1, -1))
    assert float(above - below) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.05)
    assert float(gradient.norm()) > 0


# Storing


def test_a_stored_predictor_gives_the_same_bits(predictor: QualityPredictor, tmp_path: Path) -> None:
    save_predictor(tmp_path / "g", predictor, card())
    loaded = load_predictor(tmp_path / "g")
    assert loaded is not None
    assert loaded.card == card()
    image, mask = images_and_masks()
    assert torch.equal(loaded(image, mask), predictor(image, mask))
    assert {path.name for path in (tmp_path / "g").iterdir()} == {WEIGHTS_NAME, CARD_NAME}


def test_a_loaded_predictor_is_frozen(predictor: QualityPredictor, tmp_path: Path) -> None:
    trainable = QualityPredictor(SETTINGS, "none")
    trainable.load_state_dict(predictor.state_dict())
    save_predictor(tmp_path, trainable.train(), card())
    loaded = load_predictor(tmp_path)
    assert loaded is not None
    assert not any(module.training for module in loaded.modules())
    assert not any(p.requires_grad for p in loaded.parameters())
    image, mask = images_and_masks()
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    loaded(image, mask.requires_grad_()).sum().backward()
    assert mask.grad is not None
    assert all(p.grad is None for p in loaded.parameters())
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / CARD_NAME).unlink(),
        lambda folder: (folder / WEIGHTS_NAME).unlink(),
        cut(CARD_NAME),
        cut(WEIGHTS_NAME),
        lambda folder: (folder / WEIGHTS_NAME).write_bytes(b""),
    ],
    ids=["no card", "no weights", "half a card", "half the weights", "empty weights"],
)
def test_a_part_of_a_predictor_is_none(
    predictor: QualityPredictor, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save_predictor(tmp_path, predictor, card())
    assert load_predictor(tmp_path) is not None
    damage(tmp_path)
    assert load_predictor(tmp_path) is None


def test_no_folder_is_none(tmp_path: Path) -> None:
    assert load_predictor(tmp_path / "missing") is None


def test_the_card_is_written_last(predictor: QualityPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("qgbench.quality.predictor.write_atomically", lambda path, data: written.append(path.name))
    save_predictor(tmp_path, predictor, card())
    assert written == [WEIGHTS_NAME, CARD_NAME]
