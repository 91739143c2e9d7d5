"""Learning from a teacher network's outputs."""
