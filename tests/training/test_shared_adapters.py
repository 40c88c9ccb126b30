"""Nodes that share one adapter: one update a mini-batch, one reference, heads of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.engine.adapters import reference_of
from flowtune_cli.exports.folder import write_adapters
from flowtune_cli.exports.vllm import serve_command
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.flow.prompt import Template
from flowtune_cli.nodes import Generate, Judge
from flowtune_cli.training.checkpoint import checkpoints
from support.exported import about_model
from support.fake_engine import digest
from support.tiny import same
from support.tiny_training import Run, adapters_of, selected

MakeRun = Callable[..., Run]


def author(name: str, **more: Any) -> Generate:
    """All of them show their model the same."""
    prompt = Template(user="write:{x}", chat=False)
    return Generate(name=name, prompt=prompt, max_new_tokens=4, reward="good", **more)


def flow(first: str, second: str) -> Any:
    async def run(episode: Episode, example: Example) -> None:
        one = await episode.call(first, x=example.question)
        two = await episode.call(second, x=f"{one} {example.question}")
        episode.reward("good", digest(one, two) % 5 / 4)

    return run


def run_of(make_run: MakeRun, nodes: Callable[[], list[Node]], *called: str, **more: Any) -> Run:
    settings = {"gate": None, "count": 4, "batch_size": 1, "save_every": 2, **more}
    return make_run(flow=flow(*called), nodes=nodes, **settings)


@pytest.mark.parametrize("step_per", ["datum", "batch"])
def test_two_nodes_learn_what_one_that_is_called_twice_learns(
    make_run: MakeRun, step_per: str
) -> None:
    learning = {"step_per": step_per}
    alone = run_of(make_run, lambda: [author("a")], "a", "a", learning=learning)
    pair = run_of(
        make_run, lambda: [author("a"), author("b", share="a")], "a", "b", learning=learning
    )
    plain, shared = (adapters_of(run.train()) for run in (alone, pair))
    assert list(shared) == list(plain) == ["a", reference_of("a")]
    assert all(same(plain[name], shared[name]) for name in plain)
    assert not same(plain["a"], plain[reference_of("a")])  # they have learned

    # One update a mini-batch, with a row for each node's part in it.
    steps = selected(alone, "SELECT batch, version_before, version_after, data FROM updates")
    parts = selected(pair, "SELECT batch, node, version_before, version_after, data FROM updates")
    for batch, before, after, data in steps:
        of_batch = [part for part in parts if part[0] == batch]
        assert {part[2:4] for part in of_batch} == {(before, after)}
        assert after == before + 1
        assert sum(part[4] for part in of_batch) == data
    assert {part[1] for part in parts} == {"a", "b"}
    versions = [
        [json.loads(found) for (found,) in selected(run, "SELECT adapter_versions FROM batches")]
        for run in (alone, pair)
    ]
    assert versions[1] == [{"a": each["a"], "b": each["a"]} for each in versions[0]]
    assert versions[1][-1]["a"] > 0
    moved = selected(pair, "SELECT DISTINCT node, moved FROM reference_updates")
    assert sorted(moved) == [("a", 1), ("b", 1)]


def judges() -> list[Node]:
    def judge(name: str, **more: Any) -> Judge:
        return Judge(
            name=name,
            prompt=Template(user="{x}", chat=False),
            score="likelihood",
            text="{x}",
            learn="supervised",
            **more,
        )

    return [judge("a"), judge("b", share="a")]


async def judged(episode: Episode, example: Example) -> None:
    for name in ("a", "b"):
        await episode.call(name, x=example.question)
        episode.target(name, (digest(example.id) % 2 == 0) is (name == "a"))


def test_heads_stay_a_node_s_own_and_all_of_it_goes_on_exactly(make_run: MakeRun) -> None:
    whole, cut = (
        make_run(flow=judged, nodes=judges, gate=None, count=4, save_every=2, batch_size=1)
        for _ in range(2)
    )
    trained = whole.train()
    stop = lambda: len(cut.records) >= 2  # noqa: E731
    with pytest.raises(Exception, match="stopped"):
        cut.train(should_stop=stop)
    again = cut.train()
    heads = trained.session.adapters.heads
    assert heads["a"].values() != heads["b"].values()
    assert [again.session.adapters.heads[name].values() for name in ("a", "b")] == [
        heads[name].values() for name in ("a", "b")
    ]
    expected, found = adapters_of(trained), adapters_of(again)
    assert all(same(expected[name], found[name]) for name in expected)
    # Each is answered with its own.
    played = {step.node: step for step in dict(again.session.play(whole.examples[:1]))[0].steps}
    logprobs = {name: played[name].response.detail["logprobs"] for name in ("a", "b")}
    assert logprobs["a"] != logprobs["b"]


def test_an_export_names_the_nodes_that_share(make_run: MakeRun, tmp_path: Any) -> None:
    run = make_run(flow=judged, nodes=judges, gate=None, count=1, save_every=1)
    session = run.train().session
    newest = checkpoints(run.directory.checkpoints)[-1]
    target = tmp_path / "out"
    about = about_model(run.settings.model)
    flow = write_adapters(target, newest, about, session.task.nodes, overwrite=False)
    heads = session.adapters.heads
    assert heads["a"].values() != heads["b"].values()
    for name in ("a", "b"):
        assert flow["nodes"][name]["adapter"]["path"] == "a"
        assert flow["nodes"][name]["head"] == heads[name].values()
    command = serve_command(flow, target)
    assert command is not None
    assert command[-2:] == [f"a={target}/a", f"b={target}/a"]


def test_the_one_reference_moves_if_any_of_them_compares(make_run: MakeRun) -> None:
    def nodes() -> list[Node]:
        return [author("a", learn="supervised"), author("b", share="a")]

    run = run_of(make_run, nodes, "a", "b", count=2)
    adapters = run.train().session.adapters
    assert adapters.versions[reference_of("a")] == 1
    assert selected(run, "SELECT node, moved FROM reference_updates") == [("b", 1)]


def test_a_node_may_play_what_another_learns(make_run: MakeRun) -> None:
    def nodes() -> list[Node]:
        return [author("a"), author("b", share="a", learn="nothing")]

    run = run_of(make_run, nodes, "a", "b")
    run.train()
    assert {name for (name,) in selected(run, "SELECT node FROM updates")} == {"a"}
    [[latest]] = selected(run, "SELECT max(version_before) FROM updates")
    versions = selected(run, "SELECT max(adapter_version) FROM steps WHERE node = 'b'")
    assert versions >= [(latest,)] > [(0,)]


def test_what_cannot_be_shared_is_refused_before_training(make_run: MakeRun) -> None:
    def nodes() -> list[Node]:
        return [author("a"), author("b", share="a", optimizer={"alpha": 3.0})]

    session = run_of(make_run, nodes, "a", "b").session()
    with pytest.raises(UsageError, match="'b' shares the adapter of node 'a', and has another opt"):
        session.learner()
    with pytest.raises(UsageError, match="node 'b': share is 'c', which is no node"):
        run_of(make_run, lambda: [author("b", share="c")], "b", "b").session()
