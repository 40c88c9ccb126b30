"""The packages of the extra ``gateway``, or an error that names it."""

from __future__ import annotations

from ..flow.errors import missing_package

try:
    import httpx2
    import openai
    import starlette
    import uvicorn
except ImportError as error:
    raise missing_package("a program on the openai client", error.name or "", "gateway") from error

__all__ = ["httpx2", "openai", "starlette", "uvicorn"]
