"""What is said of a model into whose weights a node's adapter was merged, and when none can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..flow.adapters import why_untrained
from ..flow.errors import UsageError, unknown_name
from ..flow.node import Node
from .folder import About, flow_json
from .nodes import reads_contexts


def node_to_merge(about: About, nodes: Sequence[Node], name: str) -> Node:
    """The node of that name.

    Raises:
        UsageError: there is none, or a merged model would not answer as the node does.
    """
    found = {node.name: node for node in nodes}
    if name not in found:
        raise unknown_name("node", name, list(found))
    node, quantization = found[name], about.base_model["quantization"]
    if node.adapter_name is None:
        by = why_untrained(node) or (
            "it is played by"
            f" {'the base model alone' if node.uses_adapter else 'no language model'}"
        )
        raise UsageError(f"node '{name}' has no adapter that could be merged: {by}")
    if reads_contexts(node):
        raise UsageError(
            f"node '{name}' reads a context (frozen_prefix) with the adapter off. A merged model"
            " would read it with the adapter, and answer otherwise. Export it instead:"
            " flowtune export RUN --adapters DIR; the README there has the code that plays it."
        )
    if quantization != "none":
        raise UsageError(
            f"the base model's weights are quantised ('{quantization}'): quantised anew with the"
            f" adapter of node '{name}' in them, they would be another model. Export the adapter"
            " instead: flowtune export RUN --adapters DIR"
        )
    return node


def merged_flow(about: About, checkpoint: Path, node: Node, dtype: str) -> dict[str, Any]:
    """The contents of flow.json beside the merged model.

    Args:
        dtype: of its weights.
    """
    here = dict.fromkeys(("gguf_file", "revision", "commit", "sha256"))
    model = {**about.base_model, **here, "loaded_from": ".", "dtype": dtype}
    merged = {"node": node.name, "base_model": dict(about.base_model)}
    return flow_json(replace(about, base_model=model), checkpoint, [node], merged=merged)
