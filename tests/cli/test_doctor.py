"""``flowtune doctor``."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.models import devices as probe
from support.installed_plugins import MODEL, Site

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "matmul_gflops", lambda *arguments: 123.4)


def test_it_says_what_is_installed_and_what_is_wrong(site: Site, run: Run) -> None:
    site.install("broken", "1 / 0")
    done = run("doctor")
    assert done.code == 0
    assert f"python: {platform.python_version()}" in done.out
    assert f"\n  torch: {version('torch')}\n" in done.out
    assert "\n    float32: 123 GFLOP/s\n" in done.out
    assert "\n  'hop' (hop-dist 1.0): no problems\n" in done.out
    assert "\n  'broken' (broken-dist 1.0):\n    - cannot be imported: ZeroDivision" in done.out
    assert "\x1b" not in done.out


def test_json(site: Site, run: Run, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_bytes(b" " * 1_000_000)
    site.install("models", MODEL.format(directory=tmp_path / "small"))
    shown = json.loads(run("doctor", "--json").out)
    assert shown["devices"]["cpu"]["bfloat16"] == "123 GFLOP/s"
    assert shown["models"]["missing"] == "nowhere (not ready)"
    assert shown["models"]["small"] == f"{tmp_path / 'small'} (1 MB)"
    assert shown["models"]["free in the cache"].endswith("B")
    assert shown["memory"]["total"].endswith("B")
    assert set(shown["packages"]) >= {"transformers", "peft", "textual", "pluggy", "flowtune"}


def test_missing_packages_are_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowtune_cli.cli import doctor

    monkeypatch.setattr(doctor, "PACKAGES", ("not-there-at-all",))
    assert "\n  not-there-at-all: not installed\n" in run("doctor").out
