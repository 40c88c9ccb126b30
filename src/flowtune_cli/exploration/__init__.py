"""The built-in exploration strategies. They describe how alternatives are decoded."""

from .diverse_beam import DiverseBeam
from .multi_sample import MultiSample

__all__ = ["DiverseBeam", "MultiSample"]
