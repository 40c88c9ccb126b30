"""The online loop on the tiny model: what a run does, in which order, and what it stores."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from flowtune_cli.engine.adapters import reference_of
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.prompt import Template
from flowtune_cli.nodes import Judge
from flowtune_cli.training.checkpoint import checkpoints, load_checkpoint
from flowtune_cli.training.loop import training_order
from support.fake_engine import digest, writer
from support.runs_compared import learned
from support.tiny import same
from support.tiny_training import Run, adapters_of, examples, selected, written

MakeRun = Callable[..., Run]


# The order of training


def test_the_order_is_a_shuffle_by_the_seed() -> None:
    given = examples(20)
    order = training_order(given, 1, 0, 1)
    assert order == training_order(given, 1, 0, 1)
    assert order != given
    assert sorted(order, key=lambda e: e.gold) == given
    assert order != training_order(given, 2, 0, 1)


def test_the_limit_takes_the_first_of_the_shuffle() -> None:
    given = examples(20)
    assert training_order(given, 1, 7, 1) == training_order(given, 1, 0, 1)[:7]
    assert len(training_order(given, 1, 100, 1)) == 20


def test_each_pass_has_the_same_examples_in_another_order() -> None:
    order = training_order(examples(20), 1, 7, 3)
    passes = [order[:7], order[7:14], order[14:]]
    assert passes[0] == training_order(examples(20), 1, 7, 1)
    assert [Counter(e.id for e in each) for each in passes[1:]] == [
        Counter(e.id for e in passes[0])
    ] * 2
    assert passes[0] != passes[1] != passes[2] != passes[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to train on"),
        ([*examples(3), examples(3)[1]], "two examples have the id 'e1'"),
        ([*examples(3), Example("e3", {})], "example 'e3' has no labels"),
    ],
)
def test_data_that_nothing_can_be_learned_from(given: list[Example], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        training_order(given, 1, 2, 1)


# Progressive validation


def test_a_batch_is_played_with_what_was_learned_before_it(make_run: MakeRun) -> None:
    """An example never sees an update made from itself: its episode can be played without it."""
    run = make_run(count=8, save_every=2, keep_checkpoints=9)
    session = run.session()
    played: list[list[Any]] = []

    def note(report: Any) -> None:
        if report.record is not None:
            played.append([written(trace.episode) for trace in report.record.traces])

    order = run.train(on_report=note).order
    for number in range(4):
        batch = order[2 * number : 2 * number + 2]
        session.engine.forget()
        again = dict(session.play(batch))
        assert [written(again[position]) for position in range(2)] == played[number]
        # Playing batch 1 with what batch 0 has taught, and so on.
        checkpoint = run.directory.checkpoints / f"{2 * number + 2:07d}"
        nodes = session.task.nodes
        load_checkpoint(checkpoint, adapters=session.adapters, learner=None, nodes=nodes)
    # It does matter which adapters play: those after the last batch would have written otherwise.
    session.engine.forget()
    last = dict(session.play(order[:2]))
    assert [written(last[position]) for position in range(2)] != played[0]


def test_everything_that_was_written_carries_its_adapters_version(make_run: MakeRun) -> None:
    run = make_run()
    run.train()
    updated = 0
    before: Mapping[str, int] = {}
    for record in run.records:
        if before:
            assert dict(record.adapter_versions) == before
        episodes = [trace.episode for trace in record.traces]
        rollouts = [d.rollout for t in record.traces for d in t.deviations if d.rollout]
        for step in (step for episode in [*episodes, *rollouts] for step in episode.steps):
            expected = record.adapter_versions.get(step.node, 0)
            assert step.response.adapter_version == expected
        before = dict(record.adapter_versions)
        for update in record.updates:
            if update.node == "urn":
                continue
            assert update.version_before == before[update.node]
            before[update.node] = update.version_after
            updated += update.version_after - update.version_before
    assert updated > 6
    stored = selected(
        run,
        "SELECT DISTINCT batch, node, adapter_version FROM steps JOIN episodes"
        " ON episodes.number = steps.episode WHERE node != 'urn'",
    )
    assert sorted(stored) == sorted(
        (record.batch, node, version)
        for record in run.records
        for node, version in record.adapter_versions.items()
    )


def test_metrics_are_those_of_the_episodes_up_to_the_batch(make_run: MakeRun) -> None:
    run = make_run()
    run.train()
    values: list[float | None] = []
    for record in run.records:
        values += [trace.episode.reward_means()["end"] for trace in record.traces]
        defined = [value for value in values if value is not None]
        metric = record.metrics["end"]
        assert (metric.defined, metric.undefined) == (len(defined), len(values) - len(defined))
        assert metric.overall == (pytest.approx(sum(defined) / len(defined)) if defined else None)
        window = [v for v in values[len(values) - 1 - (len(values) - 1) % 4 :] if v is not None]
        assert metric.window == (pytest.approx(sum(window) / len(window)) if window else None)
    assert metric.undefined == 2  # those of e0 and e5


def test_batches_end_where_windows_end(make_run: MakeRun) -> None:
    run = make_run(count=10, batch_size=3, save_every=4, keep_checkpoints=9)
    trainer = run.train()
    assert [len(record.traces) for record in run.records] == [3, 1, 3, 1, 2]
    assert [record.position for record in run.records] == [0, 3, 4, 7, 8]
    assert [record.checkpoint for record in run.records] == [False, True, False, True, True]
    names = [path.name for path in checkpoints(run.directory.checkpoints)]
    assert names == ["0000004", "0000008", "0000010"]
    played = [trace.example for record in run.records for trace in record.traces]
    assert played == trainer.order
    assert run.directory.info.episodes == 10


def test_reports_come_after_each_episode(make_run: MakeRun) -> None:
    run = make_run(count=5)
    run.train()
    assert [(r.episodes, r.total, r.record is not None) for r in run.reports] == [
        (1, 5, False),
        (2, 5, True),
        (3, 5, False),
        (4, 5, True),
        (5, 5, True),
    ]


# What learns


def test_what_was_preferred_becomes_likelier(make_run: MakeRun) -> None:
    seen: list[str] = []

    async def flow(episode: Episode, example: Example) -> None:
        seen.append(await episode.call("draft", x="the same each time"))
        # Anything is better than what was written first of all.
        episode.reward("draft", float(seen[-1] != seen[0]))

    run = make_run(
        flow=flow,
        nodes=lambda: [writer("draft", "draft", max_new_tokens=4)],
        gate=None,
        learning={"optimizer": {"name": "cocob", "alpha": 30.0}},
        count=12,
    )
    run.train()
    rewards = [t.episode.reward_means()["draft"] for r in run.records for t in r.traces]
    assert rewards[:2] == [0.0, 0.0]
    assert rewards[-4:] == [1.0] * 4


def test_nodes_without_data_stay_as_they_are_to_the_bit(make_run: MakeRun) -> None:
    run = make_run()
    initial = adapters_of(run.trainer())
    trainer = run.train()
    final = adapters_of(trainer)
    for name in ("idle", reference_of("idle"), reference_of("judge")):
        assert same(final[name], initial[name])
    for name in ("draft", "wild", "judge", reference_of("draft")):
        assert not same(final[name], initial[name])
    assert trainer.learner.optimizers["idle"].state_dict()["state"] == {}
    assert trainer.session.adapters.version("idle") == 0
    nodes = {update.node for record in run.records for update in record.updates}
    assert nodes == {"draft", "wild", "judge", "urn"}


def gated(windows: list[float], size: int = 2) -> tuple[Any, list[Any]]:
    """A flow whose gate averages to these values, window by window, and its order of examples."""
    order = training_order(examples(size * len(windows)), 42, 0, 1)
    place = {example.id: number for number, example in enumerate(order)}

    async def flow(episode: Episode, example: Example) -> None:
        text = await episode.call("draft", x=example.question)
        episode.reward("draft", digest(text) % 7)
        episode.reward("gate", windows[place[example.id] // size])

    return flow, order


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_references_move_when_their_window_was_the_best_so_far(
    make_run: MakeRun, weight: float
) -> None:
    flow, order = gated([0.5, 0.4, 0.6, 0.6])
    run = make_run(
        flow=flow,
        nodes=lambda: [
            writer("draft", "draft", max_new_tokens=4),
            writer("taught", None, learn="supervised", max_new_tokens=4),
        ],
        gate="gate",
        count=len(order),
        save_every=2,
        learning={"reference_weight": weight},
    )
    states: list[dict[str, list[Any]]] = []
    trainer = run.trainer()
    trainer.on_report = lambda report: (
        states.append(adapters_of(trainer)) if report.record else None
    )
    before = adapters_of(trainer)
    trainer.train()
    for moved, after in zip([True, False, True, False], states, strict=True):
        expected = before[reference_of("draft")]
        if moved:
            expected = [
                reference + weight * (policy - reference)
                for reference, policy in zip(expected, after["draft"], strict=True)
            ]
        for mine, theirs in zip(after[reference_of("draft")], expected, strict=True):
            assert (mine - theirs).abs().max() < 1e-6
        assert same(after[reference_of("draft")], before[reference_of("draft")]) != moved
        before = after
    assert selected(run, "SELECT * FROM reference_updates ORDER BY batch") == [
        (batch, "draft", moved) for batch, moved in enumerate([1, 0, 1, 0])
    ]


def test_a_window_that_the_data_cut_short_moves_no_reference_and_goes_on_if_more_come(
    make_run: MakeRun,
) -> None:
    flow, order = gated([0.5, 0.9, 0.1], size=4)
    nodes = lambda: [writer("draft", "draft", max_new_tokens=4)]  # noqa: E731
    run = make_run(flow=flow, nodes=nodes, gate="gate", count=len(order), limit=6)
    trainer = run.train()
    moves = "SELECT batch, moved FROM reference_updates ORDER BY batch"
    assert selected(run, moves) == [(1, 1)]  # 0.9 is better than 0.5, but of 2 episodes of 4
    assert trainer.progressive.best == 0.5
    assert [int(path.name) for path in checkpoints(run.directory.checkpoints)] == [4, 6]
    assert selected(run, "SELECT number FROM batches WHERE checkpoint = 1") == [(1,), (2,)]
    # Where the limit grows, the window is whole in the end.
    training = run.settings.training.model_copy(update={"limit": 12})
    run.settings = run.settings.model_copy(update={"training": training})
    trainer = run.train()
    assert selected(run, moves) == [(1, 1), (3, 1), (5, 0)]
    assert trainer.progressive.best == pytest.approx(0.9)
    at_once = make_run(flow=flow, nodes=nodes, gate="gate", count=len(order))
    at_once.train()
    assert learned(run.directory.path) == learned(at_once.directory.path)


def test_with_weight_0_references_never_move(make_run: MakeRun) -> None:
    run = make_run(gate=None, learning={"reference_weight": 0.0})
    initial = adapters_of(run.trainer())
    trainer = run.train()
    assert same(adapters_of(trainer)[reference_of("draft")], initial[reference_of("draft")])
    moved = [r.reference_update for r in run.records if r.reference_update is not None]
    assert moved == [{"draft": False, "wild": False, "idle": False}] * 2


def test_a_node_that_learns_by_itself(make_run: MakeRun) -> None:
    run = make_run()
    trainer = run.train()
    urn = trainer.session.task.node("urn")
    # Blue is better by one wherever the reward is defined, which it is for six of the eight.
    assert urn.state() == {"red": 0.0, "blue": 6.0}
    colours = [s.output.value for r in run.records for t in r.traces for s in t.episode.steps]
    assert [c for c in colours if c in ("red", "blue")].count("blue") >= 5
    updates = [u for record in run.records for u in record.updates if u.node == "urn"]
    assert sum(update.preferences for update in updates) == 6
    assert all(update.version_after == 0 for update in updates)


def test_truncated_outputs_are_counted(make_run: MakeRun) -> None:
    run = make_run(count=2)
    run.train()
    cut = [
        sum(step.output.truncated for step in trace.episode.steps)
        for trace in run.records[0].traces
    ]
    assert all(cut)
    stored = selected(run, "SELECT truncated FROM episodes ORDER BY number")
    assert [count for (count,) in stored] == cut


# Memory


def test_what_a_batch_left_is_released_before_the_next_but_one(make_run: MakeRun) -> None:
    run = make_run(count=12)
    left: list[list[weakref.ref[Any]]] = []
    alive: list[int] = []
    sizes: list[int] = []
    trainer = run.trainer()

    def note(report: Any) -> None:
        if report.record is None:
            return
        traces = report.record.traces
        things = [
            *traces,
            *(t.episode for t in traces),
            *(s for t in traces for s in t.episode.steps),
        ]
        left.append([weakref.ref(thing) for thing in things])
        gc.collect()
        alive.append(sum(ref() is not None for refs in left[:-1] for ref in refs))
        engine = trainer.session.engine
        remembered = (engine._generations, engine._scores, engine.prefixes._entries)
        sizes.append(sum(len(things) for things in remembered))

    trainer.on_report = note
    trainer.train()
    assert len(left) == 6
    assert alive == [0] * 6
    # The engine remembers nothing of a batch that was played.
    assert sizes == [0] * 6


def test_of_what_was_played_the_frozen_prefixes_of_the_data_alone_are_left_to_learn(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nodes() -> list[Any]:
        shown = Template(" is it?", frozen_prefix="{x}.", chat=False)
        judges = {"learns": "supervised", "still": "nothing"}
        return [Judge(name=name, prompt=shown, learn=learn) for name, learn in judges.items()]

    async def judged(episode: Episode, example: Example) -> dict[str, Any]:
        for node in ("learns", "still"):
            await episode.call(node, x=f"{example.question} to what {node}")
        episode.target("learns", True)
        episode.reward("end", 1.0)
        return {}

    trainer = make_run(flow=judged, nodes=nodes, count=4).trainer()
    prefixes, tokens = trainer.learner.prefixes, trainer.learner.losses.tokens
    update = trainer.learner.update
    left: list[list[Any]] = []

    def noted(node: str, data: Any, *more: Any) -> Any:
        left.append(sorted((key.namespace.adapter, key.ids) for key in prefixes._entries))
        return update(node, data)

    monkeypatch.setattr(trainer.learner, "update", noted)
    trainer.train()
    assert len(left) == 2
    for number, mine in enumerate(left):
        played = trainer.order[2 * number : 2 * number + 2]
        contexts = [f"{example.question} to what learns." for example in played]
        assert mine == sorted((None, tokens.completion(context)) for context in contexts)
