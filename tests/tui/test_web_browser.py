"""``flowtune inspect --web`` in a real browser: a click opens an episode."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from report.stored_runs import sums_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1100,700",
)
ROW = 21
"""Pixels of a line of text at the page's font size."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
    pytest.mark.skipif(not importlib.util.find_spec("selenium"), reason="needs selenium"),
    pytest.mark.skipif(
        not importlib.util.find_spec("textual_serve"), reason="needs the extra 'web'"
    ),
]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A served run of 24 episodes, at a free port, as the command serves it."""
    run = sums_run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from flowtune_cli.tui.web import serve\n"
        "say = lambda address: print(address, file=sys.stderr, flush=True)\n"
        "serve(Path(sys.argv[1]), is_run=True, port=0, on_ready=say)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        yield server.stderr.readline().strip()
    finally:
        server.terminate()
        server.wait(300)
        server.stderr.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Terminal:
    """What the page gets from the application, and what a person does to it."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        browser.get("about:blank")
        browser.get_log("performance")  # of the page that the browser itself begins with
        self._shown = ""
        self.requested: list[str] = []

    def read(self) -> str:
        """All text that was drawn since it was last awaited."""
        for entry in self._browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.webSocketFrameReceived":
                frame = message["params"]["response"]
                if frame["opcode"] == 2:
                    self._shown += base64.b64decode(frame["payloadData"]).decode(errors="replace")
            elif message["method"] == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown)

    def awaits(self, text: str, act: Callable[[], object] = lambda: None) -> None:
        """Act, and wait until the application draws a text."""
        self.read()
        self._shown = ""
        act()
        end = time.monotonic() + 300
        while text not in self.read():
            assert time.monotonic() < end, f"no {text!r} in {self.read()[-2000:]!r}"
            time.sleep(0.1)

    def click(self, row: int) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self._browser)
        chain.w3c_actions.pointer_action.move_to_location(60, row * ROW + ROW // 2)
        chain.click().perform()

    def press(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self._browser).send_keys(key).perform()


def test_a_click_opens_an_episode(address: str, browser: Any, tmp_path: Path) -> None:
    terminal = Terminal(browser)
    terminal.awaits("references moved", lambda: browser.get(address))
    assert "token" not in browser.current_url
    terminal.awaits("the sum of 23", lambda: terminal.press("o"))
    # The first click goes to the row, another one opens it.
    terminal.awaits("gold   [22]", lambda: (terminal.click(4), terminal.click(4)))
    terminal.awaits("Export is disabled", lambda: terminal.press("e"))
    picture = tmp_path / "episode.png"
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 10_000
    own = address.partition("?")[0]
    elsewhere = [url for url in terminal.requested if not url.startswith((own, "data:"))]
    assert elsewhere == []
    refused = [
        e["message"] for e in browser.get_log("browser") if "Content Security" in e["message"]
    ]
    assert refused == []
