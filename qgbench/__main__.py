"""``python -m qgbench``: the command line without installation."""

from qgbench.cli.main import main

main()
