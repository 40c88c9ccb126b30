"""What is counted: tokens through the model, those that were needed, and operations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import DynamicCache

from benchmarks.throughput.meter import Meter, Watched, prefixes
from flowtune_cli.engine.forward import with_cache
from flowtune_cli.engine.likelihoods import Completion
from flowtune_cli.flow.request import DecodeRequest, Decoding, ScoreRequest
from flowtune_cli.runtime.batch_session import BatchSession, open_session
from flowtune_cli.runtime.scheduler import Scheduler, ask
from support.tiny import make_adapters, make_engine
from support.tiny import plain as prompt


def test_prefixes_are_the_nodes_of_a_trie_without_last_tokens() -> None:
    prompt = (1, 2, 3)
    assert prefixes([Completion(prompt, 0, (4, 5))]) == 4
    assert prefixes([Completion(prompt, 0, (4, 5)), Completion(prompt, 0, (4, 6))]) == 4
    three = [
        Completion(prompt, 0, (4, 5)),
        Completion(prompt, 0, (7, 6)),
        Completion((1, 9), 0, (1,)),
    ]
    assert prefixes(three) == 6
    assert prefixes([Completion((1, 2), 0, ()), Completion((5,), 0, (5,))]) == 1
    # Frozen prefixes are counted apart, with what the base model reads.
    assert prefixes([Completion(prompt, 2, (4, 5)), Completion((1, 2, 9), 2, (4, 5))]) == 4


def attention(query: Any, key: Any, value: Any, *args: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@pytest.mark.parametrize("backward", [False, True])
def test_operations_are_those_that_torch_counts(tiny_model: Any, backward: bool) -> None:
    adapters = make_adapters(tiny_model, rank=1)
    model = adapters.model
    meter = Meter(model)
    ids = torch.randint(0, 250, (3, 120))
    back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    mapping = {
        KERNEL: attention,
        back: lambda gradient, *shapes, **more: 2 * attention(*shapes[:3]),
    }
    with adapters.using("a"), FlopCounterMode(display=False, custom_mapping=mapping) as flops:
        if backward:
            model(ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
        else:
            with torch.no_grad():
                model(ids, use_cache=False)
    assert meter.work.tokens == 360
    assert meter.work.forwards == 1
    # The adapters, and in a backward pass what reaches no adapter below the first layer's values.
    assert meter.work.flops == pytest.approx(flops.get_total_flops(), rel=0.05)


def test_decoding_is_counted_with_its_past(tiny_model: Any) -> None:
    adapters = make_adapters(tiny_model)
    engine = make_engine(tiny_model, adapters)
    meter = Meter(adapters.model)
    request = DecodeRequest("a", prompt("some text"), 5, decoding=Decoding(groups=2))
    (answer,) = engine.answer([request])
    assert all(len(generation.tokens) == 5 for generation in answer.generations)
    assert meter.work.steps == 4
    assert meter.work.forwards == 5
    assert meter.work.tokens == len("some text") + 2 * 4


def test_attention_reaches_the_past(tiny_model: Any) -> None:
    model = tiny_model.model
    meter = Meter(model)
    with (
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping={KERNEL: attention}) as flops,
    ):
        past = with_cache(model, DynamicCache())
        for columns in (400, 30, 30, 30):
            model(torch.randint(0, 250, (2, columns)), **past)
    assert meter.work.flops == pytest.approx(flops.get_total_flops(), rel=1e-3)


def test_seconds_go_to_their_phases() -> None:
    engine = SimpleNamespace(answer=lambda requests: [None] * len(requests), other=7)
    watched = Watched(engine)
    decode = DecodeRequest(None, prompt("x"), 1)
    rolled = DecodeRequest(None, prompt("y"), 1)
    watched.rollouts.add(id(rolled))
    watched.answer([decode, rolled])
    assert watched.seconds["play"] == watched.seconds["deviate"] > 0
    assert watched.seconds["score"] == 0
    watched.answer([ScoreRequest(None, ((prompt("x"), ("y",)),))])
    assert watched.seconds["score"] > 0
    assert [request for request, _ in watched.log][:2] == [decode, rolled]
    assert watched.other == 7


def test_requests_of_rollouts_are_known() -> None:
    asked = [DecodeRequest(None, prompt(text), 1) for text in "abc"]

    async def run(episode: Any, example: Any) -> Any:
        return [await ask(request) for request in asked[:2]]

    watched = Watched(SimpleNamespace(answer=lambda requests: [1] * len(requests)))
    task = SimpleNamespace(run=run)
    watched.watch(task)
    seen: list[set[int]] = []

    class Spy:
        def answer(self, requests: list[Any]) -> list[Any]:
            seen.append(set(watched.rollouts))
            return watched.answer(requests)

    for is_rollout in (False, True):
        episode = SimpleNamespace(is_rollout=is_rollout)
        assert Scheduler(Spy()).run([task.run(episode, None)]) == [[1, 1]]
    assert seen == [set(), set(), {id(asked[0])}, {id(asked[1])}]


def test_whole_batches_are_timed_where_the_engine_could_go_by_steps() -> None:
    watched = Watched(SimpleNamespace(session=lambda: pytest.fail("nothing would be timed")))
    assert isinstance(open_session(watched), BatchSession)
