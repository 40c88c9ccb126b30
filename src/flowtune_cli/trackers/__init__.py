"""Trackers: where a run's figures are logged, too, while it trains. Off unless a run names some."""
