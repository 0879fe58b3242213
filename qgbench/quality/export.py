"""g as an ONNX file, for programs without torch."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qgbench.base.files import write_atomically
from qgbench.engine.onnx import to_onnx
from qgbench.quality.folder import StoredPredictor

ONNX_NAME = "predictor.onnx"


class _ByClass(nn.Module):
    """A g whose output has a column for each class, also where there is one."""

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
    UserError, QGBenchError
        As `to_onnx`; the files cannot be written.
    """
    card, classes = stored.card, len(stored.card.classes)
    inputs = {"image": (3, card.size, card.size), "mask": (classes, card.size, card.size)}
    module = _ByClass(stored.predictor.cpu(), classes).eval()
    content, worst = to_onnx(module, inputs, "quality", f"the backbone {card.settings.backbone}")
    interface: dict[str, Any] = {
        **{name: ["batch", *shape] for name, shape in inputs.items()},
        "quality": ["batch", classes],
        "range": "RGB in [0, 1], masks 0 or 1; the predicted Dice in [0, 1]",
        "largest difference to torch": worst,
    }
    files = [output / ONNX_NAME, output / f"{ONNX_NAME}.json"]
    write_atomically(files[0], content)
    write_atomically(
        files[1], (json.dumps({**card.model_dump(mode="json"), "onnx": interface}, indent=1) + "\n").encode()
    )
    return files
