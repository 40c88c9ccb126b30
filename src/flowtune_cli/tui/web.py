"""``flowtune inspect --web``: the application in a browser of this machine.

textual-serve runs the application (the read-only ``web_app.py``) in its own process for each page,
and sends its screen and the page's keys over a WebSocket. Whoever reaches that socket controls the
application, so only our own page may open it: a request must name this machine as its host (a
foreign name that resolves to it is refused), must not come from another site's page, and must have
the token of the address that is printed at the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import html
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from textual_serve.server import Server

from ..flow.errors import FlowtuneError

_ADDRESS = "127.0.0.1"
_HOSTS = ("localhost", _ADDRESS, "::1")
_PAGE = Path(__file__).with_name("web_page.html")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self';"
        " img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none';"
        " form-action 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class InspectServer(Server):
    """Serves runs to this machine's browsers.

    Args:
        path: the directory of a run, or a directory of runs.
        is_run: whether it is a run.
        port: 0 picks a free one.
        on_ready: is called with the address once it can be opened.
    """

    def __init__(
        self, path: Path, *, is_run: bool, port: int, on_ready: Callable[[str], None]
    ) -> None:
        command = [sys.executable, "-m", "flowtune_cli.tui.web_app", str(path.absolute())]
        super().__init__(_shell([*command, "run" if is_run else "runs"]), _ADDRESS, port)
        self.token = secrets.token_urlsafe(16)
        self._on_ready = on_ready
        # A browser keeps cookies by host, not by port.
        self._cookie = f"flowtune-inspect-{secrets.token_hex(4)}"

    def initialize_logging(self) -> None:
        """Do not configure logging: stdout is for data."""

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/", self.handle_index),
                web.get("/page.js", _script),
                web.get("/ws", self.handle_websocket),
                web.static("/static", self.statics_path),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        return app

    async def handle_index(self, request: web.Request) -> web.Response:  # type: ignore[override]
        """The page; the token moves from the address into a cookie."""
        if "token" in request.query:
            redirect = web.HTTPSeeOther("/")
            redirect.set_cookie(self._cookie, self.token, httponly=True, samesite="Strict")
            raise redirect
        socket = html.escape(f"ws://{request.host}/ws")
        page = _PAGE.read_text(encoding="utf-8").replace("$websocket", socket)
        return web.Response(text=page, content_type="text/html")

    def serve(self, debug: bool = False) -> None:
        """Serve until Ctrl-C or SIGTERM.

        Raises:
            FlowtuneError: the port is taken.
        """
        # Errors of the application's process go to stdout, which is for data.
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        runner = web.AppRunner(await self._make_app(), access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, self.host, self.port).start()
            except OSError as error:
                raise FlowtuneError(
                    f"cannot serve on port {self.port}: {error.strerror or error}. Choose another"
                    " one with --port; 0 picks a free one."
                ) from error
            port = runner.addresses[0][1]
            self._on_ready(f"http://{self.host}:{port}/?token={self.token}")
            stopped = asyncio.Event()
            with contextlib.suppress(NotImplementedError):  # on Windows
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
            await stopped.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Accept requests of our own page only."""
        host = request.url.host or ""
        if host not in _HOSTS:
            raise web.HTTPForbidden(text="this is served to this machine, by the name of localhost")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{request.host}":
            raise web.HTTPForbidden(text="this is served to its own page alone")
        if request.path == "/ws" and origin is None:
            raise web.HTTPForbidden(text="this is served to a page alone")
        token = request.query.get("token") or request.cookies.get(self._cookie, "")
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise web.HTTPForbidden(
                text="open the address that 'flowtune inspect --web' printed: it has a token"
            )
        return await handler(request)


def serve(path: Path, *, is_run: bool, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve a run, or a directory of runs, until Ctrl-C."""
    InspectServer(path, is_run=is_run, port=port, on_ready=on_ready).serve()


async def _script(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(_PAGE.with_suffix(".js"))


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _shell(command: list[str]) -> str:
    """A command for this system's shell, which textual-serve starts."""
    return subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
