"""The record of a finished run: its schema, and how it is written, read and summarised.

A record is two files in the run's folder: ``record.json`` (a `Record`) and ``images.csv`` (one row per test image,
columns `IMAGE_COLUMNS`). Every mean in the JSON can be recomputed from the CSV by `summarise`.
Nothing here imports torch.

A record says by which version of the schema it was written, and `migrate` brings it up to the present one. A field that
records from before lack may come with a default and needs no new version; a field that is removed, renamed or comes to
mean something else does, and so does a change of `IMAGE_COLUMNS`: `SCHEMA_VERSION` goes up, `migrate` gets a step, and
``tests/golden/records/v<version>`` a record. A test compares the schema with the one that is kept there.
"""

import io
import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError

from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.base.schema import Part, first_fault
from qgbench.metrics.table import DISTANCE_COLUMNS, IMAGE_COLUMNS, MEAN_COLUMNS, TEXT_COLUMNS
from qgbench.quality.audit import CheckpointAudit, QualityAudit
from qgbench.spec.protocol import Protocol, load_protocol, protocol_names

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"
IMAGES_NAME = "images.csv"

_LAYOUT = "v1"  # of the folder of submitted results
_LONGEST_NAME = 150  # of a folder, in characters; file systems allow 255 bytes
_OF_A_SEED = re.compile(r"seed\d+\.json")
_UNFIT_FOR_FILES = re.compile(r"^\.|[^\w.=+,@~-]+")


class Cell(Part):
    """What was compared: every record of one cell differs from the others only in its seed."""

    protocol: str = Field(description="name of the protocol, for example 'small'")
    protocol_version: int = Field(
        description="version of the protocol; records of different versions are never averaged"
    )
    dataset: str
    regime: str = Field(description="budget, pools and split kind, for example 'n28+isic_pool@grouped'")
    arch: str
    encoder: str
    method: str
    addon: str = Field(
        description="'' | 'qw' | 'qar' | 'qw+qar'; a control appends its score, for example 'qw-shuffled'"
    )
    variant: str = Field("", description="settings that differ from the protocol's defaults, 'method.threshold=0.9'")
    seed: int = Field(description="seed index k: fixes the labelled draw, g and the training seed together")


class Summary(Part):
    """Averages over the test images, under `EMPTY_MASK_RULE`. Distances in pixels of the original image."""

    images: int
    groups: int
    dice: float
    jaccard: float
    precision: float
    recall: float
    hd95: float
    hd95_max: float
    hd95_percent: float = Field(description="HD95 (pooled) as a percentage of the image diagonal")
    assd: float
    nsd_2px: float
    nsd_2pct: float
    missed: int = Field(description="images with a lesion of which nothing was predicted")
    spurious: int = Field(description="images without a lesion on which something was predicted")


class Guidance(Part):
    """What the add-on did, averaged over the steps with a non-zero weight of the unlabelled loss."""

    mean_q: float | None
    kept_share: float | None = Field(description="share of pseudo-labels with q >= tau")
    effective_sample_size: float | None = Field(description="(sum w)^2 / (B sum w^2); near 1 means that QW did nothing")
    val_q_minus_dice: float | None = Field(description="mean q minus mean Dice on the validation images at the end")


class Times(Part):
    """Wall-clock, seconds."""

    g: float = Field(description="training of g and its weak models; 0 where no g was needed")
    g_reused: bool = Field(description="g came from an earlier run; `g` is then what it took that run")
    train: float
    evaluate: float


class Provenance(Part):
    """Where the numbers come from."""

    created: str = Field(description="UTC, ISO 8601")
    git_commit: str | None = Field(
        description="commit of the checkout, '+dirty' appended if it had changes; None in a wheel"
    )
    packages: dict[str, str]
    python: str
    hardware: dict[str, Any] = Field(
        description="processor and its instructions, cores, memory in MiB, system, accelerator"
    )
    data: str = Field(description="fingerprint of the prepared images and masks")
    split: str = Field(description="fingerprint of the ids in each part")
    labelled_ids: list[str]
    encoder: str | None = Field(
        None, description="SHA-256 of the encoder's tensors before training; None in records from before it was kept"
    )
    g: str | None = Field(description="id of the quality predictor")


class Record(Part):
    """A finished run. The schema of ``record.json``."""

    schema_version: Literal[1] = 1
    run_id: str
    cell: Cell
    spec: dict[str, Any] = Field(description="the whole RunSpec")
    settings: dict[str, Any] = Field(description="every protocol, method and add-on setting as used")
    steps: int
    precision: str
    device: str
    threads: int
    summary: Summary = Field(description="the primary result: the evaluated network after the last step")
    others: dict[str, Summary] = Field(
        description="'teacher' after the last step; 'best_val', the checkpoint of best validation Dice"
    )
    best_val_step: int | None
    val_dice: list[tuple[int, float]] = Field(description="(step, mean validation Dice at training resolution)")
    audit: QualityAudit | None
    pseudo_labels: list[CheckpointAudit] = Field(description="at 25, 50, 75, 100 % of the run, then pooled")
    pseudo_labels_on: str = Field(
        description="'unlabelled training images' or, where there are none with a mask, 'validation images'"
    )
    guidance: Guidance | None
    warnings: list[str] = Field(default_factory=list, description="what the run warned of while it trained")
    near_copies: dict[str, list[str]] | None = Field(
        None,
        description="by part ('val', 'test'), the images that are near copies of training images; None in records from "
        "before they were looked for",
    )
    times: Times
    peak_memory_mib: float
    provenance: Provenance

    @property
    def g_version(self) -> int | None:
        """Version of how g was trained (of the Protocol); None where no g took part, 1 where it is not said."""
        if self.provenance.g is None:
            return None
        protocol = self.settings.get("protocol")
        version = Protocol.completed(protocol if isinstance(protocol, dict) else {})["g_version"]
        return version if isinstance(version, int) else 1

    def versions(self, protocol: Protocol) -> list[tuple[str, int, int]]:
        """Versions that must be the present ones for the record to be compared with, or repeated by, this qgbench.

        Parameters
        ----------
        protocol : Protocol
            The present one of the record's protocol.

        Returns
        -------
        list of (str, int, int)
            What is of a version, in words that end a sentence's "is"; the record's version; the present one.
        """
        found = [(f"of the protocol '{protocol.name}'", self.cell.protocol_version, protocol.version)]
        if self.g_version is not None:
            found.append((f"guided by the g of '{protocol.name}'", self.g_version, protocol.g_version))
        return found


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MappingProxyType({})
"""By version: what turns the content of a record.json of that version into one of the next."""


def summarise(images: pd.DataFrame) -> Summary:
    """Average per-image rows (columns `IMAGE_COLUMNS`) under `EMPTY_MASK_RULE`."""
    columns = ["height", "width", *MEAN_COLUMNS, *DISTANCE_COLUMNS]
    values = dict(zip(columns, images[columns].to_numpy(float).T, strict=True))
    diagonal = np.hypot(values["height"], values["width"])
    filled = {name: np.where(np.isnan(values[name]), diagonal, values[name]) for name in DISTANCE_COLUMNS}
    status = images["status"].tolist()
    return Summary(
        images=len(images),
        groups=images["group"].nunique(),
        **{name: float(values[name].mean()) for name in MEAN_COLUMNS},
        **{name: float(column.mean()) for name, column in filled.items()},
        hd95_percent=float((100 * filled["hd95"] / diagonal).mean()),
        missed=status.count("missed"),
        spurious=status.count("spurious"),
    )


def write_images(path: Path, images: pd.DataFrame) -> None:
    """Write per-image rows as CSV (columns `IMAGE_COLUMNS`, full precision)."""
    write_atomically(path, images[IMAGE_COLUMNS].to_csv(index=False, float_format="%.17g").encode())


def read_images(path: Path) -> pd.DataFrame:
    """Read per-image rows.

    Raises
    ------
    QGBenchError
        The file is missing, cut off or lacks a column.
    """
    try:
        # An id may be the word "NA": only numbers have missing values.
        numbers = {name: [""] for name in IMAGE_COLUMNS if name not in TEXT_COLUMNS}
        text: dict[Hashable, type] = dict.fromkeys(TEXT_COLUMNS, str)
        content = path.read_bytes()
        images = pd.read_csv(io.BytesIO(content), dtype=text, na_values=numbers, keep_default_na=False)
    except OSError as error:
        raise QGBenchError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise QGBenchError(f"{path} cannot be read: {error}") from error
    if lacking := [name for name in IMAGE_COLUMNS if name not in images.columns]:
        raise QGBenchError(f"{path} lacks the columns {', '.join(lacking)}")
    if not content.endswith(b"\n"):
        raise QGBenchError(f"{path} is cut off in its last row")
    images["group"] = images["group"].str.normalize("NFC")  # as data are read: one patient in records of any age
    return images if list(images.columns) == IMAGE_COLUMNS else images[IMAGE_COLUMNS]


def write_record(folder: Path, record: Record) -> None:
    """Write ``record.json`` into a folder, atomically. NaN is refused: the schema has None for what is unknown."""
    data = record.model_dump(mode="json")
    write_atomically(folder / RECORD_NAME, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def migrate(data: Any) -> dict[str, Any]:
    """Bring the content of a ``record.json`` up to the present version of the schema, one version after the other.

    Parameters
    ----------
    data : anything that JSON can hold

    Returns
    -------
    dict
        Of version `SCHEMA_VERSION`, its fields not checked yet.

    Raises
    ------
    QGBenchError
        The content names no version, one that never was, or one of a newer qgbench.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise QGBenchError(f"is not a record: schema_version is {version!r}; expected 1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise QGBenchError(
            f"was written by a newer qgbench: schema version {version}, and this one reads up to {SCHEMA_VERSION}. "
            "Upgrade: pip install --upgrade qgbench"
        )
    for step in range(version, SCHEMA_VERSION):
        data = _MIGRATIONS[step](data)
    return data


def read_record(path: Path) -> Record:
    """Read a ``record.json`` (or the folder that holds it), of this or an earlier version of the schema.

    Raises
    ------
    QGBenchError
        The file is missing, cut off, not a record, or of a version of the schema that this qgbench does not know.
    """
    file = path / RECORD_NAME if path.is_dir() else path
    try:
        return Record.model_validate(migrate(json.loads(file.read_bytes())))
    except OSError as error:
        raise QGBenchError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise QGBenchError(f"{file} is not a record: {first_fault(error)}") from error
    except (ValueError, RecursionError) as error:
        raise QGBenchError(f"{file} is not a record: {error}") from error
    except QGBenchError as error:
        raise QGBenchError(f"{file} {error}") from error


def images_path(record_path: Path) -> Path:
    """Name the per-image CSV that belongs to a record file."""
    return record_path.with_name(IMAGES_NAME) if record_path.name == RECORD_NAME else record_path.with_suffix(".csv")


def find_records(folder: Path) -> Iterator[Path]:
    """Yield the record files under a folder, sorted: ``record.json`` of runs, ``seed<k>.json`` of submitted results."""
    yield from sorted(
        path for path in folder.rglob("*.json") if path.name == RECORD_NAME or _OF_A_SEED.fullmatch(path.name)
    )


def result_path(record: Record) -> PurePosixPath:
    """Say where a record lies in the folder of submitted results.

    ``v1/<protocol>/<dataset>/<regime>/<arch>/<method>[+<add-on>]/seed<k>.json``. An encoder other than the protocol's
    follows the architecture (``unet-resnet34``), settings of a variant the method (``fixmatch,method.threshold=0.9``),
    and 8 digits of a hash the name of a method or architecture that does not ship (``lab_Mine@1a2b3c4d``). What cannot
    stand in the name of a file becomes ``_``, and 8 digits of a hash tell such names apart (``...~1a2b3c4d``).
    """
    cell, spec = record.cell, record.spec
    arch = _marked(cell.arch, spec.get("arch_source", ""))
    if cell.encoder != _encoder(cell.protocol):
        arch += f"-{cell.encoder}"
    method = _marked(cell.method, spec.get("source", ""))
    method += f",{cell.variant}" if cell.variant else ""
    method += f"+{cell.addon}" if cell.addon else ""
    folders = (_as_folder(part) for part in (cell.protocol, cell.dataset, cell.regime, arch, method))
    return PurePosixPath(_LAYOUT, *folders, f"seed{cell.seed}.json")


@cache
def _encoder(protocol: str) -> str | None:
    """Name the encoder of a protocol; None where there is no such protocol."""
    return load_protocol(protocol).encoder if protocol in protocol_names() else None


def _marked(reference: str, source: str) -> str:
    """Shorten the reference of what does not ship to a name, and mark it by a hash over reference and source."""
    if not source:
        return reference
    name = re.sub(r"\W+", "_", reference.replace(".py", "").rpartition("/")[2])
    return f"{name}@{sha256(f'{reference} {source}'.encode()).hexdigest()[:8]}"


def _as_folder(name: str) -> str:
    fit = _UNFIT_FOR_FILES.sub("_", name)
    if fit == name and len(name) <= _LONGEST_NAME:
        return name
    return f"{fit[:_LONGEST_NAME]}~{sha256(name.encode()).hexdigest()[:8]}"
