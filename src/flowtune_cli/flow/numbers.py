"""Numbers that flows and plugins give: real, finite, and not too large to learn with."""

from __future__ import annotations

import math
from typing import Any

LARGEST = 1e30
"""The largest size of a reward, gain or feature: what is computed from it must fit float32."""


def real_number(value: Any) -> float:
    """A number as a float: Python's, numpy's, or a tensor of one element.

    Raises:
        ValueError: it is no number (a text, say), not finite, or larger than ``LARGEST``. The
            message goes on after the number's name: "is nan; it must be finite".
    """
    if isinstance(value, (str, bytes)) or not hasattr(type(value), "__float__"):
        raise ValueError(f"is {_shown(value)}; it must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several numbers
        raise ValueError(f"is {_shown(value)}; it must be a single number") from None
    if not math.isfinite(number):
        raise ValueError(f"is {number}; it must be finite")
    if abs(number) > LARGEST:
        raise ValueError(f"is {number:g}; it must be from {-LARGEST:g} to {LARGEST:g}: scale it")
    return number


def is_bool(value: Any) -> bool:
    """Whether it is a truth value, Python's or numpy's."""
    return type(value).__name__ in ("bool", "bool_")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
