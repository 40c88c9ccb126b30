"""How models are called, and which can be."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import DynamicCache

from flowtune_cli.engine.forward import check_layers, has_sliding_window, with_cache
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.loading import LoadedModel
from support.tiny import make_model


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


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("Llama", False), ("Mistral", True), ("Gemma2", True), ("Qwen3", False)],
)
def test_windows_are_known(tiny_model: LoadedModel, architecture: str, expected: bool) -> None:
    assert has_sliding_window(make_model(architecture, tiny_model).model.config) == expected


def test_layers_that_keep_something_else_are_refused(tiny_model: LoadedModel) -> None:
    config = make_model("Qwen3", tiny_model).model.config
    check_layers(config)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UsageError, match=r"cannot cache: \['linear_attention'\]"):
        check_layers(config)
