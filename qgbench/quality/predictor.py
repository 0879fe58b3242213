"""The quality predictor g(image, mask) -> predicted Dice (arXiv 2606.01753), and how it is stored."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from qgbench.archs.build import normalisation
from qgbench.archs.depthwise import speed_up_depthwise
from qgbench.archs.weights import Weights, timm_backbone
from qgbench.base.errors import NotFoundError, QGBenchError, UserError, in_one_line, unreadable
from qgbench.base.files import write_atomically
from qgbench.methods.contract import sums_to_other_than_one
from qgbench.plugins.hooks import told as _told
from qgbench.quality.audit import Agreement
from qgbench.quality.scores import mean_of_held, predicted_dice
from qgbench.spec.arm import Form
from qgbench.spec.protocol import QualitySettings
from qgbench.spec.task import Task

WEIGHTS_NAME = "predictor.safetensors"
CARD_NAME = "predictor.json"

_ONE = Task()
_ROUNDING = 1e-2  # of values in [0, 1], which resizing may have overshot


FORMS: Mapping[str, str] = MappingProxyType(
    {
        "regressor": "qgbench.quality.predictor:QualityPredictor",
        "pixel": "qgbench.quality.pixel:PixelPredictor",
        "both": "qgbench.quality.pixel:BothPredictor",
        "second": "qgbench.quality.segmenters:SecondPredictor",
        "ensemble": "qgbench.quality.segmenters:EnsemblePredictor",
    }
)


def kind_of(form: str) -> "type[QualityPredictor]":
    """Return the class of predictors of one of `FORMS`."""
    kind: type[QualityPredictor] = resolve_name(FORMS[form])
    return kind


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
    task : Task
        Whose masks it judges: K classes, C channels.
    size : int
        Side of the images, pixels; other forms than the regressor are built for it.

    Attributes
    ----------
    form : str
        Which of `FORMS` it is.
    card : PredictorCard
        What it was trained on; of a stored one alone.
    """

    card: "PredictorCard"
    form: ClassVar[str] = "regressor"
    mean: Tensor
    std: Tensor

    def __init__(self, settings: QualitySettings, weights: Weights, task: Task = _ONE, size: int = 64) -> None:
        super().__init__()
        self.task = task
        self._ranks = settings.loss == "ranking"
        self._build(settings, weights, size)
        self.train()
        self.to(memory_format=torch.channels_last)

    def _build(self, settings: QualitySettings, weights: Weights, size: int) -> None:
        classes = len(self.task.classes)
        self.backbone = timm_backbone(settings.backbone, weights)
        widen(self.backbone, classes)
        speed_up_depthwise(self.backbone)
        with torch.no_grad():
            width = self.backbone.eval()(torch.zeros(1, 3 + classes, 64, 64)).shape[1]
        self.head = regression_head(settings, width, classes)
        mean, std = normalisation(settings.backbone)
        of_mask = (sum(mean) / 3, sum(std) / 3) if settings.mask_scaled else (0.0, 1.0)
        for name, of_image, own in zip(("mean", "std"), (mean, std), of_mask, strict=True):
            values = torch.tensor((*of_image, *[own] * classes))
            self.register_buffer(name, values.view(1, 3 + classes, 1, 1), persistent=False)

    @classmethod
    def load(cls, path: str | Path) -> "QualityPredictor":
        """Return a stored g, of the class that its card's form has, frozen and in evaluation mode, on the processor.

        Parameters
        ----------
        path : str or Path
            Its folder, with `predictor.json` and `predictor.safetensors`: ``runs/predictors/ID``.

        Raises
        ------
        UserError
            A file is missing, or damaged.
        """
        folder = Path(path)
        if missing := [name for name in (CARD_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]:
            raise NotFoundError(
                f"{folder} holds no stored g: {' and '.join(missing)} missing. qgbench run --qg leaves one in "
                "predictors/ID, in its --output."
            )
        try:
            card = PredictorCard.model_validate(json.loads((folder / CARD_NAME).read_text()))
            predictor = kind_of(card.form)(card.settings, "none", Task(card.classes), card.size)
            predictor.load_state_dict(load((folder / WEIGHTS_NAME).read_bytes()))
        except OSError as error:
            raise unreadable(folder, error) from error
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"the stored g {folder} is damaged ({in_one_line(error)}); train it anew.") from error
        predictor.card = card
        return predictor.requires_grad_(False).eval()

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
        return self._shaped(torch.sigmoid(self.head(features).float()))

    def loss(self, image: Tensor, mask: Tensor, dice: Tensor, truth: Tensor) -> Tensor:
        """Return what its training minimises, a scalar: smooth L1, and `ranking_loss` if the settings say so.

        Parameters
        ----------
        image : (B, 3, H, W)
            RGB in [0, 1].
        mask : (B, K, H, W)
            Of each class, 0 or 1.
        dice : (B,), of several classes (B, K)
            True Dice of the masks.
        truth : (B, C, H, W)
            True masks, 0 or 1.
        """
        quality = self(image, mask)
        loss = F.smooth_l1_loss(quality, dice)
        return loss + ranking_loss(quality, dice) if self._ranks else loss

    def skill(self, image: Tensor, truth: Tensor) -> Tensor | None:
        """Return by what a validation is ranked in the place of `settings.select`, (B,); None: by that."""
        return None

    @staticmethod
    def _shaped(quality: Tensor) -> Tensor:
        """Return what `forward` gives of (B, K): of one class (B,)."""
        return quality[:, 0] if quality.shape[1] == 1 else quality

    def score(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return q: the mean of `score_by_class` over the classes that a mask holds, over all where it holds none.

        Parameters and errors as of `score_by_class`.

        Returns
        -------
        (B,) float32 in [0, 1], without gradient.
        """
        masks = self._channels(masks)
        return mean_of_held(self.task, self.score_by_class(images, masks), masks)

    @torch.no_grad()
    def score_by_class(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the predicted Dice of each class.

        Parameters
        ----------
        images : (B, 3, H, W)
            RGB in [0, 1], before any mean and standard deviation; resized to the size that g was trained at
            (`card.size`).
        masks : (B, C, H, W), or (B, H, W) integers
            0 or 1, or probabilities, which are judged as they are: QW, and the training of g, cut them first
            (`task.hard`). C is 1 for one class, K + 1 for several, the first the background's. Or numbers of classes, 0
            for the background.

        Returns
        -------
        (B, K) float32 in [0, 1], without gradient.

        Raises
        ------
        UserError
            Images or masks are something else.
        """
        masks = self._channels(masks)
        self.require(images, masks)
        return predicted_dice(self, self.task, images.float(), masks)

    def require(self, images: Tensor, masks: Tensor) -> None:
        """Refuse what g cannot judge: parameters as of `score_by_class`, masks with channels.

        Raises
        ------
        UserError
            Says what was given, and what was expected.
        """
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"images: expected (B, 3, H, W) floats in [0, 1], grey ones three times, not {_told(images)}."
            )
        expected = (len(images), self.task.channels, *images.shape[2:])
        if not isinstance(masks, Tensor) or tuple(masks.shape) != expected:
            names = ("background", *self.task.classes) if self.task.channels > 1 else self.task.classes
            raise UserError(f"masks: expected {expected}, channels {', '.join(names)}, not {_told(masks)}.")
        if not images.device == masks.device == (own := next(self.parameters()).device):
            raise UserError(f"g is on {own}, images on {images.device}, masks on {masks.device}: use .to.")
        if _leaves_unit_range(images):
            raise UserError(
                "images: expected values in [0, 1], before any mean and standard deviation; "
                f"these are from {images.min():.4g} to {images.max():.4g}."
            )
        if _leaves_unit_range(masks) or sums_to_other_than_one(masks):
            raise UserError(
                "masks: expected 0 and 1, or probabilities, over all channels 1 in sum where there are several; "
                f"these are from {masks.min():.4g} to {masks.max():.4g} (task.probabilities makes them of logits)."
            )

        if (card := getattr(self, "card", None)) is not None and tuple(images.shape[2:]) != (card.size, card.size):
            height, width = images.shape[2:]
            warnings.warn(
                f"g was trained at {card.size} x {card.size} pixels, and judges {height} x {width}", stacklevel=3
            )

    def _channels(self, masks: Tensor) -> Tensor:
        """Return numbers of classes (B, H, W) as masks (B, C, H, W); masks as they are, in floats."""
        if not isinstance(masks, Tensor):
            return masks
        if masks.ndim != 3 or masks.is_floating_point():
            return masks.float()
        most = len(self.task.classes)
        if bool(((masks < 0) | (masks > most)).any()):
            raise UserError(f"masks: expected numbers from 0 to {most}; these are from {masks.min()} to {masks.max()}.")
        hot = nn.functional.one_hot(masks.long(), most + 1).permute(0, 3, 1, 2).float()
        return hot[:, -self.task.channels :]


def _leaves_unit_range(values: Tensor) -> bool:
    return bool(((values < -_ROUNDING) | (values > 1 + _ROUNDING)).any())  # NaN, of a training that diverges, may pass


def ranking_loss(quality: Tensor, dice: Tensor) -> Tensor:
    """Return log(1 + exp(s_j - s_i)), averaged over all pairs of which mask i is truly better, s the logit of q.

    RankNet's loss (Burges et al., ICML 2005); Quality Sentinel (arXiv 2406.00327) ranks pairs of masks, too. Pairs are
    of one class.

    Parameters
    ----------
    quality, dice : (B,), of several classes (B, K)
        Predicted and true.

    Returns
    -------
    scalar, 0 where no two masks differ.
    """
    told, true = (values.float().view(len(values), -1) for values in (quality, dice))
    logit = told.logit(1e-6)
    better = true[:, None] > true[None]
    losses = F.softplus(logit[None] - logit[:, None]) * better
    return losses.sum() / better.sum().clamp_min(1)


def regression_head(settings: QualitySettings, width: int, classes: int) -> nn.Sequential:
    """Return the layers that turn features (B, width) into the logit of each class's Dice."""
    head = nn.Sequential(
        nn.Dropout(settings.dropout),
        nn.Linear(width, settings.hidden),
        nn.ReLU(),
        nn.Dropout(settings.dropout / 2),
        nn.Linear(settings.hidden, classes),
    )
    if settings.head_init == "kaiming":
        for layer in (part for part in head if isinstance(part, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return head


def widen(backbone: nn.Module, classes: int) -> None:
    """Give the first convolution a channel for each class beside RGB's, each with the mean of the RGB weights.

    Raises
    ------
    QGBenchError
        The backbone begins otherwise.
    """
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
    form: Form = Field(
        "regressor", exclude_if=lambda form: form == "regressor", description="which network; left out of a regressor"
    )
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


def save_predictor(folder: Path, predictor: QualityPredictor, card: PredictorCard) -> None:
    """Store a predictor; its card is written last and marks it as complete."""
    state = {name: value.detach().cpu().contiguous() for name, value in predictor.state_dict().items()}
    write_atomically(folder / WEIGHTS_NAME, save(state))
    write_atomically(folder / CARD_NAME, (card.model_dump_json(indent=1) + "\n").encode())


def load_predictor(folder: Path) -> QualityPredictor | None:
    """Return a stored predictor, frozen and in evaluation mode; None if none is there, or only a part of one."""
    try:
        return QualityPredictor.load(folder)
    except UserError:
        return None
