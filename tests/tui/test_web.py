"""Who gets at the page, and what the page is made of."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual_serve", reason="needs the extra 'web'")

from aiohttp import ClientSession, CookieJar, WSServerHandshakeError, web

from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.tui.web import InspectServer

Asks = Callable[[ClientSession, str], Awaitable[Any]]


def make_server(path: Path = Path("runs"), port: int = 0) -> InspectServer:
    return InspectServer(path, is_run=False, port=port, on_ready=lambda address: None)


def ask(question: Asks, *, known: bool = True) -> Any:
    """Ask a server that runs; ``known`` has its cookie."""

    async def asked() -> Any:
        server = make_server()
        runner = web.AppRunner(await server._make_app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
                if known:
                    await session.get(f"{address}/?token={server.token}")
                return await question(session, address)
        finally:
            await runner.cleanup()

    return asyncio.run(asked())


def status(path: str, *, known: bool = True, method: str = "GET", **headers: str) -> int:
    async def question(session: ClientSession, address: str) -> int:
        sent = {name: value.replace("$address", address) for name, value in headers.items()}
        async with session.request(method, address + path, headers=sent) as response:
            return response.status

    return int(ask(question, known=known))


def test_the_token_opens_the_page_and_goes_out_of_sight() -> None:
    async def question(session: ClientSession, address: str) -> Any:
        async with session.get(f"{address}/") as response:
            return response.status, str(response.url), dict(response.headers), await response.text()

    code, url, headers, page = ask(question)
    assert (code, "token" in url) == (200, False)
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert f'data-session-websocket-url="ws://{url.split("/")[2]}/ws"' in page
    linked = re.findall(r"""(?:src|href)=["']([^"']+)|url\(["']?([^"')]+)""", page)
    assert linked
    assert all(re.match(r"/\w|/$|data:,$", a or b) for a, b in linked)
    assert "<script>" not in page


@pytest.mark.parametrize(
    ("path", "known", "headers", "expected"),
    [
        ("/", True, {}, 200),
        ("/", False, {}, 403),
        ("/?token=wrong", False, {}, 403),
        ("/static/js/textual.js", True, {}, 200),
        ("/static/js/textual.js", False, {}, 403),
        ("/static/js", True, {}, 403),
        ("/page.js", True, {}, 200),
        ("/static/../web.py", True, {}, 404),
        ("/", True, {"Host": "localhost:8000"}, 200),
        ("/", True, {"Host": "[::1]:8000"}, 200),
        ("/", True, {"Host": "evil.example"}, 403),
        ("/", True, {"Host": "127.0.0.1.evil.example"}, 403),
        ("/", True, {"Origin": "$address"}, 200),
        ("/", True, {"Origin": "http://evil.example"}, 403),
        ("/", True, {"Origin": "http://127.0.0.1:1"}, 403),
        ("/", True, {"Origin": "null"}, 403),
        ("/ws", True, {}, 403),
        ("/download/x", True, {}, 404),
    ],
)
def test_who_gets_in(path: str, known: bool, headers: dict[str, str], expected: int) -> None:
    if "Host" in headers:
        headers = {**headers, "Cookie": "x"} if not known else headers
    assert status(path, known=known, **headers) == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_sent(method: str) -> None:
    assert status("/", method=method) == 405


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_another_sites_page_gets_no_socket(origin: str) -> None:
    async def question(session: ClientSession, address: str) -> int:
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect(f"{address}/ws", headers={"Origin": origin})
        return refused.value.status

    assert ask(question) == 403


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def question(session: ClientSession, address: str) -> str:
        port = int(address.rpartition(":")[2])
        with pytest.raises(FlowtuneError) as error:
            await make_server(port=port)._serve()
        return str(error.value)

    assert "--port" in ask(question)


def test_the_command_keeps_a_path_together(tmp_path: Path) -> None:
    command = make_server(tmp_path / "my runs; rm x").command
    assert f"'{tmp_path}/my runs; rm x'" in command
