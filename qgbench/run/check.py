"""What can be known to be wrong with a run before its data are opened and its networks built. Imports no torch."""

from collections.abc import Sequence
from typing import NamedTuple

from qgbench.archs.registry import require_fitting
from qgbench.base.errors import UserError
from qgbench.plugins.registry import is_built_in, load, source
from qgbench.run.request import addon_source
from qgbench.spec.addons import addon_settings, needs_g, needs_score, needs_truth
from qgbench.spec.arm import CORRECTORS, OF_ADDON
from qgbench.spec.method import Declared, MethodSettings
from qgbench.spec.protocol import Protocol, check_batches
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import apply_settings


class Checked(NamedTuple):
    """What a run's settings are, and the architectures of its students, each once."""

    protocol: Protocol
    settings: MethodSettings
    archs: list[str]


def checked(spec: RunSpec, method: type[Declared]) -> Checked:
    """Return what a spec comes to.

    Parameters
    ----------
    spec : RunSpec
    method : type
        Its method: the class, or what `qgbench.spec.method.declared` reads of it.

    Raises
    ------
    UserError
        It asks for what cannot be: names, settings, sizes, batches, contradictions, other code than it was made with.
    """
    protocol = spec.resolve()
    if source("method", spec.method) != spec.source:
        raise UserError(f"{spec.method} is not the file that this run was started with; give the command anew.")
    if addon_source(spec) != spec.addon_source:
        raise UserError(f"{spec.addon} is not of the file that this run was started with; give the command anew.")
    if source("arch", spec.arch) != spec.arch_source:
        raise UserError(f"{spec.arch} is not the file that this run was started with; give the command anew.")
    settings = apply_settings(method.Settings(), spec.overrides_of("method"), "method.")
    archs = _architectures(spec, method, settings)
    _refuse_contradictions(spec, method, archs)
    check_batches(protocol.train, spec.processes)
    for arch in archs:
        _refuse_small_batches(arch, spec, protocol)
        require_fitting(arch, load("arch", arch), protocol.size, encoder_of(arch, protocol))
    return Checked(protocol, settings, archs)


def encoder_of(arch: str, protocol: Protocol) -> str:
    """Return the encoder of one of a run's students: the protocol's, or its own of another arch that cannot take it."""
    own = None if arch == protocol.arch else load("arch", arch).own_encoder
    return own or protocol.encoder


def _architectures(spec: RunSpec, method: type[Declared], settings: MethodSettings) -> list[str]:
    """Return the architectures of a run's students, each once.

    Raises
    ------
    UserError
        A method names one that is unknown, or of whose source the run's id would hold nothing.
    """
    named = sorted({arch for arch in method.archs(settings) if arch})
    for arch in named:
        if source("arch", arch):
            raise UserError(
                f"method '{spec.method}' cannot have arch '{arch}' for a second network, because a run's id holds the "
                "source of one architecture: name one that ships, see qgbench archs, or give it by --arch."
            )
    return [spec.arch, *(arch for arch in named if arch != spec.arch)]


def _refuse_contradictions(spec: RunSpec, method: type[Declared], archs: Sequence[str]) -> None:
    if spec.addons:
        addon_settings(spec)
    weighs, sees_truth = any(needs_score(name) for name in spec.addons), needs_truth(spec.qg_score)
    if weighs and not method.pseudo_labels:
        raise UserError(
            f"method '{spec.method}' makes no pseudo-labels, so there is nothing to weigh; use --qg-mode qar."
        )
    if spec.addons == ("qw",) and spec.qg_score == "mean" and spec.qg_norm == "weighted":
        raise UserError("equal weights change nothing where the loss is divided by their sum; add --qg-norm none.")
    mute = next((arch for arch in archs if not load("arch", arch).strides), None)
    if method.needs_features and mute is not None:
        raise UserError(
            f"method '{spec.method}' needs features of its networks, and arch '{mute}' gives none (strides is "
            "empty); choose another --arch, see qgbench archs."
        )
    idle = [key for key in spec.overrides if key.startswith(OF_ADDON)]
    if not spec.addons and idle:
        raise UserError(f"{idle[0]} changes nothing without the add-on; add --qg or leave the setting out.")
    if spec.addons and spec.qg_score != "g" and not weighs:
        if spec.addons == ("qar",):
            raise UserError("QAR needs a differentiable score: --qg-score is for QW; use --qg-mode qw or --qg-score g.")
        raise UserError(f"add-on '{spec.qg_mode}' asks no score; leave --qg-score out.")
    if "refine" in spec.addons and is_built_in("score", spec.qg_score) and spec.qg_score not in CORRECTORS:
        raise UserError(
            f"the score {spec.qg_score} says how good a label is, and not what is wrong; refine takes --qg-score "
            f"{', '.join(CORRECTORS)}."
        )
    if spec.form != "regressor" and (asking := next(filter(needs_g, spec.addons), None)):
        raise UserError(
            f"the score {spec.qg_score} takes the place of g, which {asking} asks, and a run trains one of them; leave "
            f"{asking} out, or take another score."
        )
    if spec.form in ("pixel", "second", "ensemble") and "quality.loss" in spec.overrides:
        raise UserError(f"quality.loss is of predictors with g's head; the score {spec.qg_score} has none.")
    if sees_truth and Regime.parse(spec.regime).pools:
        raise UserError("the oracle needs the masks of all unlabelled images, which a pool has not; leave --pool out.")


def _refuse_small_batches(arch: str, spec: RunSpec, protocol: Protocol) -> None:
    least = load("arch", arch).min_batch
    for name in ("batch_labelled", "batch_unlabelled"):
        share = getattr(protocol.train, name) // spec.processes
        if share < least:
            raise UserError(
                f"arch '{arch}' needs {least} or more images in each process, because it pools features to one "
                f"pixel and normalises them over the batch; train.{name} gives {share}. Set train.{name}="
                f"{least * spec.processes} or more, or take another arch."
            )
