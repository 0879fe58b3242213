"""Mask quality: corruptions, weak models, the predictor g, its audit, and the guidance it gives (QW, QAR)."""
