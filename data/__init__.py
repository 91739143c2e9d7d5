"""Readers of data-set formats, transforms, and generators of demo sets (code only, no files)."""
