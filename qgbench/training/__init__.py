"""The training loop, its checkpoints, and the evaluation of a finished run."""
