"""Trained models used from Python: load, predict, results."""
