"""The built-in node types: Generate, Judge and Rank."""

from .generate import Generate
from .judge import Judge
from .rank import Factor, Rank

__all__ = ["Factor", "Generate", "Judge", "Rank"]
