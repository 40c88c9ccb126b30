"""A server of vLLM as a process, which can be killed and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

SECONDS = 540


class RealVllm:
    """A server on a free port of the loopback, with adapters that are loaded while it runs.

    Args:
        python: of its environment.
        rank: the largest of an adapter.
        log: a file that gets what it says.
    """

    def __init__(self, python: str, model: Path, rank: int, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        command = [Path(python).with_name("vllm"), "serve", model, "--port", port]
        command += ["--host", "127.0.0.1", "--dtype", "float32", "--enable-lora"]
        # Not compiling saves a minute; it changes nothing else.
        command += ["--max-loras", 4, "--max-lora-rank", rank, "--enforce-eager"]
        # On a processor, a seed and a prompt that is read in two parts would end it.
        command += ["--no-enable-chunked-prefill"]
        self.command = [str(each) for each in command]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        own = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**kept, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(1)
        self.kill()
        pytest.fail(f"vLLM has not started: {self.log.read_text(errors='replace')[-4000:]}")

    def kill(self) -> None:
        """End it with all its processes, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def adapters(self) -> list[str]:
        """The names of those that it holds."""
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=30) as answer:
            cards = json.load(answer)["data"]
        return [card["id"] for card in cards if card["parent"] is not None]

    def cache_hits(self) -> float:
        """Tokens that were found in its prefix cache so far."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        values = [line for line in lines if line.startswith("vllm:prefix_cache_hits_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in values)
