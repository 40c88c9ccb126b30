"""The built-in node types: Generate, Judge and Rank."""

from .factors import Factor
from .feature import Feature
from .generate import Generate
from .judge import Judge
from .rank import Rank

__all__ = ["Factor", "Feature", "Generate", "Judge", "Rank"]
