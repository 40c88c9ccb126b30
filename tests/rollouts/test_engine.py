"""What servers decode equals what is decoded here; what they get wrong ends the run."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import (
    GREEDY,
    Constraint,
    Decoded,
    DecodeRequest,
    Decoding,
    Generation,
    Refusal,
    Request,
    Scored,
    ScoreRequest,
)
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.rollouts.published import Published
from support.fake_servers import Serve, connected, rolling
from support.fake_vllm import FakeVllm
from support.tiny import (
    make_adapters,
    make_engine,
    plain,
    randomize,
    same,
    state,
)


def written(
    text: str, adapter: str | None = "a", most: int = 6, how: Decoding = GREEDY, **more: object
) -> DecodeRequest:
    return DecodeRequest(adapter, plain(text), most, decoding=how, seed=(0, "x"), **more)  # type: ignore[arg-type]


def shown(generation: Generation) -> tuple[object, ...]:
    return generation.text, generation.tokens, generation.truncated, generation.tool_calls


def test_it_decodes_what_the_local_engine_decodes(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    requests: list[Request] = [
        written("one", "a"),
        written("one", "b"),
        written("one", None),
        written("two", "a", 12, stop=("e",)),
        ScoreRequest("b", ((plain("one"), ("x", "yy")),)),
        written("three", "b", logprobs=True),
        written("three", "a", constraint=Constraint("choice", '["yes", "no"]')),
    ]
    server = serve()
    expected = local.answer(requests)
    local.forget()
    with rolling(local, tmp_path / "adapters", server) as engine:
        found = engine.answer(requests)
        asked = len(server.seen.completions)
        assert engine.answer(requests) == found
        assert len(server.seen.completions) == asked, "what was answered is remembered"
    for own, other in zip(found, expected, strict=True):
        assert type(own) is type(other)
        if isinstance(own, Decoded):
            assert isinstance(other, Decoded)
            assert [shown(g) for g in own.generations] == [shown(g) for g in other.generations]
            for g, h in zip(own.generations, other.generations, strict=True):
                assert g.logprob == pytest.approx(h.logprob, abs=1e-4)
            assert own.adapter_version == other.adapter_version
        elif isinstance(own, Scored):
            assert isinstance(other, Scored)
            values = [[x.logprob for x in each.likelihoods[0]] for each in (own, other)]
            assert values[0] == pytest.approx(values[1], abs=1e-4)
    texts = [a.generations[0].text for a in found[:3] if isinstance(a, Decoded)]
    assert len(set(texts)) == 3


@pytest.mark.parametrize("penalty", [0.5, 1.5, 5.0])
def test_diverse_groups_are_those_of_the_local_engine(
    local: ModelEngine, serve: Serve, tmp_path: Path, penalty: float
) -> None:
    how = Decoding(groups=4, diversity_penalty=penalty)
    (expected,) = local.answer([written("one", how=how)])
    local.forget()
    with rolling(local, tmp_path / "adapters", serve()) as engine:
        (found,) = engine.answer([written("one", how=how)])
    assert isinstance(found, Decoded)
    assert isinstance(expected, Decoded)
    assert [shown(g) for g in found.generations] == [shown(g) for g in expected.generations]
    for own, other in zip(found.generations, expected.generations, strict=True):
        assert own.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert len({generation.tokens for generation in found.generations}) == 4


def test_samples_depend_on_the_seed_alone(local: ModelEngine, serve: Serve, tmp_path: Path) -> None:
    how = Decoding(samples=3, temperature=1.5)
    with rolling(local, tmp_path / "adapters", serve()) as engine:
        (once,) = engine.answer([written("one", how=how)])
        local.forget()
        again, other = engine.answer(
            [written("one", how=how), replace(written("one", how=how), seed=(1, "x"))]
        )
    assert once == again
    assert isinstance(again, Decoded)
    assert isinstance(other, Decoded)
    assert again.generations[0] == other.generations[0]
    assert again.generations[1:] != other.generations[1:]
    assert len({generation.tokens for generation in again.generations}) == 4
    with rolling(local, tmp_path / "adapters", serve()) as engine:
        drawn = Decoding(temperature=1.5, greedy=False)
        (sample,) = engine.answer([written("one", how=drawn)])
    assert isinstance(sample, Decoded)
    assert sample.generations != again.generations[:1]


def test_it_goes_on_where_a_server_saw_a_stop_that_is_none(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    request = written("two", most=12, stop=("\x00",))
    expected = local.answer([request])
    local.forget()
    server = serve()
    server.faults.stops = 3
    with rolling(local, tmp_path / "adapters", server) as engine:
        found = engine.answer([request])
    assert found[0].generations[0].tokens == expected[0].generations[0].tokens  # type: ignore[union-attr]
    assert [len(body["stop"]) for body in server.seen.completions[-2:]] == [1, 0]


def test_frozen_prefixes_and_constraints_are_decoded_here(
    local: ModelEngine, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (Message("prefix", (Segment("doc "),)), Message("text", (Segment("one"),)))
    prompt = Prompt(parts, chat=False, reserve=16)
    frozen = DecodeRequest("a", prompt, 4)
    server = serve()
    expected = local.answer([frozen])
    local.forget()
    with rolling(local, tmp_path / "adapters", server) as engine:
        before = len(server.seen.completions)
        assert engine.answer([frozen]) == expected
        assert len(server.seen.completions) == before
        engine.answer([replace(frozen, adapter=None)])
        assert len(server.seen.completions) == before + 1, "without an adapter it is any prompt"
    assert capsys.readouterr().err.count("decoded here") == 1


def test_what_the_model_cannot_do_is_refused_here(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    with rolling(local, tmp_path / "adapters", serve()) as engine:
        long = written("x" * 2000, refusable=True)
        (found,) = engine.answer([long])
        assert isinstance(found, Refusal)
        with pytest.raises(UsageError, match="leaves no room"):
            engine.answer([replace(long, refusable=False)])


def test_too_many_groups_are_refused(local: ModelEngine, serve: Serve, tmp_path: Path) -> None:
    how = Decoding(groups=21, diversity_penalty=1.0)
    with (
        rolling(local, tmp_path / "adapters", serve()) as engine,
        pytest.raises(FlowtuneError, match="multi_sample"),
    ):
        engine.answer([written("one", how=how)])


def test_the_base_model_is_asked_for_under_an_adapter_of_zeros(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    requests: list[Request] = [written("one", None), written("one", "a")]
    expected = local.answer(requests)
    local.forget()
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        server.faults.last_slot = True
        found = engine.answer(requests)
        assert len(server.adapters) == 3
    assert [a.generations[0].tokens for a in found] == [  # type: ignore[union-attr]
        a.generations[0].tokens  # type: ignore[union-attr]
        for a in expected
    ]
    assert server.adapters == []


def test_the_base_model_of_a_flow_without_adapters_is_asked_for_by_its_name(
    tiny_model: LoadedModel, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    alone = make_engine(tiny_model, make_adapters(tiny_model, {}))
    with rolling(alone, tmp_path / "adapters", server) as engine:
        engine.answer([written("one", None)])
    assert server.seen.completions[-1]["model"] == "tiny"
    assert server.seen.loaded == []


# Versions


def test_an_update_is_loaded_under_a_new_name_before_it_is_asked_for(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    servers = serve(), serve()
    texts = [str(number) for number in range(8)]
    requests: list[Request] = [written(text) for text in texts]
    with rolling(local, tmp_path / "adapters", *servers) as engine:
        first = engine.answer(requests)
        names = [sorted(server.adapters) for server in servers]
        assert names[0] == names[1]
        assert [name.split("-")[2:4] for name in names[0]] == [["a", "v0"], ["b", "v0"]]
        assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == names[0]

        randomize(local.adapters, seed=1)
        local.adapters.versions["a"] += 1
        second = engine.answer(requests)
        assert second != first
        for server in servers:
            assert [name.split("-")[3] for name in sorted(server.adapters)] == ["v1", "v0"]
            assert {body["model"] for body in server.seen.completions[-1:]} <= set(server.adapters)
            assert server.seen.unloaded == names[0][:1]
        local.forget()
        expected = local.answer(requests)
        assert [a.generations[0].tokens for a in second] == [  # type: ignore[union-attr]
            a.generations[0].tokens  # type: ignore[union-attr]
            for a in expected
        ]
        assert all(server.seen.completions for server in servers), "both decode"
    assert [server.adapters for server in servers] == [[], []]
    assert not (tmp_path / "adapters").exists()


def test_a_name_stands_for_these_weights_alone(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    """A process that was killed leaves an adapter of the same version, and other weights."""
    server = serve()
    left = engine_left(local, tmp_path / "adapters", server)
    randomize(local.adapters, seed=1)
    with rolling(local, tmp_path / "adapters", server) as engine:
        assert not set(left) & set(server.adapters)
        (found,) = engine.answer([written("one")])
    local.forget()
    (expected,) = local.answer([written("one")])
    assert found.generations[0].tokens == expected.generations[0].tokens  # type: ignore[union-attr]


def engine_left(local: ModelEngine, directory: Path, server: FakeVllm) -> list[str]:
    """What a process that was killed has left on a server."""
    with connected(local, server) as engine:
        published = Published(local.adapters, engine.fleet, directory, "run")
        return [published.name("a"), published.name("b")]


# Servers that go, and come back


def test_a_server_that_is_killed_and_started_again_gets_its_adapters(
    local: ModelEngine, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests: list[Request] = [written(str(number)) for number in range(6)]
    expected = local.answer(requests)
    local.forget()
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        server.faults.dies = server.number + 3
        revived = threading.Thread(target=_revive, args=(server,), daemon=True)
        revived.start()
        found = engine.answer(requests)
        revived.join(10)
        assert server.starts == 2
        assert [a.generations[0].tokens for a in found] == [  # type: ignore[union-attr]
            a.generations[0].tokens  # type: ignore[union-attr]
            for a in expected
        ]
        assert len(server.adapters) == 2
    assert "is gone" in capsys.readouterr().err


def _revive(server: FakeVllm) -> None:
    server.wait()
    time.sleep(0.1)
    server.start()


def test_a_server_that_was_started_anew_between_two_batches_gets_its_adapters(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        (found,) = engine.answer([written("one")])
        server.kill()
        server.start()
        local.forget()
        assert engine.answer([written("one")]) == [found]
        assert len(server.adapters) == 2


def test_others_decode_while_a_server_is_gone(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    gone, there = serve(), serve()
    requests: list[Request] = [written(str(number)) for number in range(8)]
    with rolling(local, tmp_path / "adapters", gone, there) as engine:
        gone.kill()
        assert len(engine.answer(requests)) == 8
        randomize(local.adapters, seed=1)
        local.adapters.versions["a"] += 1
        engine.answer(requests)
        gone.start()
        deadline = time.monotonic() + 10
        while len(gone.adapters) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sorted(gone.adapters) == sorted(there.adapters)


def test_a_server_that_stays_away_ends_the_run(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    with rolling(local, tmp_path / "adapters", server, patience=0.3) as engine:
        server.kill()
        with pytest.raises(FlowtuneError, match=r"was gone for 0\.3 seconds"):
            engine.answer([written("one")])


def test_waiting_for_a_server_can_be_ended(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        server.kill()
        engine.fleet.check = stop
        with pytest.raises(Stop):
            engine.answer([written("one")])


# Servers that are wrong


def test_an_unknown_adapter_ends_the_run(local: ModelEngine, serve: Serve, tmp_path: Path) -> None:
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        server.faults.forgets = True
        with pytest.raises(FlowtuneError, match="no longer knows an adapter of this run"):
            engine.answer([written("one")])


def test_a_server_that_loses_all_adapters_again_and_again_ends_the_run(
    tiny_model: LoadedModel, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    alone = make_engine(tiny_model, make_adapters(tiny_model, {"a": {}}))
    with rolling(alone, tmp_path / "adapters", server) as engine:
        server.faults.forgets = True
        with pytest.raises(FlowtuneError, match=r"failed 4 times .* does not exist"):
            engine.answer([written("one")])


def test_answers_of_another_model_are_not_taken(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        server.faults.names = "tiny"
        with pytest.raises(FlowtuneError, match="answers by 'tiny'"):
            engine.answer([written("one")])


@pytest.mark.parametrize(
    ("status", "message"), [(400, "refuses to decode: 400 something"), (500, "failed 4 times")]
)
def test_a_server_that_fails_ends_the_run(
    local: ModelEngine, serve: Serve, tmp_path: Path, status: int, message: str
) -> None:
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        server.faults.status = status
        with pytest.raises(FlowtuneError, match=message):
            engine.answer([written("one")])


def step(adapters: Adapters) -> None:
    """A small update of ``a``."""
    with torch.no_grad():
        for parameter in adapters.parameters("a"):
            parameter.mul_(1.02)
    adapters.versions["a"] += 1


def test_a_stale_adapter_ends_the_run(local: ModelEngine, serve: Serve, tmp_path: Path) -> None:
    requests: list[Request] = [written(str(number)) for number in range(8)]
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        engine.answer(requests)
        server.faults.stale = True
        step(local.adapters)
        with pytest.raises(FlowtuneError, match="nearest is the adapter before its last update"):
            engine.answer(requests)


def test_a_stale_adapter_is_found_after_a_resume_too(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    """The state before is not known then: the reference stands in for it."""
    requests: list[Request] = [written(str(number)) for number in range(8)]
    local.adapters.copy("a", "reference-of-a")
    server = serve()
    engine_left(local, tmp_path / "adapters", server)
    server.faults.stale = True
    step(local.adapters)
    with (
        rolling(local, tmp_path / "adapters", server) as engine,
        pytest.raises(FlowtuneError, match="nearest is the adapter before its last update"),
    ):
        engine.answer(requests)


def test_an_adapter_without_effect_ends_the_run(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    with rolling(local, tmp_path / "adapters", server) as engine:
        server.faults.base = True
        with pytest.raises(FlowtuneError, match="nearest is the base model"):
            engine.answer([written(str(number)) for number in range(8)])


def test_the_watch_leaves_adapters_as_they_are(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    with rolling(local, tmp_path / "adapters", serve()) as engine:
        engine.answer([written("one", most=20)])
        randomize(local.adapters, seed=1)
        local.adapters.versions["a"] += 1
        before = {name: state(local.adapters, name) for name in local.adapters.versions}
        engine.answer([written("one", most=20)])
        gap = engine.watch.gaps()["a"]
        assert gap.present < 1e-4 < min(gap.previous, gap.base)
    for name, weights in before.items():
        assert same(weights, state(local.adapters, name))


# Servers that cannot be used


def test_another_base_model_is_refused(
    local: ModelEngine, serve: Serve, fresh_model: LoadedModel
) -> None:
    other = replace(fresh_model, model=fresh_model.model)
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.1)
    with (
        FakeVllm(other, AdapterSettings(rank=4)) as server,
        pytest.raises(FlowtuneError, match="computes another base model"),
        connected(local, serve(), server),
    ):
        pass


def test_another_dtype_is_refused(local: ModelEngine, fresh_model: LoadedModel) -> None:
    other = replace(fresh_model, model=fresh_model.model.bfloat16())
    with (
        FakeVllm(other, AdapterSettings(rank=4)) as server,
        pytest.raises(FlowtuneError, match="--dtype float32"),
        connected(local, server),
    ):
        pass


def test_a_shorter_context_is_refused(local: ModelEngine, serve: Serve) -> None:
    with (
        pytest.raises(UsageError, match="reads 512 tokens, and this run 1024"),
        connected(local, serve(context=512)),
    ):
        pass


def test_a_server_that_is_not_there_is_named(local: ModelEngine, serve: Serve) -> None:
    server = serve()
    server.kill()
    with (
        pytest.raises(UsageError, match=rf"no server of vLLM answers at {server.url}"),
        connected(local, server),
    ):
        pass


def test_a_server_that_cannot_read_adapters_is_told_what_it_lacks(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    able, unable = serve(), serve(rank=2)
    with (
        pytest.raises(UsageError, match=r"rank 4 is greater .* --max-lora-rank"),
        rolling(local, tmp_path / "adapters", able, unable),
    ):
        pass
    assert able.adapters == []
