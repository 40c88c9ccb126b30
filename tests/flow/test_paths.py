"""'~' is a home directory, and an error where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.model_source import cache_directory
from flowtune_cli.flow.paths import expanded


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded(Path("~/x")) == tmp_path / "x"
    assert expanded(Path("a/~")) == Path("a/~")
    monkeypatch.setenv("FLOWTUNE_CACHE", "~/cache")
    assert cache_directory() == tmp_path / "cache"


def test_of_a_user_who_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWTUNE_CACHE", "~nobody-at-all/cache")
    for call in (lambda: expanded(Path("~nobody-at-all/x")), cache_directory):
        with pytest.raises(UsageError, match=r"~nobody-at-all/.*no such home directory"):
            call()
