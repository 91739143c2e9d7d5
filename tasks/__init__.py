"""Applications of one backbone, and the commands that run them: python -m tasks.<command>."""
