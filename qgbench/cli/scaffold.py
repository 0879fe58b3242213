"""``qgbench new method``: a commented file to begin a method with."""

import importlib.util
import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template

from qgbench.base.errors import UserError
from qgbench.base.files import write_atomically
from qgbench.plugins.registry import catalogue

_LONGEST = 40
# Names whose class would hide one that the file imports or nests.
_OF_THE_CONTRACT = {"batch", "field", "method", "method_settings", "settings", "step", "term"}


def write_method(name: str, folder: Path) -> Path:
    """Write ``<folder>/<name>.py``: a method that keeps the contract, with a comment on each part of it.

    Parameters
    ----------
    name : str
        Lower-case words joined by underscores; the class gets the same words in CamelCase.
    folder : Path
        Made if it is missing.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UserError
        The name cannot be a module's, is that of a method or of an importable module, or the file exists.
    """
    _refuse_bad(name)
    file = folder / f"{name}.py"
    if file.exists():
        raise UserError(f"{file} exists; choose another name or --output, or remove the file.")
    if taken := [entry.origin for entry in catalogue("method").entries if entry.name == name]:
        raise UserError(f"'{name}' is the name of a method already ({taken[0]}); choose another.")
    # Python puts the folder that it starts in before all others: there a random.py would hide the library's.
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"'{name}' is the name of a Python module that the file would hide; choose another.")
    text = Template((resources.files("qgbench.cli") / "templates" / "method.py.txt").read_text(encoding="utf-8"))
    write_atomically(file, text.substitute(class_name=_class_name(name)).encode())
    return file


def _refuse_bad(name: str) -> None:
    expected = "expected lower-case letters, digits and underscores, a letter first, such as my_method"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name, re.ASCII) or keyword.iskeyword(name) or len(name) > _LONGEST:
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name.removesuffix(".py"))
        nearest = "_".join(words).lower().lstrip("0123456789_")[:_LONGEST]
        good = nearest not in ("", name) and not keyword.iskeyword(nearest)
        raise UserError(f"'{name}' cannot name a method: {expected}." + (f" Did you mean '{nearest}'?" if good else ""))
    if name in _OF_THE_CONTRACT or keyword.iskeyword(_class_name(name)):
        raise UserError(
            f"'{name}' cannot name a method: a class {_class_name(name)} would be in the way; choose another."
        )


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
