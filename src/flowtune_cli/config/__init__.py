"""Settings: their schema, the layers that set them, and where each value came from."""
