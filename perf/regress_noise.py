"""How far rounding alone moves the numbers of ``qgbench regress``: ``python perf/regress_noise.py [SUITE]``.

On the machine that a suite's reference was made on, the same code is computed in other ways: with the instructions of
older processors, which take other kernels, and with two threads instead of one. The largest differences give the
tolerances that hold on other processors and with other versions; they are printed and written into the reference.
The suite's runs with an add-on are enough: all runs share the tolerances of a name, and these have all. Those of one
seed are not: the tolerances that they gave were too narrow for another seed.
With ``--fixed`` no run is carried out, which takes a minute: numbers of runs are then compared only where processor and
versions are the reference's; fingerprints and the computations on fixed inputs everywhere.

On another processor the code is computed as it is, and its differences from the reference widen the tolerances that
were known: begin from a commit whose code the reference's machine gives no other numbers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qgbench.launch.plan import Plan, make_plan
from qgbench.regress import reference as references
from qgbench.regress.compare import compare, exact, measured_noise, widened
from qgbench.regress.fixed import fixed_numbers
from qgbench.regress.reference import Noise, Numbers
from qgbench.regress.rerun import origin, rerun, this_machine
from qgbench.spec.suite import load_suite
from qgbench.trust.reproduce import compare_machines

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
WAYS: dict[str, tuple[dict[str, str], int | None]] = {
    "AVX2": (AVX2, None),
    "2 threads": ({}, 2),
}


def plan_of(suite: str, folder: Path, threads: int | None) -> Plan:
    """Return the plan of a suite's runs with so many threads; with the suite's if None."""
    declared = load_suite(suite)
    if threads is not None:
        declared = declared.model_copy(update={"threads": threads})
    return make_plan(declared, folder, None, "cpu")


def enough(plan: Plan) -> list[str]:
    """Return the names of the runs that have an add-on."""
    return [job.name for job in plan.runs if job.spec.addon]


def in_another_way(suite: str, environment: dict[str, str], threads: int | None, runs: bool) -> Numbers:
    """Compute all numbers in a new process, because libraries read these variables as they are loaded."""
    words = [sys.executable, __file__, suite, "--threads", str(threads or 0), *([] if runs else ["--fixed"])]
    done = subprocess.run(words, env=os.environ | environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def print_noise(noise: Noise, console: Console) -> None:
    table = Table(title="largest differences")
    for title in ("number", "largest", "of", "tolerance"):
        table.add_column(title, justify="left" if title == "number" else "right")
    for name, tolerance in sorted(noise.tolerances.items()):
        values = [f"{value:.3g}" if value is not None else "-" for value in (tolerance.largest, tolerance.limit)]
        table.add_row(name, values[0], str(tolerance.differences), values[1])
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default="smoke")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # of one way, in the process that computes it
    parser.add_argument("--fixed", action="store_true", help="carry out no run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qgbench-noise-") as scratch:
        if asked.threads is not None:
            plan = plan_of(asked.suite, Path(scratch), asked.threads or None)
            specs = [job.spec for job in plan.runs]
            print(json.dumps(fixed_numbers(specs) if asked.fixed else rerun(plan, this_machine(plan), enough(plan))))
            return
        measure(asked.suite, Path(scratch), not asked.fixed)


def measure(suite: str, scratch: Path, runs: bool) -> None:
    console = Console(width=120)
    reference = references.read(suite, load_suite(suite))
    here = origin()
    elsewhere = not exact(compare_machines(reference.origin, here))
    ways: dict[str, tuple[dict[str, str], int | None]] = {here.hardware["processor"]: ({}, None)} if elsewhere else WAYS
    fixed = {} if elsewhere else fixed_numbers([job.spec for job in plan_of(suite, scratch, None).runs])
    if any(reference.numbers.get(item) != numbers for item, numbers in fixed.items()):
        sys.exit("the code gives other numbers than the reference: qgbench regress --update first.")
    variants = {}
    for words, (environment, threads) in ways.items():
        variants[words] = in_another_way(suite, environment, threads, runs)
        found = [each.verdict for each in compare(reference, variants[words], True, whole=False)]
        console.print(f"{words}: {len(found) - found.count('same')} of {len(found)} numbers differ")
    noise = measured_noise(reference.numbers, variants, here)
    if elsewhere and reference.noise is not None:
        noise = widened(reference.noise, noise)
    print_noise(noise, console)
    console.print(f"wrote {references.write(suite, reference.model_copy(update={'noise': noise}))}")


if __name__ == "__main__":
    main()
