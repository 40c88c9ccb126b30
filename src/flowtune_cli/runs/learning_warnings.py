"""Why a node of a run has learned nothing, or no reference moves, from what the run stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..flow.errors import did_you_mean
from .records import NodeSetup, NodeSummary


@dataclass(frozen=True)
class LearningWarning:
    """A sentence, without a full stop, about a node, or about the whole run if it names none."""

    node: str | None
    text: str


def learning_warnings(
    nodes: Sequence[NodeSummary], rewards: Sequence[str], gate: str, episodes: int
) -> Iterator[LearningWarning]:
    """A warning for each node that was to learn and has not, and for a gate that is not reported.

    Args:
        rewards: the names of all rewards that the flow has reported.
        gate: the reward that gates reference updates; "" if none does.
        episodes: played so far.
    """
    if not episodes:
        return
    for node in nodes:
        if node.setup is None or node.setup.learn == "nothing":
            continue
        reason = _reason(node, node.setup, rewards, episodes)
        if reason is not None:
            text = f"node '{node.node}' has learned nothing: {reason}"
            yield LearningWarning(node.node, text)
    if gate and gate not in rewards:
        text = f"no reference moves: {_unreported('the gate', gate, rewards)}"
        yield LearningWarning(None, text)


def _reason(
    node: NodeSummary, setup: NodeSetup, rewards: Sequence[str], episodes: int
) -> str | None:
    """Why a node has learned nothing; None if it has learned something."""
    if not setup.weight:
        return "its 'weight' is 0"
    if node.data:
        return None
    if setup.learn == "preferences":
        if setup.reward is None and setup.evaluator is None:
            targets = " The flow reports targets for it: learn = 'supervised' uses them."
            return (
                "it has neither a reward nor an evaluator. Set 'reward' to one that the flow"
                f" reports ({_listed(rewards)}), or learn = 'nothing'."
                f"{targets if node.targets else ''}"
            ).removesuffix(".")
        if setup.alternatives < 1:
            return f"its 'alternatives' is {setup.alternatives}, so no other output is tried"
    if not node.steps:
        return f"it was not called in {_count(episodes, 'episode')}"
    if node.failed_steps == node.steps:
        return f"{_all(node.steps, 'call')} of it was in an episode that failed"
    if setup.learn == "supervised":
        return _unsupervised(node)
    if setup.evaluator is None and setup.reward is not None and setup.reward not in rewards:
        return _unreported("its reward", setup.reward, rewards)
    return _without_preferences(node, setup)


def _unsupervised(node: NodeSummary) -> str:
    if not node.targets:
        return (
            f"the flow reported no target for it. Call episode.target('{node.node}', ...), or set"
            " learn = 'nothing'"
        )
    return (
        f"it could not learn from any of its {_count(node.targets, 'target')}: the right output, or"
        " a wrong one, was not among those that it could give"
    )


def _without_preferences(node: NodeSummary, setup: NodeSetup) -> str:
    """Why there is no preference of a node whose calls were judged."""
    if node.preferences:
        made = _count(node.preferences, "preference")
        return f"the outputs of its {made} have no score that could be raised or lowered"
    if node.rollouts == node.ties > 0:
        reason = f"{_all(node.ties, 'alternative')} of it tied with the greedy output"
        return f"{reason}{_truncated(node)}"
    judge = f"evaluator '{setup.evaluator}'" if setup.evaluator else f"reward '{setup.reward}'"
    undefined = "could not tell" if setup.evaluator else "was undefined or missing in the rollout"
    parts = {
        "tied": node.ties,
        f"were not played, as {judge} was not reported after the call": node.unreported,
        f"were not played, as {judge} was undefined": node.skipped - node.unreported,
        f"could not be compared, as {judge} {undefined}": node.undefined,
        "ended in a failure of the flow": node.failed,
        f"could not be compared, as {judge} failed": node.evaluator_failed,
    }
    if node.rollouts:
        said = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
        return f"none of its {_count(node.rollouts, 'alternative')} was better or worse: {said}"
    tried = node.steps - node.failed_steps
    if node.announced >= tried:
        return f"the flow announced {judge} as undefined at {_all(tried, 'call')} of it"
    return f"no other output was found at {_all(tried, 'call')} of it{_truncated(node)}"


def _truncated(node: NodeSummary) -> str:
    """How many outputs were cut off, if it is most of them: they may differ only after that."""
    if node.truncated * 2 <= node.outputs:
        return ""
    return f"; {node.truncated:,} of its {_count(node.outputs, 'output')} were truncated"


def _unreported(what: str, name: str, rewards: Sequence[str]) -> str:
    hint = did_you_mean(name, rewards)
    return f"the flow never reported {what} '{name}'.{hint} It reported: {_listed(rewards)}"


def _listed(rewards: Sequence[str]) -> str:
    return ", ".join(sorted(rewards)) or "none"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _all(number: int, thing: str) -> str:
    return f"the one {thing}" if number == 1 else f"each of the {number:,} {thing}s"
