"""Datasets: cards, readers, prepared arrays, splits, views, and the embedded phantom."""
