"""Protocols: named, versioned settings of everything that is no method's. Imports no torch."""

import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field

from qgbench.base.cores import MOST_THREADS
from qgbench.base.errors import UserError, unknown_name
from qgbench.spec.settings import Before, Settings

Precision = Literal["fp32", "bf16", "fp16"]

OWN_SEEDS = 3
"""The version since which every data set has random streams of its own; before, seed k was one thing on all of them."""

_MOST_IMAGES = 4096  # in a batch


_Share = Annotated[float, Field(ge=0, le=1)]
_Turn = Annotated[float, Field(ge=0, le=0.5)]
_Sigma = Annotated[float, Field(gt=0, le=32)]


class TrainSettings(Settings):
    """How every method is trained."""

    steps: int = Field(ge=1, description="optimiser steps, the same for every method")
    batch_labelled: int = Field(ge=2, le=_MOST_IMAGES, description="labelled images a step")
    batch_unlabelled: int = Field(ge=2, le=_MOST_IMAGES, description="unlabelled images a step")
    lr: float = Field(gt=0, description="learning rate of AdamW at step 0")
    lr_end: float = Field(ge=0, description="learning rate at the last step, reached along a cosine")
    weight_decay: float = Field(ge=0, description="AdamW's decoupled weight decay")
    grad_clip: float = Field(gt=0, description="largest norm of one student's gradient")
    ema: Annotated[Literal["methods", "release"], Before("scaled")] = Field(
        "methods",
        description="the teacher's average: each method's own rule, or that of the release of arXiv 2606.01753 for all",
    )
    validations: int = Field(ge=1, description="validations a run, evenly spaced")
    rotation: float = Field(20.0, ge=0, le=180, description="labelled views: largest rotation, degrees")
    rotation_p: Annotated[float, Before(1.0)] = Field(0.5, ge=0, le=1, description="share of them that is rotated")
    brightness: float = Field(
        0.2, ge=0, lt=1, description="labelled views: largest change of brightness and of contrast"
    )
    brightness_p: Annotated[float, Before(1.0)] = Field(0.5, ge=0, le=1, description="share of them that is changed so")
    jitter: Annotated[tuple[_Share, _Share, _Share, _Turn], Before((0.3, 0.3, 0.3, 0.05))] = Field(
        (0.5, 0.5, 0.5, 0.25),
        description="strong views: largest change of brightness, contrast, saturation (factors) and hue (of a circle)",
    )
    jitter_p: Annotated[float, Before(1.0)] = Field(0.8, ge=0, le=1, description="share of them that is changed so")
    grey_p: Annotated[float, Before(0.0)] = Field(0.2, ge=0, le=1, description="share of them that is grey")
    blur_sigma: Annotated[tuple[_Sigma, _Sigma], Before((0.5, 1.4))] = Field(
        (0.1, 2.0), description="least and largest standard deviation of their blur, pixels"
    )
    blur_p: float = Field(0.5, ge=0, le=1, description="share of them that is blurred")


def check_batches(settings: TrainSettings, size: int) -> None:
    """Refuse batches that processes cannot share equally: unequal shares would give some images more weight.

    Parameters
    ----------
    settings : TrainSettings
    size : int
        Number of processes.

    Raises
    ------
    UserError
        Names the batch, the number of processes and the nearest batch that fits.
    """
    for name in ("batch_labelled", "batch_unlabelled"):
        batch = getattr(settings, name)
        if batch % size != 0:
            raise UserError(
                f"train.{name} = {batch} cannot be shared equally by {size} processes; choose a multiple of {size} "
                f"(--set train.{name}={size * -(-batch // size)}) or another number of processes."
            )


class QualitySettings(Settings):
    """How the quality predictor g and the weak models that it learns from are trained."""

    backbone: str = Field(description="timm name of g's backbone")
    backbone_weights: Literal["imagenet", "none"]
    steps: int = Field(ge=1, description="optimiser steps at most")
    batch: int = Field(ge=2, le=_MOST_IMAGES, description="masks a step")
    lr: float = Field(gt=0, description="largest learning rate of AdamW")
    lr_end: Annotated[float, Before(0.0)] = Field(ge=0, description="least learning rate, at the end of each cycle")
    cycles: Annotated[int, Before(1)] = Field(
        ge=1, le=16, description="cosines from lr to lr_end, each twice as long as the one before, that fill the budget"
    )
    loss: Literal["smooth_l1", "ranking"] = Field(
        "smooth_l1", description="between predicted and true Dice; 'ranking' adds a loss of pairs to it (RankNet's)"
    )
    weight_decay: float = Field(ge=0)
    grad_clip: Annotated[float, Before(0.0)] = Field(ge=0, description="largest norm of the gradient; 0: any")
    dropout: float = Field(ge=0, lt=1, description="before the hidden layer; half of it after")
    hidden: int = Field(ge=1, le=1 << 16, description="width of the hidden layer")
    head_init: Annotated[Literal["kaiming", "torch"], Before("torch")] = Field(
        description="weights of g's linear layers at first: normal with variance 2 / outputs and no bias, as in the "
        "paper's released code, or torch's default, whose logits are near 0"
    )
    mask_scaled: Annotated[bool, Before(True)] = Field(
        description="the mask enters g shifted and scaled as the mean colour is, not as 0 and 1"
    )
    noise: Annotated[Literal["none", "written", "library"], Before("none")] = Field(
        description="in a fifth of g's images: variance 5 to 25 of 0 to 255, as the release's code has it, or standard "
        "deviation 0.2 to 0.44 of the range, as the library that it pins draws instead"
    )
    validations: int = Field(ge=1, description="validations, evenly spaced; the best is kept")
    select: Annotated[Literal["loss", "correlation"], Before("correlation")] = Field(
        description="which validation is the best: least loss, or highest correlation with true Dice"
    )
    patience: int = Field(ge=1, description="validations without improvement after which training ends")
    val_masks: int = Field(ge=1, le=_MOST_IMAGES, description="synthetic masks for each validation image")
    mixture: Annotated[Literal["release", "harsh"], Before("harsh")] = Field(
        description="synthetic masks: as the paper's released code draws them, or degraded more"
    )
    warp_floor: Annotated[bool, Before(False)] = Field(
        description="masks of the mixture 'release' lose half a pixel all round when scaled or turned, as there"
    )
    weak_share: float = Field(ge=0, le=1, description="share of g's training masks that weak models made")
    weak_folds: int = Field(
        ge=1,
        description="1: weak models are asked about the images that they are trained on; K: about those of a fold that "
        "they are not trained on",
    )
    weak_encoder: str = Field(description="encoder of the weak U-Net, trained from scratch")
    weak_epochs: tuple[int, ...] = Field(min_length=1, description="epochs after which the weak U-Net is kept")
    weak_epoch_min_steps: int = Field(ge=1, description="an epoch has at least so many steps, for small labelled sets")
    weak_batch: int = Field(ge=2, le=_MOST_IMAGES)
    weak_lr: float = Field(gt=0)

    def weak_epoch_steps(self, images: int) -> int:
        """Return the steps of a weak epoch on so many images, the last of fewer; a lone last image joins the others."""
        return max(self.weak_epoch_min_steps, -(-(images - 1) // self.weak_batch))


class Protocol(Settings):
    """A named, versioned set of all settings that do not belong to a method."""

    name: str
    version: int
    g_version: Annotated[int, Before(1)] = Field(
        description="version of how g is trained; runs that g guides count as those of another protocol, no others do"
    )
    provisional: Annotated[bool, Before(False)] = Field(
        False, description="this version, or its g's, may still change; its runs are not submitted"
    )
    dataset: str = Field(description="data set when none is named")
    arch: str
    encoder: str
    encoder_weights: Literal["imagenet", "none"]
    decoder_channels: tuple[int, ...]
    precision: Precision
    threads: int = Field(
        ge=1, le=MOST_THREADS, description="processor threads of one run; other counts give other last bits"
    )
    size: int = Field(ge=32, description="side of the square training images, pixels")
    fractions: tuple[float, float, float] = Field(description="train, validation and test shares of the groups")
    train: TrainSettings
    quality: QualitySettings


@cache
def protocol_names() -> tuple[str, ...]:
    """Return the names of the protocols that ship with qgbench."""
    folder = resources.files("qgbench.spec.protocols")
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


@cache
def load_protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises
    ------
    UserError
        No protocol has that name.
    """
    if name not in protocol_names():
        raise unknown_name("protocol", name, protocol_names())
    text = (resources.files("qgbench.spec.protocols") / f"{name}.toml").read_text(encoding="utf-8")
    return Protocol.model_validate(tomllib.loads(text))
