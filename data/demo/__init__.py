"""Generators of small data sets, so that every task can be tried before any download."""
