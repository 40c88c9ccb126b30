"""Chat on the tiny model: played, deviated from and trained for real."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Term
from flowtune_cli.nodes import Chat
from flowtune_cli.testing import TinySession, train
from support.fake_engine import FlowTask

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {
                "type": "object",
                "properties": {"at": {"enum": ["left", "right"]}},
                "required": ["at"],
                "additionalProperties": False,
            },
        },
    }
]
LABELS = {"kind": "choice", "value": ["good", "bad", "neither of the two"]}
EXAMPLES = [Example(f"e{n}", {"question": f"Question {n}?"}, gold="good") for n in range(3)]


async def flow(episode: Any, example: Any) -> dict[str, Any]:
    """Two drafts of one prompt, a call of a tool with its answer, and a label."""
    messages: list[Any] = [
        {"role": "system", "content": "Be brief. <|im_end|>"},
        {"role": "user", "content": example.question},
    ]
    drafts = [await episode.call("draft", messages=messages) for _ in range(2)]
    called = await episode.call(
        "agent", messages=messages, tools=TOOLS, tool_choice="required", max_tokens=300
    )
    (call,) = called.tool_calls
    function = {"name": call.name, "arguments": call.arguments}
    messages += [
        {
            "role": "assistant",
            "content": called.text or None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "nothing"},
    ]
    free = await episode.call("agent", messages=messages, tools=TOOLS)
    label = await episode.call(
        "label", messages=messages, tools=TOOLS, tool_choice="none", constraint=LABELS
    )
    at = json.loads(call.arguments)["at"]
    episode.reward("end", len(drafts[0].text) % 5 / 4 + (at == "left") + len(free.text) % 3)
    episode.target("label", example.gold)
    return {"drafts": [draft.text for draft in drafts], "at": at, "label": label.text}


def task() -> FlowTask:
    return FlowTask(
        [
            Chat(name="draft", reward="end", temperature=1.0, max_new_tokens=6),
            Chat(name="agent", reward="end", max_new_tokens=5),
            Chat(name="label", learn="supervised", max_new_tokens=30),
        ],
        flow,
    )


@pytest.fixture
def session(tiny_model_dir: Path) -> TinySession:
    return TinySession(task(), tiny_model_dir, {"adapter": {"rank": 2}}, random_adapters=True)


def test_episodes_replay_and_drafts_differ(session: TinySession, tiny_model_dir: Path) -> None:
    episodes = session.play(EXAMPLES)
    for episode in episodes:
        assert episode.failure is None
        assert len(set(episode.result["drafts"])) == 2
        assert episode.result["at"] in ("left", "right")
        assert episode.result["label"] in LABELS["value"]
        assert [step.output.value.finish_reason for step in episode.steps[2:]] == [
            "tool_calls",
            "length",
            "stop",
        ]
    # Each as it is alone, and in another session: to the letter, ids of calls included.
    again = TinySession(task(), tiny_model_dir, {"adapter": {"rank": 2}}, random_adapters=True)
    for episode, example in zip(episodes, EXAMPLES, strict=True):
        (alone,) = again.play([example])
        assert [step.output.value for step in alone.steps] == [
            step.output.value for step in episode.steps
        ]
    other = [example.question for example in EXAMPLES]
    assert len({str(episode.result["drafts"]) for episode in episodes}) == len(other)


def test_what_is_learned_are_the_decoded_ids(session: TinySession) -> None:
    (episode,) = session.play(EXAMPLES[:1])
    output = episode.steps[2].output
    assert output.score is not None
    (term,) = output.score.terms
    assert isinstance(term, Term)
    assert isinstance(term.completion, tuple)
    assert f"{output.text}<|im_end|>" == session.decode(term.completion)
    written = "".join(output.text.split())
    at = episode.result["at"]
    assert written == (f'<tool_call>{{"name":"look","arguments":{{"at":"{at}"}}}}</tool_call>')
    assert term.constraint is not None
    assert term.constraint.kind == "tool_calls"


def test_deviations_sample_at_the_calls_own_settings(session: TinySession) -> None:
    traces = session.deviate(EXAMPLES)
    deviated = {d.node for trace in traces for d in trace.deviations}
    assert deviated == {"draft", "agent"}
    for trace in traces:
        for deviation in trace.deviations:
            assert deviation.rollout is not None
            assert deviation.rollout.failure is None
            # What comes before is the same, and so is the other draft's noise.
            assert len(deviation.rollout.steps) == 5
            if deviation.step == 0:
                assert deviation.rollout.result["drafts"][1] == trace.episode.result["drafts"][1]
                assert deviation.rollout.result["drafts"] != trace.episode.result["drafts"]
    assert any(trace.preferences for trace in traces)


def test_what_draws_behind_a_step_is_played_to_several_endings(tiny_model_dir: Path) -> None:
    settings = {"adapter": {"rank": 2}, "training": {"rollouts": 2}}
    session = TinySession(task(), tiny_model_dir, settings, random_adapters=True)
    (trace,) = session.deviate(EXAMPLES[:1])
    # The second draft is behind the first; behind that one, all is greedy.
    endings = [(d.step, d.ending) for d in trace.deviations if d.node == "draft"]
    assert endings == [(0, 0), (0, 1), (1, 0)]
    first, second = (d for d in trace.deviations if d.step == 0)
    assert first.rollout is not None
    assert second.rollout is not None
    assert second.baseline is not None
    drafts = [run.result["drafts"] for run in (first.rollout, second.rollout, second.baseline)]
    own = trace.episode.result["drafts"]
    assert drafts[0][0] == drafts[1][0] != own[0] == drafts[2][0]
    assert drafts[0][1] == own[1]
    # The same prompt and the same noise: what was drawn first is not shown to the second.
    assert drafts[1][1] == drafts[2][1] != own[1]


def test_all_of_it_is_trained(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = {
        "adapter": {"rank": 2},
        "training": {"batch_size": 3},
        "learning": {"optimizer": {"name": "adam", "lr": 1e-3}},
    }
    metrics = train(task(), EXAMPLES, tiny_model_dir, tmp_path / "run", settings)
    names = {name for batch in metrics for name in batch}
    for node in ("draft", "agent", "label"):
        assert [name for name in names if node in name and "loss" in name], names


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_tokens": 10**6}, "leaves no room in the context"),
        ({"messages": [{"role": "user", "content": "long " * 4000}]}, "leaves no room"),
        ({"constraint": {"kind": "regex", "value": "(["}}, "regex"),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_what_the_model_cannot_do_fails_its_episode_alone(
    tiny_model_dir: Path, asked: dict[str, Any], said: str, waits: bool
) -> None:
    async def one(episode: Any, example: Any) -> str:
        if waits:
            await asyncio.sleep(0.001)
        messages = [{"role": "user", "content": example.question}]
        more = asked if example.id == "e1" else {}
        answer = await episode.call("draft", **{"messages": messages, **more})
        return str(answer.text)

    nodes = [Chat(name="draft", reward="end", max_new_tokens=4)]
    session = TinySession(FlowTask(nodes, one), tiny_model_dir, {"adapter": {"rank": 2}})
    first, failed, last = session.play(EXAMPLES)
    assert first.failure is None
    assert last.failure is None
    assert failed.failure is not None
    assert failed.failure.error.startswith("ChatError: node 'draft': ")
    assert said in failed.failure.error
