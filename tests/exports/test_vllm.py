"""vLLM serves an export as its README says, and gives what flowtune gives.

It needs an environment of its own: ``make vllm`` makes one, and FLOWTUNE_VLLM_PYTHON names its
Python.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from flowtune_cli import Chat, Generate, Node, Template
from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.engine.merging import merge_adapter
from flowtune_cli.exports.folder import write_texts
from flowtune_cli.exports.merged import merged_flow
from flowtune_cli.exports.readme import folder_readme
from flowtune_cli.registry import load_registry
from flowtune_cli.testing import TinySession
from support.exported import (
    INPUTS,
    Everything,
    about_model,
    export,
    inputs_of,
    play,
    readme_code,
    readme_command,
    trained,
)

PYTHON = os.environ.get("FLOWTUNE_VLLM_PYTHON")
SECONDS = 540

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(PYTHON is None, reason="FLOWTUNE_VLLM_PYTHON is not set"),
]


def nodes() -> list[Node]:
    learned: dict[str, Any] = {"reward": "r"}
    asked = Template("{question}? {facts}", system="Be {tone}.")
    begun = Template("Q: Who wrote it?\nA: A friend.\nQ: {question}?\nA:", chat=False)
    behind = Template("Q: {question}?\nA:", chat=False, frozen_prefix="Facts: {facts}\n")
    return [
        Generate(name="a", prompt=asked, max_new_tokens=24, **learned),
        Generate(name="other", prompt=asked, max_new_tokens=24, **learned),
        Generate(name="line", prompt=begun, max_new_tokens=24, stop=("\n", "."), **learned),
        Generate(
            name="started", prompt=Template("{question}", prefill="I"), max_new_tokens=12, **learned
        ),
        Chat(name="talk", max_new_tokens=24, stop=("<|im_end|>", "!"), **learned),
        Generate(name="behind", prompt=behind, max_new_tokens=12, **learned),
    ]


@dataclass(frozen=True)
class Served:
    """A server that the README's command has started.

    Args:
        checkpoint: what was exported.
        code: the README's functions.
        played: what flowtune answers, for each of the inputs.
        base: what the base model answers instead.
    """

    url: str
    checkpoint: Path
    code: dict[str, Any]
    nodes: list[Node]
    played: list[dict[str, Any]]
    base: list[dict[str, Any]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tmp_path = tmp_path_factory.mktemp("vllm")
    folder = tmp_path / "out"
    flow_nodes = nodes()
    task = Everything(nodes=flow_nodes)
    base = play(task, TinySession(task, Path("smollm2-135m")))
    session = trained(task, Path("smollm2-135m"))
    adapters = session._session.adapters
    with torch.no_grad():
        for name in adapters.versions:
            for parameter in adapters.parameters(name):
                parameter.mul_(0.4)  # so that texts are still texts, and differ
    played = play(task, session)
    export(folder, task, session)
    names: dict[str, Any] = {}
    here = Path.cwd()
    os.chdir(folder)
    try:
        exec(readme_code(folder, "Prompts", "With vLLM"), names)
    finally:
        os.chdir(here)
    with serving(folder, tmp_path / "log") as url:
        yield Served(url, tmp_path / "0000008", names, flow_nodes, played, base)


def test_several_adapters_at_once(served: Served) -> None:
    asked = [
        (node.name, n) for n in range(len(INPUTS)) for node in served.nodes if node.name != "behind"
    ]

    def answer(one: tuple[str, int]) -> str:
        name, n = one
        node = next(node for node in served.nodes if node.name == name)
        inputs = inputs_of(node, INPUTS[n])
        if isinstance(node, Chat):
            prompt = served.code["chat_of"](inputs["messages"])
        else:
            prompt = served.code["prompt_of"](served.code["nodes"][name]["prompt"], inputs)
        return served.code["served"](name, prompt, served.url)

    with ThreadPoolExecutor(len(asked)) as pool:
        found = dict(zip(asked, pool.map(answer, asked), strict=True))
    assert found == {(name, n): served.played[n][name] for name, n in asked}
    for name in {name for name, _ in asked}:
        assert any(served.played[n][name] != served.base[n][name] for n in range(len(INPUTS)))
    assert any(served.played[n]["a"] != served.played[n]["other"] for n in range(len(INPUTS)))


def test_chats_by_their_messages(served: Served) -> None:
    for inputs, played in zip(INPUTS, served.played, strict=True):
        asked = {
            "model": "talk",
            "messages": inputs["messages"],
            "max_tokens": 24,
            "temperature": 0,
            "stop": ["!"],
        }
        answer = post(f"{served.url}/v1/chat/completions", asked)
        assert answer["choices"][0]["message"]["content"] == played["talk"]


def test_a_node_that_reads_a_context_is_not_served(served: Served) -> None:
    with urllib.request.urlopen(f"{served.url}/v1/models") as answer:
        models = {model["id"] for model in json.load(answer)["data"]}
    assert {"a", "other", "line", "started", "talk"} <= models
    assert "behind" not in models


def test_a_merged_model(served: Served, tmp_path: Path) -> None:
    settings = ModelSettings(name="smollm2-135m", device="cpu", dtype="float32")
    about, folder = about_model(settings), tmp_path / "whole"
    node = next(node for node in served.nodes if node.name == "line")
    folder.mkdir()
    merge_adapter(
        settings,
        load_registry(),
        served.checkpoint / "adapters" / "line",
        folder,
        dtype="float32",
        template=about.template,
        ends=about.texts["tokens"]["end"],
    )
    flow = merged_flow(about, served.checkpoint, node, "float32")
    write_texts(folder, flow, about.template, folder_readme(flow))
    with serving(folder, tmp_path / "log") as url:
        for inputs, played in zip(INPUTS, served.played, strict=True):
            template = served.code["nodes"]["line"]["prompt"]
            prompt = served.code["prompt_of"](template, inputs_of(node, inputs))
            assert served.code["served"]("line", prompt, url) == played["line"]


class serving:
    """The server of a folder, by its README's command."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        vllm, *given = readme_command(folder)
        assert vllm == "vllm"
        # Not compiling saves a minute; it changes nothing else.
        more = ["--host", "127.0.0.1", "--port", str(self.port), "--enforce-eager"]
        self.log = log
        self.command = [str(Path(str(PYTHON)).with_name(vllm)), *given, *more]
        self.folder = folder

    def __enter__(self) -> str:
        own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**kept, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{self.port}"
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    return url
            except OSError:
                time.sleep(1)
        self.__exit__()
        pytest.fail(f"vLLM has not started: {self.log.read_text(errors='replace')[-4000:]}")

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()


def post(url: str, asked: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
