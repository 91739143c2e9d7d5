"""Compares runs: a table, a page, plots."""
