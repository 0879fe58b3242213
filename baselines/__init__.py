"""One file per semi-supervised method, written as an outsider would write one."""
