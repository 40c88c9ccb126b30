"""Checks and measurements on a machine with a GPU and no network: ``python -m benchmarks.gpu``."""
