"""``flowtune serve``: answers programs on OpenAI's API with a trained flow."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError, missing_package
from ..flow.known_inputs import Kinds, KnownInputs
from . import stdout
from .options import ConfigOption, SetOption
from .output import note

if TYPE_CHECKING:
    from ..gateway.serving import Serving
    from ..runtime.called_flow import CalledFlow
    from ..runtime.shared_engine import SharedEngine
    from ..training.session import Session

_log = logging.getLogger(__name__)

KEY = "FLOWTUNE_API_KEY"
"""The environment variable that holds the key. It is no option, as processes show theirs to all."""


def serve(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="The run whose newest checkpoint is served, or RUN@EPISODES or RUN@best.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="TASK", help="Without RUN: serve this task untrained."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help=f"The address to listen at. Others than this machine need a key in {KEY}.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port; 0 picks a free one.")
    ] = 8000,
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            min=1,
            metavar="N",
            help="Requests that are taken at a time; others get a 429.",
        ),
    ] = 256,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Serve a trained flow: each node a model of OpenAI's API, and the flow as a whole, too."""
    from ..registry import load_registry
    from .interrupts import StopRequest
    from .player import load_player
    from .together import check_alone

    check_alone("serve")
    if (run is None) == (task is None):
        raise UsageError("say which run is served: flowtune serve RUN (or --task TASK, untrained)")
    try:
        from ..gateway import listener
    except ImportError as error:
        raise missing_package("serve", str(error.name), "gateway") from error
    key = _key()
    listener.check_address(host, has_key=key is not None)
    player = load_player(load_registry(), task, run, config, set_)
    session = player.set_up()
    known = player.known_inputs
    with Served(session, known_inputs=known, key=key, queue=queue) as served:
        listening = listener.Listener(served.app, host, port)

        def ready() -> None:
            note(f"serving {player.made_by}; Ctrl-C stops it")
            for name in served.names:
                note(f"model {name}")
            stdout.write(f"OPENAI_BASE_URL={listening.url}")

        with StopRequest(listening.stop) as stop:
            listening.run(ready)
    note("stopped")
    return 130 if stop.signal == signal.SIGINT else 0


def _key() -> str | None:
    key = os.environ.get(KEY)
    if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
        raise UsageError(f"the environment variable {KEY} is to hold a key of ASCII characters")
    return key and key.strip()


class Served:
    """A loaded flow with all that answers for it; close it, or use it in a ``with`` block.

    Args:
        known_inputs: see ``Player``.

    Attributes:
        app: what answers requests.
        names: of the models that can be asked.
    """

    def __init__(
        self,
        session: Session,
        *,
        known_inputs: Kinds | None = None,
        key: str | None = None,
        queue: int = 256,
    ) -> None:
        from ..gateway.served_models import ServedFlow, ServedNode
        from ..gateway.serving import Serving
        from ..loaded_flow import forgetting
        from ..runtime.called_flow import CalledFlow
        from ..runtime.scheduler import Scheduler
        from ..runtime.shared_engine import SharedEngine

        task = session.task
        engine = SharedEngine(session.advising_engine, forgetting(session.engine))
        limits = session.limits
        self.engine: SharedEngine = engine
        self.flow: CalledFlow = CalledFlow(task, lambda: Scheduler(engine, limits=limits))
        nodes = [ServedNode(node, self.engine.add) for node in task.nodes]
        whole = ServedFlow(task, self.flow, KnownInputs(known_inputs, _log.warning))
        self.names = [*(node.name for node in nodes if node.refusal is None), whole.name]
        others: Any = getattr(task.settings, "models", None)
        self.app: Serving = Serving(
            [*nodes, whole],
            self.engine,
            session.engine.tokens,
            others=others if isinstance(others, dict) else None,
            key=key,
            most_open=queue,
        )
        _ = task.only_text_input  # found out now, and not while somebody waits

    def close(self) -> None:
        """End its threads."""
        self.flow.close()
        self.engine.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
