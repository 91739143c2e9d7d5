"""Geo-localization: where on Earth a photo was taken."""
