"""Measures of a predicted mask against its reference."""
