"""Prints one episode for reading: its unrolled graph, step by step."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from ..flow.deviation import Deviation, EvaluatorCall, Outcome, Trace
from ..flow.effect import EffectRecord
from ..flow.episode import Episode, Step
from ..flow.node import Node, NodeOutput
from ..flow.task import Task
from ..runs.serialization import to_json, visible
from .output import Styled

_WIDTH = 96
_HEAD, _TAIL = 6, 6
"""The number of lines shown at the start and the end of a long text."""


def view(task: Task, trace: Trace, *, full: bool) -> Iterator[Styled]:
    """The lines to print, each with its style.

    Args:
        full: do not shorten long texts, and do not wrap long lines.
    """
    return _View(task, trace, full).lines()


class _View:
    def __init__(self, task: Task, trace: Trace, full: bool) -> None:
        self.task = task
        self.trace = trace
        self.episode: Episode = trace.episode
        self.full = full

    def lines(self) -> Iterator[Styled]:
        example = self.trace.example
        yield from self._text(
            "example  ", f"{example.id}: {self.task.question_text(example)}", "bold"
        )
        if example.gold is not None:
            yield from self._text("gold     ", to_json(example.gold) or "")
        yield from self._effects(self.episode.effects, 0, "  ")
        yield from self._rewards(0)
        for step in self.episode.steps:
            yield "", ""
            yield from self._step(step)
        yield "", ""
        for error in self.episode.request_errors:
            place = f" ({error.place})" if error.place else ""
            yield from self._text("a request FAILED: ", f"{error.message}{place}", "yellow")
        if self.episode.failure is not None:
            yield "the flow FAILED:", "bold red"
            yield from self._text("  ", self.episode.failure.traceback.rstrip(), "red", whole=True)
            return
        yield from self._text("result   ", to_json(self.episode.result) or "null", "bold")
        for name, mean in self.episode.reward_means().items():
            yield from self._text("reward   ", f"{name} {_number(mean)}", "bold")
        if self.trace.deviations:
            yield _deviations(self.trace), ""

    def _step(self, step: Step) -> Iterator[Styled]:
        node, response = self.task.node(step.node), step.response
        yield (
            f"step {step.index}  {step.node}  ({_node_label(node, response.adapter_version)})",
            "bold",
        )
        yield from self._text("  | ", response.prompt.rstrip("\n"), "dim")
        if response.dropped_tokens:
            yield f"  the prompt was CUT by {response.dropped_tokens} tokens to fit", "yellow"
        yield from self._output("  => ", step.output, "green")
        for target in self.episode.targets:
            if target.step == step.index:
                yield from self._text("  target: ", to_json(target.gold) or "null")
        for deviation in self.trace.deviations:
            if deviation.step == step.index:
                yield from self._deviation(step, deviation)
        yield from self._effects(self.episode.effects, step.index + 1, "  ")
        yield from self._rewards(step.index + 1)

    def _effects(
        self, effects: Iterable[EffectRecord], steps: int, indent: str
    ) -> Iterator[Styled]:
        """The effects after this number of steps."""
        for effect in effects:
            if effect.steps == steps:
                yield from self._text(f"{indent}effect ", effect.call_text, "blue")
                text, style = effect.end_text, "red" if effect.error else ""
                yield from self._text(f"{indent}  -> ", text, style)

    def _rewards(self, steps: int) -> Iterator[Styled]:
        """The rewards reported after this number of steps."""
        for event in self.episode.rewards:
            if event.steps == steps:
                yield f"  reward {event.name} = {_number(event.value)}", "cyan"

    def _output(self, prefix: str, output: NodeOutput, style: str) -> Iterator[Styled]:
        yield from self._text(prefix, output.text or "(nothing)", style)
        details = [] if output.logprob is None else [f"logprob {output.logprob:.3f}"]
        details += [f"{output.tokens} token{'s' * (output.tokens > 1)}"] if output.tokens else []
        details += ["TRUNCATED"] if output.truncated else []
        if details:
            yield (
                f"{' ' * len(prefix)}({', '.join(details)})",
                "yellow" if output.truncated else "dim",
            )

    def _deviation(self, step: Step, deviation: Deviation) -> Iterator[Styled]:
        output = step.response.outputs[deviation.alternative]
        if not deviation.ending:
            yield from self._output(f"  alternative {deviation.alternative}: ", output, "")
        endings = [d for d in self.trace.deviations if d.step == step.index]
        endings = [d for d in endings if d.alternative == deviation.alternative]
        text = f"ending {deviation.ending}: " if len(endings) > 1 else ""
        text += deviation.outcome.value
        if deviation.outcome in (Outcome.FAILED, Outcome.EVALUATOR_FAILED):
            text = text.replace("failed", "FAILED")
        if deviation.gain is not None:
            text += f", gain {deviation.gain:+.3f}"
        if deviation.greedy_reward is not None and deviation.alternative_reward is not None:
            reward = self.task.node(deviation.node).reward
            text += (
                f": {reward} {deviation.greedy_reward:.3f} -> {deviation.alternative_reward:.3f}"
            )
        if deviation.reason:
            text += f": {deviation.reason}"
        yield from self._text("    ", text)
        rollout = deviation.rollout
        for effect in rollout.effects if rollout else ():
            if effect.steps > step.index and not effect.again:
                yield from self._effects([effect], effect.steps, "    ")
        for call in deviation.evaluator_calls:
            yield from self._evaluator_call(call)
        if deviation.failure is not None:
            yield from self._text("    ", deviation.failure.traceback.rstrip(), "red", whole=True)
        if deviation is endings[-1]:
            yield from self._preference(step, deviation.alternative, len(endings))

    def _preference(self, step: Step, alternative: int, endings: int) -> Iterator[Styled]:
        """The preference of an alternative, behind its last ending."""
        mean = f", the mean gain of {endings} endings" if endings > 1 else ""
        for preference in self.trace.preferences:
            if (preference.step, preference.alternative) == (step.index, alternative):
                names = [f"alternative {alternative}", "the greedy output"]
                other = step.response.outputs[alternative]
                chosen, rejected = names if preference.chosen is other else reversed(names)
                yield (
                    f"    preference: chosen {chosen}, rejected {rejected},"
                    f" margin {preference.margin:.3f}{mean}",
                    "magenta",
                )

    def _evaluator_call(self, call: EvaluatorCall) -> Iterator[Styled]:
        """What the evaluator showed the model, and what it said."""
        yield "    the evaluator showed the model:", ""
        yield from self._text("    | ", call.prompt.rstrip("\n"), "dim")
        if call.dropped_tokens:
            yield f"    its prompts were CUT by {call.dropped_tokens} tokens to fit", "yellow"
        for text, logprob in call.answers:
            yield from self._text("    -> ", f"{text or '(nothing)'}  (logprob {logprob:.3f})")

    def _text(
        self, prefix: str, text: str, style: str = "", *, whole: bool = False
    ) -> Iterator[Styled]:
        """A text with a prefix; later lines repeat a ``|``, or are indented."""
        lines = visible(text).split("\n")
        if not (whole or self.full):
            lines = [part for line in lines for part in _wrap(line, _WIDTH - len(prefix))]
            hidden = len(lines) - _HEAD - _TAIL
            if hidden > 1:
                note = f"... {hidden} more lines; --full shows them ..."
                lines = [*lines[:_HEAD], note, *lines[-_TAIL:]]
        indent = prefix if prefix.strip() == "|" else " " * len(prefix)
        for number, line in enumerate(lines):
            yield f"{indent if number else prefix}{line}", style


def _wrap(line: str, width: int) -> list[str]:
    parts = textwrap.wrap(line, width, drop_whitespace=False, expand_tabs=False)
    return [part.rstrip() for part in parts] or [""]


def _node_label(node: Node, version: int) -> str:
    adapter = "base model"
    if node.model is not None:
        name = node.model if isinstance(node.model, str) else node.model.get("name")
        adapter = f"model {name}"
    elif node.adapter_name is not None:
        whose = "" if node.share is None else f" of '{node.share}'"
        adapter = f"adapter{whose} version {version}"
    elif not node.uses_adapter:
        adapter = "no adapter"
    return f"{node.kind}, {adapter}"


def _deviations(trace: Trace) -> str:
    outcomes = [deviation.outcome.value for deviation in trace.deviations]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
    return f"rollouts {len(outcomes)}: {counts}; {len(trace.preferences)} preferences"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
