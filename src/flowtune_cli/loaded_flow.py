"""A trained flow as a function: loaded once, and called from a script, a notebook or a server."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .flow.errors import UsageError
from .flow.known_inputs import Kinds, KnownInputs

if TYPE_CHECKING:
    from .flow.episode import Episode
    from .training.session import Session

MOST_REMEMBERED = 4096
"""How many answers of nodes are remembered, for calls that ask the same."""


def load(
    run: str | Path | None = None,
    *,
    task: str | None = None,
    checkpoint: str | int | None = None,
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
        checkpoint: the number of episodes after which it was made, "last" or "best"; by default
            what ``run`` says ("first@best"), or else the last.
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
        if checkpoint is not None:
            if str(run).endswith(f"@{wanted}") and wanted != str(checkpoint):
                raise UsageError(
                    f"the run '{run}' names the checkpoint {wanted}, and checkpoint={checkpoint!r}"
                    " another one: leave one of them out"
                )
            wanted = str(checkpoint)
        name = f"{found.path}@{wanted}"
    elif checkpoint is not None:
        raise UsageError(
            f"checkpoint={checkpoint!r} is one of a run: say which, load('first', checkpoint=...);"
            " without a run, a task is loaded untrained"
        )
    if task is None:
        raise UsageError("load a run, or say which task: load(task='toyqa')")
    player = load_player(registry, task, name, file, list(overrides))
    return LoadedFlow(player.set_up(), player.known_inputs)


def forgetting(engine: Any, most: int = MOST_REMEMBERED) -> Callable[[], None]:
    """What is to be called between an engine's steps, so that it remembers so many answers."""

    def between() -> None:
        if engine.answers_held > most:
            engine.forget()

    return between


def _copied(value: Any) -> Any:
    """A value whose lists and dictionaries are copies; other objects are as they are."""
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _result(episode: Episode) -> Any:
    """What the flow returned; says which prompts were cut."""
    for node in dict.fromkeys(s.node for s in episode.steps if s.response.dropped_tokens):
        warnings.warn(
            f"a prompt of node '{node}' was cut to fit the context window (model.context):"
            " 'flowtune play --input' shows how much",
            stacklevel=2,
        )
    return episode.result


class LoadedFlow:
    """A flow that can be called; make one with ``load``.

    Calls at once are batched, and one that comes late joins those that are being answered. A thread
    of its own does the work, so it may be called from any thread and any event loop. ``close`` it,
    or use it in a ``with`` block.

    Samples of the flow are drawn by the run's seed: equal calls get equal results. A prompt that is
    cut to fit the context window, and an input that no example of the run had, are warned of. An
    input that seems to be misspelt, or is a list, say, where it was a text, is an error.

    Args:
        known_inputs: the inputs that the run's examples had; None if that is unknown.
    """

    def __init__(self, session: Session, known_inputs: Kinds | None = None) -> None:
        from .runtime.called_flow import CalledFlow

        self.task = session.task
        self._seed = session.settings.training.seed
        between = forgetting(session.engine)
        self._known = KnownInputs(known_inputs, partial(warnings.warn, stacklevel=4))
        self._flow = CalledFlow(session.task, partial(session.scheduler, between))

    async def __call__(self, /, **inputs: Any) -> Any:
        """The flow's result for these inputs.

        Raises:
            FlowFailed: the flow raised an exception, or had no end within its limits.
            UsageError: the flow is closed, or was loaded before this process was forked; or the
                inputs are not what the task wants.
        """
        return await asyncio.wrap_future(self.submit(**inputs))

    def run(self, /, **inputs: Any) -> Any:
        """As a call, for callers without an event loop: waits for the result."""
        return self.submit(**inputs).result()

    def submit(self, /, **inputs: Any) -> Future[Any]:
        """As a call; the result may be waited for, or cancelled, by any thread."""
        # The caller may change its lists meanwhile, and the flow those that it gets.
        example = self.task.example_from(_copied(inputs))
        self._known.check(example)
        return self._flow.submit(example, self._seed, _result)

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
