"""Seconds of processor until a command answers: ``python perf/startup.py [TREE ...]``.

Each TREE is a checkout of qgbench (default: this one), such as one of an earlier commit made by ``git worktree add``.
The commands are started in turn in each of them, REPEATS times; printed is the least of each, which other work on the
machine disturbs least, and what it imported that takes long.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "--help": {},
    "TAB after run --method": {
        "_QGBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "qgbench run --method ",
        "COMP_CWORD": "3",
    },
    "TAB after run --dataset": {
        "_QGBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "qgbench run --dataset ",
        "COMP_CWORD": "3",
    },
    "methods": {},
    "methods fixmatch": {},
    "suite plan small": {},
}
HEAVY = ("numpy", "pandas", "scipy", "torch")
REPEATS = 3
# What follows the words is said on the last line of standard error.
PROGRAM = f"""
import sys
sys.argv[0] = "qgbench"
from qgbench.cli.main import main
try:
    main()
finally:
    print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""


def start(tree: Path, words: list[str], variables: dict[str, str]) -> tuple[float, str]:
    """Return the processor seconds of a command and what it imported."""
    environment = os.environ | variables | {"PYTHONPATH": str(tree)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr.splitlines()[-1]


def main() -> None:
    trees = [Path(name).absolute() for name in sys.argv[1:]] or [Path(__file__).absolute().parent.parent]
    for command, variables in COMMANDS.items():
        words = [] if variables else command.split()
        found = {tree: [start(tree, words, variables) for _ in range(REPEATS)] for tree in trees}
        for tree, starts in found.items():
            print(
                f"{command:<24} {min(seconds for seconds, _ in starts):5.2f} s  {starts[0][1] or '-':<26} {tree.name}"
            )


if __name__ == "__main__":
    main()
