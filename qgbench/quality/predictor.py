"""The quality predictor g(image, mask) -> predicted Dice (arXiv 2606.01753), and how it is stored."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from qgbench.archs.build import normalisation
from qgbench.archs.depthwise import keep_depthwise_in_float32
from qgbench.archs.weights import Weights, timm_backbone
from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.quality.audit import Agreement
from qgbench.quality.scores import predicted_quality
from qgbench.spec.protocol import QualitySettings
from qgbench.spec.task import Task


class QualityPredictor(nn.Module):
    """A regressor: a timm backbone on RGB + masks, then dropout, a hidden layer, dropout, a sigmoid for each class.

    The first convolution is widened by a channel for each class; its weights start as the mean of the RGB weights. With
    `settings.head_init` 'kaiming' the last layer's weights have a standard deviation of 1.41, as in the paper's
    released code, and q starts at 0 or 1 for most masks, where its gradient is next to nothing.

    Parameters
    ----------
    settings : QualitySettings
    weights : 'imagenet' or 'none'
        Where the backbone starts; 'none' when a stored predictor is about to be loaded.
    classes : int
        K, the number of classes without the background.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: QualitySettings, weights: Weights, classes: int = 1) -> None:
        super().__init__()
        self.backbone = timm_backbone(settings.backbone, weights)
        _widen(self.backbone, classes)
        keep_depthwise_in_float32(self.backbone)
        with torch.no_grad():
            width = self.backbone.eval()(torch.zeros(1, 3 + classes, 64, 64)).shape[1]
        self.head = nn.Sequential(
            nn.Dropout(settings.dropout),
            nn.Linear(width, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout / 2),
            nn.Linear(settings.hidden, classes),
        )
        if settings.head_init == "kaiming":
            for layer in (part for part in self.head if isinstance(part, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        mean, std = normalisation(settings.backbone)
        of_mask = (sum(mean) / 3, sum(std) / 3) if settings.mask_scaled else (0.0, 1.0)
        for name, of_image, own in zip(("mean", "std"), (mean, std), of_mask, strict=True):
            values = torch.tensor((*of_image, *[own] * classes))
            self.register_buffer(name, values.view(1, 3 + classes, 1, 1), persistent=False)
        self.train()
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the predicted Dice of masks.

        Parameters
        ----------
        image : (B, 3, H, W)
            RGB in [0, 1].
        mask : (B, K, H, W)
            Of each class, without the background: 0 or 1, or probabilities. The output is differentiable in it.

        Returns
        -------
        (B,), of several classes (B, K); float32 in [0, 1].
        """
        stacked = (torch.cat([image, mask], 1) - self.mean) / self.std
        features = self.backbone(stacked.contiguous(memory_format=torch.channels_last))
        return torch.sigmoid(self.head(features).float()).squeeze(1)

    def quality(self, image: Tensor, label: Tensor, task: Task) -> Tensor:
        """Return q, the mean predicted Dice over the classes that a label holds; over all where it holds none.

        Parameters
        ----------
        image : (B, 3, H, W)
            RGB in [0, 1].
        label : (B, C, H, W)
            0 or 1, or probabilities, the background's too where there are several classes.
        task : Task

        Returns
        -------
        (B,) float32 in [0, 1].
        """
        return predicted_quality(self, task, image, label)


def _widen(backbone: nn.Module, classes: int) -> None:
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    if first.in_channels != 3 or first.groups != 1:
        raise QGBenchError("g's backbone does not start with a convolution of RGB; choose another quality.backbone.")
    with torch.no_grad():
        first.weight = nn.Parameter(torch.cat([first.weight, *[first.weight.mean(1, keepdim=True)] * classes], 1))
    first.in_channels = 3 + classes


class PredictorCard(BaseModel):
    """What a stored predictor was trained on, and what it is worth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    version: int = Field(1, description="version of how it was trained; 1 where it is not said")
    made_by: str = Field("", description="name of the run that trained it")
    dataset: str
    classes: tuple[str, ...] = Field(
        Task().classes, exclude_if=lambda names: len(names) == 1, description="left out where there is one"
    )
    values: Mapping[str, int | str] = Field(
        {},
        exclude_if=lambda values: not values,
        description="value or colour of each class in the masks of a folder that it was trained on; left out else",
    )
    seed: int
    size: int = Field(description="side of the images that it was trained on, pixels")
    precision: str
    settings: QualitySettings
    labelled_ids: list[str]
    data: str = Field(description="fingerprint of the prepared images and masks")
    split: str = Field(description="fingerprint of the split")
    synthetic: Agreement = Field(description="on synthetic masks of validation images, drawn as those of the training")
    synthetic_test: Agreement | None = Field(
        None, description="on the mixture of the release's test script; None where a former version did not ask"
    )
    weak_models: Agreement
    weak_dice: list[float] = Field(description="mean validation Dice of the weak models, in order of their epochs")
    image_dependence: float
    best_step: int
    seconds: float

    @field_validator("settings", mode="before")
    @classmethod
    def _completed(cls, settings: Any) -> Any:
        return QualitySettings.completed(settings) if isinstance(settings, dict) else settings


WEIGHTS_NAME = "predictor.safetensors"
CARD_NAME = "predictor.json"


def save_predictor(folder: Path, predictor: QualityPredictor, card: PredictorCard) -> None:
    """Store a predictor; its card is written last and marks it as complete."""
    state = {name: value.detach().cpu().contiguous() for name, value in predictor.state_dict().items()}
    write_atomically(folder / WEIGHTS_NAME, save(state))
    write_atomically(folder / CARD_NAME, (card.model_dump_json(indent=1) + "\n").encode())


def load_predictor(folder: Path) -> tuple[QualityPredictor, PredictorCard] | None:
    """Return a stored predictor, frozen and in evaluation mode; None if none is there, or only a part of one."""
    try:
        card = PredictorCard.model_validate(json.loads((folder / CARD_NAME).read_text()))
        state: dict[str, Any] = load((folder / WEIGHTS_NAME).read_bytes())
    except (OSError, ValueError, SafetensorError):
        return None
    predictor = QualityPredictor(card.settings, "none", len(card.classes))
    predictor.load_state_dict(state)
    return predictor.requires_grad_(False).eval(), card
