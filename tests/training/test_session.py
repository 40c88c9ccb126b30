"""Setting a task up, and playing on its session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowtune_cli.engine import blocked_weights, prefix_cache
from flowtune_cli.engine.adapters import reference_of
from flowtune_cli.exploration import DiverseBeam, MultiSample
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.request import DecodeRequest
from flowtune_cli.learning.optimizers import adam, cocob
from flowtune_cli.models.out_of_memory import OutOfMemory
from flowtune_cli.nodes import Generate, Judge
from flowtune_cli.registry import load_registry
from flowtune_cli.rewards import LLMJudge
from flowtune_cli.training.checkpoint import checkpoints
from flowtune_cli.training.loop import Stopped
from flowtune_cli.training.session import Play, check_learning, set_up
from support.fake_engine import FlowTask, writer
from support.tiny import plain, state
from support.tiny_training import Run, adapters_of, written

MakeRun = Callable[..., Run]


def test_what_the_nodes_name_is_found(make_run: MakeRun) -> None:
    def nodes() -> list[Any]:
        text = writer("x").prompt
        judge = {"name": "llm_judge", "tie": 0.25}
        return [
            writer("draft", "r", exploration={"name": "diverse_beam", "penalty": 9.0}),
            writer("wild", None, evaluator=judge, exploration="multi_sample"),
            writer("still", None, exploration="unknown to all"),
            writer("fixed", "r", learn="nothing"),
            Judge(name="judge", prompt=text, score="likelihood", text="{x}", scale=2.0),
        ]

    session = make_run(nodes=nodes, learning={"optimizer": "adam"}).session()
    assert session.explorations == {"draft": DiverseBeam(penalty=9.0), "wild": MultiSample()}
    assert session.evaluators == {"wild": LLMJudge(tie=0.25)}
    assert session.optimizers == {"adam": adam}
    assert session.adapters.nodes == ("draft", "wild", "still", "judge")
    assert session.adapters.head("judge") == {"likelihood": 2.0, "bias": 0.0}
    assert session.adapters.parameters("draft")[0].shape == (2, 64)  # of the rank


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"exploration": "diverse_bean"},
            r"exploration 'diverse_bean'\. Did you mean 'diverse_beam'",
        ),
        ({"evaluator": "llm_jugde"}, r"evaluator 'llm_jugde'\. Did you mean 'llm_judge'"),
    ],
)
def test_names_that_are_not_there(make_run: MakeRun, node: dict[str, str], message: str) -> None:
    run = make_run(nodes=lambda: [writer("draft", **node)])
    with pytest.raises(UsageError, match=message):
        run.session()


def test_a_model_of_the_hub_is_kept_with_its_commit(
    make_run: MakeRun, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = ["0" * 40, "1" * 40]
    place = tmp_path / "hub" / "models--some--model"
    for commit in commits:
        shutil.copytree(tiny_model_dir, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commits[0])
    (place / "refs" / "old").write_text(commits[1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run = make_run(nodes=lambda: [writer("draft", "r")])

    def loaded(**model: Any) -> Any:
        chosen = run.settings.model.model_copy(update={"name": "some/model", **model})
        settings = run.settings.model_copy(update={"model": chosen})
        task = FlowTask(run.nodes(), run.flow)
        return set_up(task, settings, load_registry()).settings.model.revision

    assert loaded() == commits[0]
    (place / "refs" / "main").write_text(commits[1])
    assert loaded(revision=commits[0]) == commits[0]
    assert loaded(revision="old") == "old"  # as the user names it


def test_the_layers_that_were_found_are_kept_with_the_settings(make_run: MakeRun) -> None:
    session = make_run(nodes=lambda: [writer("draft")]).session()
    assert session.settings.adapter.targets == ["q_proj", "v_proj"]
    session = make_run(nodes=lambda: [writer("draft")], adapter={"targets": "all-linear"}).session()
    assert session.settings.adapter.targets == "all-linear"
    (config,) = {str(sorted(c.target_modules)) for c in session.adapters.peft.peft_config.values()}
    assert config == str(
        ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    )


def test_without_memory_the_settings_to_lower_are_named(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(nodes=lambda: [writer("draft", max_new_tokens=7)])

    def run_out(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    session = run.session()
    monkeypatch.setattr(prefix_cache, "prefill", run_out)
    message = (
        r"memory ran out while .*can't allocate memory.*model\.context = 1024.*max_new_tokens = 7"
        r" of node 'draft'.*adapter\.rank = 2.*model\.dtype = 'bfloat16'.*quantization = 'nf4'"
    )
    request = DecodeRequest(None, plain("a text"), 5)
    engine: Any = session.scheduler().engine
    with pytest.raises(OutOfMemory, match=message):
        engine.answer([request])
    by_steps = engine.session()
    by_steps.add(request)
    with pytest.raises(OutOfMemory, match=message):
        by_steps.step()


@pytest.mark.skipif(not blocked_weights._has_blocks(), reason="needs oneDNN on x86")
def test_weights_lie_in_blocks_where_the_processor_gains(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gains in (True, False):
        monkeypatch.setattr(blocked_weights, "_has_blocks", lambda gains=gains: gains)
        model = make_run().session().adapters.model
        blocked = [m for m in model.modules() if isinstance(m, blocked_weights.BlockedLinear)]
        assert bool(blocked) is gains


def test_an_optimizer_that_is_not_there(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match=r"optimizer 'kocob'\. Did you mean 'cocob'"):
        make_run(learning={"optimizer": "kocob"}).session()


def test_a_node_may_have_an_optimizer_of_its_own(make_run: MakeRun) -> None:
    def nodes() -> list[Any]:
        return [writer("draft", "r"), writer("write", "r", optimizer={"name": "adam", "lr": 0.1})]

    session = make_run(nodes=nodes).session()
    assert session.optimizers == {"cocob": cocob, "adam": adam}
    learner = session.learner()
    assert learner.optimizers.names == {"draft": "cocob", "write": "adam"}
    assert learner.optimizers["write"].param_groups[0]["lr"] == 0.1

    def unknown() -> list[Any]:
        return [writer("draft", "r", optimizer="adm")]

    with pytest.raises(UsageError, match=r"optimizer 'adm'\. Did you mean 'adam'"):
        make_run(nodes=unknown).session()


class Fixed(Generate):
    """Would learn, and has nothing to learn with."""

    uses_adapter = False


def test_a_node_without_an_adapter_that_cannot_learn(make_run: MakeRun) -> None:
    def nodes(**more: Any) -> Callable[[], list[Any]]:
        return lambda: [Fixed(name="draft", prompt=writer("x").prompt, **more)]

    for more in ({"reward": "r"}, {"learn": "supervised"}):
        run = make_run(nodes=nodes(**more))
        with pytest.raises(UsageError, match=r"node 'draft' .* or set learn = 'nothing'"):
            run.session()
    assert make_run(nodes=nodes(reward="r", learn="nothing")).session().adapters.nodes == ()


def test_playing_is_the_greedy_part_of_exploring(make_run: MakeRun) -> None:
    run = make_run(count=5)
    session = run.session()
    played = dict(session.play(run.examples))
    explored = dict(session.deviate(run.examples))
    assert sorted(played) == sorted(explored) == list(range(5))
    for position, trace in explored.items():
        assert trace.example == run.examples[position]
        assert written(trace.episode) == written(played[position])
    assert any(trace.deviations for trace in explored.values())


def test_something_can_be_done_before_each_batch_of_the_engine(make_run: MakeRun) -> None:
    run = make_run(count=2)
    session = run.session()
    calls: list[int] = []

    def between() -> None:
        calls.append(len(session.engine._generations) + len(session.engine._scores))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dict(session.play(run.examples, between))
    assert calls[0] == 0
    assert calls == sorted(set(calls))


def test_options_that_do_not_fit_are_found_before_a_model_is_loaded(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(run: Run) -> None:
        check_learning(FlowTask(run.nodes(), run.flow), run.settings, load_registry())

    monkeypatch.setattr("flowtune_cli.training.session.load_model", lambda *_: 1 / 0)
    check(make_run(learning={"optimizer": {"name": "adam", "lr": 0.1}}))
    with pytest.raises(UsageError, match=r"learning\.optimizer does not fit 'adam': Invalid learn"):
        check(make_run(learning={"optimizer": {"name": "adam", "lr": -1.0}}))

    def nodes() -> list[Any]:
        return [writer("draft", "r", optimizer={"name": "adam", "betas": [2.0, 0.5]})]

    with pytest.raises(UsageError, match=r"optimizer of node 'draft' does not fit 'adam'"):
        check(make_run(nodes=nodes))


def test_each_pass_over_the_examples_draws_other_noise(make_run: MakeRun) -> None:
    def nodes() -> list[Any]:
        return [writer("wild", exploration="multi_sample", alternatives=2, max_new_tokens=6)]

    async def flow(episode: Any, example: Any) -> None:
        await episode.call("wild", x=example.question)
        episode.reward("reward", 1.0)

    run = make_run(flow=flow, nodes=nodes, gate=None)
    session = run.session()
    plays = [Play(run.examples[0], number=number) for number in (0, 1, 0)]
    traces = dict(session.deviate_plays(plays))
    first, other, again = (
        [output.text for output in traces[position].episode.steps[0].response.outputs]
        for position in range(3)
    )
    assert first == again
    assert first[0] == other[0]  # the greedy one
    assert first[1:] != other[1:]


def test_a_node_starts_from_an_adapter_of_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    source = make_run()
    trainer = source.train()
    [newest] = checkpoints(source.directory.checkpoints)[-1:]
    given = newest / "adapters" / "draft"

    def nodes() -> list[Any]:
        frozen = writer("frozen", None, learn="nothing", start=given)
        return [writer("draft", "r", start=given), frozen, writer("other", "r")]

    run = make_run(nodes=nodes)
    session = run.session()
    trained = adapters_of(trainer)["draft"]
    assert session.adapters.nodes == ("draft", "frozen", "other")
    for name in ("draft", reference_of("draft"), "frozen"):
        for mine, theirs in zip(state(session.adapters, name), trained, strict=True):
            assert torch.allclose(mine, theirs)
    assert not any(parameter.any() for parameter in state(session.adapters, "other")[1::2])


def test_what_a_node_started_from_is_not_needed_again(make_run: MakeRun) -> None:
    source = make_run()
    source.train()
    given = checkpoints(source.directory.checkpoints)[-1] / "adapters" / "draft"

    async def flow(episode: Any, example: Any) -> None:
        await episode.call("draft", x=example.question)
        episode.reward("r", 1.0)

    run = make_run(flow=flow, nodes=lambda: [writer("draft", "r", start=given)], gate=None)
    with pytest.raises(Stopped):
        run.train(should_stop=lambda: True)
    shutil.rmtree(given)
    with pytest.raises(UsageError, match="is not there"):
        run.session()
    task = FlowTask(run.nodes(), flow)
    newest = checkpoints(run.directory.checkpoints)[-1]
    assert set_up(task, run.settings, load_registry(), newest).adapters.nodes == ("draft",)
