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


@dataclass(frozen=True)
class Reason:
    """Why a node learns nothing.

    Args:
        code: its kind, which does not change with the wording.
        text: begins in the middle of a sentence, and has no full stop.
        advice: what to do, a sentence; "" where the text says all.
    """

    code: str
    text: str
    advice: str = ""

    @property
    def whole(self) -> str:
        """The text and the advice, without a full stop."""
        return f"{self.text}. {self.advice}".removesuffix(".") if self.advice else self.text


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
        reason = why_it_learns_nothing(node, rewards, episodes)
        if reason is not None:
            text = f"node '{node.node}' has learned nothing: {reason.whole}"
            yield LearningWarning(node.node, text)
    if gate and gate not in rewards:
        text = f"no reference moves: {unreported('the gate', gate, rewards)}"
        yield LearningWarning(None, text)


def why_it_learns_nothing(
    node: NodeSummary, rewards: Sequence[str], episodes: int
) -> Reason | None:
    """Why a node that is to learn learns nothing; None if it does, or is not to."""
    setup = node.setup
    if setup is None or setup.learn == "nothing":
        return None
    if not setup.weight:
        return Reason("no-weight", "its 'weight' is 0")
    if node.data:
        return None
    if setup.learn == "preferences":
        if setup.reward is None and setup.evaluator is None:
            targets = " The flow reports targets for it: learn = 'supervised' uses them."
            return Reason(
                "no-judge",
                "it has neither a reward nor an evaluator",
                f"Set 'reward' to one that the flow reports ({_listed(rewards)}), or learn ="
                f" 'nothing'.{targets if node.targets else ''}",
            )
        if setup.alternatives < 1:
            text = f"its 'alternatives' is {setup.alternatives}, so no other output is tried"
            return Reason("no-alternatives", text)
    if not node.steps:
        return Reason("not-called", f"it was not called in {_count(episodes, 'episode')}")
    if node.failed_steps == node.steps:
        text = f"{_all(node.steps, 'call')} of it was in an episode that failed"
        return Reason("failed", text)
    if setup.learn == "supervised":
        return _unsupervised(node)
    if setup.evaluator is None and setup.reward is not None and setup.reward not in rewards:
        return Reason("reward-unreported", unreported("its reward", setup.reward, rewards))
    return _without_preferences(node, setup)


def _unsupervised(node: NodeSummary) -> Reason:
    if not node.targets:
        return Reason(
            "no-target",
            "the flow reported no target for it",
            f"Call episode.target('{node.node}', ...), or set learn = 'nothing'.",
        )
    return Reason(
        "useless-targets",
        f"it could not learn from any of its {_count(node.targets, 'target')}: the right output, or"
        " a wrong one, was not among those that it could give",
    )


def _without_preferences(node: NodeSummary, setup: NodeSetup) -> Reason:
    """Why there is no preference of a node whose calls were judged."""
    if node.preferences:
        made = _count(node.preferences, "preference")
        text = f"the outputs of its {made} have no score that could be raised or lowered"
        return Reason("no-score", text)
    if node.rollouts == node.ties > 0:
        text = f"{_all(node.ties, 'alternative')} of it tied with the greedy output"
        return Reason("only-ties", f"{text}{_truncated(node)}")
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
        number = _count(node.rollouts, "alternative")
        return Reason("no-preference", f"none of its {number} was better or worse: {said}")
    tried = node.steps - node.failed_steps
    if node.announced >= tried:
        text = f"the flow announced {judge} as undefined at {_all(tried, 'call')} of it"
        return Reason("announced-undefined", text)
    text = f"no other output was found at {_all(tried, 'call')} of it{_truncated(node)}"
    return Reason("no-other-output", text)


def _truncated(node: NodeSummary) -> str:
    """How many outputs were cut off, if it is most of them: they may differ only after that."""
    if node.truncated * 2 <= node.outputs:
        return ""
    return f"; {node.truncated:,} of its {_count(node.outputs, 'output')} were truncated"


def unreported(what: str, name: str, rewards: Sequence[str]) -> str:
    """That the flow never reported a reward that something names."""
    hint = did_you_mean(name, rewards)
    return f"the flow never reported {what} '{name}'.{hint} It reported: {_listed(rewards)}"


def _listed(rewards: Sequence[str]) -> str:
    return ", ".join(sorted(rewards)) or "none"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _all(number: int, thing: str) -> str:
    return f"the one {thing}" if number == 1 else f"each of the {number:,} {thing}s"
