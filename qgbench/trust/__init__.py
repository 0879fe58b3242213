"""Checks of methods and records: contract, verification, reruns, submission, claims."""
