"""The built-in node types: Chat, Generate, Judge and Rank."""

from .chat import Chat
from .factors import Factor
from .feature import Feature
from .generate import Generate
from .judge import Judge
from .rank import Rank

__all__ = ["Chat", "Factor", "Feature", "Generate", "Judge", "Rank"]
