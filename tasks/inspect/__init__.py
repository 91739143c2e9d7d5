"""The content of a data set and its faults: python -m tasks.check."""
