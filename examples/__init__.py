"""Small, real programs, run from the repository root: ``python -m examples.NAME``."""
