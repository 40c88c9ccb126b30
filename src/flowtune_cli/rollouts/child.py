"""A server of vLLM that flowtune starts itself, and ends with the run."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx2

from ..flow.errors import UsageError
from ..programs.watchdog import WATCHDOG, kill_group

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that ``--max-lora-rank`` knows."""
_TAIL = 3000
_END_SECONDS = 15.0
_PAUSE = 0.5


def command(
    program: Path,
    model: str,
    *,
    dtype: str,
    context: int,
    nodes: int,
    rank: int,
    processor: bool,
    options: Sequence[str],
) -> list[str]:
    """The command that serves a base model, without its address.

    Args:
        program: ``vllm`` in its environment.
        model: the base model's directory.
        nodes: those that have an adapter.
        processor: it computes without a GPU.
        options: further ones; the last of two counts.

    Raises:
        UsageError: there is no such program or directory; or vLLM knows no such rank.
    """
    if not os.access(program, os.X_OK):
        raise UsageError(f"engine.vllm.program = '{program}' is no program that can be started")
    if not (Path(model) / "config.json").is_file():
        raise UsageError(
            f"no server of vLLM can be started for '{model}', which is no model's directory: start"
            " one yourself, and set engine.vllm.urls"
        )
    if rank > _RANKS[-1]:
        raise UsageError(f"vLLM knows adapters up to rank {_RANKS[-1]}; adapter.rank is {rank}")
    words = [str(program), "serve", model, "--dtype", dtype, "--max-model-len", str(context)]
    words += ["--enable-lora", "--max-loras", str(nodes + 3)]
    words += ["--max-lora-rank", str(next(each for each in _RANKS if each >= rank))]
    if processor:
        # vLLM 0.32 ends there with a sample's seed and a prompt that is read in two parts.
        words.append("--no-enable-chunked-prefill")
    return [*words, *options]


class Child:
    """A server as a process of its own, on a free port of the loopback.

    Args:
        words: see ``command``.
        patience: seconds within which it has to be there.

    Raises:
        UsageError: it does not start; says its last words.
    """

    def __init__(self, words: Sequence[str], patience: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile(prefix="flowtune-vllm-")  # noqa: SIM115
        # It has packages of its own.
        environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self._process = subprocess.Popen(
            [*words, "--host", "127.0.0.1", "--port", str(port)],
            env={**environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        WATCHDOG.add(self._process.pid)
        try:
            self._wait(patience)
        except BaseException:
            self.close()
            raise

    def _wait(self, patience: float) -> None:
        end = time.monotonic() + patience
        with httpx2.Client(trust_env=False) as client:
            while self._process.poll() is None and time.monotonic() < end:
                with suppress(httpx2.TransportError):
                    if client.get(f"{self.url}/health").status_code == 200:
                        return
                time.sleep(_PAUSE)
        reason = "has not started within"
        if self._process.poll() is not None:
            reason = f"ended with code {self._process.returncode} within"
        raise UsageError(
            f"the server of vLLM {reason} {patience:g} seconds (engine.vllm.timeout). Further"
            f" arguments for it are engine.vllm.options. Its last words:\n{self._last_words()}"
        )

    def _last_words(self) -> str:
        self._log.seek(max(self._log.seek(0, os.SEEK_END) - _TAIL, 0))
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """End it, with all its processes."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        kill_group(self._process.pid)
        self._process.wait()
        WATCHDOG.remove(self._process.pid)
        self._log.close()
