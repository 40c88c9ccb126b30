"""Experiment trackers that a training run logs its metrics to, if its settings name them."""
