"""How flows run: scheduling, batching and replay. Pure Python, no torch."""
