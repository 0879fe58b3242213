"""The reference that a rerun is compared with: its schema, where it is, and how it is read and written.

It lies beside the suite's file: ``suites/smoke.reference.json`` beside ``suites/smoke.toml``, ``mine.reference.json``
beside ``mine.toml``. Nothing here imports torch.
"""

import hashlib
import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.files import write_atomically
from qgbench.base.schema import first_fault
from qgbench.spec.protocol import load_protocol
from qgbench.spec.suite import Suite

SCHEMA_VERSION = 1
_SUFFIX = ".reference.json"

Value = float | int | str | None
Numbers = dict[str, dict[str, Value]]
"""By item (``stage: what``), then by name. The stages are those of `qgbench.regress.fixed` and, for runs, ``run``."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Origin(_Part):
    """Where numbers come from: as `qgbench.run.record.Provenance`, without what belongs to one run."""

    created: str = Field(description="UTC, ISO 8601")
    git_commit: str | None = Field(description="commit of the checkout, '+dirty' appended if it had changes")
    packages: dict[str, str] = Field(description="versions of what can change numbers, qgbench itself left out")
    python: str
    hardware: dict[str, Any] = Field(description="as in a record")


class Tolerance(_Part):
    """How far a number may lie from the reference on another processor or with other versions."""

    limit: float | None = Field(description="largest difference; None: only compared where all is the same")
    largest: float | None = Field(
        description="largest difference that was measured; None: none was, or it is not always a number"
    )
    differences: int = Field(description="how many were measured")


class Noise(_Part):
    """What rounding alone does: the same code, computed in other ways on one processor, and on others."""

    origin: Origin = Field(description="of what was computed last")
    variants: list[str] = Field(description="the other ways, in words")
    factor: float = Field(description="limit / largest")
    tolerances: dict[str, Tolerance] = Field(description="by '<stage>: <name>', over all items of the stage")


class Change(_Part):
    """Why the reference became another one."""

    date: str = Field(description="UTC, ISO 8601")
    git_commit: str | None
    why: str


class Reference(_Part):
    """The schema of the file."""

    schema_version: Literal[1] = 1
    suite: str = Field(description="fingerprint of the runs that the suite declares")
    protocol: str
    protocol_version: int
    g_version: int = Field(1, description="of the protocol's g; 1 where it is not said")
    origin: Origin
    numbers: Numbers
    noise: Noise | None = Field(description="None until it is measured: comparisons then need an equal machine")
    history: list[Change] = Field(min_length=1, description="oldest first")


def fingerprint(suite: Suite) -> str:
    """Return the SHA-256 of the runs that a suite declares, 64 hexadecimal digits; words and questions do not count."""
    declared = suite.model_dump_json(include={"protocol", "threads", "rows", "block"}, exclude_defaults=True)
    return hashlib.sha256(declared.encode()).hexdigest()


def locate(suite: str) -> Traversable:
    """Return the file of a suite's reference, there or not.

    Parameters
    ----------
    suite : str
        As `qgbench.spec.suite.load_suite` takes it.
    """
    if suite.endswith(".toml"):
        return Path(suite).with_suffix(_SUFFIX)
    return resources.files("qgbench.suites") / f"{suite}{_SUFFIX}"


def read(name: str, suite: Suite) -> Reference:
    """Read the reference of a suite.

    Parameters
    ----------
    name : str
        The suite, as the user named it.
    suite : Suite
        What it declares now.

    Raises
    ------
    UserError
        There is none, it is damaged, of another version of the schema or the protocol, or of other runs.
    """
    file = locate(name)
    remedy = f"write it anew: qgbench regress --suite {name} --update --why TEXT"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(f"{file} is of schema version {version}, and this qgbench reads {SCHEMA_VERSION}; {remedy}")
        reference = Reference.model_validate(data)
    except FileNotFoundError as error:
        raise UserError(f"the suite '{name}' has no reference ({file}); {remedy}") from error
    except ValidationError as error:
        raise UserError(f"{file} is damaged: {first_fault(error)}; {remedy}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error!r}; {remedy}") from error
    protocol = load_protocol(suite.protocol)
    known = f"{reference.protocol} v{reference.protocol_version}, g v{reference.g_version}"
    now = f"{protocol.name} v{protocol.version}, g v{protocol.g_version}"
    if known != now:
        raise UserError(f"{file} is of protocol {known}, and the suite now follows {now}; {remedy}")
    if reference.suite != fingerprint(suite):
        raise UserError(f"{file} is of other runs than the suite '{name}' declares now; {remedy}")
    return reference


def write(name: str, reference: Reference) -> Path:
    """Write the reference of a suite and return the file.

    Raises
    ------
    UserError
        The suite ships with qgbench, and its folder cannot be written.
    """
    file = Path(str(locate(name)))
    text = json.dumps(reference.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    try:
        write_atomically(file, text.encode())
    except QGBenchError as error:
        raise UserError(f"{error} The reference of a suite that ships is changed in a checkout of qgbench.") from error
    return file
