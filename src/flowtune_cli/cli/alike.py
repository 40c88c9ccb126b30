"""Several processes of one command do the same: they have read the same, and compute alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..flow.errors import UsageError

if TYPE_CHECKING:
    from ..config.settings import ModelSettings, Settings
    from ..flow.example import Example
    from ..learning.peers import Peers
    from ..training.session import Session


def check_alike(peers: Peers, settings: Settings, examples: Sequence[Example]) -> None:
    """Check that all processes are to do the same, each on a device of its own.

    Raises:
        UsageError: they have read other settings or data.
    """
    values = settings.model_dump(mode="json", exclude={"model": {"device"}, "engine": True})
    ids = [example.id for example in examples]
    what = {"settings": json.dumps(values, sort_keys=True), "data": json.dumps(ids)}
    each = peers.each(lambda: what)
    for rank, of_rank in enumerate(each):
        for name in what:
            if of_rank[name] != each[0][name]:
                raise UsageError(
                    f"rank {rank} has read other {name} than rank 0: start all processes in"
                    " the same directory, with the same files, options and environment"
                )


def load_alike(load: Callable[[Settings], Session], settings: Settings, peers: Peers) -> Session:
    """A session of each process, of which all compute in the same way.

    Args:
        load: sets one up by settings.
    """
    found: list[Session] = []

    def load_own() -> None:
        found.append(load(settings))

    def load_again(chosen: ModelSettings) -> None:
        chosen = chosen.model_copy(update={"device": settings.model.device})
        if found[0].settings.model != chosen:
            found.clear()  # two models may not fit into memory
            found.append(load(settings.model_copy(update={"model": chosen})))

    peers.each(load_own)
    # What "auto" is depends on the machine.
    chosen = peers.first(lambda: found[0].settings.model)
    peers.each(lambda: load_again(chosen))
    return found[0]
