"""What the admission check finds in flows that are broken in one way each, without a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.example import Example
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.request import Answer, Decoded, Request
from flowtune_cli.nodes import Judge, Rank
from flowtune_cli.runtime.event_loop import NO_LIMITS
from flowtune_cli.testing import ScriptedEngine, deviate
from flowtune_cli.training.admission.examine import Refused, admit
from flowtune_cli.training.admission.finding import Finding
from flowtune_toyqa.flow import ToyQA
from support.fake_engine import Flow, FlowTask, writer

from . import broken_flows as flows
from .broken_flows import EXAMPLES, findings

HERE = Path(flows.__file__)


def codes(found: list[Finding]) -> list[str]:
    return [finding.code for finding in found]


def line_of(text: str) -> str:
    number = next(n for n, line in enumerate(HERE.read_text().splitlines(), 1) if text in line)
    return f"{HERE}, line {number}"


def test_a_healthy_flow_has_no_findings() -> None:
    assert findings(flows.healthy) == []


def test_toyqa_has_none_of_its_own() -> None:
    task = ToyQA()
    examples = list(task.examples(None, "train"))[:3]
    traces = [deviate(task, ScriptedEngine(), example) for example in examples]
    found = admit(task, traces, limits=NO_LIMITS)
    assert found == []


@pytest.mark.parametrize("flow", [flows.a_clock, flows.a_uuid, flows.a_counter])
def test_what_is_shown_must_not_change(flow: Flow) -> None:
    [finding] = [f for f in findings(flow) if f.code == "request-differs"]
    assert finding.severity == "error"
    assert (finding.node, finding.example, finding.count) == ("a", "e0", 3)
    assert finding.place == line_of("text = await episode.call(node, x=shown(example))")
    assert finding.message == "node 'a' is shown something else when the flow is played again"
    assert "episode.effect" in finding.advice
    assert finding.before is not None
    assert finding.before != finding.now


def test_every_request_that_differs_is_found_and_not_the_first_alone() -> None:
    async def flow(episode: Any, example: Example) -> None:
        for n in range(3):
            await episode.call("a", x=f"{n} {next(flows._calls)}")
        episode.reward("reward", 1.0)

    found = [f for f in findings(flow) if f.code == "request-differs"]
    assert [f.count for f in found] == [9]


def test_a_tool_that_is_not_recorded() -> None:
    [finding] = [f for f in findings(flows.changing_tool) if f.code == "request-differs"]
    assert finding.place == line_of('second = await episode.call("a", x=f"{text} {found}")')
    assert finding.before is not None
    assert finding.before.startswith("a:A ")


def test_an_effect_with_other_arguments() -> None:
    [finding] = [f for f in findings(flows.other_effect) if f.code == "request-differs"]
    assert finding.message.startswith("effect builtins.str is called with other arguments")


def test_a_reward_that_changes_by_itself() -> None:
    [finding] = [f for f in findings(flows.noisy_reward) if f.code == "rewards-differ"]
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    ("flow", "nodes", "code", "severity", "said", "advice"),
    [
        (
            flows.never_calls_b,
            [writer("a"), writer("b")],
            "not-called",
            "warning",
            "node 'b' learns nothing here: it was not called in 3 episodes",
            "remove the node",
        ),
        (
            flows.misspelt,
            [writer("a", "quality")],
            "reward-misspelt",
            "error",
            "the flow never reported the reward of node 'a', 'quality'. Did you mean 'qualty'?"
            " It reported: qualty",
            "'qualty' or 'quality'",
        ),
        (
            flows.silent,
            [writer("a")],
            "reward-unreported",
            "warning",
            "the flow never reported the reward of node 'a', 'reward'. It reported: none",
            "episode.reward('reward', ...)",
        ),
        (
            flows.healthy,
            [writer("a", None), writer("other", learn="nothing")],
            "no-judge",
            "error",
            "node 'a' learns nothing here: it has neither a reward nor an evaluator",
            "Set 'reward' to one that the flow reports (reward)",
        ),
        (
            flows.ties,
            [writer("a", alternatives=2)],
            "only-ties",
            "warning",
            "node 'a' learns nothing here: each of the 6 alternatives of it tied",
            "how close it was",
        ),
    ],
)
def test_a_node_that_learns_nothing(
    flow: Flow, nodes: Any, code: str, severity: str, said: str, advice: str
) -> None:
    [finding] = [f for f in findings(flow, nodes) if f.code != "nothing-to-learn"]
    assert (finding.code, finding.severity) == (code, severity)
    assert finding.message.startswith(said)
    assert advice in finding.advice
    assert finding.node == nodes[-1 if code == "not-called" else 0].name


def test_outputs_that_are_all_alike_are_no_alternatives() -> None:
    [finding] = findings(flows.healthy, write=lambda node, prompt, output: "A" + " " * output)
    assert finding.code == "no-other-output"
    assert "no other output was found at each of the 3 calls" in finding.message


def test_a_gate_that_is_misspelt_and_one_that_is_not_stated() -> None:
    [finding] = findings(flows.healthy, gate="other")
    assert (finding.code, finding.severity) == ("reward-unreported", "warning")

    async def flow(episode: Any, example: Example) -> None:
        text = await episode.call("a", x=1)
        episode.reward("reward", flows.judged(text))
        episode.reward("answer_f1", 1.0)

    [finding] = findings(flow, gate="answerf1")
    assert (finding.code, finding.severity) == ("reward-misspelt", "error")
    assert (finding.node, finding.reward) == (None, "answerf1")


def test_a_reward_that_is_announced_as_undefined_is_stated() -> None:
    async def flow(episode: Any, example: Example) -> None:
        episode.undefined("reward")
        await episode.call("a", x=1)

    assert "reward-unreported" not in codes(findings(flow))


def test_examples_without_labels() -> None:
    found = findings(flows.healthy, examples=[Example("e0", {"question": "?"})])
    assert codes(found) == ["no-labels"]
    assert found[0].message.endswith("which training refuses: its gold is None")


def test_a_target_that_cannot_be_learned_from() -> None:
    async def flow(episode: Any, example: Example) -> None:
        await episode.call("a", x=1)
        episode.target("a", 3)

    [finding] = findings(flow, [writer("a", learn="supervised")])
    assert (finding.code, finding.severity) == ("bad-target", "error")
    assert "node 'a' learns from target texts; got 3" in finding.message


def ranking(offered: list[Any], gold: list[Any]) -> list[Finding]:
    async def flow(episode: Any, example: Example) -> None:
        await episode.call("a", candidates=offered)
        episode.target("a", gold)

    prompt = Template("{candidate}", chat=False)
    return findings(flow, [Rank(name="a", prompt=prompt, learn="supervised")])


def test_targets_that_are_never_among_the_candidates() -> None:
    [finding] = ranking(["1", "2"], [1])
    assert (finding.code, finding.severity, finding.node) == ("target-not-offered", "warning", "a")
    assert "none of the targets of node 'a' (3) is among its candidates: [1] is none of" in (
        finding.message
    )
    assert ranking(["1", "2"], ["1"]) == []


def test_a_rollout_that_does_not_replay() -> None:
    async def flow(episode: Any, example: Example) -> None:
        first = await episode.call("a", x="first")
        if episode.is_rollout:
            await episode.call("a", x="before")
        second = await episode.call("a", x="second")
        episode.reward("reward", flows.judged(first) + flows.judged(second))

    found = findings(flow)
    assert "rollout-differs" in codes(found)
    assert "request-differs" not in codes(found)


def test_nothing_is_to_learn() -> None:
    found = findings(flows.healthy, [writer("a", learn="nothing")])
    assert codes(found) == ["nothing-to-learn"]


class Cutting(ScriptedEngine):
    """Shows but a part of each prompt."""

    def answer(self, requests: list[Request]) -> list[Answer]:
        answers: list[Any] = super().answer(requests)
        return [replace(a, dropped_tokens=7) if isinstance(a, Decoded) else a for a in answers]


def test_a_prompt_that_is_cut() -> None:
    [finding] = findings(flows.healthy, engine=Cutting(flows.letters))
    assert (finding.code, finding.severity, finding.count) == ("prompt-cut", "warning", 3)
    said = "node 'a' is cut at 3 of 3 calls: 7 of 9 tokens are not shown at step 0"
    assert said in finding.message
    assert "model.context" in finding.advice


def test_outputs_that_are_all_truncated() -> None:
    def long(node: str, prompt: str, output: int) -> str:
        return f"{flows.letters(node, prompt, output)} and so on"

    found = findings(flows.healthy, [writer("a", max_new_tokens=2)], write=long)
    assert "output-truncated" in codes(found)


def test_outputs_that_are_all_empty() -> None:
    found = findings(flows.healthy, write=lambda node, prompt, output: " " * output)
    [finding] = [each for each in found if each.code == "output-empty"]
    assert (finding.severity, finding.node, finding.count) == ("warning", "a", 3)


def test_a_reward_that_is_never_defined() -> None:
    async def flow(episode: Any, example: Example) -> None:
        await episode.call("a", x=1)
        episode.reward("reward", None)

    [finding] = [each for each in findings(flow) if each.code == "reward-undefined"]
    assert finding.message == "the reward 'reward' is undefined (None) each time that it was" + (
        " reported (3)"
    )
    assert "reward-undefined" in codes(admitted(flow))


def test_training_tells_what_is_cut() -> None:
    task = FlowTask([writer("a")], flows.healthy)
    traces = [deviate(task, Cutting(flows.letters), example) for example in EXAMPLES]
    assert codes(admit(task, traces, limits=NO_LIMITS)) == ["prompt-cut"]


def test_gold_in_a_prompt() -> None:
    [finding] = findings(flows.gold_shown)
    assert (finding.code, finding.severity, finding.count) == ("gold-in-prompt", "warning", 3)
    assert (finding.before, finding.now) == ("a:question 0 gold 0", "a:question 0 gold 1")


def test_gold_that_is_among_the_inputs_or_the_labels_is_no_finding() -> None:
    """As in reading comprehension, and where a node is shown the labels that it may choose."""
    examples = [
        Example(name, {"question": f"is it red or blue? It is {name}."}, gold=name)
        for name in ("red", "blue")
    ]

    async def flow(episode: Any, example: Example) -> None:
        label = await episode.call("judge", question=example.question, labels=["red", "blue"])
        episode.reward("reward", float(label == example.gold))
        episode.target("judge", example.gold)

    prompt = Template("{question} {labels}", chat=False)
    node = Judge(name="judge", prompt=prompt, labels=("red", "blue"), learn="supervised")
    assert findings(flow, [node], examples=examples) == []


@pytest.mark.parametrize(
    ("flow", "code", "said", "line"),
    [
        (flows.forgotten, "not-awaited", "a call of node 'a' was not awaited", 'x=f"{text}")'),
        (flows.never_awaited, "not-awaited", "a call of node 'a' was not awaited", None),
        (flows.coroutine_shown, "not-a-text", "what was not awaited: ", "x=search())"),
        (flows.messages_shown, "not-a-text", "a chat message", 'x=[{"role": "user"'),
        (flows.failing, "failed", "KeyError: 'nothing there'", "raise KeyError"),
    ],
)
def test_a_flow_that_fails(flow: Flow, code: str, said: str, line: str | None) -> None:
    [finding] = [f for f in findings(flow) if f.code not in ("reward-unreported",)]
    assert (finding.code, finding.severity, finding.count) == (code, "error", 3)
    assert said in finding.message
    assert str(HERE) in finding.message + str(finding.place)
    if line is not None:
        assert finding.place == line_of(line)


def admitted(flow: Flow, *nodes: Any) -> list[Finding]:
    task = FlowTask(nodes or [writer("a")], flow)
    traces = [deviate(task, ScriptedEngine(flows.letters), example) for example in EXAMPLES]
    return admit(task, traces, limits=NO_LIMITS)


@pytest.mark.parametrize(
    ("flow", "nodes", "said"),
    [
        (flows.a_uuid, [], "- node 'a' is shown something else when the flow is played again"),
        (flows.misspelt, [writer("a", "quality")], "Did you mean 'qualty'?"),
        (flows.never_awaited, [], "was not awaited"),
        (flows.messages_shown, [], "a chat message"),
    ],
)
def test_training_is_refused(flow: Flow, nodes: Any, said: str) -> None:
    with pytest.raises(Refused, match="before anything was learned") as refused:
        admitted(flow, *nodes)
    assert said in str(refused.value)
    assert "'flowtune check flow' shows more." in str(refused.value)
    assert refused.value.exit_code == 2


def test_training_goes_on_with_a_warning() -> None:
    assert codes(admitted(flows.gold_shown)) == ["gold-in-prompt"]
    assert codes(admitted(flows.silent)) == ["reward-unreported"]
    assert codes(admitted(flows.healthy, writer("a", None), writer("b"))) == ["no-judge"]
    assert codes(admitted(flows.healthy, writer("a", learn="supervised"))) == ["no-target"]
    # One batch is too few to tell.
    assert admitted(flows.ties) == []
    assert admitted(flows.failing) == []
