"""What is said about settings that have other names now."""

from __future__ import annotations

import pytest

from flowtune_cli.config.renamed import renamed


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("learning.optimizer_options", "'learning.optimizer' holds"),
        ("learning.node_options", "'tasks.NAME.nodes.NODE.optimizer' holds"),
        ("learning.calibration_options", "'tasks.NAME.nodes.NODE.head_optimizer' holds"),
        ("engine.tokens_per_batch", "finds it out by itself"),
        ("engine.learning_tokens_per_batch", "finds it out by itself"),
        ("engine.prefix_cache_mb", "finds it out by itself"),
        ("engine.blocked_weights", "finds it out by itself"),
        ("tasks.a.nodes.b.explore", "'exploration'"),
        ("tasks.a.nodes.b.prompt.context", "'prompt.frozen_prefix'"),
        ("tasks.a.nodes.b.explore_options", "exploration = {name ="),
    ],
)
def test_a_renamed_setting_names_the_new_one(key: str, said: str) -> None:
    assert said in (renamed(tuple(key.split("."))) or "")


@pytest.mark.parametrize("key", ["learning.optimizer", "explore", "tasks.a.explore", "engine.x"])
def test_other_settings_do_not(key: str) -> None:
    assert renamed(tuple(key.split("."))) is None
