"""Findings about nodes that would learn nothing, and about rewards that nobody states."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ...flow.deviation import Trace
from ...flow.episode import Episode
from ...flow.errors import FlowtuneError
from ...flow.named import name_and_options
from ...flow.node import Node, SelfLearning
from ...flow.task import Task
from ...runs.batch import BatchRecord, UpdateRecord
from ...runs.learning_warnings import Reason, unreported, why_it_learns_nothing
from ...runs.records import NodeSetup, NodeSummary
from ...runs.running_totals import COLUMNS, OUTCOME_COLUMNS, node_rows
from ..data import collect
from .finding import Finding, Severity

_MISSPELT = 0.8
"""How alike (by difflib's ratio) a name is to another that it was surely meant to be."""

_ENOUGH = 4
"""Episodes, of which one at least should call a node."""

_ERRORS = ("no-judge", "useless-targets")
ELSEWHERE = ("reward-unreported",)
"""Reasons that other findings give."""

ADVICE = {
    "no-weight": "Give it a 'weight' above 0, or learn = 'nothing'.",
    "no-alternatives": "Set its 'alternatives' to 1 or more, or learn = 'nothing'.",
    "not-called": "See whether the flow can get there: the condition of the call, and the outputs"
    " that it depends on. Try more examples (--limit). If it is not needed, remove the node.",
    "useless-targets": "Report a target that the node can give: one of its labels or candidates.",
    "no-score": "Give the node's outputs a score (NodeOutput.score), which is what learning moves.",
    "only-ties": "Judge the node by a reward that tells outputs apart, such as one that says how"
    " close it was; raise 'alternatives', or make them differ more: 'exploration'.",
    "no-other-output": "Raise its 'alternatives', or the penalty of 'exploration', or let it sample"
    " (exploration = 'multi_sample'). Outputs that read alike count once.",
    "no-preference": "See 'flowtune play --deviate': state the reward after the node's call, with a"
    " number, whatever the node says.",
    "announced-undefined": "Try more examples (--limit): none of these can teach the node.",
}


def learning_findings(task: Task, traces: Sequence[Trace]) -> Iterator[Finding]:
    """Why nodes that are to learn would learn nothing from these examples, and what to do."""
    finished = [trace for trace in traces if trace.episode.failure is None]
    if not finished:
        return  # what it lacks may be a consequence
    if not any(trace.episode.steps for trace in finished):
        yield _no_calls(len(finished))
        return
    rewards = sorted({reward.name for t in finished for run in t.runs for reward in run.rewards})
    try:
        summarized = summaries(task, finished)
    except FlowtuneError as error:
        advice = "Report a target of the kind that the node learns from, see its type."
        yield Finding("bad-target", "error", str(error).removesuffix("."), advice)
        return
    for node, summary in zip(task.nodes, summarized, strict=True):
        reason = why_it_learns_nothing(summary, rewards, len(finished))
        if reason is not None and reason.code not in ELSEWHERE:
            yield _finding(node, reason)
    episodes = [trace.episode for trace in finished]
    yield from _reward_findings(task, episodes, rewards)
    yield from _target_findings(task, episodes)


def nothing_to_learn(task: Task) -> Finding | None:
    """The finding that no node of a task is to learn, or is judged, if that is so."""
    if any((node.deviates or node.learn == "supervised") and node.weight for node in task.nodes):
        return None
    return Finding(
        "nothing-to-learn",
        "error",
        f"no node of task '{task.name}' can learn: each has learn = 'nothing', a weight of 0, no"
        " alternatives, or neither a reward nor an evaluator",
        "Set a node's 'reward' to one that the flow reports, or its 'evaluator', or learn ="
        " 'supervised'.",
    )


def _no_calls(episodes: int) -> Finding:
    return Finding(
        "no-calls",
        # Of a few examples none may need a node.
        "warning" if episodes < _ENOUGH else "error",
        f"the flow called no node in {episodes:,} episode{'' if episodes == 1 else 's'}",
        "A program must ask for its nodes by the client that it is given, or at OPENAI_BASE_URL"
        " with the key OPENAI_API_KEY: one that asks another server, or finds its answers in a"
        " cache, calls none. A flow calls them by episode.call.",
    )


def _finding(node: Node, reason: Reason) -> Finding:
    severity: Severity = "error" if reason.code in _ERRORS else "warning"
    message = f"node '{node.name}' learns nothing here: {reason.text}"
    advice = reason.advice or ADVICE[reason.code]
    return Finding(reason.code, severity, message, advice, node=node.name, reward=node.reward)


def _reward_findings(
    task: Task, finished: Sequence[Episode], rewards: Sequence[str]
) -> Iterator[Finding]:
    called = {step.node for episode in finished for step in episode.steps}
    undefined = {name for episode in finished for name in episode.undefined_rewards}
    used = {node.reward for node in task.nodes} | {task.gate}
    unused = [name for name in rewards if name not in used]
    for node in task.nodes:
        judged = node.learn == "preferences" and node.evaluator is None and node.reward is not None
        if judged and node.name in called and node.reward not in (*rewards, *undefined):
            yield _unreported(
                f"the reward of node '{node.name}',", node.reward, rewards, unused, node
            )
    for name in {node.reward for node in task.nodes if node.name in called}:
        yield from _undefined(name, finished)
    if task.gate and task.gate not in (*rewards, *undefined):
        yield _unreported("the gate,", task.gate, rewards, unused)


def _undefined(name: str | None, finished: Sequence[Episode]) -> Iterator[Finding]:
    """That a reward is reported and never defined, and not announced as such."""
    values = [r.value for episode in finished for r in episode.rewards if r.name == name]
    announced = any(name in episode.undefined_rewards for episode in finished)
    if values and not announced and all(value is None for value in values):
        yield Finding(
            "reward-undefined",
            "warning",
            f"the reward '{name}' is undefined (None) each time that it was reported"
            f" ({len(values):,})",
            "Report a number where there is one: a function without 'return' gives None.",
            reward=name,
        )


def _target_findings(task: Task, finished: Sequence[Episode]) -> Iterator[Finding]:
    """Nodes that choose among candidates, and whose targets are never among them."""
    for node in task.nodes:
        given = [
            (episode.steps[target.step].response.options, target.gold)
            for episode in finished
            for target in episode.targets
            if node.learn == "supervised" and episode.steps[target.step].node == node.name
        ]
        several = [pair for pair in given if pair[0] and _is_several(pair[1]) and len(pair[1])]
        if several and not any(
            option.value in list(gold) for options, gold in several for option in options
        ):
            options, gold = several[0]
            yield Finding(
                "target-not-offered",
                "warning",
                f"none of the targets of node '{node.name}' ({len(several):,}) is among its"
                f" candidates: {_short(list(gold))} is none of {_short(options[0].value)} and so"
                " on, so it learns only what is wrong",
                "Report candidates that the call was given, and of their type.",
                node=node.name,
            )


def _is_several(gold: Any) -> bool:
    return isinstance(gold, Collection) and not isinstance(gold, (str, bytes, Mapping))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _unreported(
    what: str,
    name: str | None,
    rewards: Sequence[str],
    unused: Sequence[str],
    node: Node | None = None,
) -> Finding:
    assert name is not None
    meant = difflib.get_close_matches(name, unused, n=1, cutoff=_MISSPELT)
    advice = f"Call episode.reward('{name}', ...) after the calls that it judges."
    if meant:
        advice = f"Write one name in both places: '{meant[0]}' or '{name}'."
    return Finding(
        "reward-misspelt" if meant else "reward-unreported",
        "error" if meant else "warning",
        unreported(what, name, rewards).removesuffix("."),
        advice,
        node=None if node is None else node.name,
        reward=name,
    )


def summaries(task: Task, traces: Sequence[Trace]) -> list[NodeSummary]:
    """What a run that had played these examples would say of the task's nodes, in their order."""
    updates = [
        UpdateRecord(
            name,
            0,
            1,
            len(found.preferences) + len(found.targets)
            if isinstance(task.node(name), SelfLearning)
            else len(found.data),
            len(found.preferences),
            len(found.targets),
        )
        for name, found in collect(task.nodes, traces).items()
    ]
    rows = node_rows(BatchRecord(0, list(traces), 0, {}, updates), {})
    totals = {row["node"]: row for _, row in rows}
    return [_summary(node, totals.get(node.name, dict.fromkeys(COLUMNS, 0))) for node in task.nodes]


def _summary(node: Node, row: Mapping[str, Any]) -> NodeSummary:
    evaluator = node.evaluator and name_and_options(node.evaluator)[0]
    return NodeSummary(
        node=node.name,
        steps=row["calls"],
        failed_steps=row["failed_calls"],
        **{column: row[column] for column in OUTCOME_COLUMNS.values()},
        **{column: row[column] for column in _SAME},
        mean_margin=None,
        win_rate=None,
        last_loss=None,
        setup=NodeSetup(node.learn, node.reward, evaluator or None, node.alternatives, node.weight),
    )


_SAME = (
    "truncated",
    "preferences",
    "targets",
    "announced",
    "alternatives",
    "outputs",
    "data",
    "unreported",
)
"""Fields of a summary that are columns of its totals."""
