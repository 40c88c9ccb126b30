"""The OpenAI-compatible door: programs on the ``openai`` client call the nodes of an episode."""

from importlib.util import find_spec

from ..flow.errors import missing_package

for _package in ("httpx2", "openai", "starlette", "uvicorn"):
    if find_spec(_package) is None:
        raise missing_package("a program on the openai client", _package, "gateway")
