"""The built-in rewards (functions that a flow calls) and evaluators (that compare episodes)."""

from .llm_judge import LLMJudge
from .text import exact_match, normalize, token_f1

__all__ = ["LLMJudge", "exact_match", "normalize", "token_f1"]
