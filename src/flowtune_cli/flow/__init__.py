"""Flows as the paper sees them: examples, nodes, episodes, deviations. Pure Python, no model."""
