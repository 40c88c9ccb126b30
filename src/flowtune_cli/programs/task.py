"""A task made of a program: its data, its nodes' calls, its reward and its targets."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..flow.effect import strict_json
from ..flow.episode import Episode
from ..flow.errors import DataError, UsageError, did_you_mean
from ..flow.example import Example
from ..flow.node import Node
from ..flow.paths import is_remote, place_text
from ..flow.task import Task
from ..flow.value_digest import value_digest
from .data import SPLITS, read_data
from .executable import Executable
from .function import FunctionProgram
from .rewards import Reward, reward_name
from .settings import ProgramSettings
from .targets import NodeTarget

RESULT = "result"
"""The field of a prediction that holds what the program returned."""
INPUTS = "inputs_sha256"
"""The field of a prediction that tells of which inputs it is: ids may be mere numbers of lines."""


class Program(Protocol):
    """What plays an example."""

    async def play(self, episode: Episode, example: Mapping[str, Any]) -> Any:
        """The result, from the example without its gold fields."""


class ProgramTask(Task):
    """The base of the tasks that are programs; ``find.program_class`` makes one of each."""

    summary: ClassVar[str] = "a program on OpenAI's API"
    Settings: ClassVar[Any] = ProgramSettings
    splits: ClassVar[Sequence[str]] = SPLITS
    nodes: Sequence[Node] = ()

    settings: ProgramSettings

    @classmethod
    def default_nodes(cls, settings: Any) -> Sequence[Node]:
        """The nodes that are declared, judged by the program's reward unless they say otherwise."""
        nodes = super().default_nodes(settings)
        if settings is not None and settings.reward is not None:
            for node in nodes:
                node.reward = reward_name(settings.reward)
        return nodes

    def load(self) -> None:
        """Load all that this task names, so that what is wrong is told before anything is played.

        Raises:
            UsageError: something cannot be loaded, or does not fit.
        """
        for name in self.settings.models:
            if name in self.nodes_by_name:
                raise UsageError(
                    f"'{name}' is a node of task '{self.name}' and one of its models"
                    f" (tasks.{self.name}.models), which would answer in its place: rename one of"
                    " them"
                )
        assert self.program is not None
        assert self.targets is not None
        _ = self.reward

    @cached_property
    def program(self) -> Program:
        """The function or executable."""
        settings = self.settings
        if settings.function is not None and settings.program is not None:
            raise UsageError(
                f"task '{self.name}' has both a function ({settings.function}) and a program"
                f" ({settings.program}): it can have one"
            )
        if settings.function is not None:
            return FunctionProgram(settings.function, settings.models)
        if settings.program is None:
            raise UsageError(f"task '{self.name}' has neither a function nor a program")
        executable = Executable(
            settings.program,
            settings.directory,
            processes=settings.processes,
            timeout=settings.timeout,
            persistent=settings.worker,
            models=settings.models,
        )
        weakref.finalize(self, executable.close)
        return executable

    @property
    def flow_module(self) -> str:
        """The module of the program, as far as it runs in this process."""
        program = self.program
        if isinstance(program, FunctionProgram):
            return str(program.function.__module__)
        return type(self).__module__

    @cached_property
    def reward(self) -> Reward | None:
        """What judges results."""
        return None if self.settings.reward is None else Reward(self.settings.reward)

    @cached_property
    def targets(self) -> Sequence[NodeTarget]:
        """The targets of the nodes that have one."""
        found = []
        for node in self.nodes:
            text = getattr(node, "target", None)
            if text is None:
                if node.learn == "supervised":
                    raise UsageError(
                        f"node '{node.name}' of task '{self.name}' learns 'supervised', and has no"
                        " target: set target to a template such as '{category}', or to"
                        " FILE.py:FUNCTION"
                    )
                continue
            if node.learn != "supervised":
                raise UsageError(
                    f"node '{node.name}' of task '{self.name}' has a target, and learns"
                    f" {node.learn!r}: set learn = 'supervised', or leave the target out"
                )
            found.append(NodeTarget(node.name, text))
        return found

    def examples(self, source: Path | None, split: str) -> Iterable[Example]:
        """All records of the data, in their order; nothing is left out."""
        data = self.settings.data if source is None else place_text(source)
        if data is None:
            raise UsageError(
                f"task '{self.name}' has no data: give --data FILE, or set tasks.{self.name}.data"
            )
        return read_data(data, split, self.settings.gold)

    def training_examples(self, examples: Iterable[Example], split: str) -> Iterable[Example]:
        """All of them.

        Raises:
            DataError: one has no labels; names the field that it lacks.
        """
        for example in examples:
            if example.gold is None:
                raise DataError(
                    f"example '{example.id}' has no labels, so nothing can be learned from it:"
                    f" {self.why_unlabelled(example)}"
                )
            yield example

    def why_unlabelled(self, example: Example) -> str:
        """See ``Task``: the gold fields are looked for among those that it does have."""
        fields = ", ".join(f"'{name}'" for name in self.settings.gold)
        known = [name for name in example.inputs if name != "id"]
        hints = (did_you_mean(name, known) for name in self.settings.gold)
        hint = next((hint for hint in hints if hint), "")
        return (
            f"one of the fields {fields} (tasks.{self.name}.gold) is missing, empty or null."
            f"{hint} Its other fields: {', '.join(known) or 'none'}"
        )

    def example_from(self, inputs: Mapping[str, Any]) -> Example:
        """An example of a user's own inputs, which is not judged."""
        gold = self.settings.gold
        return super().example_from({k: v for k, v in inputs.items() if k not in gold})

    @cached_property
    def only_text_input(self) -> str | None:
        """See ``Task``; data of Hugging Face is not fetched for it."""
        data = self.settings.data
        return None if data is not None and is_remote(data) else super().only_text_input

    def text_of(self, result: Any) -> str:
        """What the program returned: a text as it is, and all else as JSON."""
        return super().text_of(result[RESULT])

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        """Let the program play, and judge its result where there are labels to judge it by."""
        shown = json.loads(json.dumps(dict(example.inputs)))
        result = await self.program.play(episode, shown)
        # Whatever it was made of is a copy of JSON values from here on.
        result = json.loads(strict_json(result, "the program's result"))
        if example.gold is not None:
            everything = record(example)
            if self.reward is not None:
                await self.reward.report(episode, everything, result)
            for target in self.targets:
                target.report(episode, everything)
        return {RESULT: result}

    def prediction(self, example: Example, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """The result, and a digest of what it was made of."""
        return {**super().prediction(example, result), INPUTS: _digest(example)}

    def evaluate(
        self, examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """The mean of each reward over the predictions for which it is defined.

        Raises:
            DataError: a prediction has no result or is of other inputs, or no example has labels.
        """
        if self.reward is None:
            raise UsageError(
                f"task '{self.name}' has no reward to evaluate by: give --reward FILE.py:FUNCTION,"
                f" or set tasks.{self.name}.reward"
            )
        pairs = []
        for example, prediction in zip(examples, predictions, strict=True):
            if RESULT not in prediction:
                raise DataError(f"the prediction of example '{example.id}' has no '{RESULT}'")
            if prediction.get(INPUTS, _digest(example)) != _digest(example):
                raise DataError(
                    f"the prediction of example '{example.id}' was made of other inputs than the"
                    " example with this id has here: check --data, --split and --gold. If you have"
                    f" changed the data on purpose, remove '{INPUTS}' from the predictions"
                )
            if example.gold is None:
                self.leave_out(example.id, f"no {' or '.join(self.settings.gold)}")
            else:
                pairs.append((record(example), prediction[RESULT]))
        if examples and not pairs:
            labels = " and ".join(self.settings.gold)
            raise DataError(f"none of the {len(examples)} examples has its labels, {labels}")
        values: dict[str, list[float]] = {}
        for rewards in self.reward.of_all(pairs):
            for name, value in rewards.items():
                values.setdefault(name, [])
                if value is not None:
                    values[name].append(value)
        figures: dict[str, Any] = {
            name: sum(numbers) / len(numbers) if numbers else None
            for name, numbers in values.items()
        }
        figures["examples"] = len(pairs)
        undefined = {name: len(pairs) - len(numbers) for name, numbers in values.items()}
        if any(undefined.values()):
            figures["undefined"] = undefined
        return figures

    def outcome_text(self, example: Example, result: Mapping[str, Any]) -> str:
        """The result alone, a text as it is."""
        value = result[RESULT]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def question_text(self, example: Example) -> str:
        """The field "question", or else the first that is a text."""
        texts = [v for k, v in example.inputs.items() if isinstance(v, str) and k != "id"]
        return str(example.inputs.get("question", texts[0] if texts else example.id))


def _digest(example: Example) -> str:
    return value_digest(dict(example.inputs))[:16]


def record(example: Example) -> dict[str, Any]:
    """All fields of an example, the gold ones included."""
    return {**example.inputs, **(example.gold or {})}
