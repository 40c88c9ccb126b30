"""Outputs decoded on servers of vLLM, while scoring, references and learning stay here."""

from importlib.util import find_spec

from ..flow.errors import missing_package

if find_spec("httpx2") is None:
    raise missing_package("engine.rollouts = 'vllm'", "httpx2", "vllm")
