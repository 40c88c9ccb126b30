"""From the settings to the engine whose outputs servers decode."""

from __future__ import annotations

import os
import sys

from ..config.settings import Settings
from ..engine.engine import ModelEngine
from ..flow.errors import UsageError
from .child import Child, command
from .engine import VllmEngine
from .fleet import Fleet


def connect(settings: Settings, local: ModelEngine) -> VllmEngine:
    """Find the servers, and see that they have the base model of the local engine.

    Raises:
        UsageError: the settings do not fit; a server does not answer, or reads less.
        FlowtuneError: a server has another base model or dtype.
    """
    chosen = settings.engine.vllm
    if not chosen.urls and chosen.program is None:
        raise UsageError(
            "engine.rollouts = 'vllm' needs engine.vllm.urls, such as ['http://127.0.0.1:8000'], or"
            " engine.vllm.program, to start a server with"
        )
    if chosen.urls and chosen.program is not None:
        raise UsageError("engine.vllm.urls is for servers that run already; unset .program")
    if settings.model.quantization != "none":
        raise UsageError(
            f"engine.rollouts = 'vllm' needs model.quantization = 'none': no server computes the"
            f" same as '{settings.model.quantization}' does here"
        )
    urls = [_checked(url) for url in chosen.urls]
    key = _key(chosen.key)
    child = _start(settings, local) if chosen.program is not None else None
    fleet = Fleet(urls if child is None else [child.url], key, chosen.timeout)
    try:
        return VllmEngine(local, fleet, child)
    except BaseException:
        fleet.close()
        if child is not None:
            child.close()
        raise


def _start(settings: Settings, local: ModelEngine) -> Child:
    """Start a server of the local engine's base model."""
    chosen = settings.engine.vllm
    assert chosen.program is not None
    words = command(
        chosen.program,
        str(getattr(local.adapters.model, "name_or_path", "")),
        dtype=settings.model.dtype,
        context=local.tokens.context,
        nodes=len(local.adapters.nodes),
        rank=settings.adapter.rank,
        processor=local.adapters.model.device.type == "cpu",
        options=chosen.options,
    )
    print("starting a server of vLLM", file=sys.stderr, flush=True)
    return Child(words, chosen.timeout)


def _checked(url: str) -> str:
    """A server's URL without a path."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"engine.vllm.urls: '{url}' does not begin with http:// or https://")
    return url.rstrip("/").removesuffix("/v1")


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in os.environ:
        raise UsageError(
            f"engine.vllm.key = '{name}': there is no such environment variable. It has the key,"
            " so that no settings file does"
        )
    return os.environ[name]
