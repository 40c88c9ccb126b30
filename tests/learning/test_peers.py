"""A process without others."""

from __future__ import annotations

from typing import Any, cast

from flowtune_cli.learning.peers import ALONE


def test_alone_all_is_at_hand() -> None:
    found: list[Any] = [ALONE.each(lambda: 1), ALONE.first(lambda: 2), ALONE.total(cast(Any, 3))]
    ALONE.check()
    assert found == [[1], 2, 3]
