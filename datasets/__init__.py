"""One folder per data set: its card, its splits, and the ids of one that is a part of a larger one; no images."""
