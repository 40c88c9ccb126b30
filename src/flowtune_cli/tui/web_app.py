"""The application as it runs behind a web page: read-only.

    python -m flowtune_cli.tui.web_app PATH run|runs

Keys and pasted text come from a browser. Export, the command palette (whose commands save and
quit), downloads and links are disabled, and the process refuses to open files for writing, to start
programs and to use the network, whatever code tries it.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

from .app import InspectApp
from .dialogs.ask_path import AskPath

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = (
    "ctypes.",
    "ftplib.",
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.startfile",
    "os.symlink",
    "os.system",
    "os.truncate",
    "os.unlink",
    "os.utime",
    "pty.",
    "shutil.",
    "smtplib.",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.",
    "urllib.",
    "webbrowser.",
)


class WebInspectApp(InspectApp):
    """``InspectApp`` without anything that acts outside its own screen."""

    ENABLE_COMMAND_PALETTE = False

    def on_mount(self) -> None:
        # Before the first key, and after everything that starting up needs.
        sys.addaudithook(refuse)

    async def push_screen_wait(self, screen: Any, **more: Any) -> Any:
        if isinstance(screen, AskPath):
            self.notify("Export is disabled in a browser.", severity="warning")
            return None
        return await super().push_screen_wait(screen, **more)

    def open_url(self, url: str, *, new_tab: bool = True) -> None:
        self.notify(url, title="Links are not opened here", markup=False)

    def deliver_text(self, *_: Any, **__: Any) -> None:
        return None

    def deliver_binary(self, *_: Any, **__: Any) -> None:
        return None


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """A Python audit hook that allows only reading.

    Raises:
        PermissionError: the event is not a read.
    """
    if event == "open":
        _, mode, flags = arguments
        if not (flags or 0) & _WRITING and not set(mode or "") & set("wax+"):
            return
    elif event == "sqlite3.connect":
        path = str(arguments[0])
        if path.startswith("file:") and path.endswith(("mode=ro", "immutable=1")):
            return
    elif not event.startswith(_REFUSED):
        return
    raise PermissionError(
        errno.EACCES, f"{event} is refused in the web application", str(arguments[:1])
    )


def main() -> None:
    path, kind = sys.argv[1:]
    WebInspectApp(Path(path), is_run=kind == "run").run()


if __name__ == "__main__":
    main()
