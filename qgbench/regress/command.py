"""What ``qgbench regress`` does: rerun, compare, print, and write the reference anew where that is asked for."""

import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qgbench.base.errors import UserError
from qgbench.base.logs import logger
from qgbench.launch.executor import Executor
from qgbench.launch.plan import Plan, make_plan
from qgbench.regress import reference as references
from qgbench.regress.compare import FAULTS, Finding, compare, exact, print_findings
from qgbench.regress.reference import Change, Numbers, Origin, Reference
from qgbench.regress.rerun import origin, rerun
from qgbench.spec.protocol import load_protocol
from qgbench.spec.suite import Suite, load_suite
from qgbench.trust.reproduce import compare_machines, print_conditions


def regress(
    name: str,
    only: Sequence[str],
    why: str | None,
    data_dir: Path | None,
    output: Path | None,
    executor: Callable[[Plan], Executor],
    console: Console,
) -> bool:
    """Compare a suite's rerun with its reference and print what was found.

    Parameters
    ----------
    name : str
        As `qgbench.spec.suite.load_suite` takes it.
    only : sequence of str
        As `Plan.only`; all runs if empty.
    why : str or None
        Write the reference anew, for this reason.
    data_dir : Path, optional
        Folder that holds the data sets; the variable QGBENCH_DATA if not given.
    output : Path, optional
        Empty folder for the runs; a temporary one if not given.
    executor : callable
        Gives what carries out a plan.
    console : Console

    Returns
    -------
    bool
        Nothing differs, or the reference was written.

    Raises
    ------
    UserError
        As `load_suite`, `reference.read`, `make_plan`, `rerun` and `compare`; an update of a part.
    QGBenchError
        A run failed.
    """
    suite = load_suite(name)
    if why is not None and only:
        raise UserError("the reference holds the whole suite: leave --only out of --update.")
    known = references.read(name, suite) if why is None else _known(name, suite)
    here = origin()
    conditions = [] if known is None else compare_machines(known.origin, here)
    is_exact = exact(conditions)
    if known is not None:
        if not is_exact:
            print_conditions([each for each in conditions if not each.same], console)
        if why is None:
            compare(known, known.numbers, is_exact)  # refuses a reference without tolerances before minutes are spent
    with ExitStack() as stack:
        if output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qgbench-regress-")))
        else:
            folder = output
        plan = make_plan(suite, folder, data_dir, "cpu")
        numbers = rerun(plan, executor(plan), only)
    if why is not None:
        return _update(name, suite, known, numbers, here, why, console)
    assert known is not None
    findings = compare(known, numbers, is_exact, whole=not only)
    print_findings(findings, is_exact, console)
    return _conclude(findings, known, name, console)


def _known(name: str, suite: Suite) -> Reference | None:
    """Return the reference that is about to be replaced; None where it is missing or cannot be compared with."""
    try:
        return references.read(name, suite)
    except UserError as error:
        logger.info("the former reference is not compared: %s", str(error).partition("; write it anew")[0])
        return None


def _conclude(findings: Sequence[Finding], known: Reference, name: str, console: Console) -> bool:
    faults = [finding for finding in findings if finding.verdict in FAULTS]
    then = f"{known.origin.created[:10]}, commit {(known.origin.git_commit or 'unknown')[:12]}"
    if not faults:
        console.print(f"[bold green]as the reference[/] ({then}).", highlight=False)
        return True
    items = len({finding.item for finding in faults})
    command = shlex.join(["qgbench", "regress", "--suite", name, "--update", "--why", "TEXT"])
    console.print(
        f"[bold red]differs from the reference[/] ({then}): {len(faults)} numbers in {items} places. "
        f"If that is meant:\n{escape(command)}",
        highlight=False,
        soft_wrap=True,  # what is to be typed stays in one line
    )
    return False


def _update(
    name: str, suite: Suite, known: Reference | None, numbers: Numbers, here: Origin, why: str, console: Console
) -> bool:
    protocol = load_protocol(suite.protocol)
    change = Change(date=here.created, git_commit=here.git_commit, why=why)
    reference = Reference(
        suite=references.fingerprint(suite),
        protocol=protocol.name,
        protocol_version=protocol.version,
        g_version=protocol.g_version,
        origin=here,
        numbers=numbers,
        noise=None if known is None else known.noise,
        history=[*(known.history if known is not None else []), change],
    )
    if known is not None:
        # By the strict rule: what is replaced is shown in full.
        print_findings(compare(known, numbers, is_exact=True), True, console)
    if (here.git_commit or "").endswith("+dirty"):
        logger.warning("the checkout has changes that no commit holds; the reference says so (+dirty).")
    console.print(f"wrote {references.write(name, reference)}", highlight=False, soft_wrap=True)
    return True
