"""``python -m qgbench``: the command line, where the script is not on the path."""

from qgbench.cli.main import main

main()
