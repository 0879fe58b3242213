"""From a suite to jobs: every run, and each data set and predictor that runs share, once and before them."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qgbench.base.errors import AbsentDataError, QGBenchError, UserError, unknown_name, unwritable
from qgbench.base.files import write_atomically
from qgbench.base.paths import no_folder
from qgbench.data.cards import DATA_VARIABLE, Card, Kind
from qgbench.data.readers import find_card
from qgbench.launch.job import Job
from qgbench.metrics.table import METRICS, metric_named
from qgbench.plugins.registry import load
from qgbench.run.check import checked
from qgbench.run.record import read_record
from qgbench.run.request import make_spec, metrics_of
from qgbench.spec.addons import addon_settings, needs_truth, settings_of
from qgbench.spec.method import declared
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings, apply_settings
from qgbench.spec.suite import Entry, Suite
from qgbench.spec.task import Task

PLANS = "suites"
"""Folder, beside the runs, of the plans that were begun."""


class Plan(Settings):
    """The jobs of a suite on this machine, in the order in which they matter; what is shared, before its first user."""

    suite: str
    question: str
    jobs: tuple[Job, ...]
    blocks: dict[str, str]
    """Block of the suite, by the name of the run."""

    @property
    def runs(self) -> list[Job]:
        """The jobs that are runs."""
        return [job for job in self.jobs if job.kind == "run"]

    def block_of(self, job: Job) -> str:
        """Return the block of a run; what runs share has one of its own."""
        return self.blocks.get(job.name, "shared: data, g")

    def only(self, words: Sequence[str]) -> "Plan":
        """Return the runs that one of the words occurs in (their id, or what `Job.words` says), and what they need."""
        if not words:
            return self
        kept = [
            job for job in self.runs if any(word in f"{self.blocks[job.name]} {job.name} {job.words}" for word in words)
        ]
        if not kept:
            raise UserError(
                f"no run of the suite {self.suite} has {' or '.join(words)} in its name; see qgbench suite plan --all."
            )
        needed = {job.name for job in kept}
        for job in reversed(self.jobs):
            if job.name in needed:
                needed.update(job.needs)
        return self.model_copy(update={"jobs": tuple(job for job in self.jobs if job.name in needed)})

    def save(self, output: Path) -> None:
        """Write the plan where `load_plan` finds it.

        Raises
        ------
        QGBenchError
            The disk is full or the folder cannot be written.
        """
        folder = output / PLANS
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error, "choose another --output") from error
        write_atomically(folder / f"{self.suite}.json", self.model_dump_json().encode())


def load_plan(name: str, output: Path) -> Plan:
    """Read the plan of a suite that was begun.

    Raises
    ------
    UserError
        The suite was not begun in this folder.
    """
    if output.is_file():
        raise UserError(f"{no_folder(output)}; give the --output that the suite was begun with.")
    file = output / PLANS / f"{name}.json"
    try:
        return Plan.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        begun = sorted(path.stem for path in file.parent.glob("*.json"))
        hint = f"begun there: {', '.join(begun)}" if begun else f"begin it with qgbench suite run {name}"
        raise UserError(f"the suite '{name}' was not begun in {output}; {hint}.") from error
    except (OSError, ValidationError) as error:
        raise UserError(f"cannot read {file}: {error}. Remove it; qgbench suite run {name} writes it anew.") from error


def make_plan(suite: Suite, output: Path, data_dir: Path | None, device: str, tracker: str | None = None) -> Plan:
    """Return a plan of a suite's runs and of what they share.

    Parameters
    ----------
    suite : Suite
    output : Path
        Folder of all runs.
    data_dir : Path, optional
        Folder that holds the data sets; the variable QGBENCH_DATA if not given.
    device : str
        'auto', 'cpu', 'cuda' or 'mps'.
    tracker : str, optional

    Raises
    ------
    UserError
        Names that nothing is registered under, settings out of range, contradictions: all are listed. A tracker that
        is not there.
    """
    if tracker is not None:
        from qgbench.training.tracking import require_tracker

        require_tracker(tracker)
    if data_dir is None and (variable := os.environ.get(DATA_VARIABLE)):
        data_dir = Path(variable)  # said in the jobs, for engines whose workers do not have this environment
    entries = suite.entries()
    specs = _resolve(suite, entries, data_dir, device)
    output = output.absolute()
    where: dict[str, Any] = {"output": output, "data_dir": None if data_dir is None else data_dir.absolute()}
    jobs: dict[str, Job] = {}
    for spec in specs:
        size = spec.resolve().size
        sources = (spec.dataset, *Regime.parse(spec.regime).pool_names)
        needs = [f"data-{Path(source).name}-{size}px" for source in sources]
        for name, source in zip(needs, sources, strict=True):
            jobs.setdefault(name, Job(kind="data", name=name, spec=spec, source=source, **where))
        if spec.needs_g:
            name = _predictor_name(spec)
            jobs.setdefault(name, Job(kind="g", name=name, spec=spec, needs=(needs[0],), **where))
            needs.append(name)
        jobs.setdefault(spec.id, Job(kind="run", name=spec.id, spec=spec, needs=tuple(needs), tracker=tracker, **where))
    return Plan(
        suite=suite.name,
        question=suite.confirm[0].question if suite.confirm else suite.about,
        jobs=tuple(jobs.values()),
        blocks={spec.id: entry.block for spec, entry in zip(reversed(specs), reversed(entries), strict=True)},
    )


def require_same_data(plan: Plan) -> None:
    """Refuse a plan of which runs were finished with other images, masks or splits than there are now.

    Data that are not here are not compared, which is said.

    Raises
    ------
    UserError
        Names one of the runs. Or what `qgbench.data.run_data.open_run_data` raises.
    """
    done = [job for job in plan.runs if job.folder.status() == "done"]
    if not done:
        return  # and nothing is imported that reads data

    from qgbench.base.progress import track
    from qgbench.data.run_data import open_run_data, said_if
    from qgbench.data.splits import split_fingerprint

    now: dict[tuple[Any, ...], tuple[str, str] | None] = {}
    other = []
    for job in done:
        spec, protocol, was = job.spec, job.spec.resolve(), read_record(job.folder.path).provenance
        regime = Regime.parse(spec.regime)
        where = (spec.dataset, *regime.pool_names, regime.split, protocol.size, protocol.fractions)
        if where not in now:
            now[where] = None
            with said_if(AbsentDataError):
                data = open_run_data(
                    spec.dataset, regime, spec.seed, protocol.size, protocol.fractions, job.data_dir, track=track
                )
                now[where] = data.fingerprint, split_fingerprint(data.split)
        if now[where] not in (None, (was.data, was.split)):
            other.append(job)
    if other:
        raise UserError(
            f"{len(other)} of the runs were finished with other images, masks or splits than there are now, for "
            f"example {other[0].folder.path}. Bring those back, or give another --output."
        )


def _resolve(suite: Suite, entries: Sequence[Entry], data_dir: Path | None, device: str) -> list[RunSpec]:
    """Return the RunSpecs, or every cause why there are none."""
    specs: list[RunSpec] = []
    cards, faults = _cards(entries, data_dir)
    faults += _other_units(entries, cards) + _unknown_metric(suite, cards)
    fit: set[tuple[object, ...]] = set()  # what differs in seed, or in data sets of the same classes, is refused alike
    for entry in entries:
        try:
            spec = make_spec(
                entry.protocol,
                entry.dataset,
                entry.regime,
                entry.arm,
                arch=entry.arch,
                seed=entry.seed,
                device=device,
                threads=suite.threads,
            )
            card = cards.get(entry.dataset)
            task = Task() if card is None else Task(card.class_names)
            what = (entry.protocol, entry.regime, entry.arch, entry.arm.model_dump_json(), task.classes)
            if what not in fit:
                _refuse(spec, task)
                fit.add(what)
        except QGBenchError as error:
            faults += _causes(entry) or [str(error)]
            continue
        repeated = sorted(key for key in entry.arm.overrides if key.startswith("method.") and key not in spec.overrides)
        faults += [f"row '{entry.row}': {key} repeats the default; leave it out" for key in repeated]
        specs.append(spec)
    if faults:
        listed = "\n".join(f"  {fault}" for fault in dict.fromkeys(faults))
        raise UserError(f"the suite {suite.name} cannot be run:\n{listed}")
    return specs


def _refuse(spec: RunSpec, task: Task) -> None:
    """Refuse what a run would refuse before it trains; networks are built only of architectures that do not ship."""
    if spec.arch_source:
        from qgbench.run.carry_out import describe  # late: torch takes seconds

        describe(spec, task)
    else:
        checked(spec, declared(spec.method))


def _causes(entry: Entry) -> list[str]:
    """Return all that is unknown or out of range in an entry by itself, where the first fault hides the others."""

    def setting(key: str, value: Any) -> None:
        part, dot, name = key.rpartition(".")
        if part == "qg":
            addon_settings(entry.arm.model_copy(update={"overrides": {key: value}}))
            return
        protocol = load_protocol(entry.protocol)
        whole = declared(entry.arm.method).Settings() if part == "method" else getattr(protocol, part, protocol)
        apply_settings(whole, {name: value}, part + dot)

    checks: list[Callable[[], object]] = [partial(declared, entry.arm.method), partial(load, "arch", entry.arch)]
    checks += [partial(settings_of, name) for name in entry.arm.addons] + [partial(needs_truth, entry.arm.qg_score)]
    checks += [partial(setting, key, value) for key, value in entry.arm.overrides.items()]
    causes = []
    for check in checks:
        try:
            check()
        except QGBenchError as error:
            causes.append(str(error))
    return causes


def _cards(entries: Sequence[Entry], data_dir: Path | None) -> tuple[dict[str, Card], list[str]]:
    """Return the cards of data sets and pools, and what is unknown. Images need not be here: jobs may run elsewhere."""
    kinds: tuple[Kind, ...] = ("labelled", "pool")
    asked = [(entry.dataset, kinds[0]) for entry in entries]
    asked += [(pool, kinds[1]) for entry in entries for pool in Regime.parse(entry.regime).pool_names]
    cards: dict[str, Card] = {}
    faults = []
    for name, kind in dict.fromkeys(asked):
        try:
            cards[name] = find_card(name, data_dir, kind)
        except UserError as error:
            faults.append(str(error))
    return cards, faults


def _other_units(entries: Sequence[Entry], cards: Mapping[str, Card]) -> list[str]:
    """Return which regimes count what their data set has not: images of volumes, or patients of pictures."""
    faults = []
    for dataset, regime in dict.fromkeys((entry.dataset, entry.regime) for entry in entries if entry.dataset in cards):
        try:
            Regime.parse(regime).require_unit(dataset, cards[dataset].volumes is not None)
        except UserError as error:
            faults.append(str(error))
    return faults


def _unknown_metric(suite: Suite, cards: Mapping[str, Card]) -> list[str]:
    """Return why no record can answer the suite's questions: nobody knows their metric, or a data set not its class."""
    metric, dot, name = suite.metric.partition(":")
    faults = []
    if metric not in METRICS:  # loading those of packages takes a while
        try:
            metric_named(metric, {own.name: own for own in metrics_of(())})
        except UserError as error:
            faults.append(f"metric: {error}")
    if not dot:
        return faults
    asked = [dataset for one in (*suite.confirm, *suite.questions()) for dataset in suite.regimes_of(one)]
    for dataset in dict.fromkeys(dataset for dataset in asked if dataset in cards):
        classes = cards[dataset].class_names
        if len(classes) == 1:
            faults.append(f"metric = '{suite.metric}' is of a class, and '{dataset}' has only one")
        elif name not in classes:
            faults.append(f"metric: {unknown_name('class', name, list(classes))} They are those of '{dataset}'.")
    return faults


def _predictor_name(spec: RunSpec) -> str:
    """Return what decides a predictor, as far as it is known before the data are opened: equal names, equal g."""
    protocol = spec.resolve()
    budget = Regime.parse(spec.regime).model_copy(update={"pools": ()})
    what = {
        "dataset": spec.dataset,
        "regime": str(budget),
        "version": protocol.g_version,
        "settings": protocol.quality.telling(),
        "size": protocol.size,
        "fractions": protocol.fractions,
        **{name: getattr(spec, name) for name in ("seed", "precision", "threads", "device")},
        **({} if spec.form == "regressor" else {"form": spec.form}),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return f"g-{Path(spec.dataset).name}-{budget}-{protocol.size}px-k{spec.seed}-{digest}"
