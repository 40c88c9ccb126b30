"""From settings to servers: those that run, and one that is started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.settings import ModelSettings, Settings
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.rollouts.child import command
from flowtune_cli.rollouts.connect import connect
from support.fake_servers import Serve
from support.fake_vllm import write_program


def settings(tiny: ModelSettings, model: Any = None, **vllm: Any) -> Settings:
    engine = {"rollouts": "vllm", "vllm": vllm}
    return Settings.model_validate({"model": model or tiny, "engine": engine})


@pytest.mark.parametrize(
    ("vllm", "message"),
    [
        ({}, r"engine\.vllm\.urls, such as"),
        ({"urls": ["127.0.0.1:8000"]}, "does not begin with http"),
        ({"urls": ["http://127.0.0.1:1"], "program": "vllm"}, "unset .program"),
        ({"urls": ["http://127.0.0.1:1"], "key": "NOT_THERE"}, "no such environment variable"),
        ({"program": "/not/there/vllm"}, "no program that can be started"),
    ],
)
def test_wrong_settings_are_named(
    local: ModelEngine, tiny_settings: ModelSettings, vllm: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        connect(settings(tiny_settings, **vllm), local)


def test_quantised_weights_are_refused(local: ModelEngine, tiny_settings: ModelSettings) -> None:
    model = {"name": tiny_settings.name, "quantization": "nf4"}
    with pytest.raises(UsageError, match="no server computes the same as 'nf4'"):
        connect(settings(tiny_settings, model, urls=["http://127.0.0.1:1"]), local)


def test_a_key_is_sent(
    local: ModelEngine,
    tiny_settings: ModelSettings,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(key="secret")
    monkeypatch.setenv("SERVER_KEY", "secret")
    url = f"{server.url}/v1/"
    with pytest.raises(UsageError, match=r"wants an API key: set engine\.vllm\.key"):
        connect(settings(tiny_settings, urls=[url]), local)
    connect(settings(tiny_settings, urls=[url], key="SERVER_KEY"), local).close()


def test_something_else_than_vllm_is_named(
    local: ModelEngine, tiny_settings: ModelSettings, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(server, "listing", {"hello": "world"})
    with pytest.raises(UsageError, match="is it a server of vLLM"):
        connect(settings(tiny_settings, urls=[server.url]), local)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_is_started_and_ended(
    local: ModelEngine, tiny_settings: ModelSettings, tmp_path: Path
) -> None:
    program = write_program(tmp_path / "vllm")
    engine = connect(settings(tiny_settings, program=str(program), timeout=120.0), local)
    assert engine._child is not None
    pid = engine._child._process.pid
    assert alive(pid)
    with engine.publishing(tmp_path / "adapters", "run"):
        pass
    engine.close()
    assert not alive(pid)


def test_a_server_that_does_not_start_tells_its_last_words(
    local: ModelEngine, tiny_settings: ModelSettings, tmp_path: Path
) -> None:
    program = str(write_program(tmp_path / "vllm"))
    given = settings(tiny_settings, program=program, options=["--odd"], timeout=120.0)
    with pytest.raises(UsageError, match=r"(?s)ended with code 1 .*no such option: --odd"):
        connect(given, local)


STARTED = """
import sys, time
from pathlib import Path
from flowtune_cli.rollouts.child import Child
child = Child([sys.argv[1], "serve", sys.argv[2], "--enable-lora", "--dtype", "float32",
    "--max-lora-rank", "8", "--max-model-len", "1024"], 120.0)
print(child._process.pid, flush=True)
time.sleep(60)
"""


def test_a_server_ends_with_flowtune_however_that_ends(
    tiny_settings: ModelSettings, tmp_path: Path
) -> None:
    program = str(write_program(tmp_path / "vllm"))
    words = [sys.executable, "-c", STARTED, program, tiny_settings.name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as flowtune:
        assert flowtune.stdout is not None
        pid = json.loads(flowtune.stdout.readline())
        assert alive(pid)
        flowtune.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_the_command_of_a_server(tmp_path: Path, tiny_settings: ModelSettings) -> None:
    program = write_program(tmp_path / "vllm")
    more: dict[str, Any] = {"dtype": "bfloat16", "context": 512, "nodes": 3, "options": ["--x"]}
    more["processor"] = False
    words = command(program, tiny_settings.name, rank=12, **more)
    assert words[:3] == [str(program), "serve", tiny_settings.name]
    assert " ".join(words[3:]) == (
        "--dtype bfloat16 --max-model-len 512 --enable-lora --max-loras 6 --max-lora-rank 16 --x"
    )
    on_processor = command(program, tiny_settings.name, rank=12, **{**more, "processor": True})
    assert on_processor == [*words[:-1], "--no-enable-chunked-prefill", "--x"]
    with pytest.raises(UsageError, match="up to rank 512"):
        command(program, tiny_settings.name, rank=513, **more)
    with pytest.raises(UsageError, match="no model's directory"):
        command(program, "org/name", rank=8, **more)


def test_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['httpx2'] = None\n"
        "from flowtune_cli.flow.errors import UsageError\n"
        "try:\n    import flowtune_cli.rollouts.connect\n"
        "except UsageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "engine.rollouts = 'vllm' needs the package httpx2: pip install 'flowtune[vllm]'\n"
    )
