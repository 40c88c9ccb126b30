"""The device that the tests of the engine run on, and how near is near enough in a dtype."""

from __future__ import annotations

import os

DEVICE = os.environ.get("FLOWTUNE_TEST_DEVICE", "cpu")
"""The processor, unless FLOWTUNE_TEST_DEVICE names another; read before fixtures remove it."""
