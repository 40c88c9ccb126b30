"""Whether flows that are compared are given the same examples, and judged in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.errors import UsageError
from ..runs.example_digests import difference, example_digests
from .examples import first_examples, read_examples
from .output import warn

if TYPE_CHECKING:
    from ..flow.example import Example
    from .contestants import Contestant

# Where and how fast a model and a program run says nothing of what they do; runs of different days
# have different dates.
_PLACES = ("model.device", "model.devices", "model.trust_remote_code", "model.date")
_HOW_PROGRAMS_RUN = ("directory", "processes", "timeout", "worker")


def check_comparable(
    found: Sequence[Contestant],
    examples: Sequence[Example],
    data: Path | None,
    split: str,
    limit: int | None,
) -> None:
    """Warn if flows differ in more than their training and their nodes.

    Raises:
        UsageError: by its own settings, a flow would be given other examples than the first.
    """
    first = found[0]
    for each in found[1:]:
        differences = list(_differences(first, each, own_data=data is None))
        if not differences:
            continue
        shown = "; ".join(text for _, text in differences)
        warn(f"'{each.name}' differs from '{first.name}' in more than its training: {shown}")
        if any(of_task for of_task, _ in differences):
            _check_examples(first, each, examples, data, split, limit)


def base_models(found: Sequence[Contestant]) -> list[str]:
    """The base models of the flows, each once."""
    return list(dict.fromkeys(each.player.resolved.settings.model.name for each in found))


def _differences(
    first: Contestant, other: Contestant, *, own_data: bool
) -> Iterator[tuple[bool, str]]:
    """Settings of the model, the task and its evaluators that differ; whether it is the task's.

    Args:
        own_data: the task's own data is used.
    """
    from ..config.template import toml_value

    then, now = _settings(first, own_data), _settings(other, own_data)
    for key in dict.fromkeys([*then, *now]):
        if then.get(key) != now.get(key):
            one, two = toml_value(then.get(key)), toml_value(now.get(key))
            text = f"{key} = {one} in '{first.name}', and {two} in '{other.name}'"
            yield key.startswith("tasks."), text


def _settings(contestant: Contestant, own_data: bool) -> dict[str, Any]:
    from ..programs.task import ProgramTask

    player = contestant.player
    values = player.resolved.settings.model_dump(mode="json")
    task, name = values["tasks"].get(player.task.name, {}), player.task.name
    found = {f"model.{key}": value for key, value in values["model"].items()}
    found |= {f"tasks.{name}.{key}": v for key, v in task.items() if key != "nodes"}
    for node, table in task.get("nodes", {}).items():
        if isinstance(table, Mapping):
            found[f"tasks.{name}.nodes.{node}.evaluator"] = table.get("evaluator")
    ignored = {*_PLACES}
    if isinstance(player.task, ProgramTask):
        ignored |= {f"tasks.{name}.{key}" for key in _HOW_PROGRAMS_RUN}
        ignored |= set() if own_data else {f"tasks.{name}.data"}
    return {key: value for key, value in found.items() if key not in ignored}


def _check_examples(
    first: Contestant,
    other: Contestant,
    examples: Sequence[Example],
    data: Path | None,
    split: str,
    limit: int | None,
) -> None:
    own = first_examples(read_examples(other.player.task, data, split), limit)
    then, now = (example_digests(each, lambda text: None) for each in (examples, own))
    found = difference(then, now)
    if found is not None:
        raise UsageError(
            f"with the settings of '{other.name}' the examples are others than with those of"
            f" '{first.name}': {found}. Give them the same settings, by --set, or evaluate each"
            " alone"
        )
