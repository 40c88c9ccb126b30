"""Which numbers of a plugin are taken, and what is said about others."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from flowtune_cli.flow.numbers import LARGEST, is_bool, real_number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2.0),
        (0.5, 0.5),
        (True, 1.0),
        (Fraction(1, 4), 0.25),
        (np.float32(0.25), 0.25),
        (np.int64(-3), -3.0),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (torch.tensor(0.5), 0.5),
        (-LARGEST, -LARGEST),
    ],
)
def test_numbers(value: Any, number: float) -> None:
    found = real_number(value)
    assert (type(found), found) == (float, number)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "is nan; it must be finite"),
        (float("-inf"), "is -inf; it must be finite"),
        (np.float32("inf"), "is inf; it must be finite"),
        (torch.tensor(float("nan")), "is nan; it must be finite"),
        (10**400, "is inf; it must be finite"),
        (1e300, "is 1e+300; it must be from -1e+30 to 1e+30: scale it"),
        (-(10**31), "is -1e+31; it must be from -1e+30 to 1e+30: scale it"),
        ("0.5", "is '0.5'; it must be a number"),
        (b"1", "is b'1'; it must be a number"),
        (None, "is None; it must be a number"),
        (1j, "is 1j; it must be a number"),
        ([1.0], r"is [1.0]; it must be a number"),
        (np.array([1.0, 2.0]), "is array([1., 2.]); it must be a single number"),
        ("x" * 100, "is '" + "x" * 56 + "...; it must be a number"),
    ],
)
def test_what_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        real_number(value)
    assert str(refused.value) == said


def test_truth_values() -> None:
    assert [is_bool(value) for value in (True, np.bool_(False), 1, 0.0)] == [
        True,
        True,
        False,
        False,
    ]
