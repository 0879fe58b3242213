"""The record of a finished run: its schema, and how it is written, read and summarised.

A record is ``record.json`` (a `Record`, which says each thing once) in the run's folder, ``images.csv`` (one row per
test unit, which is an image or a volume, and class, columns `image_columns`) and ``labels.csv`` (one row per audited
pseudo-label and class). Every mean in the JSON can be recomputed from the CSVs, by `summarise` and
`qgbench.quality.audit.audits_of`. Nothing here imports torch.

A record says by which version of the schema it was written, and `migrate` brings it up to the present one. A field that
records from before lack may come with a default and needs no new version; a field that is removed, renamed or comes to
mean something else does, and so does a change of `image_columns`: `SCHEMA_VERSION` goes up, `migrate` gets a step, and
``tests/golden/records/v<version>`` a record. A test compares the schema with the one that is kept there.
"""

import io
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.base.schema import SLACK, Part, Sha256, Share, first_fault
from qgbench.metrics.table import (
    CLASS,
    METRICS,
    TEXT_COLUMNS,
    VOLUME_COLUMNS,
    DistanceUnit,
    Metric,
    are_volumes,
    filled,
    image_columns,
)
from qgbench.quality.audit import LABEL_COLUMNS, CheckpointAudit, QualityAudit
from qgbench.spec.arm import ADDON_SETTINGS, Arm
from qgbench.spec.protocol import Protocol, load_protocol, protocol_names
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
RECORD_NAME = "record.json"
IMAGES_NAME = "images.csv"
LABELS_NAME = "labels.csv"

_NETWORKS = ("student", "teacher", "best_val")
_LONGEST_NAME = 150  # of a folder, in characters; file systems allow 255 bytes
_OF_A_SEED = re.compile(r"seed\d+\.json")
_UNFIT_FOR_FILES = re.compile(r"^\.|[^\w.=+,@~-]+")

_Amount = Annotated[float, Field(ge=0)]
_Count = Annotated[int, Field(ge=0)]


class Summary(Part):
    """Averages over the test units, images or volumes, under `EMPTY_MASK_RULE`. Distances as `Record.distance_unit`."""

    images: int = Field(ge=1, description="units: images, or volumes")
    groups: int = Field(ge=1)
    means: dict[str, _Amount] = Field(
        description="by name of metric (`qgbench.metrics.table`): over units of the mean over classes"
    )
    by_class: dict[str, dict[str, _Amount]] = Field(
        default_factory=dict,
        exclude_if=lambda means: not means,
        description="by class, then by name of metric: over units; left out where there is one class",
    )
    missed: _Count = Field(description="units and classes of which there is something and nothing was predicted")
    spurious: _Count = Field(description="units and classes of which there is nothing and something was predicted")
    absent: _Count | None = Field(
        None,
        exclude_if=lambda count: count is None,
        description="units and classes of which there is nothing and nothing was predicted; left out of one class",
    )

    @model_validator(mode="after")
    def _of_no_more_than_all(self) -> "Summary":
        rows = self.images * max(1, len(self.by_class))
        if self.groups > self.images or self.missed + self.spurious + (self.absent or 0) > rows:
            raise ValueError(f"expected no more groups, and missed or spurious images, than {self.images} images")
        return self

    def numbers(self) -> dict[str, float]:
        """Return all of it by name, the means under those of their metrics, of a class as 'dice of liver'."""
        counts = {"images": self.images, "groups": self.groups}
        of_classes = {f"{name} of {one}": mean for one, means in self.by_class.items() for name, mean in means.items()}
        empty = {"missed": self.missed, "spurious": self.spurious}
        if self.absent is not None:
            empty["absent"] = self.absent
        return {**counts, **self.means, **empty, **of_classes}


class Guidance(Part):
    """What the add-on did, averaged over the steps with a non-zero weight of the unlabelled loss."""

    mean_q: Share | None = Field(description="None where no score was asked")
    kept_share: Share | None = Field(
        description="share of pseudo-labels with a weight above 0: those with q >= tau in QW"
    )
    effective_sample_size: Share | None = Field(description="(sum w)^2 / (B sum w^2); near 1 means that QW did nothing")
    val_q_minus_dice: float | None = Field(
        ge=-1 - SLACK, le=1 + SLACK, description="mean q minus mean Dice on the validation images at the end"
    )


class Times(Part):
    """Wall-clock, seconds."""

    g: _Amount = Field(description="training of g and its weak models; 0 where no g was needed")
    g_reused: bool = Field(description="g came from an earlier run; `g` is then what it took that run")
    train: _Amount
    evaluate: _Amount


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
    classes: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        exclude_if=lambda classes: classes is None,
        description=f"what is segmented, in order; left out where it is the one class '{CLASS}'",
    )
    distance_unit: DistanceUnit = Field(
        "px",
        exclude_if=lambda unit: unit == "px",
        description="of distances; left out where it is pixels. Units are volumes where it is not",
    )
    split: str = Field(description="fingerprint of the ids in each part")
    labelled_ids: list[str]
    encoder: Sha256 | None = Field(
        None, description="SHA-256 of the encoder's tensors before training; None in records from before it was kept"
    )
    g: str | None = Field(description="id of the quality predictor")
    g_weights: Sha256 | None = Field(
        None, description="SHA-256 of its tensors; None where no g took part, and in records from before it was kept"
    )


class Record(Part):
    """A finished run. The schema of ``record.json``."""

    schema_version: Literal[2] = 2
    _read_from: int = PrivateAttr(SCHEMA_VERSION)
    run_id: str
    spec: RunSpec = Field(description="what was run: arm, setting, machine, seed")
    settings: dict[str, Any] = Field(
        description="of 'protocol', 'method' and add-ons ('qg') as used, but for those of the protocol that spec says"
    )
    metrics: dict[str, Metric] = Field(default_factory=dict, description="those measured that do not ship, by name")
    summaries: dict[str, Summary] = Field(
        description="by network: 'student', the primary result, is the evaluated network after the last step; "
        "'teacher', after the last step; 'best_val', the student at best validation Dice"
    )
    best_val_step: int | None
    val_dice: list[tuple[int, Share]] = Field(description="(step, mean validation Dice at training resolution)")
    audit: QualityAudit | None
    pseudo_labels: list[CheckpointAudit] = Field(
        description="at 25, 50, 75, 100 % of the run, or its end alone for a method that makes none; then pooled"
    )
    pseudo_labels_on: str = Field(
        pattern="^(unlabelled training|validation) images$",
        description="'unlabelled training images' or, where there are none with a mask, 'validation images'",
    )
    guidance: Guidance | None
    warnings: list[str] = Field(default_factory=list, description="what the run warned of while it trained")
    near_copies: dict[str, list[str]] | None = Field(
        None,
        description="by part ('val', 'test'), the images that are near copies of training images; None in records from "
        "before they were looked for",
    )
    times: Times
    peak_memory_mib: _Amount
    provenance: Provenance
    rows: Sha256 | None = Field(
        None,
        exclude_if=lambda rows: rows is None,
        description="`hash_of_rows`: binds the rows to the run; left out of records from before they were bound",
    )

    @field_validator("settings")
    @classmethod
    def _name_both(cls, settings: dict[str, Any]) -> dict[str, Any]:
        match settings:
            case {"protocol": {"g_version": int(), "train": {"steps": int()}}, "method": dict(), "qg": dict(), **rest}:
                if repeated := [*rest, *(f"protocol.{name}" for name in SAID_BY_SPEC if name in settings["protocol"])]:
                    raise ValueError(f"expected no '{repeated[0]}': the spec says it, or nothing does")
                return settings
        raise ValueError("expected 'method', 'qg', and 'protocol' with its g_version and train.steps")

    @model_validator(mode="after")
    def _average_every_metric(self) -> "Record":
        metrics = {**METRICS, **{metric.name: metric for metric in self.metrics.values()}}
        if "student" not in self.summaries or any(
            one.means.keys() != metrics.keys() for one in self.summaries.values()
        ):
            raise ValueError("expected a summary of 'student', and in each the mean of every metric and of no other")
        for network, summary in self.summaries.items():
            if network not in _NETWORKS:
                raise ValueError(f"summaries.{network}: expected summaries of no other than {', '.join(_NETWORKS)}")
            if any(means.keys() != metrics.keys() for means in summary.by_class.values()):
                raise ValueError(f"summaries.{network}.by_class: expected the mean of every metric and of no other")
            if (summary.images, summary.groups) != (self.summary.images, self.summary.groups):
                raise ValueError(f"summaries.{network}: expected as many images and groups as the student's")
            for where, means in {"means": summary.means, **_by_place(summary)}.items():
                for name, mean in means.items():
                    if (highest := metrics[name].highest) is not None and mean > highest + SLACK:
                        said = f"summaries.{network}.{where}.{name} is {mean:g}"
                        raise ValueError(f"{said}; expected no more than {highest:g}")
        return self

    @model_validator(mode="after")
    def _validate_in_order(self) -> "Record":
        steps = [step for step, _ in self.val_dice]
        if steps != sorted(set(steps)) or not set(steps) <= set(range(1, self.steps + 1)):
            raise ValueError(f"val_dice is of steps {steps}; expected steps in order, from 1 to {self.steps}")
        if self.best_val_step not in (None, *steps):
            raise ValueError(f"best_val_step is {self.best_val_step}; expected a step of val_dice")
        return self

    @property
    def read_from(self) -> int:
        """Version of the schema of the file it came from."""
        return self._read_from

    @property
    def summary(self) -> Summary:
        """The primary result."""
        return self.summaries["student"]

    @property
    def classes(self) -> tuple[str, ...]:
        """What is segmented, in the order of the rows."""
        return self.provenance.classes or (CLASS,)

    @property
    def distance_unit(self) -> DistanceUnit:
        """Of the distances: pixels of the original image, mm, or voxels."""
        return self.provenance.distance_unit

    @property
    def of_volumes(self) -> bool:
        """Whether the units that were measured are volumes, and not images."""
        return self.distance_unit != "px"

    @property
    def noun(self) -> str:
        """What was measured one by one: 'image' or 'volume'."""
        return "volume" if self.of_volumes else "image"

    @property
    def picture(self) -> str:
        """What a network sees, and a label is of: 'image' or 'slice'."""
        return "slice" if self.of_volumes else "image"

    @property
    def audited_on(self) -> str:
        """`pseudo_labels_on`, of volumes 'slices' in the place of 'images'."""
        return self.pseudo_labels_on.replace("image", self.picture)

    @property
    def steps(self) -> int:
        """The step budget."""
        return self.settings["protocol"]["train"]["steps"]

    @property
    def g_version(self) -> int | None:
        """Version of how g was trained (of the Protocol); None where no g took part."""
        return None if self.provenance.g is None else self.settings["protocol"]["g_version"]

    def versions(self, protocol: Protocol) -> list[tuple[str, int, int]]:
        """Return the versions that must be today's for this qgbench to repeat the record or to compare it with others.

        Parameters
        ----------
        protocol : Protocol
            The present one of the record's protocol.

        Returns
        -------
        list of (str, int, int)
            What is of a version, in words that end a sentence's "is"; the record's version; the present one.
        """
        found = [(f"of the protocol '{protocol.name}'", self.spec.protocol_version, protocol.version)]
        if self.g_version is not None:
            found.append((f"guided by the g of '{protocol.name}'", self.g_version, protocol.g_version))
        return found


def _by_place(summary: Summary) -> dict[str, dict[str, float]]:
    return {f"by_class.{one}": means for one, means in summary.by_class.items()}


def summarise(images: "pd.DataFrame", metrics: Iterable[Metric] = ()) -> Summary:
    """Return the averages of rows of units and classes under `EMPTY_MASK_RULE`.

    Parameters
    ----------
    images : DataFrame
        Columns `image_columns`, and those of `metrics`; as many rows of each class.
    metrics : iterable of Metric
        Those that do not ship.
    """
    every = [*METRICS.values(), *metrics]
    sides = ["height", "width", *(VOLUME_COLUMNS if are_volumes(images.columns) else [])]
    columns = [*sides, *(metric.name for metric in every if not metric.percent_of)]
    values = filled(dict(zip(columns, images[columns].to_numpy(float).T, strict=True)), every)
    status = images["status"].tolist()
    of_class = {name: (images["class"] == name).to_numpy() for name in images["class"].unique().tolist()}
    several = len(of_class) > 1
    # Not checked: of damaged rows it is what a record is compared with.
    return Summary.model_construct(
        images=images["id"].nunique() if several else len(images),
        groups=images["group"].nunique(),
        means={name: float(column.mean()) for name, column in values.items()},
        by_class={
            one: {name: float(column[rows].mean()) for name, column in values.items()}
            for one, rows in (of_class.items() if several else ())
        },
        missed=status.count("missed"),
        spurious=status.count("spurious"),
        absent=status.count("both_empty") if several else None,
    )


def write_images(path: Path, images: "pd.DataFrame", metrics: Iterable[str] = ()) -> None:
    """Write rows of units and classes as CSV (`image_columns`, then those of further metrics; full precision)."""
    columns = [*image_columns(are_volumes(images.columns)), *metrics]
    write_atomically(path, images[columns].to_csv(index=False, float_format="%.17g").encode())


def read_images(path: Path, metrics: Iterable[str] = ()) -> "pd.DataFrame":
    """Return rows of units and classes: columns `image_columns`, then those of further metrics.

    Rows of schema 1 have no class; theirs is `CLASS`.

    Raises
    ------
    QGBenchError
        The file is missing, cut off or lacks a column.
    """
    images = _read_csv(path)
    columns = [*image_columns(are_volumes(images.columns)), *metrics]
    if "class" not in images.columns:
        images.insert(0, "class", CLASS)
    if lacking := [name for name in columns if name not in images.columns]:
        raise QGBenchError(f"{path} lacks the columns {', '.join(lacking)}")
    images["group"] = images["group"].str.normalize("NFC")  # as data are read: one patient in records of any age
    return images if list(images.columns) == columns else images[columns]


def _read_csv(path: Path) -> "pd.DataFrame":
    import pandas as pd  # late: a plan asks records for what runs took, and reads no table

    try:
        content = path.read_bytes()
        header = content.partition(b"\n")[0].decode().strip().split(",")
        # An id may be the word "NA": only numbers have missing values.
        missing = {name: [""] for name in header if name not in TEXT_COLUMNS}
        text: dict[Hashable, type] = dict.fromkeys(TEXT_COLUMNS, str)
        table = pd.read_csv(io.BytesIO(content), dtype=text, na_values=missing, keep_default_na=False)
    except OSError as error:
        raise QGBenchError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise QGBenchError(f"{path} cannot be read: {error}") from error
    if not content.endswith(b"\n"):
        raise QGBenchError(f"{path} is cut off in its last row")
    return table


def write_labels(path: Path, labels: "pd.DataFrame") -> None:
    """Write audited pseudo-labels as CSV (columns of `qgbench.quality.audit.audits_of`; full precision)."""
    write_atomically(path, labels.to_csv(index=False, float_format="%.17g").encode())


def read_labels(path: Path) -> "pd.DataFrame":
    """Return audited pseudo-labels, as `write_labels` wrote them.

    Raises
    ------
    QGBenchError
        The file is missing, cut off, or lacks a column.
    """
    labels = _read_csv(path)
    if lacking := [name for name in LABEL_COLUMNS if name not in labels.columns]:
        raise QGBenchError(f"{path} lacks the columns {', '.join(lacking)}")
    return labels


def write_record(folder: Path, record: Record) -> None:
    """Write ``record.json`` into a folder, atomically. NaN is refused: the schema has None for what is unknown."""
    data = record.model_dump(mode="json")
    write_atomically(folder / RECORD_NAME, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


SAID_BY_SPEC = {"name": "protocol", "version": "protocol_version"} | {
    name: name for name in ("dataset", "arch", "encoder", "precision", "threads")
}
"""Fields of the protocol that a record's settings leave out, and where its spec has them."""


def settings_as_used(protocol: Protocol, method: Settings, addons: Iterable[Settings] = ()) -> dict[str, Any]:
    """Return a record's settings: of protocol (those that its spec does not say), method and add-ons."""
    return {
        "protocol": protocol.model_dump(mode="json", exclude=set(SAID_BY_SPEC)),
        "method": method.model_dump(mode="json"),
        "qg": {name: value for own in addons for name, value in own.model_dump(mode="json").items()},
    }


def settings_that_differ(
    record: Record, expected: Mapping[str, Any], kinds: Mapping[str, Sequence[type[Settings]]]
) -> dict[str, tuple[Any, Any]]:
    """Return the settings of a record that are not those expected, by name: the record's value, and the expected one.

    What came after the record is read as what was done before; what nothing in the run follows from is left out.

    Parameters
    ----------
    record : Record
    expected : mapping of str to Any
        As `settings_as_used` gives it.
    kinds : mapping of str to sequence of type
        The classes of the settings of each part: 'protocol', 'method' and 'qg'.

    Returns
    -------
    dict of str to (Any, Any)
        'no setting' stands for what is not there.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for part, classes in kinds.items():
        stored = dict(record.settings[part])
        for kind in classes if stored else ():  # a part that came without any was not written by a run
            stored |= kind.completed({name: stored[name] for name in kind.model_fields.keys() & stored.keys()})
        was, now = flat(stored), flat(expected[part])
        for name in sorted(was.keys() | now.keys()):
            one, other = was.get(name, "no setting"), now.get(name, "no setting")
            if one != other and name.partition(".")[0] not in {*record.spec.idle_parts, *SAID_BY_SPEC}:
                found[f"{part}.{name}"] = one, other
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings, or numbers, by their names with dots: ``train.lr``."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1, which said many things twice, as one of schema 2.

    Raises
    ------
    QGBenchError
        It says one thing twice and differently.
    """
    data = dict(data)
    cell, settings = data.pop("cell"), dict(data["settings"])
    spec = RunSpec.model_validate({**RunSpec.completed(data["spec"]), "protocol_version": cell["protocol_version"]})
    protocol = Protocol.completed(settings["protocol"])
    qg = protocol.pop("qg")
    said = {f"cell.{name}": (value, getattr(spec, name)) for name, value in cell.items()}
    said |= {name: (data.pop(name), getattr(spec, name)) for name in ("precision", "device", "threads")}
    said |= {f"settings.protocol.{name}": (protocol.pop(name), getattr(spec, of)) for name, of in SAID_BY_SPEC.items()}
    said["steps"] = data.pop("steps"), protocol["train"]["steps"]
    for name, (one, other) in said.items():
        if one != other:
            raise QGBenchError(f"says two things: {name} is {one!r}, elsewhere {other!r}")
    summaries = {"student": data.pop("summary"), **data.pop("others")}
    return {
        **data,
        "schema_version": 2,
        "spec": spec,
        "settings": {**settings, "protocol": protocol, "qg": {name: qg[name] for name in _qg_of(spec) if name in qg}},
        "summaries": {network: _summary_from_1(summary) for network, summary in summaries.items()},
    }


def _qg_of(arm: Arm) -> Iterator[str]:
    for name in arm.addons:
        yield from ADDON_SETTINGS[name].model_fields


def _summary_from_1(summary: dict[str, Any]) -> dict[str, Any]:
    counts = {name: summary[name] for name in ("images", "groups", "missed", "spurious")}
    return {**counts, "means": {name: value for name, value in summary.items() if name not in counts}}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MappingProxyType({1: _from_1})
"""By version: what turns the content of a record.json of that version into one of the next."""


def migrate(data: Any) -> dict[str, Any]:
    """Return the content of a ``record.json`` in the present version of the schema, by one version after the other.

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
        try:
            data = _MIGRATIONS[step](data)
        except ValidationError as error:
            raise QGBenchError(f"is not a record of schema {step}: {first_fault(error)}") from error
        except (LookupError, TypeError, AttributeError) as error:
            raise QGBenchError(f"is not a record of schema {step}: {type(error).__name__} {error}") from error
    return data


def read_record(path: Path) -> Record:
    """Return a record from ``record.json`` (or the folder that holds it), of this or an earlier version of the schema.

    Raises
    ------
    QGBenchError
        The file is missing, cut off, not a record, or of a version of the schema that this qgbench does not know.
    """
    file = path / RECORD_NAME if path.is_dir() else path
    try:
        data = json.loads(file.read_bytes())
        record = Record.model_validate(migrate(data))
        record._read_from = data["schema_version"]
        return record
    except OSError as error:
        raise QGBenchError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise QGBenchError(f"{file} is not a record: {first_fault(error)}") from error
    except (ValueError, RecursionError) as error:
        raise QGBenchError(f"{file} is not a record: {error}") from error
    except QGBenchError as error:
        raise QGBenchError(f"{file} {error}") from error


def images_path(record_path: Path) -> Path:
    """Return the path of the per-image CSV that belongs to a record file."""
    return record_path.with_name(IMAGES_NAME) if record_path.name == RECORD_NAME else record_path.with_suffix(".csv")


def labels_path(record_path: Path) -> Path:
    """Return the path of the CSV of audited pseudo-labels of a record file; records of schema 1 have none."""
    if record_path.name == RECORD_NAME:
        return record_path.with_name(LABELS_NAME)
    return record_path.with_suffix(".labels.csv")


def content_hash(record_path: Path) -> str:
    """Return the SHA-256 of a record's JSON, rows and, where there are any, audited labels.

    Raises
    ------
    QGBenchError
        One of the files is missing or cannot be read.
    """
    files = [record_path, images_path(record_path), *filter(Path.exists, [labels_path(record_path)])]
    try:
        return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    except OSError as error:
        raise QGBenchError(f"{error.filename} cannot be read: {error.strerror}") from error


def hash_of_rows(record_path: Path, run_id: str) -> str:
    """Return the SHA-256 of a run's id, its rows and its audited labels: what `Record.rows` is.

    Raises
    ------
    QGBenchError
        One of the files is missing or cannot be read.
    """
    try:
        files = [images_path(record_path).read_bytes(), labels_path(record_path).read_bytes()]
    except OSError as error:
        raise QGBenchError(f"{error.filename} cannot be read: {error.strerror}") from error
    return sha256(b"\n".join([run_id.encode(), *files])).hexdigest()


def find_records(folder: Path) -> Iterator[Path]:
    """Yield the record files under a folder, sorted: ``record.json`` of runs, ``seed<k>.json`` of submitted results."""
    yield from sorted(
        path for path in folder.rglob("*.json") if path.name == RECORD_NAME or _OF_A_SEED.fullmatch(path.name)
    )


def result_path(record: Record) -> PurePosixPath:
    """Return where a record lies in the folder of submitted results.

    ``v2/<protocol>/<dataset>/<regime>/<arch>/<method>[+<add-on>]/seed<k>.json``, v1 for a file of schema 1. An encoder
    other than the protocol's follows the architecture (``unet-resnet34``), settings of a variant the method
    (``fixmatch,method.threshold=0.9``), and 8 digits of a hash the name of a method or architecture that does not ship
    (``lab_Mine@1a2b3c4d``). What cannot stand in the name of a file becomes ``_``, and 8 digits of a hash tell such
    names apart (``...~1a2b3c4d``).
    """
    cell = record.spec
    arch = _marked(cell.arch, cell.arch_source)
    if cell.encoder != _encoder(cell.protocol):
        arch += f"-{cell.encoder}"
    method = _marked(cell.method, cell.source)
    method += f",{cell.variant}" if cell.variant else ""
    method += f"+{cell.addon}" if cell.addon else ""
    folders = (_as_folder(part) for part in (cell.protocol, cell.dataset, cell.regime, arch, method))
    return PurePosixPath(f"v{record.read_from}", *folders, f"seed{cell.seed}.json")


@cache
def _encoder(protocol: str) -> str | None:
    """Return the encoder of a protocol; None where there is no such protocol."""
    return load_protocol(protocol).encoder if protocol in protocol_names() else None


def _marked(reference: str, source: str) -> str:
    """Return the reference of what does not ship as a short name, marked by a hash over reference and source."""
    if not source:
        return reference
    name = re.sub(r"\W+", "_", reference.replace(".py", "").rpartition("/")[2])
    return f"{name}@{sha256(f'{reference} {source}'.encode()).hexdigest()[:8]}"


def _as_folder(name: str) -> str:
    fit = _UNFIT_FOR_FILES.sub("_", name)
    if fit == name and len(name) <= _LONGEST_NAME:
        return name
    return f"{fit[:_LONGEST_NAME]}~{sha256(name.encode()).hexdigest()[:8]}"
