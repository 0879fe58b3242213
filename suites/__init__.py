"""What suites declare, and the numbers that `qgbench regress` compares with."""
