"""One run from end to end, its folder, its record."""
