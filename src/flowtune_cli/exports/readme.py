"""The README of an exported folder: how to play its nodes without flowtune."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from .vllm import serve_command, served_nodes, shell


def folder_readme(flow: Mapping[str, Any]) -> str:
    """The README of a folder with adapters, or with a merged model.

    Args:
        flow: the contents of flow.json.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flowtune_cli.exports", "."),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    nodes, command = flow["nodes"], serve_command(flow)
    return environment.get_template("README.md.jinja").render(
        flow=flow,
        kinds={node["kind"] for node in nodes.values()},
        calls={name: _call(name, node) for name, node in nodes.items()},
        contexts=[name for name, node in nodes.items() if node["context_without_adapter"]],
        elsewhere={name: _model(node) for name, node in nodes.items() if node["model"]},
        coded={name: node["code"] for name, node in nodes.items() if node["code"]},
        command=None if command is None else shell(command),
        served=served_nodes(flow),
    )


def _model(node: Mapping[str, Any]) -> str:
    """The other model that plays a node."""
    model = node["model"]
    return model if isinstance(model, str) else f"{model.get('name')} at {model.get('url')}"


def _call(name: str, node: Mapping[str, Any]) -> str:
    """A call of a node in Python, with the inputs that its prompts show."""
    function, given = node["kind"], [repr(name)]
    if function == "chat":
        given.append('[{"role": "user", "content": "..."}]')
    elif function == "rank":
        given.append('["...", "..."]')
        if node["features"]:
            functions = ", ".join(f'"{feature}": ...' for feature in node["features"])
            given.append(f"features={{{functions}}}")
    names = [field for field in _inputs(node) if function != "rank" or field != "candidate"]
    return f"{function}({', '.join([*given, *(f'{name}=...' for name in names)])})"


def _inputs(node: Mapping[str, Any]) -> list[str]:
    """The inputs that a node's prompts and texts show, in their order."""
    texts = []
    for template in [node.get("prompt"), *(f["prompt"] for f in node.get("factors", ()))]:
        if isinstance(template, Mapping):
            texts += [template.get(p, "") for p in ("frozen_prefix", "system", "user", "prefill")]
    texts += [factor["text"] for factor in node.get("factors", ())]
    fields = [name for text in texts for _, name, _, _ in Formatter().parse(text) if name]
    return list(dict.fromkeys(f.replace("[", ".").partition(".")[0] for f in fields))
