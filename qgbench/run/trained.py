"""A finished run as something that predicts: its network, from the run's folder or from an exported one."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from qgbench.archs.build import SegmentationNetwork, build_network
from qgbench.archs.weights import weights_hash
from qgbench.base.errors import QGBenchError, UserError, unreadable
from qgbench.base.paths import expanded, no_folder
from qgbench.base.schema import Part, Sha256, first_fault
from qgbench.data.experiment import as_input
from qgbench.data.inputs import Squeezed, squeeze
from qgbench.data.volume_files import as_stored
from qgbench.engine.checkpoint import LAST_NAME, Checkpoints
from qgbench.engine.device import autocast, require_device
from qgbench.engine.here import best_device
from qgbench.plugins.registry import source
from qgbench.quality.predictor import load_predictor
from qgbench.quality.store import PREDICTORS
from qgbench.run.folder import SPEC_NAME, RunFolder
from qgbench.run.record import Record, read_record
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.task import Task
from qgbench.training.prediction import BATCH, Predicted, mask_at, predict, probabilities_at, scores_of

if TYPE_CHECKING:
    from qgbench.data.inputs import Image

CARD_NAME = "network.json"
WEIGHTS_NAME = "network.safetensors"
_STUDENT = "students.0."  # the evaluated network among the tensors of a method


class NetworkCard(Part):
    """What is needed to build a run's network again."""

    model_config = ConfigDict(extra="ignore")  # an exported card says more, for people

    run_id: str
    spec: RunSpec = Field(description="what was run; its arch and encoder are the network's")
    decoder_channels: tuple[int, ...]
    size: int = Field(description="side of the squares that the network takes, pixels")
    classes: tuple[str, ...] = Field(description="what is segmented, in the order of the channels, no background")
    weights: Sha256 | None = Field(None, description="`weights_hash` of the network where it is exported")

    @field_validator("spec", mode="before")
    @classmethod
    def _completed(cls, spec: Any) -> Any:
        return RunSpec.completed(spec) if isinstance(spec, dict) else spec

    @property
    def task(self) -> Task:
        """What is segmented."""
        return Task(self.classes)

    @property
    def values(self) -> dict[str, int]:
        """What stands for each class in a label map."""
        return {name: value for value, name in enumerate(self.classes, 1)}


class Prediction:
    """What was predicted of one image or volume.

    Attributes
    ----------
    mask : (H, W), or of a volume an array with the axes of its file
        At the original size. Of one class bool; of several uint8, 0 for the background and k for the k-th class.
    quality : (K,) float32
        Dice that g predicts of each class, of a volume the mean over its slices; NaN where g was not asked for.
    confidence : (K,) float32
        Mean probability of each class where it is predicted; 0 where it is not.
    """

    def __init__(self, task: Task, image: Squeezed, found: Sequence[Predicted]) -> None:
        self._image = image
        self._found = found
        masks = [mask_at(task, one.prob, image.size) for one in found]
        self.slices: NDArray[Any] = np.stack(masks)  # (1, H, W), or (D, H, W) as volumes are read
        scores = {name: values.numpy() for name, values in scores_of(found).items()}
        self.quality, self.confidence = scores["q"], scores["confidence"]

    @cached_property
    def mask(self) -> NDArray[Any]:
        """As the class describes it."""
        return self._as_given(self.slices)

    def probabilities(self) -> NDArray[np.float32]:
        """Return the probability of each channel at the original size: (C, ...) with the shape of the mask.

        One class has one channel; several have one each, after that of the background.
        """
        resized = np.stack([probabilities_at(one.prob, self._image.size).numpy() for one in self._found], axis=1)
        return np.stack([self._as_given(channel) for channel in resized])

    def _as_given(self, slices: NDArray[Any]) -> NDArray[Any]:
        if not self._image.is_volume:
            return slices[0]
        assert self._image.file is not None
        return as_stored(self._image.file, slices)


class TrainedRun:
    """A run's network after the last step, which the run was measured by; in evaluation mode, without gradient.

    Attributes
    ----------
    card : NetworkCard
    spec : RunSpec
        What was run.
    task : Task
        What is segmented.
    network : SegmentationNetwork
        Images (B, 3, S, S) in [0, 1] -> logits (B, C, S, S); it normalises its input itself.
    record : Record or None
        Of a run that is not exported.
    device : str
        Where the network is: 'cpu', 'cuda' or 'mps'.
    """

    def __init__(
        self,
        card: NetworkCard,
        network: SegmentationNetwork,
        record: Record | None = None,
        predictor: nn.Module | None = None,
        device: str = "cpu",
    ) -> None:
        self.card, self.spec, self.task, self.record = card, card.spec, card.task, record
        self.network = network.requires_grad_(False).eval().to(device)
        self._predictor = None if predictor is None else predictor.to(device)
        self.device = device

    def predict(self, images: "Image | Sequence[Image] | Tensor") -> list[Prediction]:
        """Return what is predicted of each image, at its own size.

        It is bit for bit what the run gave its test images if it gets them all, sorted, with the run's processor
        threads (`spec.threads`), which stay as they are here: other batches and threads change rounding.

        Parameters
        ----------
        images : sequence, or one image
            Each is the path of a picture or volume (str or Path), an array of bytes (H, W, 3), RGB, or (H, W), grey, or
            a tensor (3, H, W), RGB in [0, 1]; sizes may differ. A tensor (B, 3, H, W) is a sequence of these.

        Raises
        ------
        UserError
            A file cannot be read, or something else was given.
        """
        alone = isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.shape[2:] in [(), (3,)])
        given: Any = [images] if alone else images
        return list(self.predict_each(squeeze(image, self.card.size) for image in given))

    def predict_each(self, images: Iterable[Squeezed]) -> Iterator[Prediction]:
        """Yield what is predicted of each image, in order; slices and pictures go through the network in full batches.

        Parameters
        ----------
        images : iterable of Squeezed
            At the network's size.
        """
        begun: list[Squeezed] = []

        def slices() -> Iterator[NDArray[np.uint8]]:
            for image in images:
                begun.append(image)
                yield from image.slices

        every, found = slices(), list[Predicted]()
        while block := list(islice(every, BATCH)):
            batch = as_input(torch.from_numpy(np.stack(block))).to(self.device)
            found += predict(self.network, self._predictor, batch, lambda: autocast(self.device, self.spec.precision))
            while begun and len(found) >= (count := len(begun[0].slices)):
                yield Prediction(self.task, begun.pop(0), found[:count])
                del found[:count]


def load_run(path: str | Path, device: str = "auto", quality: bool = False) -> TrainedRun:
    """Return a finished run, ready to predict.

    Parameters
    ----------
    path : str or Path
        The run's folder (``runs/ID``), or what `qgbench export` made of it.
    device : 'auto', 'cpu', 'cuda' or 'mps'
        'auto' is the best of this machine.
    quality : bool
        Also load the run's g, which lies beside the run in the folder ``predictors``.

    Raises
    ------
    UserError
        There is no finished run, its weights or its g are missing or are not those that the record tells of, the
        file of a network of one's own is not as it was, or the device is absent.
    """
    folder = expanded(path)
    device = best_device() if device == "auto" else device
    require_device(device)
    if (folder / CARD_NAME).is_file():
        if quality:
            raise UserError(f"{folder} is an exported network, which has no g; give the run's own folder.")
        card = _read_card(folder)
        network = _network(card, _read_weights(folder), folder)
        if card.weights not in (None, weights_hash(network)):
            raise UserError(f"{folder / WEIGHTS_NAME} does not belong to the card beside it; export the run again.")
        return TrainedRun(card, network, device=device)
    record = _finished(folder)
    state = _student(folder, record)
    settings = record.settings["protocol"]
    card = NetworkCard(
        run_id=record.run_id,
        spec=record.spec,
        decoder_channels=settings["decoder_channels"],
        size=settings["size"],
        classes=record.classes,
    )
    network = _network(card, state, folder)
    predictor = _predictor(folder, record) if quality else None
    return TrainedRun(card, network, record, predictor, device)


def _finished(folder: Path) -> Record:
    """Return the record of a finished run.

    Raises
    ------
    UserError
        There is no run, or it is not finished.
    """
    if not folder.is_dir():
        raise UserError(f"{no_folder(folder)}; give a run's folder, runs/ID (qgbench runs lists them).")
    run = RunFolder(folder)
    status = run.status()
    if status is None:
        inside = next(iter(sorted(folder.glob(f"*/{SPEC_NAME}"))), None)
        hint = (
            f"one of those in it, such as {inside.parent}" if inside else "a run's, runs/ID (qgbench runs lists them)"
        )
        raise UserError(f"{folder} is no folder of a run; give {hint}.")
    if status != "done":
        done, total, spec = max((int(entry.get("step", 0)) for entry in run.log()), default=0), "", run.spec()
        with suppress(QGBenchError):
            total = f" of {spec.resolve().train.steps}" if spec else ""
        raise UserError(
            f"{folder} is not finished ({status}, {done}{total} steps are done): the same qgbench run command "
            "continues it, and then it can be applied."
        )
    return read_record(folder)


def _student(folder: Path, record: Record) -> dict[str, Tensor]:
    """Return the tensors of a finished run's evaluated network."""
    again = "Bring it back, or do the run again with --force."
    if not (folder / LAST_NAME).exists():
        raise UserError(f"{folder} has no {LAST_NAME}, which holds the run's networks. {again}")
    content = Checkpoints(folder, {}).load()
    if content is None:
        raise UserError(f"{folder / LAST_NAME} is damaged or cut off. {again}")
    trainer = content.get("trainer", {})
    tensors = {
        name.removeprefix(_STUDENT): value
        for name, value in trainer.get("method", {}).items()
        if name.startswith(_STUDENT)
    }
    step = trainer.get("history", {}).get("step")
    if not tensors or step != record.steps:
        raise UserError(
            f"{folder / LAST_NAME} is not of the run's end: it was written after step {step} of {record.steps}. {again}"
        )
    return tensors


def _network(card: NetworkCard, state: dict[str, Tensor], folder: Path) -> SegmentationNetwork:
    spec = card.spec
    try:
        if source("arch", spec.arch) != spec.arch_source:
            raise UserError(f"arch '{spec.arch}' is not the code that it was when the run began.")
        with torch.random.fork_rng(devices=[]):  # what is drawn is replaced
            network = build_network(spec.arch, spec.encoder, "none", card.decoder_channels, card.size, card.task)
    except UserError as error:
        if not spec.arch_source:
            raise
        raise UserError(
            f"{folder} has a network of one's own, '{spec.arch}', which is needed as it was: {error} Bring it back, "
            "or work in the folder that the run was started in."
        ) from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {folder} do not fit arch '{spec.arch}' on encoder '{spec.encoder}' as the installed "
            "packages build it; use the versions that record.json or network.json names."
        ) from error
    return network


def _predictor(folder: Path, record: Record) -> nn.Module:
    """Return the g that a run had."""
    if record.provenance.g is None:
        raise UserError(
            f"{folder} had no quality predictor g, so nothing can be said of quality: apply its twin with --qg, or "
            "train a g of its own (qgbench quality train)."
        )
    place = folder.resolve().parent / PREDICTORS / record.provenance.g
    if (stored := load_predictor(place)) is None:
        raise UserError(f"the quality predictor of {folder} is not in {place}; bring it back, or leave quality out.")
    if record.provenance.g_weights not in (None, weights_hash(stored)):
        raise UserError(f"the quality predictor in {place} is another one than {folder} was trained with.")
    return stored


def _read_card(folder: Path) -> NetworkCard:
    file = folder / CARD_NAME
    try:
        return NetworkCard.model_validate_json(file.read_bytes())
    except OSError as error:
        raise unreadable(file, error) from error
    except ValidationError as error:
        raise UserError(f"{file} is not the card of an exported network: {first_fault(error)}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS_NAME
    try:
        return load_tensors(file.read_bytes())
    except OSError as error:
        raise unreadable(file, error) from error
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or cut off ({error}); export the run again.") from error
