"""What a run is: an arm in a setting, on a machine, with a seed. Imports no torch."""

import hashlib
import json
import re
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from qgbench.base.cores import MOST_THREADS
from qgbench.base.paths import base_name
from qgbench.base.seeds import LARGEST_SEED, salted
from qgbench.spec.arm import ADDON_SETTINGS, Arm, ArmName, addons_of, short_name
from qgbench.spec.protocol import Precision, Protocol, load_protocol, protocol_names
from qgbench.spec.regime import Regime
from qgbench.spec.settings import Settings, apply_settings, without_defaults


class Setting(Settings):
    """Where arms meet: everything that two runs must share to be compared. Can be a key."""

    protocol: str
    protocol_version: int = Field(description="runs of different versions are never averaged; 0 if it is not known")
    dataset: str
    regime: str
    arch: str
    encoder: str
    arch_source: str = Field("", description="`qgbench.plugins.registry.source` of the arch; '' for a built-in")

    @field_validator("regime")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return str(Regime.parse(text))

    @model_validator(mode="before")
    @classmethod
    def _of_the_present_version(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "protocol_version" in fields:
            return fields
        known = fields.get("protocol") in protocol_names()
        return {**fields, "protocol_version": load_protocol(fields["protocol"]).version if known else 0}


class Machine(Settings):
    """What computes: other machines give other last bits."""

    precision: Precision
    device: Literal["cpu", "cuda", "mps"]
    threads: int = Field(ge=1, le=MOST_THREADS)
    processes: int = Field(1, ge=1, description="processes that share each batch")


class Cell(NamedTuple):
    """What is averaged over seeds: an arm in a setting."""

    setting: Setting
    arm: ArmName

    @property
    def twin(self) -> "Cell":
        """The cell without an add-on; itself if it has none."""
        return self._replace(arm=self.arm.without_addon)


class Place(NamedTuple):
    """A run as a suite declares it, before anything is known of the machine, which decides the encoder as well."""

    protocol: str
    dataset: str
    regime: str
    arch: str
    arm: ArmName
    seed: int


class RunSpec(Machine, Arm, Setting):
    """Everything that decides a run's numbers, apart from the data themselves."""

    seed: int = Field(
        ge=0, le=LARGEST_SEED, description="index k: fixes labelled draw k, g_k and the training seed together"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_repeated_values(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or fields.get("protocol") not in protocol_names():
            return fields
        protocol = load_protocol(fields["protocol"])
        if fields.get("protocol_version", protocol.version) != protocol.version:
            return fields  # what a former version's values were is not known
        overrides = without_defaults(fields.get("overrides", {}), protocol, "")
        parts = [("train.", protocol.train), ("quality.", protocol.quality)]
        asked = addons_of(fields.get("qg_mode", "none"))
        own = [settings() for name, settings in ADDON_SETTINGS.items() if name in asked or not asked]
        for prefix, settings in [*parts, *(("qg.", settings) for settings in own)]:
            overrides = without_defaults(overrides, settings, prefix)
        return {**fields, "overrides": overrides}

    @property
    def setting(self) -> Setting:
        """The setting alone."""
        return Setting(**{name: getattr(self, name) for name in Setting.model_fields})

    @property
    def machine(self) -> Machine:
        """The machine alone."""
        return Machine(**{name: getattr(self, name) for name in Machine.model_fields})

    @property
    def cell(self) -> Cell:
        """What the run is one seed of."""
        return Cell(self.setting, self.arm)

    @property
    def place(self) -> Place:
        """Where a suite has the run."""
        return Place(self.protocol, self.dataset, self.regime, self.arch, self.arm, self.seed)

    @property
    def dataset_name(self) -> str:
        """The data set's name in ids and seeds; of a folder its last part, wherever it lies."""
        return base_name(self.dataset)

    def seed_of(self, purpose: str) -> int:
        """Return the seed of a stream of random numbers.

        Runs of one data set, regime and seed share it, whatever their method, add-on and architecture: twins see the
        same views. Other data sets and regimes do not.
        """
        return salted(purpose, self.dataset_name, self.regime, self.seed)

    def resolve(self) -> Protocol:
        """Return the protocol with this run's overrides applied.

        Raises
        ------
        UserError
            Unknown protocol or setting, or a value out of range.
        """
        protocol = load_protocol(self.protocol)
        changes: dict[str, Any] = {
            "arch": self.arch,
            "encoder": self.encoder,
            "precision": self.precision,
            "threads": self.threads,
            "dataset": self.dataset,
        }
        for part in ("train", "quality"):
            changes[part] = apply_settings(getattr(protocol, part), self.overrides_of(part), f"{part}.")
        changes |= {name: self.overrides[name] for name in ("encoder_weights", "size") if name in self.overrides}
        return apply_settings(protocol, changes, "")

    @property
    def idle_parts(self) -> frozenset[str]:
        """Fields of `Protocol` that nothing in this run follows from.

        Those of g, where none takes part; the encoder's weights, where the architecture does not ship: it may ignore
        what it is asked for, and the record says what is so.
        """
        of_g = () if self.needs_g else ("quality", "g_version")
        return frozenset((*of_g, "encoder_weights") if self.arch_source else of_g)

    @property
    def id(self) -> str:
        """Readable name and a hash over the fields that differ from the protocol's defaults."""
        protocol = load_protocol(self.protocol)
        defaults = {
            "encoder": protocol.encoder,
            "precision": protocol.precision,
            "threads": protocol.threads,
            "device": "cpu",
        }
        fields = self.telling()
        differing = {key: value for key, value in fields.items() if key not in defaults or defaults[key] != value}
        differing["protocol"] = f"{protocol.name}-v{differing.pop('protocol_version')}"
        if self.needs_g:
            differing["g_version"] = protocol.g_version
        digest = hashlib.sha256(json.dumps(differing, sort_keys=True).encode()).hexdigest()[:8]
        method = short_name(self.method)
        addon = re.sub(r"[^\w.=+-]+", "_", f"+{self.addon}") if self.addon else ""
        place = f"{self.protocol}-{self.dataset_name}-{self.regime}-{short_name(self.arch)}"
        return f"{place}-{method}{addon}-k{self.seed}-{digest}"
