"""From what a user asks for to a RunSpec: what the request leaves open is taken from protocol, registry and machine."""

from collections.abc import Iterable

from qgbench.base.errors import UserError
from qgbench.base.logs import logger
from qgbench.engine.here import best_device, processes
from qgbench.metrics.table import Metric, require_further, require_of_volumes
from qgbench.plugins.registry import BUILT_IN, Kind, catalogue, load, source
from qgbench.spec.addons import settings_of
from qgbench.spec.arm import Arm
from qgbench.spec.method import declared
from qgbench.spec.protocol import load_protocol
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import without_defaults


def make_spec(
    protocol: str,
    dataset: str,
    regime: str,
    arm: Arm,
    *,
    arch: str | None = None,
    encoder: str | None = None,
    seed: int = 0,
    precision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> RunSpec:
    """Return the RunSpec of a request.

    Parameters
    ----------
    protocol, dataset, regime : str
    arm : Arm
        As asked for: settings that repeat a default are left out, and where the code is from is found out.
    arch, encoder, precision, threads : optional
        The protocol's where None; `arch` is a reference (`qgbench.plugins.registry`), and one that has an encoder of
        its own brings it along.
    seed : int
        Seed index k.
    device : str
        'auto' is the best of this machine.

    Raises
    ------
    UserError
        Unknown protocol, method, arch or device, or a regime that is not understood.
    """
    known = load_protocol(protocol)
    arch = arch or known.arch
    overrides = without_defaults(arm.overrides, declared(arm.method).Settings(), "method.")
    for name in arm.addons:
        overrides = without_defaults(overrides, settings_of(name)(), "qg.")
    outside = addon_source(arm)
    return RunSpec.model_validate(
        {
            **dict(arm),
            "protocol": protocol,
            "dataset": dataset,
            "regime": regime,
            "arch": arch,
            "encoder": encoder or load("arch", arch).own_encoder or known.encoder,
            "seed": seed,
            "precision": precision or known.precision,
            "device": best_device() if device == "auto" else device,
            "threads": threads or known.threads,
            "processes": processes(),
            "source": source("method", arm.method),
            "arch_source": source("arch", arch),
            "addon_source": outside,
            "plugin_needs_g": bool(outside) and _needs_g(arm),
            "overrides": overrides,
        }
    )


def _needs_g(arm: Arm) -> bool:
    addons, score = [load("addon", name) for name in arm.addons], load("score", arm.qg_score)
    return any(addon.needs_g or (addon.needs_score and score.needs_g) for addon in addons)


def addon_source(arm: Arm) -> str:
    """Return the fingerprint of an arm's add-ons and score that do not ship, as `registry.source`; '' if all do."""
    asked: list[tuple[Kind, str]] = [("addon", name) for name in arm.addons]
    if arm.addons:
        asked.append(("score", arm.qg_score))
    return "+".join(dict.fromkeys(filter(None, (source(kind, name) for kind, name in asked))))


def metrics_of(references: Iterable[str], volumes: bool = False) -> list[Metric]:
    """Return the metrics that a run measures beside those that ship: those named, and those of installed packages.

    A metric of a package that was not named and cannot be measured is warned of and left out.

    Parameters
    ----------
    references : iterable of str
    volumes : bool
        Volumes are measured: each metric is tried on one.

    Raises
    ------
    UserError
        One that is named cannot be loaded or measured, or has the name of another or of a column.
    """
    named = dict.fromkeys(references)
    found: dict[str, Metric] = {}
    for known in catalogue("metric").entries:
        if known.origin != BUILT_IN and known.reference not in named:
            try:
                _add(found, known.reference, volumes)
            except UserError as error:
                logger.warning(f"the metric '{known.name}' of {known.origin} is left out: {str(error).splitlines()[0]}")
    for reference in named:
        _add(found, reference, volumes)
    return list(found.values())


def _add(found: dict[str, Metric], reference: str, volumes: bool) -> None:
    metric: Metric = load("metric", reference)
    require_further(metric, found)
    if volumes:
        require_of_volumes(metric)
    found[metric.name] = metric.model_copy(update={"source": source("metric", reference)})
