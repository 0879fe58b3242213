"""From what a user asks for to a RunSpec: what the request leaves open is taken from protocol, registry and machine."""

from collections.abc import Mapping
from typing import Any

from qgbench.engine.device import best_device, processes
from qgbench.plugins.registry import arch_source, load_arch, load_method, method_source
from qgbench.spec.protocol import load_protocol
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import without_defaults


def make_spec(
    protocol: str,
    dataset: str,
    regime: str,
    method: str,
    *,
    arch: str | None = None,
    encoder: str | None = None,
    seed: int = 0,
    qg_mode: str = "none",
    qg_score: str = "g",
    qg_norm: str = "weighted",
    precision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> RunSpec:
    """Complete a request.

    Parameters
    ----------
    protocol, dataset, regime, method : str
        `method` and `arch` are references (`qgbench.plugins.registry`).
    arch, encoder, precision, threads : optional
        The protocol's where None; an arch that has an encoder of its own brings it along.
    seed : int
        Seed index k.
    qg_mode, qg_score, qg_norm : str
    device : str
        'auto' is the best of this machine.
    overrides : mapping, optional
        Settings as ``--set`` takes them. Those that repeat a default are left out.

    Raises
    ------
    UserError
        Unknown protocol, method, arch or device, or a regime that is not understood.
    """
    known = load_protocol(protocol)
    arch = arch or known.arch
    return RunSpec.model_validate(
        {
            "protocol": protocol,
            "dataset": dataset,
            "regime": regime,
            "method": method,
            "arch": arch,
            "encoder": encoder or load_arch(arch).own_encoder or known.encoder,
            "seed": seed,
            "qg_mode": qg_mode,
            "qg_score": qg_score,
            "qg_norm": qg_norm,
            "precision": precision or known.precision,
            "device": best_device() if device == "auto" else device,
            "threads": threads or known.threads,
            "processes": processes(),
            "source": method_source(method),
            "arch_source": arch_source(arch),
            "overrides": without_defaults(dict(overrides or {}), load_method(method).Settings(), "method."),
        }
    )
