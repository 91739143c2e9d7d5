"""Face attributes."""
