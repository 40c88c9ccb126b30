"""What is read from a store, as plain records: episodes, rollouts, metrics, summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..flow.deviation import Outcome
from ..flow.effect import EffectRecord
from ..flow.episode import RequestError, RewardEvent, Target
from .batch import MetricRecord, UpdateRecord


@dataclass(frozen=True)
class Filter:
    """A filter of episodes; None accepts any value.

    Args:
        node: a node that was called. ``outcome``, ``preference`` and ``truncated`` then refer to
            this node alone.
        outcome: the outcome of one of the rollouts.
        failed: whether the flow failed.
        example_id: the example that was played.
        preference: whether there is a preference.
        truncated: whether an output of the episode itself was truncated.
    """

    node: str | None = None
    outcome: Outcome | None = None
    failed: bool | None = None
    example_id: str | None = None
    preference: bool | None = None
    truncated: bool | None = None


@dataclass(frozen=True)
class Order:
    """A sort order of episodes; ties are in the order of their numbers.

    Args:
        by: the sort key. ``gain`` is the highest gain of a rollout over the greedy output.
        reward: the reward's name, for ``by="reward"``: its mean over the episode. Undefined ones
            come last.
        descending: the highest first.
    """

    by: Literal["number", "reward", "gain", "preferences", "steps"] = "number"
    reward: str = ""
    descending: bool = False


@dataclass(frozen=True)
class EpisodeSummary:
    """A summary of one episode.

    Args:
        rewards: each reward's mean over its defined values; None: all are undefined.
        truncated: the number of steps with a truncated output.
        dropped_tokens: prompt tokens that were dropped to fit the context.
        error: why the flow failed; None if it did not.
        best_gain: the highest mean gain of an alternative's rollouts over the greedy output; None
            without rollouts.
    """

    number: int
    batch: int
    example_id: str
    question: str
    rewards: Mapping[str, float | None]
    steps: int
    truncated: int
    dropped_tokens: int
    error: str | None
    rollouts: int
    preferences: int
    best_gain: float | None = None


@dataclass(frozen=True)
class SearchProgress:
    """The progress of a search.

    Args:
        searched: the number of episodes searched so far.
        matches: the new matches, in the order searched.
    """

    searched: int
    matches: tuple[int, ...]


@dataclass(frozen=True)
class AlternativeRecord:
    """An alternative output of a step; ``number`` counts from 1."""

    number: int
    text: str
    logprob: float | None
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class StepRecord:
    """One node call. Token counts and log-probability (in nats) as in ``flow.node``.

    ``substituted``: the output is an alternative, and no call was made. A rollout's steps have no
    alternatives; the detail of its substituted step is in the episode's step.
    """

    index: int
    node: str
    prompt: str
    output: str
    adapter_version: int
    prompt_tokens: int
    tokens: int
    logprob: float | None
    truncated: bool
    dropped_tokens: int
    substituted: bool
    detail: Mapping[str, Any]
    alternatives: tuple[AlternativeRecord, ...] = ()


@dataclass(frozen=True)
class EvaluatorCallRecord:
    """A prompt that an evaluator showed the model, see ``flow.deviation.EvaluatorCall``."""

    prompt: str
    answers: tuple[tuple[str, float | None], ...]
    dropped_tokens: int


@dataclass(frozen=True)
class RolloutRecord:
    """A rollout from an alternative: the fields of ``flow.deviation.Deviation``.

    ``steps`` starts with the substituted one; earlier steps are the episode's, and so are earlier
    effects. A skipped rollout has none. Rollouts of one alternative differ by their ``ending``.
    """

    number: int
    step: int
    node: str
    alternative: int
    outcome: Outcome
    greedy_reward: float | None
    alternative_reward: float | None
    gain: float | None
    reason: str
    traceback: str | None
    stopped_early: bool
    result: Any
    steps: tuple[StepRecord, ...]
    evaluator_calls: tuple[EvaluatorCallRecord, ...] = ()
    effects: tuple[EffectRecord, ...] = ()
    request_errors: tuple[RequestError, ...] = ()
    ending: int = 0


@dataclass(frozen=True)
class PreferenceRecord:
    """A preference between the greedy output of a step and an alternative."""

    step: int
    node: str
    alternative: int
    chosen: str
    rejected: str
    margin: float


@dataclass(frozen=True)
class EpisodeRecord:
    """A whole episode with its rollouts and preferences."""

    number: int
    batch: int
    example_id: str
    question: str
    gold: Any
    result: Any
    error: str | None
    traceback: str | None
    rewards: tuple[RewardEvent, ...]
    targets: tuple[Target, ...]
    steps: tuple[StepRecord, ...]
    rollouts: tuple[RolloutRecord, ...]
    preferences: tuple[PreferenceRecord, ...]
    effects: tuple[EffectRecord, ...] = ()
    request_errors: tuple[RequestError, ...] = ()


@dataclass(frozen=True)
class Headline:
    """The one figure that says how good a run is.

    Args:
        value: None where it is undefined.
        of: the best of its evaluations, or all that was played in training.
    """

    name: str
    value: float | None
    of: Literal["evaluation", "training"]
    lower_is_better: bool = False


@dataclass(frozen=True)
class MetricPoint:
    """A metric after a batch, that is after ``episodes`` episodes."""

    batch: int
    episodes: int
    metric: MetricRecord


@dataclass(frozen=True)
class UpdatePoint:
    """A node's update after a batch, that is after ``episodes`` episodes."""

    batch: int
    episodes: int
    update: UpdateRecord


@dataclass(frozen=True)
class MostCommonOutput:
    """A node's most common output in its latest calls.

    Args:
        output: the text; may be empty.
        count: how many of the ``calls`` gave it.
    """

    output: str
    count: int
    calls: int


@dataclass(frozen=True)
class NodeSetup:
    """What a node learns from: fields of ``flow.node.Node``; ``evaluator`` is its name."""

    learn: str
    reward: str | None
    evaluator: str | None
    alternatives: int
    weight: float


@dataclass(frozen=True)
class NodeSummary:
    """What a node has done and learned so far.

    Args:
        steps: calls in the episodes themselves; ``failed_steps`` of them in failed episodes, and
            ``announced`` of them with a reward announced as undefined.
        truncated: truncated outputs in episodes, alternatives and rollouts.
        better, worse, ties, undefined, failed, evaluator_failed, skipped: rollouts from this node's
            alternatives.
        win_rate: share of ``better`` among ``better`` and ``worse``; None without any.
        mean_margin: of its preferences; None without any.
        last_loss: of its latest update with a loss.
        tokens, prompt_tokens: of its outputs and prompts in episodes, alternatives and rollouts.
        reference_moves: how often its reference was moved to its policy.
        last_update: the latest one with a loss; None without any.
        most_common_output: in its latest calls in episodes; None if it generates no text.
        unreported: of the skipped rollouts, those whose reward was not reported after the step.
        alternatives: found at its calls in episodes.
        outputs: in episodes, alternatives and rollouts.
        data: what its updates learned from.
        setup: None if the run did not store it.
    """

    node: str
    steps: int
    truncated: int
    better: int
    worse: int
    ties: int
    undefined: int
    failed: int
    skipped: int
    preferences: int
    targets: int
    mean_margin: float | None
    win_rate: float | None
    last_loss: float | None
    tokens: int = 0
    prompt_tokens: int = 0
    reference_moves: int = 0
    last_update: UpdateRecord | None = None
    most_common_output: MostCommonOutput | None = None
    evaluator_failed: int = 0
    unreported: int = 0
    failed_steps: int = 0
    announced: int = 0
    alternatives: int = 0
    outputs: int = 0
    data: int = 0
    setup: NodeSetup | None = None

    @property
    def rollouts(self) -> int:
        """The number of rollouts from its alternatives, with the skipped ones."""
        compared = self.better + self.worse + self.ties
        return compared + self.undefined + self.failed + self.evaluator_failed + self.skipped


@dataclass(frozen=True)
class Counts:
    """A run's counts.

    Args:
        failed: episodes whose flow failed.
        truncated: episodes with a truncated output.
        shortened: episodes with a prompt that was shortened to fit the context.
        rollouts: by outcome, with every outcome as a key.
    """

    batches: int
    episodes: int
    failed: int
    truncated: int
    shortened: int
    rollouts: Mapping[Outcome, int]
    preferences: int
    targets: int
