"""What a server counts: requests, tokens, times, and what its engine has in hand."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from ..flow.chat import ChatAnswer
from ..runtime.shared_engine import SharedEngine
from .metrics import CONTENT_TYPE, Counter, Gauge, Histogram, Metric, exposition


class ServerMetrics:
    """See ``/metrics``.

    Args:
        engine: its requests and steps are shown.
        open_requests: how many requests are taken and not answered.
    """

    def __init__(self, engine: SharedEngine, open_requests: Callable[[], int]) -> None:
        self._requests = Counter(
            "flowtune_requests_total", "Requests by model and status.", ("model", "status")
        )
        self._read = Counter("flowtune_prompt_tokens_total", "Tokens of prompts.", ("model",))
        self._written = Counter(
            "flowtune_completion_tokens_total", "Tokens of answers.", ("model",)
        )
        self._seconds = Histogram(
            "flowtune_request_seconds", "Seconds until a request was answered.", ("model",)
        )
        self._all: list[Metric] = [
            self._requests,
            self._read,
            self._written,
            self._seconds,
            Gauge("flowtune_open_requests", "Requests that are being answered.", open_requests),
            Gauge(
                "flowtune_engine_running",
                "Requests of nodes that are being decoded.",
                lambda: engine.running,
            ),
            Gauge(
                "flowtune_engine_waiting",
                "Requests of nodes that wait for room.",
                lambda: engine.waiting,
            ),
            Gauge(
                "flowtune_engine_steps_total",
                "Steps of the engine, each a token for what is being decoded.",
                lambda: engine.steps,
                kind="counter",
            ),
        ]

    def end(self, model: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.add(model, str(status))
        self._seconds.observe(seconds, model)

    def answered(self, model: str, answer: ChatAnswer) -> None:
        """Count an answer's tokens."""
        self._read.add(model, by=answer.prompt_tokens)
        self._written.add(model, by=answer.completion_tokens)

    def response(self) -> Response:
        """What Prometheus reads."""
        return Response(exposition(self._all), 200, {"content-type": CONTENT_TYPE})
