"""How models are called, and which can be."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache

from flowtune_cli.engine.forward import with_cache


class Before:
    """A model of a transformers before 5.24."""

    def forward(self, input_ids: Any, past_key_values: Any = None) -> None:
        pass


class Since:
    """A model of a transformers since 5.24."""

    def forward(self, input_ids: Any, cache: Any = None) -> None:
        pass


def test_a_cache_goes_by_the_name_that_the_model_has_for_it() -> None:
    cache = DynamicCache()
    assert with_cache(Before(), cache) == {"past_key_values": cache, "use_cache": True}
    assert with_cache(Since(), cache) == {"cache": cache, "use_cache": True}
