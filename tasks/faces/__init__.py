"""Face attributes and face embeddings."""
