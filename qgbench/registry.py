"""Names of methods and architectures, and where they are loaded from."""

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qgbench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from qgbench.methods import Method


def method_names() -> list[str]:
    """List the methods in `qgbench.baselines`: one module each, the module's name is the method's."""
    import qgbench.baselines

    return sorted(module.name for module in pkgutil.iter_modules(qgbench.baselines.__path__))


def method_source(name: str) -> str:
    """Fingerprint a method that is a file: SHA-256, 64 hexadecimal digits; '' for a method by name.

    Raises
    ------
    UserError
        The file cannot be read.
    """
    if not name.endswith(".py"):
        return ""
    try:
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"method file {name} cannot be read: {error.strerror}.") from error


def load_method(name: str) -> type["Method"]:
    """Find a method's class.

    Parameters
    ----------
    name : str
        A name from `method_names`, or the path of a Python file that defines one subclass of `qgbench.methods.Method`.

    Raises
    ------
    UserError
        No method has that name; the file is missing, or does not define exactly one method.
    """
    from qgbench.methods import Method

    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"method file {name} does not exist.")
        module_name = f"qgbench_method_{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserError(f"method file {name} cannot be imported: {type(error).__name__}: {error}") from error
    elif name in method_names():
        module = importlib.import_module(f"qgbench.baselines.{name}")
    else:
        raise unknown_name("method", name, method_names())
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"{name} defines {len(found)} subclasses of qgbench.methods.Method; expected exactly one.")
    return found[0]
