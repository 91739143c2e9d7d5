"""Image retrieval for geo-localization."""
