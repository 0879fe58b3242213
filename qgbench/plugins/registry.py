"""Names of methods, architectures, add-ons, scores, metrics and executors: of qgbench, of packages, of plug-ins.

What a `RunSpec` holds, a *reference*, is enough to load what it names in any process:

- ``fixmatch``: a built-in, or an entry point of an installed package (groups ``qgbench.methods``,
  ``.archs``, ``.addons``, ``.scores``, ``.metrics``, ``.executors``);
- ``mine.py``: a file that defines exactly one;
- ``lab.py:Mine``, ``lab.methods:Mine``: one of those that a file, or an importable module, defines.

``--plugin lab.py`` (or a module) lets a command use the names in it alone: `resolve` turns ``Mine`` into its reference.
A name belongs to one source: where several have it, using it is refused. Packages and plug-ins are imported when
something of theirs is asked for, never before.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

from qgbench.base.errors import UserError, unknown_name
from qgbench.base.logs import logger

Kind = Literal["method", "arch", "addon", "score", "metric", "executor"]
BUILT_IN = "built-in"


@dataclass(frozen=True)
class _Kind:
    """What the registry knows of a kind; the rooms above are named here and imported when one is asked for.

    Attributes
    ----------
    group : str
        Of entry points.
    base : str
        ``module:class`` that each of the kind derives from, or is an instance of.
    built_in : str
        ``module:mapping`` by name, or a package with a module for each, named after it.
    instances : bool
        Whether it is instances of `base` that have names, and not classes.
    """

    group: str
    base: str
    built_in: str
    instances: bool

    def known(self) -> Mapping[str, Any]:
        """Return the built-ins of a mapping by name; none where each has a module."""
        return named(self.built_in) if ":" in self.built_in else {}

    def names(self) -> list[str]:
        """Return the names of the built-ins, without importing them where each has a module."""
        if ":" in self.built_in:
            return sorted(self.known())
        return list(_modules_of(self.built_in))

    def has(self, value: Any) -> bool:
        """Return whether something is of this kind."""
        base = named(self.base)
        if self.instances:
            return isinstance(value, base)
        return inspect.isclass(value) and issubclass(value, base) and value is not base

    def words(self, number: int = 1) -> str:
        """Return what a reference should name, in words: 'a subclass of qgbench.methods.Method'."""
        base = self.base.replace(":", ".")
        if number == 1:
            return f"a {base}" if self.instances else f"a subclass of {base}"
        return f"{number} {base}" if self.instances else f"{number} subclasses of {base}"


_KINDS: Mapping[Kind, _Kind] = MappingProxyType(
    {
        "method": _Kind("qgbench.methods", "qgbench.methods:Method", "qgbench.baselines", False),
        "arch": _Kind("qgbench.archs", "qgbench.archs.registry:Arch", "qgbench.archs.registry:ARCHS", True),
        "addon": _Kind("qgbench.addons", "qgbench.quality.guide:AddOn", "qgbench.spec.addons:ADDONS", False),
        "score": _Kind("qgbench.scores", "qgbench.quality.scores:Score", "qgbench.spec.addons:SCORES", False),
        "metric": _Kind("qgbench.metrics", "qgbench.metrics.table:Metric", "qgbench.metrics.table:METRICS", True),
        "executor": _Kind(
            "qgbench.executors", "qgbench.launch.executor:Executor", "qgbench.launch.executor:EXECUTORS", False
        ),
    }
)
KINDS: tuple[Kind, ...] = tuple(_KINDS)


@cache
def _modules_of(package: str) -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)))


def named(path: str) -> Any:
    """Return what ``module:name`` says; raises what importing it does, and AttributeError if nothing has that name."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


class PluginImportError(UserError):
    """A plug-in that exists and cannot be imported: the first line says why, a traceback of its own code follows."""


@dataclass(frozen=True)
class Known:
    """A name, where it comes from, and the reference that loads it."""

    name: str
    origin: str  # 'built-in', 'package lab 0.1 (lab.methods:Mine)', 'plug-in lab.py'
    reference: str


@dataclass(frozen=True)
class Catalogue:
    """All names of one kind, and the plug-ins that could not be asked for theirs."""

    kind: Kind
    entries: tuple[Known, ...]  # built-ins, then packages, then plug-ins
    broken: Mapping[str, PluginImportError]  # plug-in, as it was named -> why

    def find(self, name: str) -> Known:
        """Return the one entry of a name.

        Raises
        ------
        UserError
            Nothing has that name (all names are listed, the nearest is suggested), or several sources have it.
        """
        found = [entry for entry in self.entries if entry.name == name]
        if len(found) > 1:
            raise _clash(self.kind, found)
        if found:
            return found[0]
        error = unknown_name(self.kind, name, {entry.name for entry in self.entries})
        if self.broken:
            raise PluginImportError("\n".join([str(error), *(str(failure) for failure in self.broken.values())]))
        raise error

    def clashes(self) -> list[UserError]:
        """Return the error of every name that several sources have."""
        by_name: dict[str, list[Known]] = {}
        for entry in self.entries:
            by_name.setdefault(entry.name, []).append(entry)
        return [_clash(self.kind, found) for found in by_name.values() if len(found) > 1]


def _clash(kind: Kind, found: Sequence[Known]) -> UserError:
    origins = " and of ".join(entry.origin for entry in found)
    return UserError(
        f"{kind} '{found[0].name}' is one of {origins}; names must differ. Rename one, remove its package "
        f"or leave its --plugin out."
    )


def method_names() -> list[str]:
    """Return the names of the methods in `qgbench.baselines`: one module each, and named after it."""
    return _KINDS["method"].names()


def catalogue(kind: Kind, plugins: Iterable[str] = ()) -> Catalogue:
    """Return the names of one kind. Packages are not imported for it; the plug-ins are.

    Parameters
    ----------
    kind : Kind
    plugins : iterable of str
        Paths of Python files (``.py``) and names of modules, as ``--plugin`` takes them.

    Raises
    ------
    UserError
        A plug-in does not exist. One that exists and cannot be imported is in `Catalogue.broken`.
    """
    installed = _installed(kind, _times())
    if not plugins:
        return installed
    entries = list(installed.entries)
    broken: dict[str, PluginImportError] = {}
    for where in dict.fromkeys(plugins):
        try:
            names = _defined(kind, _import(kind, where))
        except PluginImportError as failure:
            broken[where] = failure
        else:
            entries += [Known(name, f"plug-in {where}", f"{where}:{name}") for name in names]
    return Catalogue(kind, tuple(entries), MappingProxyType(broken))


def resolve(kind: Kind, name: str, plugins: Iterable[str] = ()) -> str:
    """Return the reference of a name that a command was given; one that says itself where to look stays as it is.

    Plug-ins that cannot be imported are warned of, unless the name is not found without them.

    Raises
    ------
    UserError
        As `catalogue` and `Catalogue.find`.
    """
    if _place(name)[0]:
        return name
    known = catalogue(kind, plugins)
    reference = known.find(name).reference
    for failure in known.broken.values():
        logger.warning(str(failure).splitlines()[0])
    return reference


def is_built_in(kind: Kind, reference: str) -> bool:
    """Return whether a reference names what ships with qgbench.

    Raises
    ------
    UserError
        It is a name that nothing has, or several sources.
    """
    where, name = _place(reference)
    return not where and catalogue(kind).find(name).origin == BUILT_IN


def load(kind: Kind, reference: str) -> Any:
    """Return what a reference names: a class of a method, an add-on, a score or an executor, an `Arch`, a `Metric`.

    Raises
    ------
    UserError
        Nothing has that name, or several sources have it; a file is missing, cannot be imported, or does not define
        exactly one of the kind; what was found is of another kind, or a metric of another name.
    """
    where, name = _place(reference)
    if is_built_in(kind, reference):
        value = _load_built_in(kind, name)
    elif where:
        value = _load_from(kind, where, name)
    else:
        point = _entry_point(kind, name)
        value = _imported(point.load, f"{kind} '{name}' of {_origin(point)}")
    if not _KINDS[kind].has(value):
        raise UserError(f"{reference} is no {kind}: {_KINDS[kind].words()} is expected, not {value!r}.")
    if kind == "metric" and name not in ("", value.name):  # one name, for those who ask for it and for its column
        raise UserError(f"{reference} is named '{value.name}' within; give it one name.")
    return value


def source(kind: Kind, reference: str) -> str:
    """Return the fingerprint of code that does not ship with qgbench, as a run's id holds it.

    Returns
    -------
    str
        '' for a built-in. Otherwise the SHA-256 (64 hexadecimal digits) of the file, or of the source file of the
        module that the reference or the entry point names; other files that it imports are not part of it. For an
        entry point whose module has no readable file: name and version of its package, ``lab==0.1``.

    Raises
    ------
    UserError
        The file cannot be read, or the reference cannot be found.
    """
    if is_built_in(kind, reference):
        return ""
    where, name = _place(reference)
    version = ""
    if not where:
        point = _entry_point(kind, name)
        where = point.module
        version = "" if point.dist is None else f"{point.dist.name}=={point.dist.version}"
    file: str | None = where
    if not where.endswith(".py"):
        file = _import(kind, where).__file__
    try:
        if file is None:
            raise FileNotFoundError(2, "the module has no file")
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        if version:
            return version
        raise UserError(f"{kind} file {file or where} cannot be read: {error.strerror}.") from error


def kinds_of(name: str, plugins: Iterable[str] = ()) -> list[tuple[Kind, str]]:
    """Return what a name or reference may mean: kind and reference, in the order of `KINDS`.

    Raises
    ------
    UserError
        It names no method, architecture, add-on, score, metric or executor; a file cannot be imported.
    """
    where, inner = _place(name)
    found: list[tuple[Kind, str]] = []
    for kind in KINDS:
        if where:
            names = _defined(kind, _import(kind, where))
            found += [(kind, f"{where}:{each}") for each in names if inner in ("", each)]
        else:
            found += [(kind, each.reference) for each in catalogue(kind, plugins).entries if each.name == name]
    return found


def _place(reference: str) -> tuple[str, str]:
    """Return the two parts of a reference: file or module ('' for a name), and the name in it ('' for a whole file)."""
    if reference.endswith(".py"):
        return reference, ""
    where, _, name = reference.rpartition(":")
    return where, name


def _origin(point: EntryPoint) -> str:
    package = "an unknown package" if point.dist is None else f"package {point.dist.name} {point.dist.version}"
    return f"{package} ({point.value})"


@lru_cache(maxsize=8)
def _installed(kind: Kind, times: tuple[tuple[str, int], ...]) -> Catalogue:
    """Return the built-ins and what installed packages name, which are asked again only after an installation."""
    entries = [Known(name, BUILT_IN, name) for name in _KINDS[kind].names()]
    entries += [Known(point.name, _origin(point), point.name) for point in entry_points(group=_KINDS[kind].group)]
    return Catalogue(kind, tuple(entries), MappingProxyType({}))


def _times() -> tuple[tuple[str, int], ...]:
    """Return when each folder that Python imports from was last changed: a package that is installed changes one."""
    # A suite's plan asks thousands of times, and a Path each takes most of that time.
    times = []
    for path in sys.path:
        with suppress(OSError):
            times.append((path, os.stat(path).st_mtime_ns))  # noqa: PTH116
    return tuple(times)


def _entry_point(kind: Kind, name: str) -> EntryPoint:
    (point,) = entry_points(group=_KINDS[kind].group, name=name)
    return point


def _load_built_in(kind: Kind, name: str) -> Any:
    known = _KINDS[kind]
    if ":" in known.built_in:
        value = known.known()[name]
        return named(value) if isinstance(value, str) else value  # a path, of what takes long to import
    where = f"{known.built_in}.{name}"
    return _only(kind, where, importlib.import_module(where))


def _load_from(kind: Kind, where: str, name: str) -> Any:
    module = _import(kind, where)
    if not name:
        return _only(kind, where, module)
    if not hasattr(module, name):
        raise unknown_name(f"{kind} of {where}", name, _defined(kind, module))
    return getattr(module, name)


def _only(kind: Kind, where: str, module: ModuleType) -> Any:
    found = _defined(kind, module)
    if len(found) == 1:
        return next(iter(found.values()))
    hint = f" Say which of them: {', '.join(f'{where}:{name}' for name in found)}." if found else ""
    raise UserError(f"{where} defines {_KINDS[kind].words(len(found))}; expected exactly one.{hint}")


def _defined(kind: Kind, module: ModuleType) -> dict[str, Any]:
    """Return what of a kind a module itself defines, or a package's own modules; by name, sorted."""
    known = _KINDS[kind]
    found = {name: value for name, value in vars(module).items() if not name.startswith("_") and known.has(value)}
    if not known.instances:
        inside = (module.__name__, f"{module.__name__}.")
        found = {
            name: value
            for name, value in found.items()
            if name == value.__name__ and (value.__module__ == inside[0] or value.__module__.startswith(inside[1]))
        }
    else:
        built_in = known.known().values()
        found = {name: value for name, value in found.items() if all(value is not other for other in built_in)}
    return dict(sorted(found.items()))


def _import(kind: Kind, where: str) -> ModuleType:
    """Import a module by name, or a file by its path: the latter anew each time.

    Raises
    ------
    PluginImportError
        It exists and cannot be imported.
    UserError
        It does not exist.
    """
    if not where.endswith(".py"):
        try:
            return _imported(lambda: importlib.import_module(where), f"module {where}")
        except PluginImportError as failure:
            cause = failure.__cause__
            if isinstance(cause, ModuleNotFoundError) and f"{where}.".startswith(f"{cause.name}."):
                raise UserError(
                    f"there is no module {where}; give an installed module or the path of a .py file."
                ) from None
            raise
    path = Path(where)
    if not path.is_file():
        raise UserError(f"{kind} file {where} does not exist.")
    # Files of the same name in different folders must not take each other's place.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"qgbench_{kind}_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    loader = spec.loader
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _imported(lambda: loader.exec_module(module), f"{kind} file {where}")
    return module


_MOVED: Mapping[str, str] = MappingProxyType(
    {
        "qgbench.batchnorm": "qgbench.methods.normalisation",
        "qgbench.cutmix": "qgbench.methods.cutmix",
        "qgbench.errors": "qgbench.base.errors",
        "qgbench.logs": "qgbench.base.logs",
        "qgbench.metrics": "qgbench.metrics.masks",
        "qgbench.spec": "qgbench.spec.settings",
    }
)
"""Modules that plug-ins of qgbench 0.1 may import, and where their content is now."""


def _imported(load: Callable[[], Any], what: str) -> Any:
    """Run somebody else's code; whatever it raises becomes one error with the traceback of that code."""
    try:
        return load()
    except ImportError as error:
        if (name := error.name or "") not in _MOVED:
            raise _not_imported(what, error) from error
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginImportError(
            f"{what} was written for qgbench 0.1: what it imports from {name} is in {_MOVED[name]} now; change "
            f"line {line.lineno} of {line.filename}: {line.line}"
        ) from error
    except (Exception, SystemExit) as error:
        raise _not_imported(what, error) from error


def _not_imported(what: str, error: BaseException) -> PluginImportError:
    from pydantic import ValidationError  # late: a TAB of the shell does not wait for it

    from qgbench.base.schema import first_fault

    told = traceback.TracebackException.from_exception(error)
    ours = (__file__, "<frozen importlib", str(Path(importlib.__file__).parent))
    told.stack = traceback.StackSummary.from_list([f for f in told.stack if not f.filename.startswith(ours)])
    first = first_fault(error) if isinstance(error, ValidationError) else (str(error).splitlines() or [""])[0]
    message = f"{what} cannot be imported: {type(error).__name__}: {first}"
    return PluginImportError("\n".join([message, *"".join(told.format()).splitlines()]))
