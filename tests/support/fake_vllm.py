"""A server that answers as vLLM does, on a tiny model, by plain forward passes of its own.

It can be ended and started again on the same port, and has the faults that servers have.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from safetensors.torch import load_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.testing.tiny_model import plain_logits

BASE = "tiny"
SLOTS = tuple(f"slot{number}" for number in range(12))


@dataclass
class Faults:
    """What goes wrong.

    Args:
        stale: adapters have the weights of the one that was loaded before under a name with the
            same node.
        base: adapters have no effect.
        forgets: so many completions from now on, one adapter is forgotten each time.
        dies: the server ends in the middle of the completion of this number, counted from 0.
        status: every completion is answered by this status.
        names: the model that answers say they come from.
        last_slot: the base model's outputs are those of the adapter that was loaded last, as vLLM's
            on a processor may be.
        stops: outputs with stop strings end after so many tokens, as if one had come.
    """

    stale: bool = False
    base: bool = False
    forgets: bool = False
    dies: int | None = None
    status: int | None = None
    names: str | None = None
    last_slot: bool = False
    stops: int | None = None


@dataclass
class Seen:
    """What the server was asked."""

    completions: list[dict[str, Any]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)


class FakeVllm:
    """The server; it holds no adapter at its start.

    Args:
        loaded: a tiny model, which stays as it is.
        settings: of the adapters; their rank is the largest that it takes.
        context: that it tells.
        key: without which it says nothing.
        port: of the loopback; 0 is a free one.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: AdapterSettings,
        *,
        context: int | None = None,
        key: str | None = None,
        port: int = 0,
    ) -> None:
        model = copy.deepcopy(loaded.model)
        self._tokenizer = copy.deepcopy(loaded.tokenizer)
        self._adapters = Adapters(model, {slot: {} for slot in SLOTS}, settings, 0)
        self._rank = settings.rank
        self._context = loaded.context if context is None else context
        self._key = key
        self.faults = Faults()
        self.listing: Any = None  # of its models, where it is none of vLLM
        self.seen = Seen()
        self._weights: dict[str, Mapping[str, torch.Tensor]] = {}
        self._before: dict[str, Mapping[str, torch.Tensor]] = {}
        self._paths: dict[str, str] = {}
        self.number = 0
        self.port = port
        self.starts = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def adapters(self) -> list[str]:
        """The names of those that it holds."""
        return list(self._paths)

    # As a process

    def start(self) -> None:
        """Start as a new process would, on the port that it had."""
        self.starts += 1
        self._weights.clear()
        self._paths.clear()
        self._before.clear()
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", self.port))
        self.port = made.getsockname()[1]
        self._socket = made
        app = Starlette(
            routes=[
                Route("/health", lambda request: PlainTextResponse("")),
                Route("/v1/models", self._models),
                Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(
            app, log_config=None, access_log=False, http="h11", lifespan="off", loop="asyncio"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([made],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.002)

    def kill(self) -> None:
        """End it; requests under way get no answer."""
        self._server.force_exit = True
        self._server.should_exit = True
        self.wait()

    def wait(self) -> None:
        """Until it has ended."""
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> FakeVllm:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    # As an API

    async def _models(self, request: Request) -> Response:
        if self._key is not None and request.headers.get("authorization") != f"Bearer {self._key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        if self.listing is not None:
            return JSONResponse(self.listing)
        base = {"id": BASE, "root": BASE, "parent": None, "max_model_len": self._context}
        others = [{"id": n, "root": p, "parent": BASE} for n, p in self._paths.items()]
        return JSONResponse({"object": "list", "data": [base, *others]})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self._paths:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").exists():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self._rank:
            return _error(500, f"LoRA rank {rank} is greater than max_lora_rank {self._rank}.")
        self.seen.loaded.append(name)
        weights = load_file(path / "adapter_model.safetensors")
        node = name.split("-")[-3]
        self._weights[name] = self._before.get(node, weights) if self.faults.stale else weights
        self._before[node] = weights
        self._paths[name] = str(path)
        return PlainTextResponse("Success")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if name not in self._paths:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        self.seen.unloaded.append(name)
        del self._paths[name], self._weights[name]
        return PlainTextResponse("Success")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        number, self.number = self.number, self.number + 1
        if self.faults.status is not None:
            return _error(self.faults.status, "something is wrong")
        if number == self.faults.dies:
            self._server.force_exit = True
            self._server.should_exit = True
            await asyncio.sleep(60)
        if self.faults.forgets and self._paths:
            self._paths.pop(next(iter(self._paths)))
        name = body["model"]
        if name != BASE and name not in self._paths:
            return _error(404, f"The model `{name}` does not exist.")
        self.seen.completions.append(body)
        slot = None
        if name != BASE and not self.faults.base:
            slot = SLOTS[0]
            self._adapters.set_state(slot, self._weights[name])
        elif name == BASE and self.faults.last_slot and self._weights:
            slot = SLOTS[0]
            self._adapters.set_state(slot, list(self._weights.values())[-1])
        choice = self._decode(slot, body)
        return JSONResponse({"model": self.faults.names or name, "choices": [choice]})

    @torch.inference_mode()
    def _decode(self, slot: str | None, body: Mapping[str, Any]) -> dict[str, Any]:
        assert body["ignore_eos"]
        assert body["return_token_ids"]
        assert body["return_tokens_as_token_ids"]
        ids, tokens = list(body["prompt"]), []
        assert len(ids) + body["max_tokens"] <= self._context
        draw = random.Random(body["seed"])
        chosen_logprobs, tops = [], []
        for _ in range(body["max_tokens"]):
            logprobs = plain_logits(self._adapters, slot, ids + tokens)[-1].log_softmax(-1)
            token = int(logprobs.argmax())
            if body["temperature"] > 0:
                weights = (logprobs / body["temperature"]).exp().tolist()
                token = draw.choices(range(len(weights)), weights)[0]
            best = logprobs.topk(max(body["logprobs"], 1))
            top = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            top = {token: float(logprobs[token]), **(top if body["logprobs"] else {})}
            tokens.append(token)
            chosen_logprobs.append(float(logprobs[token]))
            tops.append({f"token_id:{each}": value for each, value in top.items()})
            text = self._tokenizer.decode(tokens)
            if token in body["stop_token_ids"] or any(stop in text for stop in body["stop"]):
                break
            if body["stop"] and len(tokens) == self.faults.stops:
                break
        told = {"token_logprobs": chosen_logprobs, "top_logprobs": tops}
        return {"index": 0, "token_ids": tokens, "logprobs": told}


PROGRAM = """\
#!{python}
import sys, threading
sys.path[:0] = {path!r}
from flowtune_cli.config.settings import AdapterSettings, ModelSettings
from flowtune_cli.models.loading import load_model
from flowtune_cli.registry import load_registry
from support.fake_vllm import FakeVllm
if "--odd" in sys.argv:
    sys.exit("no such option: --odd")
flags = ("--enable-lora", "--no-enable-chunked-prefill")
words = [word for word in sys.argv[3:] if word not in flags]
given = dict(zip(words[::2], words[1::2]))
settings = ModelSettings(name=sys.argv[2], device="cpu", dtype=given["--dtype"])
loaded = load_model(settings, load_registry())
adapters = AdapterSettings(rank=int(given["--max-lora-rank"]))
context, port = int(given["--max-model-len"]), int(given["--port"])
server = FakeVllm(loaded, adapters, context=context, port=port)
threading.Event().wait()
"""


def write_program(target: Path) -> Path:
    """Write what stands for the command ``vllm``."""
    path = [each for each in sys.path if each]
    target.write_text(PROGRAM.format(python=sys.executable, path=path))
    target.chmod(0o755)
    return target


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)
