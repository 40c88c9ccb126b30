"""A model of another server that plays a node: how it is declared, and what asking it is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from .effect import EffectOptions
from .errors import UsageError
from .numbers import real_number
from .request import Answer, Request

SECONDS = 60.0
RETRIES = 3
MILLION = 1_000_000


@dataclass
class Spent:
    """What one process has asked of an endpoint; what is answered from memory is not."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None

    def plus(self, other: Spent) -> Spent:
        """Both together; a cost that is not known counts as nothing beside one that is."""
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Spent(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            sum(known) if known else None,
        )

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", cost {self.cost:.6g}"
        return (
            f"{self.requests} requests, {self.input_tokens} input and {self.output_tokens} output"
            f" tokens{cost}"
        )


class Elsewhere(Protocol):
    """Answers a node's requests in place of the engine; an answer is kept as an effect's is.

    Attributes:
        spent: what this process has asked.
    """

    spent: Spent

    @property
    def name(self) -> str:
        """The model's, as it is shown."""

    @property
    def options(self) -> EffectOptions:
        """Time-out and retries of a request."""

    def body(self, request: Request) -> dict[str, Any]:
        """All that the answer depends on, as JSON values.

        Raises:
            UsageError: it cannot be asked so.
        """

    async def fetch(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the other server answers, as JSON values; raises what may pass."""

    def answer(self, request: Request, fetched: Mapping[str, Any]) -> Answer:
        """The engine's answer that ``fetched`` stands for."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint, as the setting ``model`` of a node declares it.

    Args:
        url: up to "/v1".
        name: of the model there.
        key: the environment variable that holds the key; None is no key.
        timeout: seconds of one attempt; 0 is no limit.
        retries: further attempts after an error that may pass.
        price: dollars, say, per million tokens: of ``input`` and ``output``.
        options: further fields of each request, such as ``reasoning_effort``; they override ours.
    """

    url: str
    name: str
    key: str | None = None
    timeout: float = SECONDS
    retries: int = RETRIES
    price: Mapping[str, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, declared: Mapping[str, Any]) -> Endpoint:
        """An endpoint as settings declare it.

        Raises:
            UsageError: what is wrong with it. A key, which does not belong there, is not repeated.
        """
        known = tuple(cls.__dataclass_fields__)
        for option in declared:
            if option not in known:
                raise UsageError(f"has no '{option}'; an endpoint has {', '.join(known)}")
        for needed in ("url", "name"):
            if not isinstance(declared.get(needed), str) or not declared[needed]:
                raise UsageError(f"needs a {needed}, a text")
        _check_url(declared["url"])
        key = declared.get("key")
        if key is not None and not (
            isinstance(key, str) and re.fullmatch(r"[A-Z_][A-Z0-9_]*", key)
        ):
            raise UsageError(
                "has a key that is no name of an environment variable, in capitals: keys are read"
                ' from the environment alone, key = "OPENAI_API_KEY"'
            )
        made = cls(**{**declared, "url": declared["url"].rstrip("/")})
        made._check_numbers()
        return made

    def _check_numbers(self) -> None:
        for name, value in (("timeout", self.timeout), ("retries", self.retries)):
            if _number(value, name) < 0 or (name == "retries" and int(value) != value):
                raise UsageError(f"has {name} = {value!r}, which must be a number of 0 or more")
        if self.price is not None:
            if not isinstance(self.price, Mapping) or set(self.price) != {"input", "output"}:
                raise UsageError("needs both in its price: {input = 0.5, output = 1.5}")
            for name, value in self.price.items():
                if _number(value, f"price.{name}") < 0:
                    raise UsageError(f"has price.{name} = {value!r}, which must be 0 or more")
        if not isinstance(self.options, Mapping):
            raise UsageError(f"has options = {self.options!r}, which must be a table")

    def secret(self) -> str | None:
        """The key, from the environment.

        Raises:
            UsageError: the variable is not set.
        """
        return key_from_environment(self.key, self.url)

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """What these tokens cost; None where no price is declared."""
        if self.price is None:
            return None
        spent = self.price["input"] * input_tokens + self.price["output"] * output_tokens
        return spent / MILLION


def key_from_environment(variable: str | None, url: str) -> str | None:
    """The key of a server; None where no variable is declared to hold it.

    Raises:
        UsageError: the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UsageError(
            f"the environment variable {variable} is not set; it is to hold the key for {url}"
        )
    return key


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"needs a url that begins with http:// or https://, not {url!r}")
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "has a url with a user, a password or a query: a key belongs into the environment"
            " variable that 'key' names"
        )


def _number(value: Any, name: str) -> float:
    try:
        return real_number(value)
    except ValueError as error:
        raise UsageError(f"has a {name} that {error}") from None
