"""The built-in node types: Generate, Judge and Rank."""

from .factors import Factor
from .generate import Generate
from .judge import Judge
from .measure import Measure
from .rank import Rank

__all__ = ["Factor", "Generate", "Judge", "Measure", "Rank"]
