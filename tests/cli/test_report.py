"""``flowtune report``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.stored_runs import sums_run

Run = Callable[..., Any]


@pytest.fixture
def runs(run: Run, tmp_path: Path) -> Path:
    """Two runs where the settings say that runs are."""
    for name in ("first", "second"):
        sums_run(Path("runs"), name=name)
    return Path("runs")


def test_a_page(runs: Path, run: Run) -> None:
    done = run("report", "first", "second", "--out", "report.html")
    assert (done.code, done.out) == (0, "")
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<h1>2 runs</h1>" in page
    assert "flowtune report first second --out report.html" in page
    done = run("report", "first", "--out", "report.html")
    assert done.code == 2
    assert "--overwrite" in done.err
    assert Path("report.html").read_text(encoding="utf-8") == page
    assert run("report", "first", "--out", "report.html", "--overwrite").code == 0
    assert Path("report.html").read_text(encoding="utf-8") != page


def test_figures(runs: Path, run: Run) -> None:
    done = run("report", "first", str(runs / "second"), "--json")
    assert (done.code, done.err) == (0, "")
    assert [r["run"] for r in json.loads(done.out)["runs"]] == ["first", "second"]


def test_wrong_use(runs: Path, run: Run) -> None:
    assert "--out report.html" in run("report", "first").err
    assert "Did you mean 'first'?" in run("report", "frist", "--json").err


def test_a_page_without_matplotlib(runs: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("report", "first", "--out", "report.html")
    assert done.code == 2
    assert "an HTML report needs the package matplotlib: pip install 'flowtune[report]'" in done.err
    assert not Path("report.html").exists()
    assert run("report", "first", "--json").code == 0
