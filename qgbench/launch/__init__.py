"""Suites at work: the plan of jobs, the engines that start them, what became of them."""
