"""Shared by all tasks: contracts, configuration, training, checkpoints."""
