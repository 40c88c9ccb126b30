"""An evaluator: the base model says which of two episodes ended better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..flow.episode import Episode
from ..flow.example import Example
from ..flow.node import Ask
from ..flow.prompt import Template
from ..flow.request import ScoreRequest
from ..flow.task import Task

COMPARE = Template(
    system="You compare two results. Reply with the letter of the better one, nothing else.",
    user="Question: {question}\n\nResult A: {a}\n\nResult B: {b}\n\nBetter result (A or B):",
    truncate=("a", "b"),
)


@dataclass(frozen=True)
class LLMJudge:
    """Asks the base model, without any adapter, whether A or B answers better; both ways round.

    The gain is the mean probability of the second episode over the two orders, less that of the
    first, so a model that merely likes one letter sees a tie. Gains below ``tie`` count as ties.

    Args:
        prompt: shows ``{question}``, ``{a}`` and ``{b}``.
        tie: the smallest gain that counts, from 0 to 1.
    """

    name: ClassVar[str] = "llm_judge"

    prompt: Template = COMPARE
    tie: float = 0.02

    async def compare(
        self, ask: Ask, task: Task, example: Example, first: Episode, second: Episode
    ) -> float | None:
        """From -1 to 1; None if an episode failed. See ``Evaluator.compare``."""
        if first.failure is not None or second.failure is not None:
            return None
        texts = [task.outcome_text(example, episode.result) for episode in (first, second)]
        if texts[0] == texts[1]:
            return 0.0
        question = task.question_text(example)
        prompts = [
            self.prompt.render({"question": question, "a": a, "b": b}, node=self.name)
            for a, b in (texts, reversed(texts))
        ]
        scored = await ask(ScoreRequest(None, tuple((prompt, ("A", "B")) for prompt in prompts)))
        odds = [a.logprob - b.logprob for a, b in scored.likelihoods]
        first_wins = (_sigmoid(odds[0]) + _sigmoid(-odds[1])) / 2
        gain = 1 - 2 * first_wins
        return gain if abs(gain) >= self.tie else 0.0


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
