"""Where memory is short, answers come from smaller batches, and are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowtune_cli.engine import likelihoods, prefix_cache, rows, scoring
from flowtune_cli.engine.paths import Paths
from flowtune_cli.flow.request import DecodeRequest, Decoding, ScoreRequest
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.out_of_memory import OutOfMemory, say_once
from support.tiny import make_adapters, make_engine, plain

PROMPTS = [
    plain("a common beginning of all, then " + word)
    for word in ["one", "two", "three", "four", "five"]
]
REQUESTS: list[Any] = [
    *(
        DecodeRequest("a", prompt, 5, decoding=Decoding(2, 3.0, samples=2), seed=(number,))
        for number, prompt in enumerate(PROMPTS)
    ),
    ScoreRequest("a", tuple((prompt, ("Yes", "No, never", "Maybe")) for prompt in PROMPTS)),
]


class Shortage:
    """Forward passes fail that read or decode more sequences than memory has room for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reads: int, decodes: int) -> None:
        self.failed: list[str] = []
        say_once.cache_clear()

        def check(what: str, size: int, most: int) -> None:
            if size > most:
                self.failed.append(what)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        prefill, choose = prefix_cache.prefill, rows.Rows.choose

        def short_prefill(model: Any, suffixes: Any, *, keep: bool) -> Any:
            read = prefill(model, suffixes, keep=keep)
            check("read", len(suffixes), reads)
            return read

        def short_choose(self: Any, logits: Any) -> Any:
            outputs = self.outputs
            chosen = choose(self, logits)
            # In the middle of an output.
            if len(outputs[0].tokens) == 3:
                check("decode", len(outputs), decodes)
            return chosen

        monkeypatch.setattr(prefix_cache, "prefill", short_prefill)
        monkeypatch.setattr(scoring, "prefill", short_prefill)
        monkeypatch.setattr(rows.Rows, "choose", short_choose)


@pytest.mark.parametrize(("reads", "decodes"), [(1, 100), (2, 100), (100, 4), (100, 8), (1, 4)])
def test_answers_are_the_same(
    tiny_model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    reads: int,
    decodes: int,
) -> None:
    adapters = make_adapters(tiny_model)
    expected = make_engine(tiny_model, adapters).answer(REQUESTS)
    shortage = Shortage(monkeypatch, reads, decodes)
    found = make_engine(tiny_model, adapters).answer(REQUESTS)
    assert shortage.failed
    for mine, theirs in zip(found[:-1], expected[:-1], strict=True):
        assert [g.tokens for g in mine.generations] == [g.tokens for g in theirs.generations]
    pairs = zip(found[-1].likelihoods, expected[-1].likelihoods, strict=True)
    for mine, theirs in pairs:
        assert [x.logprob for x in mine] == pytest.approx([x.logprob for x in theirs], abs=1e-3)
    said = capfd.readouterr().err.splitlines()
    assert 1 <= len(said) <= 3
    assert all(line.startswith("memory is short while ") for line in said)


def test_one_prompt_that_does_not_fit_is_an_error(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = make_adapters(tiny_model)
    engine = make_engine(tiny_model, adapters)
    Shortage(monkeypatch, 100, 3)
    with pytest.raises(OutOfMemory, match=r"while writing the outputs of a prompt: CUDA out of"):
        engine.answer(REQUESTS[:2])
    # Nothing of the failed batch is left over: what fits is answered.
    monkeypatch.undo()
    again = engine.answer(REQUESTS[:2])
    assert again == make_engine(tiny_model, adapters).answer(REQUESTS[:2])


def test_texts_that_are_scored_alone_go_in_smaller_batches(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = make_adapters(tiny_model)
    engine = make_engine(tiny_model, adapters)
    engine.prefixes.paths = Paths("plain", "plain")
    expected = engine.answer(REQUESTS[-1:])
    engine.forget()
    sizes: list[int] = []
    logprobs = likelihoods.sequence_logprobs

    def short(model: Any, adapter: Any, rows: Any, *more: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logprobs(model, adapter, rows, *more)

    monkeypatch.setattr(likelihoods, "sequence_logprobs", short)
    (found,) = engine.answer(REQUESTS[-1:])
    assert max(sizes) > 1
    for mine, theirs in zip(found.likelihoods, expected[0].likelihoods, strict=True):
        assert [x.logprob for x in mine] == pytest.approx([x.logprob for x in theirs], abs=1e-4)


def test_of_several_processes_it_says_on_which(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    say_once.__wrapped__("learning")
    assert capfd.readouterr().err.startswith("memory is short on rank 2 while learning: ")
