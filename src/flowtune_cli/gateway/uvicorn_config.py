"""How uvicorn serves the apps, in training and for others: plain HTTP, and no word in the logs."""

from __future__ import annotations

from typing import Any

import uvicorn

BACKLOG = 2048
"""Connections that wait to be taken up."""


def uvicorn_config(app: Any, *, stopping_seconds: int, **more: Any) -> uvicorn.Config:
    """The configuration.

    Args:
        stopping_seconds: how long what runs may take when the server is stopped.
        more: further options of uvicorn.
    """
    return uvicorn.Config(
        app,
        access_log=False,
        backlog=BACKLOG,
        http="h11",
        lifespan="off",
        log_config=None,
        loop="asyncio",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=stopping_seconds,
        ws="none",
        **more,
    )
