"""check_task: whether a task has all that training, prediction and evaluation need of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..flow.adapters import adapter_problems, settle
from ..flow.deviation import Trace
from ..flow.episode import Episode
from ..flow.errors import FlowtuneError, UsageError, unknown_name
from ..flow.example import Example
from ..flow.node import Node, SelfLearning
from ..flow.preset import NO_PRESET
from ..flow.request import Engine
from ..flow.task import Task
from ..registry import Registry, load_registry
from ..registry.checks import Refused
from ..registry.checks import task as check_class
from ..runs.example_digests import difference, example_digests
from .engine import ScriptedEngine
from .episodes import play, training_data


def check_task(
    task: Task,
    *,
    data: Path | None = None,
    splits: Sequence[str] | None = None,
    engine: Engine | None = None,
    plays: int = 3,
) -> None:
    """Assert that a task is complete and consistent, by reading its data and playing some of it.

    Checks the class as ``register_tasks`` would; that its ``defaults`` and each preset are settings
    that exist, with values of their types; that every node that learns has something to
    learn from, and that what it names exists; that the examples of each split have unique ids, are
    the same every time, and those of the first split have gold; that the flow plays, gives each
    prompt its fields, calls every node, and reports the rewards and targets that nodes and
    ``gate`` name; that results and predictions are JSON, and a prediction has the example's key.

    Args:
        data: what ``--data`` would be; None is the task's default source.
        splits: those to read; by default all of the task's.
        engine: answers the nodes; by default a ``ScriptedEngine`` without a script. Pass one if the
            flow needs outputs of a certain form.
        plays: how many examples of each split are played.

    Raises:
        AssertionError: lists everything that is wrong.
    """
    registry = load_registry()
    problems = [
        *_class_problems(task),
        *_setting_problems(task, registry),
        *_node_problems(task, registry),
    ]
    episodes: list[Episode] = []
    engine = ScriptedEngine() if engine is None else engine
    for split in task.splits if splits is None else splits:
        try:
            examples = list(task.examples(data, split))
            again = list(task.examples(data, split))
        except Exception as error:
            problems.append(f"the examples of split '{split}' cannot be read: {_named(error)}")
            continue
        problems += _example_problems(task, split, examples, again)
        for example in islice(examples, plays):
            try:
                episode = play(task, engine, example)
            except FlowtuneError as error:
                problems.append(f"example '{example.id}': {error}")
                continue
            problems += _episode_problems(task, episode)
            episodes.append(episode)
    finished = [episode for episode in episodes if episode.failure is None]
    if finished:
        problems += _coverage_problems(task, finished)
    elif not problems:
        problems.append("no example was played")
    if problems:
        listed = "\n".join(f"- {problem}" for problem in dict.fromkeys(problems))
        raise AssertionError(f"task '{task.name}':\n{listed}")


def _class_problems(task: Task) -> Iterator[str]:
    try:
        check_class(type(task))
    except Refused as error:
        yield str(error)
    if not task.splits:
        yield "it has no splits: name at least the one that is trained on"


def _setting_problems(task: Task, registry: Registry) -> Iterator[str]:
    from ..config.resolve import resolve

    for name in (NO_PRESET, *(preset.name for preset in task.presets)):
        what = "its defaults" if name == NO_PRESET else f"preset '{name}'"
        nothing = Path(os.devnull)  # rather than the flowtune.toml of this directory
        try:
            resolve(type(task), file=nothing, environ={}, flags={"preset": name}, registry=registry)
        except UsageError as error:
            yield f"{what}: {error}"


def _node_problems(task: Task, registry: Registry) -> Iterator[str]:
    settle(task.nodes)
    for name, setting, text in adapter_problems(task.nodes):
        yield f"node '{name}': {setting} {text}"
    for node in task.nodes:
        if node.learn == "preferences" and node.reward is None and node.evaluator is None:
            yield (
                f"node '{node.name}' learns from preferences, and has neither reward nor evaluator"
                " to judge it: name one, or set learn = 'supervised' or 'nothing'"
            )
        learns = node.learn != "nothing"
        if learns and node.adapter_name is None and not isinstance(node, SelfLearning):
            yield (
                f"node '{node.name}' has neither an adapter nor a way to learn by itself: give its"
                " class SelfLearning, or set learn = 'nothing'"
            )
        if node.deviates:
            try:
                registry.make_exploration(node.exploration)
                if node.evaluator is not None:
                    registry.make_evaluator(node.evaluator)
            except (UsageError, TypeError, ValueError) as error:
                yield f"node '{node.name}': {error}"


def _example_problems(
    task: Task, split: str, examples: Sequence[Example], again: Sequence[Example]
) -> Iterator[str]:
    ids = [example.id for example in examples]
    if not ids:
        yield f"split '{split}' has no examples"
    if bad := [each for each in ids if not isinstance(each, str) or not each]:
        yield f"split '{split}': an example's id must be a text; got {bad[0]!r}"
    if ids != [example.id for example in again]:
        yield f"split '{split}' has other examples, or another order, when it is read again"
    elif all(isinstance(example.inputs, Mapping) for example in examples):
        notes: list[str] = []
        first = example_digests(examples, notes.append)
        if changed := difference(first, example_digests(again, notes.append)):
            yield f"split '{split}' when it is read again: {changed}"
        yield from dict.fromkeys(notes)
    seen: set[str] = set()
    for each in ids:
        if each in seen:
            yield f"split '{split}' has two examples with the id '{each}'"
        seen.add(each)
    for example in examples:
        if not isinstance(example.inputs, Mapping):
            yield f"example '{example.id}': inputs must be a mapping; got {example.inputs!r}"
    unlabelled = [example.id for example in examples if example.gold is None]
    if unlabelled and split == task.splits[0]:
        yield (
            f"split '{split}' is trained on, and example '{unlabelled[0]}' has no gold"
            f" ({len(unlabelled)} of {len(examples)} have none)"
        )


def _episode_problems(task: Task, episode: Episode) -> Iterator[str]:
    example = episode.example
    where = f"example '{example.id}'"
    if episode.failure is not None:
        yield f"{where}: the flow failed:\n{episode.failure.traceback}"
        return
    if not isinstance(episode.result, Mapping):
        yield f"{where}: run must return a mapping; it returned {episode.result!r}"
        return
    if wrong := _not_json(episode.result):
        yield f"{where}: the result is not JSON: {wrong}"
    try:
        prediction = task.prediction(example, episode.result)
        expected_id = task.prediction_id(example)
    except Exception as error:
        yield f"{where}: no prediction: {_named(error)}"
        return
    if wrong := _not_json(prediction):
        yield f"{where}: the prediction is not JSON: {wrong}"
    if prediction.get("id") != expected_id:
        found = f"is {prediction['id']!r}" if "id" in prediction else "is missing"
        yield (
            f"{where}: the prediction's 'id' {found}; by prediction_id it is {expected_id!r}."
            " Without it, 'flowtune evaluate' cannot tell whose prediction it is."
        )
    try:
        training_data(task, Trace(example, episode))
    except Exception as error:
        yield f"{where}: a target cannot be learned from: {_named(error)}"


def _coverage_problems(task: Task, episodes: Sequence[Episode]) -> Iterator[str]:
    """What none of the episodes did."""
    number = f"{len(episodes)} episodes" if len(episodes) > 1 else "the only episode"
    called = {step.node for episode in episodes for step in episode.steps}
    rewards = {reward.name for episode in episodes for reward in episode.rewards}
    targeted = {
        episode.steps[target.step].node for episode in episodes for target in episode.targets
    }
    for node in task.nodes:
        if node.name not in called:
            yield (
                f"node '{node.name}' was not called in {number}, so its prompt was not checked:"
                " pass an engine whose outputs lead there, or remove the node"
            )
        if _judged_by_reward(node) and node.reward not in rewards:
            unknown = unknown_name("reward", str(node.reward), sorted(rewards))
            yield (
                f"node '{node.name}' is judged by a reward that {number} did not report: {unknown}"
            )
        if node.learn == "supervised" and node.name in called and node.name not in targeted:
            yield (
                f"node '{node.name}' is supervised, and {number} reported no target for it: call"
                f" episode.target('{node.name}', ...), or set learn = 'nothing'"
            )
    if task.gate is not None and task.gate not in rewards:
        unknown = unknown_name("reward", task.gate, sorted(rewards))
        yield f"gate names a reward that {number} did not report: {unknown}"


def _judged_by_reward(node: Node) -> bool:
    return node.learn == "preferences" and node.evaluator is None and node.reward is not None


def _not_json(value: Any) -> str:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
