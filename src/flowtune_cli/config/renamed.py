"""Settings that have other names now, or are gone."""

from __future__ import annotations

_OPTIMIZER = (
    "'tasks.NAME.nodes.NODE.{}' holds it, such as {} = {{lr = 1e-5}}; see 'flowtune show TASK'"
)
_DERIVED = "flowtune finds it out by itself"
_RENAMED = {
    "learning.optimizer_options": "'learning.optimizer' holds the name and its options, such as"
    ' optimizer = {name = "adam", lr = 0.001}',
    "learning.node_options": _OPTIMIZER.format("optimizer", "optimizer"),
    "learning.calibration_options": _OPTIMIZER.format("head_optimizer", "head_optimizer"),
    "engine.tokens_per_batch": _DERIVED,
    "engine.learning_tokens_per_batch": _DERIVED,
    "engine.prefix_cache_mb": _DERIVED,
    "engine.blocked_weights": _DERIVED,
}
_RENAMED_OF_NODES = {
    "prompt.context": "it is called 'prompt.frozen_prefix'",
    "explore": "it is called 'exploration'",
    "explore_options": "'exploration' holds the name and its options, such as"
    ' exploration = {name = "multi_sample", temperature = 1.2}',
}


def renamed(key: tuple[str, ...]) -> str | None:
    """What to use instead of a setting that was renamed or removed; None for any other."""
    if len(key) > 4 and key[0] == "tasks" and key[2] == "nodes":
        return _RENAMED_OF_NODES.get(".".join(key[4:]))
    return _RENAMED.get(".".join(key))
