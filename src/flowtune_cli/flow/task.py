"""A task: its examples, its nodes, and the flow that connects them."""

from __future__ import annotations

import copy
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from .episode import Episode
from .errors import UsageError
from .example import Example, labelled_inputs
from .left_out import LeftOut
from .node import Node
from .preset import Preset
from .served_inputs import inputs_of_text, only_user_text
from .value_digest import NoDigest, value_digest


class Task(ABC):
    """A flow with its data.

    Class attributes:
        name: by which the command line calls it.
        summary: one line for ``flowtune ls tasks``.
        nodes: the nodes with their defaults; an instance has its own, with the settings applied.
        gate: the reward whose window average gates the reference updates; None: always update.
        Settings: a pydantic model of the task's own settings (``[tasks.NAME]`` in flowtune.toml),
            or None; ``self.settings`` holds them.
        defaults: settings that suit this task better than flowtune's own, as ``{"section.key":
            value}``; any other key is one of the task's own, such as "nodes.query.weight". The
            settings file, the environment and the command line override them.
        presets: named settings that override the defaults where they are chosen, see ``Preset``.
        splits: the names that ``split`` may have; the first is trained on.
        training_filter: why ``training_examples`` leaves examples out, in a few words.
        text_input: the input that a plain text is, in a chat with the flow (``flowtune serve``).
            None: where the examples of the task's own data have one input alone, and that is a
            text, it is that one.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    nodes: Sequence[Node]
    gate: ClassVar[str | None] = None
    Settings: ClassVar[Any] = None
    defaults: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Sequence[Preset]] = ()
    splits: ClassVar[Sequence[str]] = ("train", "dev")
    training_filter: ClassVar[str] = ""
    text_input: ClassVar[str | None] = None

    def __init__(self, settings: Any = None, nodes: Sequence[Node] | None = None) -> None:
        self.settings = settings
        if settings is None and self.Settings is not None:
            self.settings = self.Settings()
        self.left_out = LeftOut()
        self.nodes = tuple(self.default_nodes(self.settings) if nodes is None else nodes)
        self.nodes_by_name = {node.name: node for node in self.nodes}
        if len({name.lower() for name in self.nodes_by_name}) < len(self.nodes):
            # Environment variables, and the folders of adapters on some machines, know no case.
            names = ", ".join(node.name for node in self.nodes)
            raise UsageError(
                f"task '{self.name}' has two nodes of one name, or of names that differ in their"
                f" case alone: {names}"
            )

    def node(self, name: str) -> Any:
        """The node of that name, with the fields of its own type."""
        return self.nodes_by_name[name]

    @classmethod
    def default_nodes(cls, settings: Any) -> Sequence[Node]:
        """The nodes before settings are applied to them. Override if they depend on settings."""
        return [copy.deepcopy(node) for node in cls.nodes]

    @abstractmethod
    def examples(self, source: Path | None, split: str) -> Iterable[Example]:
        """All examples of a split, from ``--data`` (a file or folder), or the default source."""

    def example_from(self, inputs: Mapping[str, Any]) -> Example:
        """An example of a user's own inputs, without labels: ``flowtune play --input``, ``load``.

        By default these are the flow's inputs, and other inputs have another id, as flows may keep
        what they know of an example by its id. Override it where a flow wants other things than
        JSON values, and raise a DataError that says what is missing.
        """
        try:
            digest = value_digest(dict(inputs))[:12]
        except NoDigest:
            digest = secrets.token_hex(6)
        return Example(f"input-{digest}", dict(inputs))

    def example_from_messages(self, messages: Sequence[Mapping[str, Any]]) -> Example:
        """An example of a chat: ``flowtune serve``, where the whole flow is asked as a model.

        By default there is one message, a user's, that holds the inputs of ``example_from`` as a
        JSON object, or as the text that it is, if it is known which input that is. Override it for
        chats of several messages, such as those with a system's.

        Args:
            messages: as OpenAI's API has them: ``role``, and ``content``, a text or text parts.

        Raises:
            DataError: says what a message has to be.
        """
        name = self.text_input or self.only_text_input
        names = () if name is None else (name,)
        whose = f"the flow '{self.name}'"
        return self.example_from(inputs_of_text(only_user_text(messages, whose), names, whose))

    @cached_property
    def only_text_input(self) -> str | None:
        """The only input of the first example, if that is a text, and the data can be read."""
        try:
            first = next(iter(self.examples(None, self.splits[0])), None)
        except Exception:  # whatever keeps the data from being read here
            return None
        found = {} if first is None else {k: v for k, v in first.inputs.items() if k != "id"}
        return next(iter(found)) if [type(v) for v in found.values()] == [str] else None

    def text_of(self, result: Any) -> str:
        """The answer of a chat with the flow: by default a text as it is, and all else as JSON.

        Raises:
            TypeError, ValueError: it is no JSON value.
        """
        if isinstance(result, str):
            return result
        return json.dumps(result, ensure_ascii=False, allow_nan=False)

    def why_unlabelled(self, example: Example) -> str:
        """Why an example has no gold, as a clause: what messages say of it."""
        return "its gold is None"

    def leave_out(self, example_id: str, reason: str) -> None:
        """Say that an example is not used: ``examples`` when it skips a record, and ``evaluate``.

        The command tells the user how many were left out for each reason, and the first ids.

        Args:
            reason: in a few words, the same for all such examples: "no label".
        """
        self.left_out.add(example_id, reason)

    def training_examples(self, examples: Iterable[Example], split: str) -> Iterable[Example]:
        """The examples of a split that are trained on, in the same order; by default all.

        Only training calls this: every other command uses all examples. Override it to thin the
        data, and say in ``training_filter`` why some are left out.
        """
        return examples

    @abstractmethod
    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        """The flow: await ``episode.call`` for the nodes, report rewards, return the result.

        The result must be JSON values.
        """

    def prediction(self, example: Example, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """The line that ``flowtune predict`` writes; its ``id`` is ``prediction_id(example)``."""
        return {"id": self.prediction_id(example), **result}

    def prediction_id(self, example: Example) -> str:
        """The ``id`` of the example's line in a prediction file; several examples may share one.

        Where it is not the example's own id, ``predict --scores`` adds that as ``example_id``.
        """
        return example.id

    def scores(self, example: Example, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What post-processors need beyond the prediction; ``predict --scores`` adds it."""
        return {}

    def evaluate(
        self, examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """The figures of predictions, one an example, in the same order.

        A figure is a number. A mapping under a name is a group of further figures, but
        ``intervals``, whose entries are the [low, high] of the figures that they are named after.
        """
        raise UsageError(f"task '{self.name}' has no evaluation of prediction files")

    def outcome_text(self, example: Example, result: Mapping[str, Any]) -> str:
        """How the result of an episode is shown to a judge that compares two of them."""
        return json.dumps(result, ensure_ascii=False)

    def judge_texts(self, example: Example) -> Sequence[str]:
        """What a judge is shown of an example, one text an input, each after the input's name.

        By default these are the texts among the inputs, and what is short as JSON.
        """
        return labelled_inputs(example)

    def question_text(self, example: Example) -> str:
        """How an example is shown in one line to a person."""
        question = example.inputs.get("question", example.id)
        return str(question)
