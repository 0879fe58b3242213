"""What a busy core costs a run of two threads: ``python perf/busy_machine.py [REPEATS]``.

Beside one process that only computes, the same short run is timed in two ways, in turn: its OpenMP threads spin while
they wait for each other (what libgomp does unless told otherwise), or they sleep (what the command line sets). Printed
are the seconds of each, the ratio of the medians, and whether all runs gave the same numbers.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qgbench.run.record import RECORD_NAME, read_images, read_record

COMMAND = ["run", "--method", "supervised", "--protocol", "smoke", "--steps", "20", "--threads", "2", "-q", "--output"]
WAYS = {"spins": {"GOMP_SPINCOUNT": "300000"}, "sleeps": {}}  # the count is libgomp's own where no policy is set


def compute() -> None:
    while True:
        pass


def numbers(environment: dict[str, str], output: Path) -> tuple[float, str]:
    """Return the seconds of one run, and what it measured."""
    unset = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    begin = time.monotonic()
    command = [sys.executable, "-m", "qgbench", *COMMAND, str(output)]
    subprocess.run(command, env=unset | environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - begin
    (record,) = output.glob(f"*/{RECORD_NAME}")
    return seconds, read_record(record).summary.model_dump_json() + read_images(record.parent / "images.csv").to_csv()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repeats", nargs="?", type=int, default=3)
    repeats = parser.parse_args().repeats
    multiprocessing.Process(target=compute, daemon=True).start()
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    measured = set()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(repeats):
            for way, environment in WAYS.items():
                seconds, found = numbers(environment, Path(folder) / f"{way}{index}")
                taken[way].append(seconds)
                measured.add(found)
                print(f"{way}: {seconds:.0f} s", flush=True)
    spins, sleeps = (statistics.median(taken[way]) for way in WAYS)
    print(f"spinning / sleeping {spins / sleeps:.1f}; numbers {'equal' if len(measured) == 1 else 'DIFFER'}")
