"""From the settings to an engine whose outputs servers decode."""

from __future__ import annotations

import os

from ..config.settings import Settings
from ..engine.engine import ModelEngine
from ..flow.errors import UsageError
from .engine import VllmEngine
from .fleet import Fleet


def connect(settings: Settings, local: ModelEngine) -> VllmEngine:
    """Find the servers, and see that they have the base model of the local engine.

    Raises:
        UsageError: the settings do not fit; a server does not answer, or reads less.
        FlowtuneError: a server has another base model or dtype.
    """
    chosen = settings.engine.vllm
    if not chosen.urls:
        raise UsageError(
            "engine.rollouts = 'vllm' needs engine.vllm.urls, such as ['http://127.0.0.1:8000']"
        )
    if settings.model.quantization != "none":
        raise UsageError(
            f"engine.rollouts = 'vllm' needs model.quantization = 'none': no server computes the"
            f" same as '{settings.model.quantization}' does here"
        )
    fleet = Fleet(chosen.urls, _key(chosen.key), chosen.timeout)
    try:
        return VllmEngine(local, fleet)
    except BaseException:
        fleet.close()
        raise


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in os.environ:
        raise UsageError(
            f"engine.vllm.key = '{name}': there is no such environment variable. It has the key,"
            " so that no settings file does"
        )
    return os.environ[name]
