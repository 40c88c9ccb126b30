"""One server of vLLM over HTTP: its models, its adapters, and completions of token ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from ..engine.packing import Ids
from ..flow.errors import FlowtuneError, UsageError

_SOON = 30.0
"""Seconds within which a server that is there answers what takes it no computing."""


class Gone(Exception):
    """A server does not answer, or is about to end; it may come back."""


class UnknownModel(Exception):
    """A server does not know a model or adapter by this name."""


@dataclass(frozen=True)
class Ask:
    """An output to be decoded.

    Args:
        prompt: its token ids.
        max_tokens: no more are decoded.
        end: an output ends with the first of these tokens.
        stop: it may end with the first token that completes one of these strings, too.
        temperature, top_p, seed: of a sample; at temperature 0 the output is the greedy one.
        top: of so many of the likeliest tokens in each place the log-probability is wanted.
    """

    prompt: Ids
    max_tokens: int
    end: frozenset[int]
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top: int = 0


@dataclass(frozen=True)
class Written:
    """What a server decoded.

    Args:
        tokens: ids, the end included.
        logprobs: of each, in nats, over the full softmax at temperature 1.
        top: the likeliest tokens in each place with their log-probabilities; empty unless asked.
        server: the URL of the one that decoded it.
    """

    tokens: Ids
    logprobs: tuple[float, ...]
    top: tuple[Mapping[int, float], ...]
    server: str


@dataclass(frozen=True)
class Served:
    """What a server offers.

    Args:
        base: the name of the base model.
        context: longest prompt plus output; None if the server does not tell.
        adapters: by name, the directory that each was read from.
    """

    base: str
    context: int | None
    adapters: Mapping[str, str] = field(default_factory=dict)


class Server:
    """A server by its URL.

    Args:
        url: without "/v1".
        key: the API key that it wants, if it wants one.
        timeout: seconds within which an output has to be there.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.url = url
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # As many connections as there are requests: the server puts them into one batch.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=_SOON),
            limits=limits,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def served(self) -> Served:
        """What it offers now.

        Raises:
            Gone: it does not answer.
            UsageError: it is no server of vLLM.
        """
        found = await self._request("GET", "/v1/models", timeout=_SOON)
        try:
            cards = found.json()["data"]
            base = next(card for card in cards if card.get("parent") is None)
            adapters = {
                card["id"]: str(card.get("root"))
                for card in cards
                if card.get("parent") is not None
            }
            return Served(base["id"], base.get("max_model_len"), adapters)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
            raise UsageError(
                f"{self.url} lists no base model under /v1/models: is it a server of vLLM?"
            ) from None

    async def load(self, name: str, path: str) -> None:
        """Have it read an adapter.

        Raises:
            Gone: it does not answer.
            UsageError: it cannot; says what to change.
        """
        body = {"lora_name": name, "lora_path": path}
        found = await self._request("POST", "/v1/load_lora_adapter", body)
        if found.status_code == 200:
            return
        message = _message(found)
        if (await self.served()).adapters.get(name) == path:
            return  # names tell contents, so it is the same one
        raise UsageError(
            f"{self.url} does not load the adapter in {path}: {message}. Start vLLM with"
            " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, and --max-lora-rank of"
            " adapter.rank at least; and let it see this folder under the same path, by a shared"
            " file system where it is on another machine."
        )

    async def unload(self, name: str) -> None:
        """Have it forget an adapter, if it has it.

        Raises:
            Gone: it does not answer.
        """
        await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def complete(self, model: str, ask: Ask) -> Written:
        """Have an output decoded.

        Raises:
            Gone: it does not answer.
            UnknownModel: it has no such adapter.
            FlowtuneError: it refuses, or answers something else than was asked.
        """
        found = await self._request("POST", "/v1/completions", _body(model, ask))
        if found.status_code == 404:
            raise UnknownModel(_message(found))
        if found.status_code != 200:
            raise FlowtuneError(f"{self.url} refuses to decode: {_message(found)}")
        answer = found.json()
        if answer.get("model") != model:
            raise FlowtuneError(
                f"{self.url} was asked to decode by '{model}' and answers by"
                f" '{answer.get('model')}'"
            )
        return self._written(answer["choices"][0], ask)

    def _written(self, choice: Any, ask: Ask) -> Written:
        tokens = choice.get("token_ids")
        if not tokens or choice.get("logprobs") is None:
            raise FlowtuneError(
                f"{self.url} tells no token ids or log-probabilities: take vLLM 0.10.2 or newer"
            )
        values = choice["logprobs"]
        logprobs = tuple(-math.inf if v is None else float(v) for v in values["token_logprobs"])
        if len(tokens) != len(logprobs):
            raise FlowtuneError(
                f"{self.url} tells {len(logprobs)} log-probabilities for {len(tokens)} tokens"
            )
        top: tuple[Mapping[int, float], ...] = ()
        if ask.top:
            # Names are such as "token_id:17".
            top = tuple(
                {int(name.rpartition(":")[2]): float(value) for name, value in place.items()}
                for place in values["top_logprobs"]
            )
        return Written(tuple(tokens), logprobs, top, self.url)

    async def _request(
        self, method: str, path: str, body: Any = None, *, timeout: float | None = None
    ) -> httpx2.Response:
        limit = httpx2.USE_CLIENT_DEFAULT if timeout is None else timeout
        try:
            found = await self._client.request(method, path, json=body, timeout=limit)
        except httpx2.TransportError as error:
            raise Gone(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        if found.status_code in (401, 403):
            raise UsageError(
                f"{self.url} wants an API key: set engine.vllm.key to the name of the environment"
                f" variable that has it ({_message(found)})"
            )
        if found.status_code >= 500 and path != "/v1/load_lora_adapter":
            # An engine that has died; or one that ends while it computes.
            raise Gone(_message(found))
        return found


def _body(model: str, ask: Ask) -> dict[str, Any]:
    """A request, with all that the model's own generation_config.json would else set."""
    return {
        "model": model,
        "prompt": list(ask.prompt),
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": ask.seed,
        "stop": list(ask.stop),
        # What ends an output is said here alone.
        "stop_token_ids": sorted(ask.end),
        "ignore_eos": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "logprobs": ask.top,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def _message(found: httpx2.Response) -> str:
    """What an error says, on one line."""
    try:
        said = found.json()
        text = said.get("error", said) if isinstance(said, dict) else said
        text = text.get("message", text.get("detail", text)) if isinstance(text, dict) else text
    except ValueError:
        text = found.text[:500]
    return f"{found.status_code} {' '.join(str(text).split())}"
