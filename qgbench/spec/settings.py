"""What all settings have in common: ranges, names, and that old files stay readable. Imports no torch."""

import inspect
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from qgbench.base.errors import UserError, unknown_name

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


S = TypeVar("S", bound=Settings)


def without_defaults(overrides: dict[str, Any], settings: Settings, prefix: str) -> dict[str, Any]:
    """Return overrides without those of one part that repeat its value, which would name another run."""
    known = settings.model_dump(mode="json")

    def repeats(key: str, value: Any) -> bool:
        name = key.removeprefix(prefix)
        value = list(value) if isinstance(value, tuple) else value
        return key.startswith(prefix) and "." not in name and name in known and known[name] == value

    return {key: value for key, value in overrides.items() if not repeats(key, value)}


def is_setting(key: str) -> bool:
    """Return whether a key has the form of a setting's; whether there is such a setting, `apply_settings` finds out."""
    return re.fullmatch(r"(method|train|quality|qg)\.\w+|encoder_weights|size", key) is not None


def parse_assignments(pairs: list[str]) -> dict[str, Any]:
    """Return ``--set key=value`` options by key; values are TOML (numbers, true/false, lists) or else plain text.

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
                "encoder_weights=VALUE or size=VALUE, for example --set method.threshold=0.9."
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
    """Return what a setting takes, in words: ``a number >= 0 and <= 1``, ``student or teacher``, ``true or false``."""
    limits = [
        f"{sign} {getattr(constraint, bound):g}"
        for bound, sign in _BOUNDS
        for constraint in field.metadata
        if getattr(constraint, bound, None) is not None
    ]
    return f"{_type_in_words(field.annotation)} {' and '.join(limits)}".rstrip()


def _type_in_words(annotation: Any) -> str:
    values = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return allowed(FieldInfo.from_annotation(annotation))
    if get_origin(annotation) is Literal:
        return " or ".join(filter(None, (", ".join(map(str, values[:-1])), str(values[-1]))))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join("nothing" if value is type(None) else _type_in_words(value) for value in values)
    if get_origin(annotation) in (tuple, list):
        return "a list of: " + ", ".join(_type_in_words(value) for value in values if value is not Ellipsis)
    names: Mapping[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return names.get(annotation, inspect.formatannotation(annotation))
