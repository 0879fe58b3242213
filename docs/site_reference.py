"""Write the pages of the reference that come from the code: ``python docs/site_reference.py FOLDER``."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from qgbench.plugins.registry import method_names
from qgbench.run.record import Record
from qgbench.spec.arm import ADDON_SETTINGS
from qgbench.spec.method import declared
from qgbench.spec.protocol import QualitySettings, TrainSettings, load_protocol, protocol_names
from qgbench.spec.settings import allowed


def command_line() -> str:
    """Return a page with every command and its options, as --help has them."""
    call = [sys.executable, "-m", "typer", "qgbench.cli.main", "utils", "docs", "--name", "qgbench"]
    text = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    text = re.sub(r'<span style="font-weight: bold">(.*?)</span>|\[bold\](.*?)\[/bold\]', r"`\1\2`", text)
    lines = text.splitlines()

    def whole(cut: re.Match[str]) -> str:
        """Return what a list of commands says of one as its own section says it: typer cuts it to 45 characters."""
        return cut[1] + next(line for line in lines if line.startswith(cut[2]))

    text = re.sub(r"^(\* `\w+`: )(.*)\.\.\.$", whole, text, flags=re.MULTILINE)
    return text.replace("# `qgbench`", "# The command line\n\n`qgbench COMMAND --help` prints the same.", 1)


def settings() -> str:
    """Return a page with every setting: its value in each protocol or its default, what it takes, what it means."""
    protocols = [load_protocol(name) for name in protocol_names()]
    parts = [
        "# Settings",
        "Change one with `--set NAME=VALUE`, as in `--set train.lr=5e-4`. Settings are part of a run's id.",
    ]
    for title, prefix, kind in (
        ("Training", "train", TrainSettings),
        ("The quality predictor g", "quality", QualitySettings),
    ):
        values = {p.name: getattr(p, prefix) for p in protocols}
        rows = (
            [
                f"`{prefix}.{name}`",
                *(shown(getattr(of, name)) for of in values.values()),
                allowed(field),
                field.description,
            ]
            for name, field in kind.model_fields.items()
        )
        parts += [f"## {title}", table(["setting", *values, "takes", "meaning"], rows)]
    for name, addon in ADDON_SETTINGS.items():
        parts += [f"## The add-on `{name}`", table(_HEAD, _defaults("qg", addon))]
    for name in method_names():
        own = list(_defaults("method", declared(name).Settings))
        parts += [f"## The method `{name}`", table(_HEAD, own) if own else "It has no settings."]
    return "\n\n".join(parts) + "\n"


def record() -> str:
    """Return a page with every field of record.json, part by part."""
    parts = [
        "# The record of a run",
        "`record.json`, field by field. A part that has fields of its own has a section of its own. "
        "`null` stands where there is nothing to say.",
    ]
    schema = Record.model_json_schema(mode="serialization")
    for name, part in (("record.json", schema), *schema["$defs"].items()):
        if "properties" in part:
            rows = (
                [f"`{field}`", _type(of), of.get("description", "").replace("None", "null")]
                for field, of in part["properties"].items()
            )
            parts += [
                f"## {name}",
                " ".join(part.get("description", "").split("\n\n")[0].split()).replace("``", "`"),
                table(["field", "type", "meaning"], rows),
            ]
    return "\n\n".join(parts) + "\n"


_HEAD = ["setting", "default", "takes", "meaning"]


def _defaults(prefix: str, kind: type[BaseModel]) -> Iterator[list[str | None]]:
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        yield [f"`{prefix}.{name}`", shown(default), allowed(field), field.description]


def _type(of: dict[str, object]) -> str:
    """Return the type of a JSON schema in words; of a part with fields of its own a link to them."""
    match of:
        case {"$ref": str(ref)}:
            name = ref.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": list(kinds)}:
            return " or ".join(_type(kind) for kind in kinds)
        case {"const": value}:
            return f"`{json.dumps(value)}`"
        case {"enum": list(values)}:
            return ", ".join(f"`{json.dumps(value)}`" for value in values)
        case {"prefixItems": list(kinds)}:
            return "[" + ", ".join(_type(kind) for kind in kinds) + "]"
        case {"type": "array", "items": dict(kind)}:
            return f"list of {_type(kind)}"
        case {"type": "object", "additionalProperties": dict(kind)}:
            return f"names to {_type(kind)}"
    return str(of.get("type", "anything"))


def shown(value: object) -> str:
    """Return a value as ``--set`` takes it."""
    return f"`{json.dumps(to_jsonable_python(value))}`".replace('"', "")


def table(head: list[str], rows: Iterable[list[str | None]]) -> str:
    """Return a table in Markdown."""
    lines = (" | ".join((cell or "").replace("|", r"\|").replace("\n", " ") for cell in row) for row in rows)
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {line} |" for line in lines)])


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("cli", command_line()), ("settings", settings()), ("record", record())):
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
