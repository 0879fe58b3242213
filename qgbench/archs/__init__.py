"""Segmentation networks, built by name."""
