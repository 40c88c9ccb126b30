"""Runs on the tiny model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.settings import ModelSettings
from support.tiny_training import Run


@pytest.fixture
def make_run(
    tiny_settings: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """Makes a run with its directory, as ``Run`` does; flowtune's own plugin alone is there."""
    monkeypatch.setenv("FLOWTUNE_PLUGINS", "")
    numbers = itertools.count()

    def make(**more: Any) -> Run:
        return Run(tiny_settings, tmp_path, f"run-{next(numbers)}", **more)

    return make
