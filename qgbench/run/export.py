"""Export a run's network: weights as safetensors, a card that says how to use them and whence they are, and ONNX."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save
from torch import Tensor, nn

from qgbench.archs.build import normalisation
from qgbench.archs.weights import weights_hash
from qgbench.base.errors import UserError
from qgbench.base.files import whole_folder, write_atomically
from qgbench.data.cards import Kind
from qgbench.data.readers import find_card
from qgbench.engine.onnx import require_onnx, to_onnx
from qgbench.run.record import Record
from qgbench.run.trained import CARD_NAME, WEIGHTS_NAME, TrainedRun, load_run
from qgbench.spec.regime import Regime

ONNX_NAME = "network.onnx"


def export(run: Path, output: Path, onnx: bool = False) -> list[Path]:
    """Write a run's network into a folder, which appears in one step.

    Parameters
    ----------
    run : Path
        The run's folder.
    output : Path
        Not there yet, or empty.
    onnx : bool
        Also write ``network.onnx``, which gives probabilities, and compare it with torch.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    UserError
        As `load_run`; onnx is not installed; `output` holds something.
    QGBenchError
        The network cannot be exported to ONNX, or gives other probabilities there.
    """
    if onnx:
        require_onnx()  # before the run is opened
    with whole_folder(output) as folder:
        trained = load_run(run, "cpu")
        if trained.record is None:
            raise UserError(f"{run} is an exported network already; give the run's own folder.")
        state = {name: value.detach().contiguous() for name, value in trained.network.state_dict().items()}
        write_atomically(folder / WEIGHTS_NAME, save(state))
        card = _card(trained, trained.record)
        if onnx:
            module, shape = _Probable(trained).eval(), (3, trained.card.size, trained.card.size)
            content, worst = to_onnx(module, {"images": shape}, "probabilities", f"arch '{trained.spec.arch}'")
            write_atomically(folder / ONNX_NAME, content)
            card["onnx"] = {
                "input": "images (B, 3, size, size), float32 in [0, 1]",
                "output": "probabilities (B, C, size, size)",
                "largest difference to torch": worst,
            }
        write_atomically(folder / CARD_NAME, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode())
        names = sorted(file.name for file in folder.iterdir())
    return [output / name for name in names]


def _card(trained: TrainedRun, record: Record) -> dict[str, Any]:
    """Return what ``network.json`` holds: a `NetworkCard`, and what people need beside it."""
    spec, several = record.spec, len(trained.task.classes) > 1
    mean, std = normalisation(spec.encoder)
    of_class = "softmax over C; channel 0 is the background, channel k the k-th class" if several else "sigmoid"
    cut = "the likeliest channel" if several else "what is above 0.5"
    weights = {"weights": weights_hash(trained.network)}
    return {
        **trained.card.model_copy(update=weights).model_dump(mode="json"),
        "input": "RGB in [0, 1], (B, 3, size, size), each image squeezed to a square by antialiased bilinear "
        "interpolation; slices of a volume are grey, scaled between its 0.5 and 99.5 percentile",
        "normalisation": {"where": "inside the network", "mean": mean, "std": std},
        "output": f"logits (B, {trained.task.channels}, size, size); probabilities: {of_class}",
        "mask": f"probabilities resized bilinearly to the image's size, then {cut}",
        "test": {f"{record.noun}s": record.summary.images, "means": record.summary.means},
        "provenance": record.provenance.model_dump(mode="json", exclude={"labelled_ids"}),
        "terms": _terms(record),
    }


def _terms(record: Record) -> dict[str, str]:
    """Return what the owners of images and of the encoder's weights allow, by name."""
    spec = record.spec
    names: list[tuple[str, Kind]] = [(spec.dataset, "labelled")]
    names += [(pool, "pool") for pool in Regime.parse(spec.regime).pool_names]
    found = {}
    for name, kind in names:
        found[name] = "not known: its card is not on this machine"
        with suppress(UserError):
            found[name] = find_card(name, None, kind).terms
    if record.settings["protocol"].get("encoder_weights") == "imagenet":
        known = timm.is_model(spec.encoder.partition(".")[0])
        config = timm.get_pretrained_cfg(spec.encoder) if known else None
        found[f"ImageNet weights of {spec.encoder}"] = (config and config.license) or "not stated"
    return found


class _Probable(nn.Module):
    """A network that gives probabilities."""

    def __init__(self, trained: TrainedRun) -> None:
        super().__init__()
        self.network = trained.network
        self.task = trained.task

    def forward(self, images: Tensor) -> Tensor:
        return self.task.probabilities(self.network(images))
