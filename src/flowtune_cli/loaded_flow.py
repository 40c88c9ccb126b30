"""A trained flow as a function: loaded once, and called from a script, a notebook or a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .flow.errors import UsageError

if TYPE_CHECKING:
    from .training.session import Session

MOST_REMEMBERED = 4096
"""How many answers of nodes are remembered, for calls that ask the same."""


def load(
    run: str | Path | None = None,
    *,
    task: str | None = None,
    checkpoint: str | int = "last",
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> LoadedFlow:
    """Load a flow as a run has trained it.

    ::

        with flowtune_cli.load("runs/first") as flow:
            result = flow.run(message="Where is my parcel?")

    and ``await flow(message=...)`` where an event loop runs.

    Args:
        run: its name or path; None is the untrained flow of ``task``.
        task: by default the run's.
        checkpoint: the number of episodes after which it was made, "last" or "best".
        config: a settings file other than ``flowtune.toml``.
        overrides: settings, as ``--set`` takes them: ``"model.device=cpu"``.

    Raises:
        UsageError: there is no such run or checkpoint, or settings do not fit it.
    """
    from .cli.checkpoint_names import split_name
    from .cli.player import load_player
    from .registry import load_registry

    registry = load_registry()
    file = None if config is None else Path(config)
    name = None
    if run is not None:
        found, wanted = split_name(registry, str(run), file, list(overrides))
        task = task or found.info.task
        if checkpoint != "last":
            wanted = str(checkpoint)
        name = f"{found.path}@{wanted}"
    if task is None:
        raise UsageError("load a run, or say which task: load(task='toyqa')")
    player = load_player(registry, task, name, file, list(overrides))
    return LoadedFlow(player.set_up())


def forgetting(engine: Any, most: int = MOST_REMEMBERED) -> Callable[[], None]:
    """What is to be called between an engine's steps, so that it remembers so many answers."""

    def between() -> None:
        if engine.answers_held > most:
            engine.forget()

    return between


class LoadedFlow:
    """A flow that can be called; make one with ``load``.

    Calls at once are batched, and one that comes late joins those that are being answered. A thread
    of its own does the work, so it may be called from any thread and any event loop. ``close`` it,
    or use it in a ``with`` block.
    """

    def __init__(self, session: Session) -> None:
        from .runtime.called_flow import CalledFlow

        self.task = session.task
        self._seed = session.settings.training.seed
        between = forgetting(session.engine)
        self._flow = CalledFlow(session.task, partial(session.scheduler, between))

    async def __call__(self, /, **inputs: Any) -> Any:
        """The flow's result for these inputs.

        Raises:
            FlowFailed: the flow raised an exception, or had no end within its limits.
            UsageError: the flow is closed, or the inputs are not what the task wants.
        """
        return await asyncio.wrap_future(self.submit(**inputs))

    def run(self, /, **inputs: Any) -> Any:
        """As a call, for callers without an event loop: waits for the result."""
        return self.submit(**inputs).result()

    def submit(self, /, **inputs: Any) -> Future[Any]:
        """As a call; the result may be waited for, or cancelled, by any thread."""
        return self._flow.submit(self.task.example_from(inputs), self._seed)

    def close(self) -> None:
        """End the thread and let the model go; calls that have no result are cancelled."""
        self._flow.close()

    def __enter__(self) -> LoadedFlow:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> LoadedFlow:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self.close)
