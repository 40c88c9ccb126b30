"""What the reader of a store gives: a run's episodes, rollouts and figures as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..flow.deviation import Outcome
from ..flow.episode import RewardEvent, Target
from .batch import MetricRecord, UpdateRecord


@dataclass(frozen=True)
class Filter:
    """Which episodes are wanted: those that fit everything given here.

    Args:
        node: they called this node; the outcome, the preference and the truncated output that are
            asked for must be of this node.
        outcome: a rollout of theirs ended so.
        failed: the flow failed, or did not.
        example_id: they played this example.
        preference: they made a preference, or made none.
        truncated: an output of the episode itself was cut off, or none was.
    """

    node: str | None = None
    outcome: Outcome | None = None
    failed: bool | None = None
    example_id: str | None = None
    preference: bool | None = None
    truncated: bool | None = None


@dataclass(frozen=True)
class Order:
    """How episodes are sorted; those that are alike stay in the order in which they were played.

    Args:
        by: what is compared. ``gain`` is the most that a deviation gained over the greedy output.
        reward: which reward, for ``by="reward"``: its mean over the episode. Undefined comes last.
        descending: the greatest first.
    """

    by: Literal["number", "reward", "gain", "preferences", "steps"] = "number"
    reward: str = ""
    descending: bool = False


@dataclass(frozen=True)
class EpisodeSummary:
    """One line on an episode.

    Args:
        rewards: each stated reward's mean over its defined statements; None: all undefined.
        truncated: steps whose output was cut off.
        dropped_tokens: prompt tokens that were cut to fit.
        error: why the flow failed; None if it did not.
        best_gain: the most that a deviation gained over the greedy output; None without any.
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
class Searched:
    """How far a search is.

    Args:
        episodes: how many were searched so far.
        found: those that hold the text, of the latest ones searched, in their order.
    """

    episodes: int
    found: tuple[int, ...]


@dataclass(frozen=True)
class StoredAlternative:
    """An output that the node could have given; ``number`` counts from 1."""

    number: int
    text: str
    logprob: float | None
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class StoredStep:
    """One node call. Token counts and log-probability (nats) as in ``flow.node``.

    ``substituted``: an alternative stood in for the output here, and no call was made. Rollouts
    have no alternatives, and the detail of a substituted step is that of the episode's step.
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
    alternatives: tuple[StoredAlternative, ...] = ()


@dataclass(frozen=True)
class StoredRollout:
    """An alternative tried, and how it ended: the fields of ``flow.deviation.Deviation``.

    ``steps`` begin with the substituted one; those before it are the episode's. A rollout that
    was skipped has none.
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
    steps: tuple[StoredStep, ...]


@dataclass(frozen=True)
class StoredPreference:
    """A preference between the greedy output of a step and an alternative."""

    step: int
    node: str
    alternative: int
    chosen: str
    rejected: str
    margin: float


@dataclass(frozen=True)
class StoredEpisode:
    """A whole episode with all that was tried at its steps."""

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
    steps: tuple[StoredStep, ...]
    rollouts: tuple[StoredRollout, ...]
    preferences: tuple[StoredPreference, ...]


@dataclass(frozen=True)
class MetricPoint:
    """A metric after a batch, when ``episodes`` had been played."""

    batch: int
    episodes: int
    metric: MetricRecord


@dataclass(frozen=True)
class UpdatePoint:
    """A node's update after a batch, when ``episodes`` had been played."""

    batch: int
    episodes: int
    update: UpdateRecord


@dataclass(frozen=True)
class ReferenceUpdate:
    """After this batch it was decided whether references move: by node whether they did."""

    batch: int
    moved: Mapping[str, bool]


@dataclass(frozen=True)
class Commonest:
    """What a node wrote most often in its latest calls.

    Args:
        output: the text; empty where it wrote nothing.
        times: how often, of ``calls``.
    """

    output: str
    times: int
    calls: int


@dataclass(frozen=True)
class NodeSummary:
    """What a node has done and learned so far.

    Args:
        steps: calls in the episodes themselves.
        truncated: outputs cut off, in episodes, alternatives and rollouts.
        better, worse, ties, undefined, failed, skipped: rollouts from this node's alternatives.
        win_rate: share of ``better`` among ``better`` and ``worse``; None without any.
        mean_margin: of its preferences; None without any.
        last_loss: of its latest update that had one.
        tokens, prompt_tokens: of its outputs and prompts, in episodes, alternatives and rollouts.
        reference_moves: how often its reference moved towards its policy.
        last_update: the latest that had a loss; None without any.
        commonest: of its latest calls in episodes; None for a node that writes no text.
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
    commonest: Commonest | None = None

    @property
    def rollouts(self) -> int:
        """All rollouts from its alternatives, skipped ones too."""
        return self.better + self.worse + self.ties + self.undefined + self.failed + self.skipped


@dataclass(frozen=True)
class Counts:
    """A run in numbers.

    Args:
        failed: episodes whose flow failed.
        truncated: episodes with an output that was cut off.
        shortened: episodes with a prompt that was cut to fit.
        rollouts: by outcome; every outcome is there.
    """

    batches: int
    episodes: int
    failed: int
    truncated: int
    shortened: int
    rollouts: Mapping[Outcome, int]
    preferences: int
    targets: int
