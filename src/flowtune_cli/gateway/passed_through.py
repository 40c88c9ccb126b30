"""Models that are passed through to another server: asked as effects, so journaled and replayed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httpx2

from ..flow.endpoint import key_from_environment
from ..flow.errors import UsageError

SECONDS = 600.0
"""How long one attempt may take, unless training.effect_timeout is shorter."""

PASSING = (408, 409, 425, 429)
"""Errors that a later attempt may not meet again, beside those of the server itself."""


class UpstreamError(Exception):
    """Another server did not answer as it should.

    Args:
        status: of its answer; 502 where there was none.
        body: its answer, or what went wrong.
    """

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body

    def __str__(self) -> str:
        return f"the other server: {self.status}: {self.body}"


@dataclass(frozen=True)
class PassedThrough:
    """A model of another server.

    Args:
        base_url: up to "/v1", as the ``openai`` client has it.
        model: its name there; None is the name that it is declared by.
        api_key_env: the environment variable that holds the key; None is no key.
    """

    base_url: str
    model: str | None = None
    api_key_env: str | None = None

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> PassedThrough:
        """A model as settings declare it.

        Raises:
            UsageError: an option is unknown, missing or no text, or the key is not set.
        """
        known = ("base_url", "model", "api_key_env")
        for option, value in options.items():
            if option not in known:
                raise UsageError(
                    f"model '{name}' has no option '{option}'. Known: {', '.join(known)}."
                )
            if not isinstance(value, str) or not value:
                raise UsageError(f"model '{name}': {option} must be a text, and is {value!r}")
        url = options.get("base_url", "")
        if not url.startswith(("http://", "https://")):
            raise UsageError(
                f"model '{name}': base_url must begin with http:// or https://, and is {url!r}"
            )
        made = cls(url.rstrip("/"), options.get("model"), options.get("api_key_env"))
        made.key()
        return made

    def key(self) -> str | None:
        """The key, from the environment.

        Raises:
            UsageError: the variable is not set.
        """
        return key_from_environment(self.api_key_env, self.base_url)


@dataclass
class Count:
    """What one model was asked: requests that were answered, and tokens as its server counts."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Forwarder:
    """Forwards requests.

    Attributes:
        models: by the name that programs use.
        counts: what was asked by that name; what is answered from the journal is not.
    """

    models: Mapping[str, PassedThrough] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    async def forward(self, name: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """The effect: the status and the body of the other server's answer.

        Args:
            name: the model's own name here.
            url: the whole address, as it tells one server from another where answers are kept.

        Raises:
            UpstreamError: it cannot be reached, or says that it is to be tried again.
        """
        key = self.models[name].key()
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        try:
            async with httpx2.AsyncClient(verify=certificates(), timeout=SECONDS) as client:
                response = await client.post(url, json=body, headers=headers)
        except httpx2.HTTPError as error:
            raise UpstreamError(502, f"{url}: {type(error).__name__}: {error}") from None
        status = response.status_code
        if status in PASSING or status >= 500:
            raise UpstreamError(status, response.text[:2000])
        try:
            answer = response.json()
        except ValueError:
            raise UpstreamError(502, f"{url} answered {status} with what is no JSON") from None
        if status < 400:
            self._count(name, answer)
        return {"status": status, "body": answer}

    def _count(self, name: str, answer: Any) -> None:
        used = answer.get("usage") if isinstance(answer, dict) else None
        used = used if isinstance(used, dict) else {}
        with self._lock:
            count = self.counts.setdefault(name, Count())
            count.requests += 1
            count.prompt_tokens += _number(used, "prompt_tokens", "input_tokens")
            count.completion_tokens += _number(used, "completion_tokens", "output_tokens")


def _number(used: Mapping[str, Any], *names: str) -> int:
    return next((used[name] for name in names if type(used.get(name)) is int), 0)


@lru_cache(maxsize=1)
def certificates() -> Any:
    """Reading them takes tens of milliseconds."""
    return httpx2.create_ssl_context()
