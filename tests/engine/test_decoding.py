"""Decoding many prompts at once gives what decoding each by the plainest means gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.decoding import Decoder
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.engine.rows import TokenizedRequest
from flowtune_cli.flow.request import GREEDY, Decoding, Generation
from flowtune_cli.models.loading import LoadedModel, load_model
from flowtune_cli.models.tokens import Tokens
from flowtune_cli.registry import load_registry
from support.device import DEVICE
from support.tiny import WINDOW, likelihood, logits, make_adapters, make_model, text

LENGTHS = (5, 1, 19, 12, 12, 30, 2)
PROMPTS = [text(length, seed) for seed, length in enumerate(LENGTHS)]
DIVERSE = Decoding(groups=3, diversity_penalty=2.0)
SAMPLED = Decoding(samples=3, temperature=1.5, top_p=0.9)


def request(
    ids: Sequence[int],
    how: Decoding = GREEDY,
    max_new_tokens: int = 10,
    stop: tuple[str, ...] = (),
    seed: tuple[int | str, ...] = (7, "x", 0),
) -> TokenizedRequest:
    return TokenizedRequest(tuple(ids), max_new_tokens, stop, how, seed)


def make_decoder(
    adapters: Adapters, loaded: LoadedModel, end: Sequence[int] = (), tokens_per_batch: int = 4096
) -> Decoder:
    prefixes = PrefixCache(adapters, Limits(tokens_per_batch, prefix_cache_bytes=0))
    return Decoder(prefixes, Tokens(loaded.tokenizer, loaded.context), frozenset(end))


@dataclass
class Setting:
    """A decoder on the tiny model, with trained adapters."""

    loaded: LoadedModel
    adapters: Adapters = field(init=False)

    def __post_init__(self) -> None:
        self.adapters = make_adapters(self.loaded)

    def decoder(self, end: Sequence[int] = (), tokens_per_batch: int = 4096) -> Decoder:
        return make_decoder(self.adapters, self.loaded, end, tokens_per_batch)

    def decode(
        self, *requests: TokenizedRequest, adapter: str | None = "a", end: Sequence[int] = ()
    ) -> list[tuple[Generation, ...]]:
        return self.decoder(end).decode(adapter, requests)

    def passes(self) -> list[tuple[int, ...]]:
        """The shapes of the token ids of all forward passes from now on."""
        shapes: list[tuple[int, ...]] = []
        self.adapters.model.get_decoder().register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
        return shapes

    def greedy(self, ids: Sequence[int], max_new_tokens: int = 10) -> list[int]:
        """The greedy output without an end."""
        ((generation,),) = self.decode(request(ids, max_new_tokens=max_new_tokens))
        return list(generation.tokens)


@pytest.fixture
def tiny(tiny_model: LoadedModel) -> Setting:
    return Setting(tiny_model)


def generated(
    adapters: Adapters, adapter: str | None, ids: Sequence[int], most: int, end: Sequence[int] = ()
) -> list[int]:
    """What transformers generates greedily."""
    with adapters.using(adapter) as model:
        given = torch.tensor([list(ids)], device=DEVICE)
        output = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=most,
            eos_token_id=list(end) or None,
            pad_token_id=0,
        )
    tokens: list[int] = output[0, len(ids) :].tolist()
    return tokens


def diverse(
    adapters: Adapters, adapter: str, ids: Sequence[int], how: Decoding, most: int, end: int
) -> list[list[int]]:
    """Diverse beam search by its definition: a group at a time, all of the text read anew."""
    groups: list[list[int]] = [[] for _ in range(how.groups)]
    for place in range(most):
        for number, group in enumerate(groups):
            if end in group:
                continue
            scores = logits(adapters, adapter, [*ids, *group])[-1].log_softmax(-1)
            for earlier in groups[:number]:
                if len(earlier) > place:
                    scores[earlier[place]] -= how.diversity_penalty
            group.append(int(scores.argmax()))
    return groups


# Equal to the plainest means


@pytest.mark.parametrize("adapter", [None, "a", "b"])
def test_greedy_outputs_are_those_of_transformers(tiny: Setting, adapter: str | None) -> None:
    expected = [generated(tiny.adapters, adapter, ids, 10) for ids in PROMPTS]
    decoded = tiny.decode(*map(request, PROMPTS), adapter=adapter)
    assert [list(outputs[0].tokens) for outputs in decoded] == expected


def test_outputs_end_where_those_of_transformers_end(tiny: Setting) -> None:
    # Tokens that the greedy outputs contain, each somewhere else.
    end = [tiny.greedy(ids)[place] for place, ids in enumerate(PROMPTS[:4], 2)]
    expected = [generated(tiny.adapters, "a", ids, 10, end) for ids in PROMPTS]
    decoded = tiny.decode(*map(request, PROMPTS), end=end)
    assert [list(outputs[0].tokens) for outputs in decoded] == expected
    assert len({len(tokens) for tokens in expected}) > 2
    for (output,) in decoded:
        assert output.truncated == (output.tokens[-1] not in end)


@pytest.mark.parametrize("architecture", ["Mistral", "Gemma2"])
def test_windows_are_kept_while_decoding_far_beyond_them(
    tiny_model: LoadedModel, architecture: str
) -> None:
    loaded = make_model(architecture, tiny_model)
    adapters = make_adapters(loaded)
    decoder = make_decoder(adapters, loaded)
    prompts = [text(length) for length in (3, WINDOW, 3 * WINDOW)]
    expected = [generated(adapters, "a", ids, 2 * WINDOW) for ids in prompts]
    decoded = decoder.decode("a", [request(ids, max_new_tokens=2 * WINDOW) for ids in prompts])
    assert [list(outputs[0].tokens) for outputs in decoded] == expected


def test_diverse_groups_are_those_of_the_definition(tiny: Setting) -> None:
    end = tiny.greedy(PROMPTS[0])[4]
    decoded = tiny.decode(*(request(ids, DIVERSE) for ids in PROMPTS), end=[end])
    expected = [diverse(tiny.adapters, "a", ids, DIVERSE, 10, end) for ids in PROMPTS]
    assert [[list(o.tokens) for o in outputs] for outputs in decoded] == expected
    assert any(len({len(group) for group in groups}) > 1 for groups in expected)
    greedy = tiny.decode(*map(request, PROMPTS), end=[end])
    assert [outputs[0].tokens for outputs in decoded] == [outputs[0].tokens for outputs in greedy]


def test_groups_without_a_penalty_are_all_greedy(tiny: Setting) -> None:
    (outputs,) = tiny.decode(request(PROMPTS[0], Decoding(groups=3)))
    assert [list(output.tokens) for output in outputs] == [tiny.greedy(PROMPTS[0])] * 3


def test_a_large_penalty_keeps_the_groups_apart_everywhere(tiny: Setting) -> None:
    (outputs,) = tiny.decode(request(PROMPTS[0], Decoding(groups=4, diversity_penalty=1e6)))
    for tokens in zip(*(output.tokens for output in outputs), strict=True):
        assert len(set(tokens)) == 4


@pytest.mark.parametrize("how", [GREEDY, DIVERSE, SAMPLED])
def test_logprobs_are_the_models_own(tiny: Setting, how: Decoding) -> None:
    for (*outputs,), ids in zip(
        tiny.decode(*(request(p, how) for p in PROMPTS)), PROMPTS, strict=True
    ):
        for output in outputs:
            expected = likelihood(tiny.adapters, "a", ids, output.tokens).detach()
            assert output.logprob == pytest.approx(float(expected), abs=1e-4)


# Each output as if it were alone


@pytest.mark.parametrize("how", [GREEDY, DIVERSE, SAMPLED])
def test_a_batch_gives_what_its_prompts_give_alone(tiny: Setting, how: Decoding) -> None:
    end = tiny.greedy(PROMPTS[2])[3:5]
    requests = [
        request(ids, how, max_new_tokens=4 + 2 * i, seed=(7, f"example-{i}", i))
        for i, ids in enumerate(PROMPTS)
    ]
    together = tiny.decode(*requests, end=end)
    alone = [tiny.decode(each, end=end)[0] for each in requests]
    backwards = tiny.decode(*reversed(requests), end=end)[::-1]
    # Two prompts at a time and less: the budget is for keys and values, eight times as many.
    small = tiny.decoder(end, tokens_per_batch=10).decode("a", requests)
    for other in (alone, backwards, small):
        for mine, theirs in zip(together, other, strict=True):
            assert [o.tokens for o in mine] == [o.tokens for o in theirs]
            assert [o.text for o in mine] == [o.text for o in theirs]
            assert [o.truncated for o in mine] == [o.truncated for o in theirs]
            logprobs = [[o.logprob for o in outputs] for outputs in (mine, theirs)]
            assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


def test_equal_prompts_of_one_batch_are_decoded_apart(tiny: Setting) -> None:
    requests = [request(PROMPTS[0], DIVERSE), request(PROMPTS[0]), request(PROMPTS[0], SAMPLED)]
    together = tiny.decode(*requests)
    assert [len(outputs) for outputs in together] == [3, 1, 4]
    assert [[o.tokens for o in outputs] for outputs in together] == [
        [o.tokens for o in tiny.decode(each)[0]] for each in requests
    ]


def test_samples_depend_on_the_seed_and_their_number(tiny: Setting) -> None:
    one = request(PROMPTS[0], SAMPLED, seed=(1, "x", 0))
    first, again, other = tiny.decode(one, one, replace(one, seed=(1, "x", 1)))
    assert [o.tokens for o in first] == [o.tokens for o in again]
    assert len({o.tokens for o in first[1:]}) == 3
    assert not {o.tokens for o in first[1:]} & {o.tokens for o in other[1:]}
    assert first[0].tokens == other[0].tokens == tuple(tiny.greedy(PROMPTS[0]))
    # More samples leave the first ones as they are.
    (more,) = tiny.decode(replace(one, decoding=replace(SAMPLED, samples=5)))
    assert [o.tokens for o in more[:4]] == [o.tokens for o in first]


def test_temperature_0_samples_greedily(tiny: Setting) -> None:
    (outputs,) = tiny.decode(request(PROMPTS[0], Decoding(samples=2, temperature=0.0)))
    assert {output.tokens for output in outputs} == {tuple(tiny.greedy(PROMPTS[0]))}


# Where outputs end


def test_an_output_ends_before_its_first_stop(tiny: Setting) -> None:
    greedy = tiny.greedy(PROMPTS[0], 12)
    whole = tiny.loaded.tokenizer.decode(greedy)
    # Stops at two places, the later one named first; one that never comes.
    later, earlier = whole[6:8], whole[3:5]
    assert whole.find(earlier) < whole.find(later)
    stop = ("never there at all", later, earlier)
    ((output,),) = tiny.decode(request(PROMPTS[0], max_new_tokens=12, stop=stop))
    assert output.text == whole[: whole.find(earlier)]
    assert list(output.tokens) == greedy[: len(output.tokens)]
    assert tiny.loaded.tokenizer.decode(output.tokens).endswith(earlier)
    assert not output.truncated


def test_a_stop_may_be_a_special_token_which_the_text_lacks(tiny: Setting) -> None:
    greedy = tiny.greedy(PROMPTS[0], 12)
    tokenizer = copy.deepcopy(tiny.loaded.tokenizer)
    place = next(i for i in range(2, 12) if chr(greedy[i] + 33).isalnum() and greedy[i] < 94)
    special = tokenizer.convert_ids_to_tokens(greedy[place])
    tokenizer.add_special_tokens({"additional_special_tokens": [special]})
    assert special not in tokenizer.decode(greedy, skip_special_tokens=True)
    tiny.loaded = replace(tiny.loaded, tokenizer=tokenizer)
    stop = ("never there at all", special)
    ((output,),) = tiny.decode(request(PROMPTS[0], max_new_tokens=12, stop=stop))
    end = greedy.index(greedy[place])
    assert list(output.tokens) == greedy[: end + 1]
    assert output.text == tokenizer.decode(greedy[:end])
    assert not output.truncated


def test_an_output_that_does_not_end_is_truncated(tiny: Setting) -> None:
    greedy = tiny.greedy(PROMPTS[0])
    ((cut,),) = tiny.decode(request(PROMPTS[0], max_new_tokens=4))
    assert (list(cut.tokens), cut.truncated) == (greedy[:4], True)
    assert cut.text == tiny.loaded.tokenizer.decode(greedy[:4])
    # Whose end comes as the last token that is allowed is whole.
    place = next(i for i in range(2, 10) if greedy[i] not in greedy[:i])
    most = request(PROMPTS[0], max_new_tokens=place + 1)
    ((ended,),) = tiny.decode(most, end=greedy[place : place + 1])
    assert (list(ended.tokens), ended.truncated) == (greedy[: place + 1], False)
    assert ended.text == tiny.loaded.tokenizer.decode(greedy[:place])


def test_an_output_may_end_at_once(tiny: Setting) -> None:
    first = tiny.greedy(PROMPTS[0])[0]
    passes = tiny.passes()
    ((output,),) = tiny.decode(request(PROMPTS[0]), end=[first])
    assert (output.text, output.tokens, output.truncated) == ("", (first,), False)
    assert len(passes) == 1


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_an_output_that_ends_at_once_leaves_the_others_as_they_are(
    tiny: Setting, index: int
) -> None:
    end = tiny.greedy(PROMPTS[index])[:1]
    alone = [tiny.decode(request(ids), end=end)[0][0].tokens for ids in PROMPTS]
    together = tiny.decode(*map(request, PROMPTS), end=end)
    assert [outputs[0].tokens for outputs in together] == alone
    assert alone[index] == tuple(end)


def test_a_batch_takes_as_many_steps_as_its_longest_output(tiny: Setting) -> None:
    passes = tiny.passes()
    tiny.decode(request(PROMPTS[0], max_new_tokens=3), request(PROMPTS[1], max_new_tokens=8))
    # The prompts of 5 tokens and 1, and the steps: two of both, five of the longer.
    assert passes == [(1, 6)] + [(2, 1)] * 2 + [(1, 1)] * 5


@pytest.mark.model
def test_the_default_model_decodes_as_transformers_does() -> None:
    loaded = load_model(ModelSettings(device="cpu", dtype="float32"), load_registry())
    adapters = make_adapters(loaded, {"a": ()}, randomized=False)
    texts = ["1, 2, 3,", "The capital of France is"]
    prompts = [loaded.tokenizer(each).input_ids for each in texts]
    end = loaded.tokenizer.eos_token_id
    expected = [generated(adapters, None, ids, 8, [end]) for ids in prompts]
    decoder = make_decoder(adapters, loaded, [end])
    decoded = decoder.decode(None, [request(ids, DIVERSE, 8) for ids in prompts])
    assert [list(outputs[0].tokens) for outputs in decoded] == expected
    assert "Paris" in decoded[1][0].text


@pytest.mark.parametrize("how", [GREEDY, DIVERSE, SAMPLED])
def test_outputs_after_frozen_prefixes_are_those_of_the_adapter_after_the_base_model(
    tiny: Setting, how: Decoding
) -> None:
    frozen_lengths = [min(n, len(ids)) for n, ids in enumerate(PROMPTS)]
    requests = [
        replace(request(ids, how), frozen_length=n)
        for ids, n in zip(PROMPTS, frozen_lengths, strict=True)
    ]
    for ids, frozen_length, generations in zip(
        PROMPTS, frozen_lengths, tiny.decode(*requests), strict=True
    ):
        for generation in generations:
            slow = likelihood(tiny.adapters, "a", ids, generation.tokens, frozen_length)
            assert generation.logprob == pytest.approx(float(slow.detach()), abs=1e-4)
        tokens = generations[0].tokens
        read = logits(tiny.adapters, "a", [*ids, *tokens], frozen_length)
        best = read[len(ids) - 1 : -1].argmax(-1)
        assert best.tolist() == list(tokens)


WAITS = ("tolist", "item", "__int__", "__float__", "__bool__", "__index__", "nonzero", "cpu")
"""What of a tensor has to be known on the host."""


@pytest.mark.parametrize("how", [GREEDY, DIVERSE, SAMPLED])
def test_a_step_waits_for_the_device_once(
    tiny: Setting, monkeypatch: pytest.MonkeyPatch, how: Decoding
) -> None:
    waited: list[str] = []

    def counted(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def count(self: torch.Tensor, *args: object, **more: object) -> object:
            waited.append(name)
            return original(self, *args, **more)

        monkeypatch.setattr(torch.Tensor, name, count)

    for name in WAITS:
        counted(name)
    tiny.decode(*(request(ids, how, max_new_tokens=9) for ids in PROMPTS))
    assert waited == ["tolist"] * 9
