"""``python -m qgbench``: the command line without installation."""

from qgbench.cli import main

main()
