"""The run directory and its store."""
