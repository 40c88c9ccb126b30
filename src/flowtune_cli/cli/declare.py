"""Finds the nodes of a program by playing it, and writes its task into the settings file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.errors import FlowtuneError
from ..flow.paths import place_text
from .output import note
from .phase import phase

if TYPE_CHECKING:
    from ..flow.episode import Episode
    from ..flow.example import Example
    from ..flow.task import Task
    from ..programs.task import ProgramTask
    from .player import Player


def is_undeclared(task: Task) -> bool:
    """Whether a task is a program none of whose nodes is declared."""
    from ..programs.task import ProgramTask

    return isinstance(task, ProgramTask) and not task.nodes


def declare(player: Player, examples: Sequence[Example], file: Path, data: Path | None) -> None:
    """Play examples with the base model, and write down which models the program asked for.

    Args:
        file: the settings file; it is made where there is none.
        data: what ``--data`` said.

    Raises:
        FlowtuneError: the program asked for none.
        UsageError: the file cannot be added to; shows what to write.
    """
    from ..programs.sections import values_to_write, with_section
    from ..runs.atomic import write_bytes

    task: Any = player.task
    episodes = _played(player, examples)
    names = list(task.nodes_by_name)
    if not names:
        raise FlowtuneError(_nothing_found(task, episodes))
    values = dict(player.resolved.settings.tasks[task.name])
    if data is not None:
        values["data"] = place_text(data)
    reward = _reward(task, episodes)
    nodes = {name: {} if reward is None else {"reward": reward} for name in names}
    old = file.read_bytes() if file.is_file() else b""
    written = values_to_write(values, file.absolute().parent)
    write_bytes(file, [with_section(old, task.name, written, nodes)])
    note(
        f"the program asks for {', '.join(names)}: wrote [tasks.{task.name}] with its nodes into"
        f" {file.absolute()}. Say there what each learns from."
    )


def _played(player: Player, examples: Sequence[Example]) -> list[Episode]:
    """The examples as the base model plays them; the task's nodes are those found then."""
    from ..programs.discovery import FoundNodes
    from ..programs.find import chat_type

    note(f"no node of task '{player.task.name}' is declared: playing it to find them")
    chat = chat_type(player.registry)
    session = player.set_up()
    player.task.nodes_by_name = FoundNodes(lambda name: chat(name=name, learn="nothing"))
    with phase("playing to find the nodes", silent=True):
        found = dict(session.play(examples))
    return [found[position] for position in sorted(found)]


def _reward(task: ProgramTask, episodes: Sequence[Episode]) -> str | None:
    """The reward that judges the nodes until the user says otherwise: the first, of several."""
    names = list(dict.fromkeys(r.name for episode in episodes for r in episode.rewards))
    if len(names) > 1:
        note(f"there are several rewards ({', '.join(names)}): the nodes are given '{names[0]}'")
    if names:
        return names[0]
    return None if task.reward is None else task.reward.name


def _nothing_found(task: ProgramTask, episodes: Sequence[Episode]) -> str:
    failures = [e.failure for e in episodes if e.failure is not None]
    refused = [error for episode in episodes for error in episode.request_errors]
    why = f" A request was answered with an error: {refused[0].message}" if refused else ""
    why += f" It failed:\n{failures[0].traceback}" if failures else ""
    return (
        f"the program of task '{task.name}' called no model: it must ask for its nodes by the"
        f" client that it is given, or at OPENAI_BASE_URL with the key OPENAI_API_KEY.{why}"
    )
