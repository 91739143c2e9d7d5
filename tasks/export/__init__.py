"""Exports checkpoints to files for devices, and verifies them."""
