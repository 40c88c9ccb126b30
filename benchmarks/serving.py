"""Loads ``flowtune serve`` with clients, and transformers' own server with the same work beside it.

    python -m benchmarks.serving --clients 64 --seconds 60 --transformers PYTHON

The model is the bundled one unless ``--model DIRECTORY`` names another. Each client asks again as
soon as it has its answer, for a text that nobody has asked for before: greedy, at most ``--tokens``
tokens. PYTHON is a Python that has what ``transformers serve`` needs, ``transformers[serving]``.
Prompts that both servers answered are compared: their texts, and how many tokens these have.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASK = """
[model]
name = {model}
dtype = "float32"
[tasks.load]
function = "load.py:run"
[tasks.load.nodes.node]
"""
FLOW = "async def run(example, client):\n    return example\n"
START_SECONDS = 180.0


@dataclass
class Load:
    """What clients saw.

    Args:
        seconds: from the first request to the last answer.
        latencies: in seconds, of the requests that were answered.
        answers: text and number of tokens, by the number of the prompt.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: dict[int, tuple[str, int]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """That were written."""
        return sum(count for _, count in self.answers.values())


def prompt(number: int) -> str:
    """A text that no other number has."""
    return f"Parcel {number} has not come. Write to the customer, and name the parcel."


async def load(
    base_url: str, model: str, *, clients: int, seconds: float, tokens: int, first: int = 0
) -> Load:
    """Have clients ask for so many seconds; what they have asked then is waited for.

    Args:
        first: the number of the first prompt.
    """
    import httpx2
    import openai

    found = Load()
    numbers = itertools.count(first)
    limits = httpx2.Limits(max_connections=None)
    http = httpx2.AsyncClient(limits=limits, timeout=600)
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key="none", http_client=http, max_retries=0
    ) as client:
        begun = time.perf_counter()

        async def one() -> None:
            while time.perf_counter() - begun < seconds:
                number = next(numbers)
                start = time.perf_counter()
                try:
                    got = await client.chat.completions.create(
                        model=model,
                        messages=[{"role": "user", "content": prompt(number)}],
                        temperature=0,
                        max_tokens=tokens,
                    )
                except openai.OpenAIError as error:
                    found.errors.append(f"{type(error).__name__}: {error}")
                    continue
                found.latencies.append(time.perf_counter() - start)
                text = got.choices[0].message.content or ""
                written = 0 if got.usage is None else got.usage.completion_tokens
                found.answers[number] = (text, written)

        await asyncio.gather(*[one() for _ in range(clients)])
        found.seconds = time.perf_counter() - begun
    return found


@contextmanager
def started(command: Sequence[str], url: str, folder: Path) -> Iterator[None]:
    """A server in a process of its own, as soon as it answers."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (folder / "server.log").read_text()[-2000:]
                    raise RuntimeError(f"the server did not start: {said}")
                time.sleep(0.5)
            yield
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as got:
            return bool(got.status == 200)
    except OSError:
        return False


def flowtune_command(folder: Path, model: str, port: int) -> list[str]:
    """Starts our server with one node that was never trained, but has its adapter."""
    (folder / "load.py").write_text(FLOW)
    (folder / "flowtune.toml").write_text(TASK.format(model=json.dumps(model)))
    code = "import sys; from flowtune_cli.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", code, "serve", "--task", "load", "--port", str(port)]


def transformers_command(python: str, model: str, port: int, more: Sequence[str]) -> list[str]:
    """Starts transformers' server."""
    code = "from transformers.cli.transformers import main; main()"
    given = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    return [python, "-c", code, "serve", model, *given, *more]


def with_architecture(model: str, folder: Path) -> str:
    """The model's directory, or one like it that names the model's class, which theirs needs."""
    directory = Path(model)
    config = json.loads((directory / "config.json").read_text())
    if config.get("architectures"):
        return model
    from transformers import AutoConfig, AutoModelForCausalLM

    found = AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(model))]
    for file in directory.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    named = {**config, "architectures": [found.__name__]}
    (folder / "config.json").write_text(json.dumps(named))
    return str(folder)


def bundled_model() -> str:
    """The directory of the bundled model, which is converted if it was not."""
    from flowtune_cli.models.files import find_local
    from flowtune_cli.registry import load_registry

    found = find_local("smollm2-135m", load_registry())
    assert found is not None
    return str(found.directory)


def row(name: str, found: Load) -> str:
    """A line of the table."""
    cuts = statistics.quantiles(found.latencies, n=20) if len(found.latencies) > 1 else [0.0] * 19
    figures = [
        len(found.latencies),
        len(found.errors),
        len(found.latencies) / found.seconds,
        found.tokens / found.seconds,
        cuts[9],
        cuts[18],
        max(found.latencies, default=0.0),
    ]
    return f"{name:24}" + "".join(
        f"{each:10}" if isinstance(each, int) else f"{each:10.2f}" for each in figures
    )


def compared(ours: Load, theirs: Load) -> str:
    """How the answers agree of the prompts that both have answered."""
    both = sorted(set(ours.answers) & set(theirs.answers))
    texts = sum(ours.answers[n][0] == theirs.answers[n][0] for n in both)
    counts = sum(ours.answers[n][1] == theirs.answers[n][1] for n in both)
    return (
        f"of {len(both)} prompts that both answered, {texts} have the same text, and {counts} the"
        " same number of tokens"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a request was not answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--model", metavar="DIRECTORY")
    parser.add_argument("--transformers", metavar="PYTHON")
    parser.add_argument("--option", action="append", default=[], help="of transformers serve")
    given = parser.parse_args(arguments)
    model = given.model or bundled_model()
    theirs = tempfile.TemporaryDirectory()
    servers: list[tuple[str, str, Any]] = [
        ("flowtune serve", "node", lambda folder: flowtune_command(folder, model, given.port))
    ]
    if given.transformers:
        named = with_architecture(model, Path(theirs.name))
        other = transformers_command(given.transformers, named, given.port, given.option)
        servers.append(("transformers serve", named, lambda _: other))
    print(f"{given.clients} clients, {given.seconds:g} s, {os.cpu_count()} cores")
    names = ("answered", "errors", "requests/s", "tokens/s", "p50 s", "p95 s", "longest s")
    print(f"{'':24}" + "".join(f"{name:>10}" for name in names))
    loads = []
    for name, asked, command in servers:
        with tempfile.TemporaryDirectory() as folder:
            root = f"http://127.0.0.1:{given.port}"
            with started(command(Path(folder)), f"{root}/health", Path(folder)):
                sizes = {"clients": given.clients, "tokens": given.tokens}
                # Warms it up, with prompts that are not asked again.
                asyncio.run(load(f"{root}/v1", asked, seconds=0.1, first=10**6, **sizes))
                found = asyncio.run(load(f"{root}/v1", asked, seconds=given.seconds, **sizes))
        loads.append(found)
        print(row(name, found), flush=True)
        for error in sorted(set(found.errors))[:3]:
            print(f"  {error}")
    if len(loads) > 1:
        print(compared(*loads))
    theirs.cleanup()
    return 1 if any(found.errors for found in loads) else 0


if __name__ == "__main__":
    sys.exit(main())
