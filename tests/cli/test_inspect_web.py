"""``flowtune inspect --web``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.stored_runs import sums_run

pytest.importorskip("textual_serve", reason="needs the extra 'web'")

Run = Callable[..., Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    """What was to be served; nothing is."""
    from flowtune_cli.tui import web

    calls: list[tuple[Path, dict[str, Any]]] = []

    def serve(path: Path, **more: Any) -> None:
        more.pop("on_ready")("http://127.0.0.1:1/?token=x")
        calls.append((path, more))

    monkeypatch.setattr(web, "serve", serve)
    return calls


def test_a_run_or_all_runs_without_a_terminal(
    run: Run, served: list[tuple[Path, dict[str, Any]]]
) -> None:
    sums_run(Path("runs"), 1, "first")
    done = run("inspect", "first", "--web", "--port", "0")
    assert (done.code, done.out) == (0, "")
    assert "http://127.0.0.1:1/?token=x" in done.err
    assert run("inspect", "--web").code == 0
    assert served == [
        (Path("runs/first").absolute(), {"is_run": True, "port": 0}),
        (Path("runs"), {"is_run": False, "port": 8000}),
    ]


def test_without_its_package(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sums_run(Path("runs"), 1, "first")
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("inspect", "first", "--web")
    assert done.code == 2
    assert "pip install 'flowtune[web]'" in done.err
