"""One registry of names: of qgbench, of installed packages, and of files that a command names."""
