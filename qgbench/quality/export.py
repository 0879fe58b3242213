"""g as an ONNX file, for programs without torch."""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qgbench.base.errors import QGBenchError, UserError, in_one_line
from qgbench.base.files import write_atomically
from qgbench.quality.folder import StoredPredictor

ONNX_NAME = "predictor.onnx"
_OPSET = 17
_TOLERANCE = 1e-4  # of a predicted Dice


class _ByClass(nn.Module):
    def __init__(self, predictor: nn.Module, classes: int) -> None:
        super().__init__()
        self.predictor = predictor
        self.classes = classes

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        quality: Tensor = self.predictor(image, mask)
        return quality.reshape(-1, self.classes)


def export_onnx(stored: StoredPredictor, output: Path) -> list[Path]:
    """Write g as ONNX and, beside it, its card with what goes in and comes out.

    The inputs are image (B, 3, S, S) float32, RGB in [0, 1], and mask (B, K, S, S) float32, 0 or 1; the output is
    quality (B, K), the predicted Dice of each class. B is free. S is that of the card, and images and masks are
    squeezed to it as in the training: bilinearly, and by area.

    Parameters
    ----------
    stored : StoredPredictor
    output : Path
        Folder.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    UserError
        The extra 'onnx' is not installed.
    QGBenchError
        onnxruntime computes something else than torch, or the files cannot be written.
    """
    try:
        import onnx  # noqa: F401 (torch needs it)
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX needs onnx and onnxruntime: pip install 'qgbench[onnx]'.") from error
    card, classes = stored.card, len(stored.card.classes)
    module = _ByClass(stored.predictor.cpu(), classes).eval()
    names = {"image": {0: "batch"}, "mask": {0: "batch"}, "quality": {0: "batch"}}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        file = Path(scratch) / ONNX_NAME
        warnings.simplefilter("ignore")  # the exporter's own, about its successor
        try:
            torch.onnx.export(
                module,
                _example(2, classes, card.size),
                file,
                dynamo=False,
                opset_version=_OPSET,
                input_names=["image", "mask"],
                output_names=["quality"],
                dynamic_axes=names,
            )
        except RuntimeError as error:
            raise QGBenchError(
                f"the backbone {card.settings.backbone} cannot be written as ONNX: {in_one_line(error)}"
            ) from error
        content = file.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        _compare(module, session, _example(batch, classes, card.size))
    interface: dict[str, Any] = {
        "image": ["batch", 3, card.size, card.size],
        "mask": ["batch", classes, card.size, card.size],
        "quality": ["batch", classes],
        "range": "RGB in [0, 1], masks 0 or 1; the predicted Dice in [0, 1]",
    }
    told = {**card.model_dump(mode="json"), "onnx": interface}
    files = [output / ONNX_NAME, output / "predictor.onnx.json"]
    write_atomically(files[0], content)
    write_atomically(files[1], (json.dumps(told, indent=1) + "\n").encode())
    return files


def _example(batch: int, classes: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    image = torch.rand(batch, 3, size, size, generator=generator)
    return image, (torch.rand(batch, classes, size, size, generator=generator) > 0.5).float()


def _compare(module: nn.Module, session: Any, inputs: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        expected = module(*inputs).numpy()
    (found,) = session.run(None, dict(zip(("image", "mask"), (each.numpy() for each in inputs), strict=True)))
    apart = float(np.abs(found - expected).max())
    if found.shape != expected.shape or not apart <= _TOLERANCE:
        raise QGBenchError(
            f"onnxruntime gives other qualities than torch, {apart:.2g} apart (at most {_TOLERANCE:g} is rounding); "
            "nothing was written. Try another release of onnxruntime."
        )
