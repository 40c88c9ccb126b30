"""The command that serves a flow's nodes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.exports.vllm import serve_command, shell


def flow(nodes: dict[str, tuple[int, bool]], **base: Any) -> dict[str, Any]:
    """With a rank for each node, and whether it reads a context without its adapter."""
    model = {"loaded_from": "some/model", "revision": None, "gguf_file": None, "dtype": "float32"}
    entries = {
        name: {"adapter": {"path": name, "rank": rank}, "context_without_adapter": context}
        for name, (rank, context) in nodes.items()
    }
    template = {"file": "chat_template.jinja"}
    return {
        "base_model": {**model, "quantization": "none", **base},
        "chat_template": template,
        "merged": None,
        "nodes": {**entries, "frozen": {"adapter": None, "context_without_adapter": False}},
    }


@pytest.mark.parametrize(("rank", "most"), [(8, None), (16, None), (17, "32"), (400, "512")])
def test_adapters(rank: int, most: str | None) -> None:
    asked = flow({"query": (2, False), "answer": (rank, False)}, revision="abc")
    command = serve_command(asked)
    assert command is not None
    assert command[:5] == ["vllm", "serve", "some/model", "--revision", "abc"]
    modules = command[command.index("--lora-modules") + 1 :]
    assert modules == ["query=query", "answer=answer"]
    assert command[command.index("--max-loras") + 1] == "2"
    given = command[command.index("--max-lora-rank") + 1] if most else None
    assert given == most
    assert ("--max-lora-rank" in command) == (most is not None)
    # By itself vLLM takes float16 for float32, and penalties from the model's own files.
    assert command[command.index("--dtype") + 1] == "float32"
    assert command[command.index("--generation-config") + 1] == "vllm"


def test_from_elsewhere(tmp_path: Path) -> None:
    target = tmp_path / "a b"
    command = serve_command(flow({"query": (2, False)}), target)
    assert command is not None
    assert command[-1] == f"query={target}/query"
    assert command[command.index("--chat-template") + 1] == f"{target}/chat_template.jinja"
    assert shlex.split(shell(command).replace("\\\n", " ")) == command
    assert shell(command).count("\\\n") == sum(part.startswith("--") for part in command)


def test_what_cannot_be_served() -> None:
    command = serve_command(flow({"query": (2, False), "behind": (64, True)}))
    assert command is not None
    assert command[-1] == "query=query"
    assert "--max-lora-rank" not in command
    assert serve_command(flow({"behind": (2, True)})) is None
    assert serve_command(flow({"query": (2, False)}, gguf_file="model.gguf")) is None


def test_four_bits() -> None:
    command = serve_command(flow({"query": (2, False)}, quantization="nf4"))
    assert command is not None
    assert command[command.index("--quantization") + 1] == "bitsandbytes"
