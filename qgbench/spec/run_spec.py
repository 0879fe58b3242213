"""What a run is: protocols, regimes, and the RunSpec that names one run. Imports no torch."""

import hashlib
import inspect
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from qgbench.base.errors import UserError, unknown_name

Score = Literal["g", "one", "shuffled", "confidence", "agreement", "oracle"]
SCORES: tuple[Score, ...] = ("g", "one", "shuffled", "confidence", "agreement", "oracle")
QGMode = Literal["none", "qw", "qar", "both"]
SplitKind = Literal["grouped", "image"]
GIVEN = "given-"  # begins the name of a split that someone else made; 8 digits of its hash follow
_SPLIT = re.compile(rf"grouped|image|{GIVEN}[0-9a-f]{{8}}")
_POOL = re.compile(r"(?P<name>.+?)(?:~(?P<draw>[1-9]\d*))?")
Precision = Literal["fp32", "bf16", "fp16"]
# Upper bounds against slips of the pen, far above what any machine is up to.
_MOST_IMAGES = 4096  # in a batch
MOST_THREADS = 4096
LARGEST_SEED = 10**9
_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


@dataclass(frozen=True)
class Before:
    """Marks a setting that came when there were records already: ``later: Annotated[float, Before(0.0)] = 0.5``.

    Attributes
    ----------
    value : Any
        What was done until then, by every version of every protocol whose records lack the setting. A setting without
        this mark did what its default does.
    """

    value: Any


class Settings(BaseModel):
    """Base of everything a user can set: frozen, unknown fields refused, ranges checked.

    Settings are added, and records, ids and stored predictors stay: what is read from a file is `completed` before it
    is compared, and ids are made of what is `telling`. A setting whose new default differs from what was done `Before`
    needs a new version of its protocol, as every change of numbers does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def before(cls) -> dict[str, Any]:
        """Return what was done before each setting existed, as JSON holds it; without those that were always there."""
        found = {}
        for name, field in cls.model_fields.items():
            marks = [mark.value for mark in field.metadata if isinstance(mark, Before)]
            if marks or not field.is_required():
                found[name] = to_jsonable_python(marks[0] if marks else field.get_default(call_default_factory=True))
        return found

    @classmethod
    def completed(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings of a file, as JSON holds them, and those that came later as `before`; of its parts, too."""
        parts = {
            name: field.annotation.completed(stored[name])
            for name, field in cls.model_fields.items()
            if isinstance(stored.get(name), Mapping)
            and inspect.isclass(field.annotation)
            and issubclass(field.annotation, Settings)
        }
        return {**cls.before(), **stored, **parts}

    def telling(self) -> dict[str, Any]:
        """Return the settings, as JSON holds them, but for those that are as `before`: what an id is made of."""
        before = self.before()
        fields = self.model_dump(mode="json")
        return {name: value for name, value in fields.items() if name not in before or before[name] != value}


class TrainSettings(Settings):
    """How every method is trained."""

    steps: int = Field(ge=1, description="optimiser steps, the same for every method")
    batch_labelled: int = Field(ge=2, le=_MOST_IMAGES, description="labelled images a step")
    batch_unlabelled: int = Field(ge=2, le=_MOST_IMAGES, description="unlabelled images a step")
    lr: float = Field(gt=0, description="learning rate of AdamW at step 0")
    lr_end: float = Field(ge=0, description="learning rate at the last step, reached along a cosine")
    weight_decay: float = Field(ge=0, description="AdamW's decoupled weight decay")
    grad_clip: float = Field(gt=0, description="largest norm of one student's gradient")
    ema_span: float = Field(
        gt=0, le=1, description="time constant of the teacher's average, as a fraction of the budget"
    )
    ema_start: float = Field(ge=0, lt=1, description="the teacher's decay at step 0; it rises linearly over ema_span")
    validations: int = Field(ge=1, description="validations a run, evenly spaced")
    rotation: float = Field(ge=0, le=180, description="labelled views: largest rotation, degrees")
    brightness: float = Field(ge=0, lt=1, description="labelled views: largest change of brightness and of contrast")


class QualitySettings(Settings):
    """How the quality predictor g and the weak models that it learns from are trained."""

    backbone: str = Field(description="timm name of g's backbone")
    backbone_weights: Literal["imagenet", "none"]
    steps: int = Field(ge=1, description="optimiser steps at most")
    batch: int = Field(ge=2, le=_MOST_IMAGES, description="masks a step")
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    dropout: float = Field(ge=0, lt=1, description="before the hidden layer; half of it after")
    hidden: int = Field(ge=1, le=1 << 16, description="width of the hidden layer")
    validations: int = Field(ge=1, description="validations, evenly spaced; the best is kept")
    patience: int = Field(ge=1, description="validations without improvement after which training ends")
    val_masks: int = Field(ge=1, le=_MOST_IMAGES, description="synthetic masks for each validation image")
    weak_share: float = Field(ge=0, le=1, description="share of g's training masks that weak models made")
    weak_folds: int = Field(
        ge=1,
        description="1: weak models are asked about the images that they are trained on; K: about those of a fold that "
        "they are not trained on",
    )
    weak_encoder: str = Field(description="encoder of the weak U-Net, trained from scratch")
    weak_epochs: tuple[int, ...] = Field(
        min_length=1, description="epochs after which the weak U-Net's outputs are kept"
    )
    weak_epoch_min_steps: int = Field(ge=1, description="an epoch has at least so many steps, for small labelled sets")
    weak_batch: int = Field(ge=2, le=_MOST_IMAGES)
    weak_lr: float = Field(gt=0)


class QGSettings(Settings):
    """The add-on's own settings (arXiv 2606.01753, Eqns 5 to 7)."""

    tau: float = Field(ge=0, le=1, description="pseudo-labels with q below tau get no weight")
    temperature: float = Field(gt=0, description="exponent T of the weight q**T")
    lambda_qar: float = Field(ge=0, description="largest weight of the quality-aware regularisation")
    qar_warmup: float = Field(ge=0, le=1, description="fraction of the budget before QAR starts")
    qar_ramp: float = Field(ge=0, le=1, description="fraction of the budget over which its weight rises")


class Protocol(Settings):
    """A named, versioned set of all settings that do not belong to a method."""

    name: str
    version: int
    g_version: Annotated[int, Before(1)] = Field(
        description="version of how g is trained; runs that g guides count as those of another protocol, no others do"
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
    qg: QGSettings


S = TypeVar("S", bound=Settings)


def protocol_names() -> list[str]:
    """List the protocols that ship with qgbench."""
    folder = resources.files("qgbench.spec.protocols")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


@cache
def load_protocol(name: str) -> Protocol:
    """Read a protocol by name.

    Raises
    ------
    UserError
        No protocol has that name.
    """
    if name not in protocol_names():
        raise unknown_name("protocol", name, protocol_names())
    text = (resources.files("qgbench.spec.protocols") / f"{name}.toml").read_text(encoding="utf-8")
    return Protocol.model_validate(tomllib.loads(text))


def without_defaults(overrides: dict[str, Any], settings: Settings, prefix: str) -> dict[str, Any]:
    """Leave out the overrides of one part that only repeat its value, so that they do not name another run."""
    known = settings.model_dump(mode="json")

    def repeats(key: str, value: Any) -> bool:
        name = key.removeprefix(prefix)
        value = list(value) if isinstance(value, tuple) else value
        return key.startswith(prefix) and "." not in name and name in known and known[name] == value

    return {key: value for key, value in overrides.items() if not repeats(key, value)}


class Regime(Settings):
    """Which labels and which unlabelled images a run gets, and how the data set is split.

    Written ``n28+isic_pool@grouped``: the labelled budget (``n28`` images, ``p10`` per cent of the training part, or
    ``all``), external pools (``isic2020~5000``: so many images drawn from one), and the kind of split: ``grouped``,
    ``image``, or ``given-`` and 8 hexadecimal digits for a split that someone else made.
    """

    budget: int | None = Field(description="labelled images; None = `percent` of the training part, or all of it")
    percent: float | None = Field(None, gt=0, le=100, description="labelled share of the training part, in per cent")
    pools: tuple[str, ...] = Field(description="external unlabelled pools")
    split: str = Field("grouped", pattern=_SPLIT.pattern)

    def __str__(self) -> str:
        if self.percent is not None:
            budget = f"p{self.percent:g}"
        else:
            budget = "all" if self.budget is None else f"n{self.budget}"
        return "+".join((budget, *self.pools)) + f"@{self.split}"

    @classmethod
    def parse(cls, text: str) -> "Regime":
        """Read ``n28+isic_pool@grouped``; ``28`` and ``10%`` will do for ``n28`` and ``p10``.

        Raises
        ------
        UserError
            The text is not of that form.
        """
        body, _, split = text.partition("@")
        budget, *pools = body.split("+")
        number = re.fullmatch(r"n?(\d+)", budget)
        percent = re.fullmatch(r"p(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?)%", budget)
        understood = number or percent or budget == "all"
        if not understood or "" in pools or (split and not _SPLIT.fullmatch(split)):
            raise UserError(
                f"regime '{text}' is not understood. Expected a budget (n28, p10 for 10 % or all), any pools, a split "
                "kind (grouped or image): for example 'n28@grouped' or 'all+isic_pool@image'."
            )
        if number and int(number[1]) == 0:
            raise UserError(f"regime '{text}' has a budget of 0 labelled images; give at least 1.")
        share = float(percent[1] or percent[2]) if percent else None
        if share is not None and not 0 < share <= 100:
            raise UserError(f"regime '{text}' has a budget of {share:g} %; give more than 0 and at most 100.")
        return cls(
            budget=int(number[1]) if number else None, percent=share, pools=tuple(pools), split=split or "grouped"
        )

    @property
    def pool_names(self) -> list[str]:
        """The pools without the numbers of images drawn from them."""
        return [self._pool(pool)["name"] for pool in self.pools]

    @property
    def pool_draws(self) -> list[int | None]:
        """How many images are drawn from each pool; None: all."""
        draws = [self._pool(pool)["draw"] for pool in self.pools]
        return [None if draw is None else int(draw) for draw in draws]

    @staticmethod
    def _pool(pool: str) -> re.Match[str]:
        found = _POOL.fullmatch(pool)
        assert found is not None, "a pool has a name"
        return found

    @property
    def split_kind(self) -> SplitKind:
        """The kind of a split by qgbench."""
        return "image" if self.split == "image" else "grouped"

    def labelled(self, training: int) -> int:
        """Return the number of labelled images among so many of the training part; a share is rounded, half up."""
        if self.percent is not None:
            return math.floor(training * self.percent / 100 + 0.5)
        return training if self.budget is None else self.budget


def is_setting(key: str) -> bool:
    """Tell whether an override has a key of this form; whether there is such a setting, `apply_settings` finds out."""
    return re.fullmatch(r"(method|train|quality|qg)\.\w+|encoder_weights", key) is not None


def parse_assignments(pairs: list[str]) -> dict[str, Any]:
    """Read ``--set key=value`` options; values are TOML (numbers, true/false, lists) or else plain text.

    Raises
    ------
    UserError
        An option has no ``=``, or its key does not start with method., train., quality. or qg.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not is_setting(key):
            raise UserError(
                f"--set {pair}: expected method.NAME=VALUE, train.NAME=VALUE, quality.NAME=VALUE, qg.NAME=VALUE or "
                "encoder_weights=VALUE, for example --set method.threshold=0.9."
            )
        try:
            result[key] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            result[key] = text.strip()
    return result


def apply_settings(settings: S, changes: dict[str, Any], prefix: str) -> S:
    """Return settings with some fields replaced, validated again.

    Raises
    ------
    UserError
        A field is unknown (the nearest is named) or a value has the wrong type or range.
    """
    known = type(settings).model_fields
    for name in changes:
        if name not in known:
            raise unknown_name("setting", f"{prefix}{name}", [f"{prefix}{field}" for field in known])
    try:
        return type(settings).model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        expected = f" Expected: {allowed(known[str(first['loc'][0])])}." if first["loc"] else ""
        message = f"setting {prefix}{where} = {first['input']!r}: {first['msg'].lower()}.{expected}"
        raise UserError(message) from error


def allowed(field: FieldInfo) -> str:
    """Say which values a setting takes: ``a number >= 0 and <= 1``, ``student or teacher``, ``true or false``."""
    limits = [
        f"{sign} {getattr(constraint, bound):g}"
        for bound, sign in _BOUNDS
        for constraint in field.metadata
        if getattr(constraint, bound, None) is not None
    ]
    return f"{_type_in_words(field.annotation)} {' and '.join(limits)}".rstrip()


def _type_in_words(annotation: Any) -> str:
    values = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(filter(None, (", ".join(map(str, values[:-1])), str(values[-1]))))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join("nothing" if value is type(None) else _type_in_words(value) for value in values)
    if get_origin(annotation) in (tuple, list):
        return "a list of: " + ", ".join(_type_in_words(value) for value in values if value is not Ellipsis)
    names: Mapping[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return names.get(annotation, inspect.formatannotation(annotation))


def _file_name(reference: str) -> str:
    """Shorten a name or reference to what can be a part of a file's name: lab.py:Mine -> lab_Mine."""
    return re.sub(r"\W+", "_", re.sub(r"\.py(?=:|$)", "", reference).rpartition("/")[2])


def _of_addon(key: str) -> bool:
    """Tell whether an override changes the add-on or its predictor, and so nothing of a base method."""
    return key.startswith(("qg.", "quality."))


class RunSpec(Settings):
    """Everything that decides a run's numbers, apart from the data themselves."""

    protocol: str
    dataset: str
    regime: str
    method: str
    arch: str
    encoder: str
    seed: int = Field(
        ge=0, le=LARGEST_SEED, description="index k: fixes labelled draw k, g_k and the training seed together"
    )
    qg_mode: QGMode = "none"
    qg_score: Score = "g"
    qg_norm: Literal["weighted", "none"] = Field("weighted", description="divide by sum(w*d), or by sum(d) ('none')")
    precision: Precision
    device: Literal["cpu", "cuda", "mps"]
    threads: int = Field(ge=1, le=MOST_THREADS)
    processes: int = Field(1, ge=1, description="processes that share each batch; others give other last bits")
    source: str = Field("", description="`qgbench.plugins.registry.method_source` of the method; '' for a built-in")
    arch_source: str = Field("", description="the same of the architecture")
    overrides: dict[str, Any] = Field(default_factory=dict, description="settings that differ: 'method.threshold': 0.9")

    @field_validator("regime")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return str(Regime.parse(text))

    @model_validator(mode="before")
    @classmethod
    def _without_repeated_values(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or fields.get("protocol") not in protocol_names():
            return fields
        protocol = load_protocol(fields["protocol"])
        overrides = without_defaults(fields.get("overrides", {}), protocol, "")
        for part in ("train", "quality", "qg"):
            overrides = without_defaults(overrides, getattr(protocol, part), f"{part}.")
        return {**fields, "overrides": overrides}

    def resolve(self) -> Protocol:
        """Give the protocol with this run's overrides applied.

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
        for part in ("train", "quality", "qg"):
            changes[part] = apply_settings(getattr(protocol, part), self.overrides_of(part), f"{part}.")
        if "encoder_weights" in self.overrides:
            changes["encoder_weights"] = self.overrides["encoder_weights"]
        return apply_settings(protocol, changes, "")

    def overrides_of(self, part: str) -> dict[str, Any]:
        """Overrides of one part ('method', 'train', 'quality', 'qg'), without the prefix."""
        return {
            key.removeprefix(f"{part}."): value for key, value in self.overrides.items() if key.startswith(f"{part}.")
        }

    @property
    def needs_g(self) -> bool:
        """Whether a quality predictor takes part: as QAR's, or behind the scores g and shuffled."""
        return self.qg_mode in ("qar", "both") or (self.qg_mode == "qw" and self.qg_score in ("g", "shuffled"))

    @property
    def idle_parts(self) -> frozenset[str]:
        """Fields of `Protocol` that nothing in this run follows from.

        Those of g, where none takes part; the encoder's weights, where the architecture does not ship: it may ignore
        what it is asked for, and the record says what is so.
        """
        of_g = () if self.needs_g else ("quality", "g_version")
        return frozenset((*of_g, "encoder_weights") if self.arch_source else of_g)

    @property
    def addon(self) -> str:
        """Name of the add-on as the leaderboard writes it: '', 'qw', 'qar', 'qw+qar'.

        Controls append their score, changed settings of the add-on and of g themselves: 'qw-shuffled', 'qw-qg.tau=0.6'.
        """
        name = {"none": "", "qw": "qw", "qar": "qar", "both": "qw+qar"}[self.qg_mode]
        if name and self.qg_score != "g":
            name += f"-{self.qg_score}"
        if name and self.qg_norm == "none":
            name += "-unnormalised"
        return name + "".join(f"-{key}={value}" for key, value in sorted(self.overrides.items()) if _of_addon(key))

    @property
    def variant(self) -> str:
        """Settings that differ from the protocol's and the method's defaults, the add-on's aside, as text.

        Twins share it.
        """
        return ",".join(f"{key}={value}" for key, value in sorted(self.overrides.items()) if not _of_addon(key))

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
        differing["protocol"] = f"{protocol.name}-v{protocol.version}"
        if self.needs_g:
            differing["g_version"] = protocol.g_version
        digest = hashlib.sha256(json.dumps(differing, sort_keys=True).encode()).hexdigest()[:8]
        method = _file_name(self.method)
        dataset = re.sub(r"\W+", "_", self.dataset.rstrip("/").rpartition("/")[2])
        addon = re.sub(r"[^\w.=+-]+", "_", f"+{self.addon}") if self.addon else ""
        return f"{self.protocol}-{dataset}-{self.regime}-{_file_name(self.arch)}-{method}{addon}-k{self.seed}-{digest}"
