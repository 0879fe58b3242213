"""What the spec of a record says that the rest of it must hold: id, settings, validations, networks.

A method's class knows its settings and networks: of the rules of `qgbench.trust.verify` these alone import torch. They
load what ships or is installed, and never a file or module that a record names; a file is hashed, no more.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qgbench.base.errors import QGBenchError, UserError, unknown_name
from qgbench.base.schema import SLACK
from qgbench.metrics.table import require_own_label
from qgbench.plugins.registry import Kind, catalogue, load, source
from qgbench.quality.audit import audited_after
from qgbench.run.record import Record, settings_as_used, settings_that_differ
from qgbench.spec.arm import ADDON_SETTINGS, AddOnSettings, RegularisationSettings, WeightingSettings
from qgbench.spec.protocol import Protocol, TrainSettings
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings, apply_settings
from qgbench.trust.found import Found

if TYPE_CHECKING:
    from qgbench.methods import Method, MethodSettings

_LEAST_WEIGHT = 1e-37  # single precision may take smaller ones to be 0


def compare_with_spec(record: Record) -> Found:
    """Yield how a record of the present version of its protocol differs from what its spec gives.

    Parameters
    ----------
    record : Record

    Yields
    ------
    (str, str)
        A rule of `qgbench.trust.verify`, and what was found and expected.
    """
    spec = record.spec
    if unknown := _unknown(spec):
        yield "spec", str(unknown)
        return
    method, addons_here = _method_here(spec), _addons_here(spec)
    try:
        protocol = spec.resolve()
        own = None if method is None else apply_settings(method.Settings(), spec.overrides_of("method"), "method.")
        addons = _addon_settings(spec, addons_here)
    except QGBenchError as error:
        yield "spec", f"the spec does not resolve: {str(error).splitlines()[0]}"
        return
    if record.run_id != spec.id:
        yield "spec", f"run_id is {record.run_id!r}; the spec gives {spec.id!r}"
    if ((g := record.provenance.g) is not None and not spec.needs_g) or (g is None and spec.needs_g):
        needed = "an id" if spec.needs_g else "null"
        yield "contradiction", f"provenance.g is {g or 'null'}; a run of {spec.arm.typed} has {needed}"
    yield from _weights(record, addons)
    differing = _differing_settings(record, protocol, own, addons, addons_here)
    if differing:
        yield (
            "spec",
            "; ".join(f"settings.{name} is {was!r}, expected {now!r}" for name, (was, now) in differing.items()),
        )
    elif (steps := [step for step, _ in record.val_dice]) != (expected := _validated_after(protocol.train)):
        yield "contradiction", f"val_dice is of steps {steps}; the settings give {expected}"
    elif method is not None and (text := _audits_too_few(record, method)):
        yield "audits", text
    elif method is not None and own is not None and not spec.addon_source:
        yield from _best_and_networks(record, own, addons, method.keeps_teacher(own))


def outside_code(record: Record) -> Iterator[str]:
    """Yield, of everything that does not ship with qgbench which source it has, and what of it is here."""
    spec = record.spec
    addons: list[tuple[Kind, str]] = [("addon", name) for name in spec.addons]
    parts: list[tuple[str, str, list[tuple[Kind, str]], str]] = [
        ("method", spec.method, [("method", spec.method)], spec.source),
        ("architecture", spec.arch, [("arch", spec.arch)], spec.arch_source),
        ("add-on", spec.addon, [*addons, ("score", spec.qg_score)], spec.addon_source),
    ]
    parts += [("metric", name, [("metric", name)], metric.source) for name, metric in record.metrics.items()]
    for what, name, asked, recorded in parts:
        if recorded or what == "metric":
            here = _what_is_here(asked, recorded)
            its = f"its source is {recorded or 'not said'}"
            yield f"the {what} '{name}' does not ship with qgbench; {its}{here and f', {here}'}"


def _what_is_here(asked: list[tuple[Kind, str]], recorded: str) -> str:
    """Return why code of a recorded source is not asked about the record; '' where it is."""
    sources = [_source_here(kind, reference) for kind, reference in asked]
    if None in sources:
        return "which is not among the names and files here: it was not compared"
    if (found := "+".join(dict.fromkeys(filter(None, sources)))) != recorded:
        return f"and what is here has another, {found or 'that of qgbench'}: it was not compared"
    if not all(_is_installed(kind, reference) for kind, reference in asked):
        return "which the file here has, too; it is not run to verify: its settings are not checked"
    return ""


def _source_here(kind: Kind, reference: str) -> str | None:
    """Return `registry.source` of what is installed or is a file; None where neither is, or it cannot be read."""
    file = Path(reference.rpartition(":")[0] or reference)
    with suppress(UserError):
        if _is_installed(kind, reference) or (file.suffix == ".py" and file.is_file()):
            return source(kind, reference)
    return None


def metrics_that_differ(record: Record) -> Found:
    """Compare what a record says of metrics that do not ship with those that are installed, and with those that do."""
    for name, metric in record.metrics.items():
        try:
            require_own_label(metric)
        except UserError as error:
            yield "metrics", str(error)
            continue
        if _what_is_here([("metric", name)], metric.source):
            continue
        with suppress(UserError):  # an installed one that cannot be imported
            said, installed = (each.model_dump(exclude={"source"}) for each in (metric, load("metric", name)))
            for field in said:
                if said[field] != installed[field]:
                    yield (
                        "metrics",
                        f"metrics.{name}.{field} is {said[field]!r}; the installed one's is {installed[field]!r}",
                    )


def _unknown(spec: RunSpec) -> UserError | None:
    """Return the error of a name that nothing has, in a spec that names no source outside qgbench for it."""
    named: list[tuple[Kind, str, str]] = [
        ("method", spec.method, spec.source),
        ("arch", spec.arch, spec.arch_source),
        *(("addon", name, spec.addon_source) for name in spec.addons),
        ("score", spec.qg_score, spec.addon_source),
    ]
    unknown = ((kind, name) for kind, name, outside in named if not outside and not _is_installed(kind, name))
    return next((unknown_name(kind, name, _names(kind)) for kind, name in unknown), None)


def _names(kind: Kind) -> set[str]:
    return {known.name for known in catalogue(kind).entries}


def _is_installed(kind: Kind, reference: str) -> bool:
    """Return whether something ships or is installed: a reference to a file or module is neither."""
    return reference in _names(kind)


def _method_here(spec: RunSpec) -> "type[Method] | None":
    """Return the method's class; None where it, or the source that the record names, is not installed."""
    with suppress(UserError):  # an installed one that cannot be imported
        if _is_installed("method", spec.method) and source("method", spec.method) == spec.source:
            return load("method", spec.method)
    return None


def _addons_here(spec: RunSpec) -> bool:
    """Return whether the add-ons and the score, of the source that the record names, are installed."""
    from qgbench.run.request import addon_source

    installed = _is_installed("score", spec.qg_score) and all(_is_installed("addon", name) for name in spec.addons)
    with suppress(UserError):  # as above
        return installed and addon_source(spec) == spec.addon_source
    return False


def _addon_settings(spec: RunSpec, here: bool) -> list[AddOnSettings]:
    """Return the settings that a spec gives its add-ons; without those whose class is not here."""
    if here:
        from qgbench.spec.addons import addon_settings

        return addon_settings(spec)
    kinds = [ADDON_SETTINGS[name] for name in spec.addons if name in ADDON_SETTINGS]
    changes = spec.overrides_of("qg")
    return [
        apply_settings(kind(), {name: changes[name] for name in changes if name in kind.model_fields}, "qg.")
        for kind in kinds
    ]


def _differing_settings(
    record: Record, protocol: Protocol, own: "MethodSettings | None", addons: list[AddOnSettings], addons_here: bool
) -> dict[str, tuple[object, object]]:
    """Return the settings that differ; of code that is not here, only those that the spec overrides are compared."""
    expected = settings_as_used(protocol, own or Settings(), addons)
    stored = dict(record.settings)
    for part, here in (("method", own is not None), ("qg", addons_here)):
        if not here:
            expected[part] |= record.spec.overrides_of(part)
            stored[part] = {name: value for name, value in stored[part].items() if name in expected[part]}
    kinds: dict[str, list[type[Settings]]] = {"protocol": [Protocol], "method": [type(own or Settings())]}
    kinds["qg"] = [type(addon) for addon in addons]
    return settings_that_differ(record.model_copy(update={"settings": stored}), expected, kinds)


def _weights(record: Record, addons: list[AddOnSettings]) -> Found:
    """Find averages of q, of w = q^T (q >= tau) > 0 and of the effective sample size that no weights of QW have."""
    own = next((own for own in addons if isinstance(own, WeightingSettings)), None)
    if own is None or record.guidance is None or record.spec.addon_source:
        return
    if record.spec.qg_score == "mean" or "select" in record.spec.addons:
        return  # of means over batches, and of weights that selection takes away, each q's own says little
    q, kept, effective = record.guidance.mean_q, record.guidance.kept_share, record.guidance.effective_sample_size
    if q is None or kept is None or effective is None:
        return
    rejected = max(own.tau, _LEAST_WEIGHT ** (1 / own.temperature))  # the highest q that has no weight
    lowest, highest = own.tau * kept, kept + (1 - kept) * rejected
    if not lowest - SLACK <= q <= highest + SLACK:
        text = f"guidance.mean_q is {q:g}; kept_share = {kept:g} and tau = {own.tau:g} give one"
        yield "contradiction", f"{text} from {lowest:g} to {highest:g}"
    elif effective > kept + SLACK:
        text = f"guidance.effective_sample_size is {effective:g}; expected no more than kept_share = {kept:g}"
        yield "contradiction", text


def _validated_after(train: TrainSettings) -> list[int]:
    """Return the steps after which a run validates."""
    every = max(1, train.steps // train.validations)
    return sorted({*range(every, train.steps + 1, every), train.steps})


def _audits_too_few(record: Record, method: "type[Method]") -> str:
    """Return which audits a record of a method that makes pseudo-labels lacks; '' if none."""
    found = [audit.progress for audit in record.pseudo_labels if audit.progress is not None]
    expected = list(audited_after(record.steps, method.pseudo_labels).values())
    if record.read_from == 1 or found in ([], expected) or not method.pseudo_labels:
        return ""
    return f"pseudo_labels is of the checkpoints {found}; a run of {record.spec.method} has {expected}"


def _best_and_networks(
    record: Record, method: "MethodSettings", addons: list[AddOnSettings], keeps_teacher: bool
) -> Found:
    """Yield how the step chosen and the networks evaluated differ from what `Trainer` and `run` give."""
    regularisations = [RegularisationSettings(), *(own for own in addons if isinstance(own, RegularisationSettings))]
    ramped = max(method.warmup + method.ramp, *(own.qar_warmup + own.qar_ramp for own in regularisations))
    eligible = [(step, dice) for step, dice in record.val_dice if step >= ramped * record.steps]
    best = max(eligible, key=lambda one: one[1])[0] if eligible else None  # the first of equal ones
    if record.best_val_step != best:
        yield "contradiction", f"best_val_step is {record.best_val_step}; val_dice gives {best}"
        return
    networks = {"student"} | ({"teacher"} if keeps_teacher else set())
    networks |= set() if best in (None, record.steps) else {"best_val"}
    if record.summaries.keys() != networks:
        said, expected = (", ".join(sorted(names)) for names in (record.summaries, networks))
        yield "contradiction", f"summaries are of {said}; a run of {record.spec.method} like this has {expected}"
