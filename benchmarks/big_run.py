"""A run with as many episodes as wanted and texts of realistic sizes, without any model.

Ten steps an episode, prompts of 500 to 4,000 characters, about 40 calls with those of the rollouts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from flowtune_cli.flow.deviation import Deviation, Outcome, Preference, Trace
from flowtune_cli.flow.episode import Episode, RewardEvent, Step
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import NodeOutput, Response
from flowtune_cli.runs.batch import BatchRecord, MetricRecord, UpdateRecord
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.store import Store

NODES = ("query", "retrieve", "stop") * 3 + ("answer",)
BATCH, WINDOW = 8, 96
STEPS, ALTERNATIVE = 10, 1


class Texts:
    """Slices of one long text of random words: cheap to make, and no two prompts alike."""

    def __init__(self, random: random.Random) -> None:
        self.random = random
        syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
        words = ["".join(random.choices(syllables, k=random.randint(1, 4))) for _ in range(5000)]
        self.long = " ".join(random.choices(words, k=100_000))

    def of(self, shortest: int, longest: int) -> str:
        length = self.random.randint(shortest, longest)
        start = self.random.randrange(len(self.long) - length)
        return self.long[start : start + length]


def batches(episodes: int, seed: int = 0) -> Iterator[BatchRecord]:
    """The mini-batches of such a run."""
    chance = random.Random(seed)
    texts = Texts(chance)
    for batch, first in enumerate(range(0, episodes, BATCH)):
        size = min(BATCH, episodes - first)
        played = first + size
        good = min(0.9, 0.1 + played / 10_000)
        ends_window = played % WINDOW == 0 or played == episodes
        yield BatchRecord(
            batch,
            [_trace(number, texts, chance, good) for number in range(first, played)],
            first,
            dict.fromkeys(set(NODES), batch),
            [
                UpdateRecord(node, batch, batch + 1, 9, 9, 0, 1 - good / 2, good, good, 0.3, 2.0)
                for node in sorted(set(NODES))
            ],
            {
                name: MetricRecord(good + chance.gauss(0, 0.05), good / 2, played, 0)
                for name in ("answer_em", "answer_f1", "support_f1")
            },
            dict.fromkeys(sorted(set(NODES)), chance.random() < 0.7) if ends_window else None,
            ends_window,
            {"play and deviate": 20.0, "learn": 10.0},
        )


def write(parent: Path, episodes: int) -> RunDirectory:
    """A finished run of so many episodes."""
    run = RunDirectory.create(parent, "big", task="big", model="none", settings={"settings": {}})
    with Store(run.store_path, lambda example: str(example.inputs["question"])) as store:
        for record in batches(episodes):
            store.write_batch(record)
    run.update(state="finished", episodes=episodes)
    return run


def _step(index: int, node: str, texts: Texts) -> Step:
    outputs = (
        NodeOutput(None, texts.of(20, 120), None, -3.0, 12, texts.random.random() < 0.02),
        NodeOutput(None, texts.of(20, 120), None, -5.0, 14),
    )
    response = Response(texts.of(500, 4000), outputs, adapter_version=1, prompt_tokens=500)
    return Step(index, node, "", response, outputs[0])


def _trace(number: int, texts: Texts, chance: random.Random, good: float) -> Trace:
    example = Example(f"example-{number}", {"question": texts.of(40, 120)}, {"answer": "x"})
    episode = Episode(example, {})
    episode.steps = [_step(index, node, texts) for index, node in enumerate(NODES)]
    solved = chance.random() < good
    for name, value in (("answer_em", solved), ("answer_f1", solved), ("support_f1", good)):
        episode.rewards.append(RewardEvent(name, float(value), STEPS))
    episode.result = {"answer": texts.of(10, 30)}
    trace = Trace(example, episode)
    for step in episode.steps[:6]:
        outcome = chance.choice(
            [Outcome.TIE, Outcome.TIE, Outcome.ALTERNATIVE_BETTER, Outcome.GREEDY_BETTER]
        )
        gain = {Outcome.ALTERNATIVE_BETTER: 0.5, Outcome.GREEDY_BETTER: -0.5}.get(outcome, 0.0)
        rollout = Episode(example, {})
        other = step.response.outputs[ALTERNATIVE]
        deviated = Step(step.index, step.node, "", step.response, other, substituted=True)
        # Rollouts meet the episode again: two calls in three show a prompt that it had, too.
        rest = [
            _step(later.index, later.node, texts) if chance.random() < 0.33 else later
            for later in episode.steps[step.index + 1 :]
        ]
        rollout.steps = [*episode.steps[: step.index], deviated, *rest]
        trace.deviations.append(
            Deviation(step.index, step.node, ALTERNATIVE, rollout, outcome, 0.5, 0.5 + gain, gain)
        )
        if gain:
            pair = (other, step.output) if gain > 0 else (step.output, other)
            trace.preferences.append(
                Preference(step.index, step.node, ALTERNATIVE, *pair, margin=abs(gain))
            )
    return trace
