"""An evaluator: the base model says which of two episodes ended better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ..flow.episode import Episode
from ..flow.errors import UsageError
from ..flow.example import Example
from ..flow.node import Ask
from ..flow.prompt import Template
from ..flow.request import ScoreRequest
from ..flow.task import Task

COMPARE = Template(
    system="You compare two results. Reply with the letter of the better one, nothing else.",
    user="{inputs}\n\nResult A: {a}\n\nResult B: {b}\n\nBetter result (A or B):",
    truncate=("inputs", "a", "b"),
)


@dataclass(frozen=True)
class LLMJudge:
    """Asks the base model, without any adapter, whether A or B is better; both ways round.

    The gain is the mean probability of the second episode over the two orders, less that of the
    first, so a model that merely likes one letter sees a tie. Gains below ``tie`` count as ties.

    Args:
        prompt: shows the results ``{a}`` and ``{b}``, and of the example ``{inputs}`` (all that
            are texts or short as JSON, with their names), or single ones by name; a text is the
            user message.
        tie: the smallest gain that counts, from 0 to 1.
    """

    name: ClassVar[str] = "llm_judge"

    prompt: Template | str = COMPARE
    tie: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.tie <= 1:
            raise UsageError(f"tie should be from 0 to 1, not {self.tie}")
        missing = [f"{{{name}}}" for name in ("a", "b") if name not in self._template.fields]
        if missing:
            raise UsageError(f"prompt does not show {' and '.join(missing)}, a result to compare")

    async def compare(
        self, ask: Ask, task: Task, example: Example, first: Episode, second: Episode
    ) -> float | None:
        """From -1 to 1; None if an episode failed. See ``Evaluator.compare``."""
        if first.failure is not None or second.failure is not None:
            return None
        texts = [task.outcome_text(example, episode.result) for episode in (first, second)]
        if texts[0] == texts[1]:
            return 0.0
        shown = {**example.inputs, "inputs": list(task.judge_texts(example))}
        prompts = [
            self._template.render({**shown, "a": a, "b": b}, node=self.name)
            for a, b in (texts, reversed(texts))
        ]
        scored = await ask(ScoreRequest(None, tuple((prompt, ("A", "B")) for prompt in prompts)))
        odds = [a.logprob - b.logprob for a, b in scored.likelihoods]
        first_wins = (_sigmoid(odds[0]) + _sigmoid(-odds[1])) / 2
        gain = 1 - 2 * first_wins
        return 0.0 if abs(gain) < self.tie else gain

    @property
    def _template(self) -> Template:
        """The prompt; from a settings file it is a text, or a table of a template's fields."""
        if isinstance(self.prompt, str):
            template = replace(COMPARE, user=self.prompt)
            return replace(template, truncate=tuple(sorted(template.fields)))
        if isinstance(self.prompt, Mapping):
            return replace(COMPARE, **self.prompt)
        return self.prompt


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
