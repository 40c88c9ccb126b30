"""The built-in node types: Generate, Judge and Rank."""

from .generate import Generate
from .judge import Judge
from .rank import Rank

__all__ = ["Generate", "Judge", "Rank"]
