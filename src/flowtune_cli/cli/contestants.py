"""Flows that are compared: the runs' checkpoints and the untrained flow, played one by one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.episode import Failure
from ..flow.errors import UsageError
from ..flow.example import Example
from ..learning.peers import ALONE, Peers
from .player import Player, load_player

if TYPE_CHECKING:
    from ..registry import Registry
    from ..training.session import Session

UNTRAINED = "untrained"


@dataclass(frozen=True)
class Contestant:
    """A flow to play.

    Args:
        name: as the user gave it, or "untrained".
    """

    name: str
    player: Player

    @property
    def file_name(self) -> str:
        """Of its predictions."""
        return f"{self.player.label}.jsonl"


@dataclass
class Played:
    """What a flow did, by the number of the example; only what is compared is kept.

    Attributes:
        rewards: of the examples whose flow came to its end.
        results: those of the flow, for an evaluator; empty if there is none.
        predictions: as ``flowtune predict`` writes them, if they are needed.
        failures: of the other examples.
    """

    rewards: dict[int, Mapping[str, float | None]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    predictions: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)

    def add(self, other: Played) -> None:
        """Add what another process has played."""
        self.rewards |= other.rewards
        self.results |= other.results
        self.predictions |= other.predictions
        self.failures |= other.failures


def contestants(
    registry: Registry,
    task: str | None,
    runs: Sequence[str],
    *,
    baseline: bool,
    config: Path | None,
    overrides: Sequence[str] | None,
    preset: str | None,
    model: str | None = None,
    peers: Peers = ALONE,
) -> list[Contestant]:
    """The flows to compare; the untrained one, if it is wanted, is the first.

    It has the settings of the first run.

    Args:
        task: None is that of the first run.

    Raises:
        UsageError: there are none, one is named twice, or there is no such run or checkpoint.
    """

    def player_of(run: str | None) -> Player:
        return load_player(registry, task, run, config, overrides, preset, model=model, peers=peers)

    found: list[Contestant] = []
    for run in runs:
        found.append(Contestant(run, player_of(run)))
        task = found[0].player.task.name  # a run of another one is refused
    if baseline or not found:
        if not baseline:
            raise UsageError("say which runs to play, by --run, or the untrained flow, --baseline")
        player = found[0].player if found else None
        if player is None:
            player = player_of(None)
        untrained = replace(player, task=player.resolved.make_task(), checkpoint=None)
        found.insert(0, Contestant(UNTRAINED, untrained))
    checkpoints = [each.player.checkpoint for each in found]
    for number, each in enumerate(found):
        if each.player.checkpoint in checkpoints[:number]:
            same = found[checkpoints.index(each.player.checkpoint)].name
            raise UsageError(f"'{each.name}' and '{same}' are the same checkpoint")
        if each.file_name in [other.file_name for other in found[:number]]:
            raise UsageError(f"two runs have the name '{each.file_name[:-6]}'")
    return found


def sessions(
    found: Sequence[Contestant], peers: Peers = ALONE
) -> Iterator[tuple[Contestant, Session]]:
    """Each flow with its session; the model is loaded again only where it is another one."""
    from ..flow.adapters import link_adapters
    from ..training.checkpoint import load_checkpoint, nodes_with_adapters
    from ..training.other_models import play_elsewhere

    session: Session | None = None
    loaded: Player | None = None
    for each in found:
        player, checkpoint = each.player, each.player.checkpoint
        link_adapters(player.task.nodes, nodes_with_adapters(checkpoint))
        if session is not None and loaded is not None and _same_model(loaded, player):
            model, adapter = session.settings.model, session.settings.adapter
            own = {"model": model, "adapter": adapter}
            settings = player.resolved.settings.model_copy(update=own)
            session = replace(session, task=player.task, settings=settings)
            assert checkpoint is not None
            play_elsewhere(player.task.nodes)
            load_checkpoint(
                checkpoint, adapters=session.adapters, learner=None, nodes=player.task.nodes
            )
        else:
            session = loaded = None
            gc.collect()  # two models may not fit into memory
            session, loaded = player.set_up(peers), player
        yield each, session


def _same_model(one: Player, other: Player) -> bool:
    """Whether a flow can be played with a model and adapters that were set up for another."""

    def needs(player: Player) -> tuple[Any, ...]:
        settings = player.resolved.settings
        adapters = {
            n.name: (n.adapter_name, n.initial_head()) for n in player.task.nodes if n.adapter_name
        }
        others = {node.other_model for node in player.task.nodes}
        return settings.model, settings.adapter, settings.engine, adapters, others

    return other.checkpoint is not None and needs(one) == needs(other)


def play_examples(
    session: Session,
    examples: Sequence[Example],
    *,
    results: bool,
    predictions: bool,
    seed: Any,
    check: Callable[[], None],
    on_played: Callable[[Played], None],
    peers: Peers,
) -> Played:
    """Play the examples greedily.

    Args:
        results, predictions: whether these are kept.
        seed: of the noise.
        check: called between the engine's calls; may raise.
        on_played: called with what this process has played so far, after each.
        peers: each plays its share, and all get what was played.
    """
    task = session.task
    places = range(peers.rank, len(examples), peers.size)

    def play_share() -> Played:
        own = Played()
        share = [examples[place] for place in places]
        for number, episode in session.play_all(share, check, seed=seed):
            place = places[number]
            if episode.failure is not None:
                own.failures[place] = episode.failure
            else:
                own.rewards[place] = episode.reward_means()
                if results:
                    own.results[place] = episode.result
                if predictions:
                    own.predictions[place] = task.prediction(examples[place], episode.result)
            on_played(own)
        return own

    played = Played()
    for of_one in peers.each(play_share):
        played.add(of_one)
    return played
