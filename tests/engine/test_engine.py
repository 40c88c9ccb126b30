"""The engine: answers in order, what it remembers, and what an answer says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.engine.paths import Paths
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.prompt import Message, Prompt, Segment, Template
from flowtune_cli.flow.request import (
    GREEDY,
    Decoded,
    DecodeRequest,
    Decoding,
    Likelihood,
    Request,
    Scored,
    ScoreRequest,
)
from flowtune_cli.models.loading import LoadedModel
from support.tiny import likelihood, make_adapters, make_engine, plain, with_tokenizer
from support.tokenizers import make_tokenizer

DIVERSE = Decoding(groups=2, diversity_penalty=5.0)
SAMPLED = Decoding(samples=2)


class Counted:
    """An engine whose forward passes are counted."""

    def __init__(self, loaded: LoadedModel, nodes: Any = None, **limits: int) -> None:
        self.adapters = make_adapters(loaded, nodes)
        self.engine = make_engine(loaded, self.adapters, **limits)
        self.passes = 0
        self.tokens = 0
        decoder = self.adapters.model.get_decoder()
        decoder.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, kwargs: Any) -> None:
        self.passes += 1
        self.tokens += kwargs["input_ids"].numel()

    def decode(self, *requests: Request) -> list[Decoded]:
        return cast("list[Decoded]", self.engine.answer(list(requests)))

    def score(self, *requests: Request) -> list[Scored]:
        return cast("list[Scored]", self.engine.answer(list(requests)))


@pytest.fixture
def counted(tiny_model: LoadedModel) -> Counted:
    return Counted(tiny_model)


def written(
    text: str, how: Decoding = GREEDY, adapter: str | None = "a", seed: int = 0, most: int = 4
) -> DecodeRequest:
    return DecodeRequest(adapter, plain(text), most, (), how, (seed, "x", 0))


def judged(text: str, *completions: str, adapter: str | None = "a") -> ScoreRequest:
    return ScoreRequest(adapter, ((plain(text), completions),))


def tokens_of(decoded: Decoded) -> list[tuple[int, ...]]:
    return [generation.tokens for generation in decoded.generations]


def naive(adapters: Adapters, engine: ModelEngine, request: ScoreRequest) -> list[list[float]]:
    tokens = engine.tokens
    with torch.no_grad():
        return [
            [
                float(likelihood(adapters, request.adapter, ids, tokens.completion(text)).detach())
                for text in completions
            ]
            for ids, completions in (
                (tokens.encode(prompt).ids, completions) for prompt, completions in request.items
            )
        ]


def sums(scored: Scored) -> list[list[float]]:
    return [[likelihood.logprob for likelihood in item] for item in scored.likelihoods]


# Tokens


@pytest.mark.parametrize("chat", [False, True])
def test_rivals_of_which_one_begins_another_are_scored_with_their_end(
    counted: Counted, chat: bool
) -> None:
    prompt = Prompt((Message("user", (Segment("one"),)),), chat=chat, reserve=16)
    labels = ("1", "10", "no")
    request = ScoreRequest("a", ((prompt, labels),), rivals=True)
    (scored,) = counted.score(request)
    tokens = counted.engine.tokens
    end = tokens.tokenizer.eos_token_id
    ids = tokens.encode(prompt).ids
    expected = [
        float(likelihood(counted.adapters, "a", ids, (*tokens.completion(label), end)).detach())
        for label in labels
    ]
    assert sums(scored)[0] == pytest.approx(expected, abs=1e-4)
    assert [each.tokens for each in scored.likelihoods[0]] == [2, 3, 3]
    # Otherwise they are scored as other texts are, to the bit.
    for texts in (("1", "no"), ("Yes", "No")):
        alike = [ScoreRequest("b", ((prompt, texts),), rivals=rivals) for rivals in (True, False)]
        counted.engine.forget()
        (one,) = counted.score(alike[0])
        counted.engine.forget()
        (other,) = counted.score(alike[1])
        assert one.likelihoods == other.likelihoods


@pytest.mark.parametrize("kind", ["prepend", "metaspace first", "byte level with a space"])
def test_completions_are_scored_as_parts_of_the_whole_text(
    tiny_model: LoadedModel, kind: str
) -> None:
    # Its answers follow a special token, behind which a tokenizer begins anew.
    template = "{% for m in messages %}{{ m.content }}<|im_start|>{% endfor %}"
    tokenizer = make_tokenizer(kind, bos=True, template=template)
    counted = Counted(with_tokenizer(tiny_model, tokenizer))
    chat = Prompt((Message("user", (Segment("so"),)),), reserve=16)
    for prompt, shown, special in ((plain("so:"), "so:", True), (chat, "so<|im_start|>", False)):
        begin = tokenizer(shown, add_special_tokens=special)["input_ids"]
        texts = (" Yes", "Question")
        (scored,) = counted.score(ScoreRequest("a", ((prompt, texts),)))
        for text, found in zip(texts, scored.likelihoods[0], strict=True):
            whole = tokenizer(shown + text, add_special_tokens=special)["input_ids"]
            assert whole[: len(begin)] == begin
            expected = likelihood(counted.adapters, "a", begin, whole[len(begin) :])
            assert found.logprob == pytest.approx(float(expected.detach()), abs=1e-4)


def test_an_output_ends_where_the_chat_template_ends_a_turn(tiny_model: LoadedModel) -> None:
    template = "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer = make_tokenizer("prepend", template=template)
    loaded = with_tokenizer(tiny_model, tokenizer)
    loaded.model.generation_config.eos_token_id = [3, 4]
    engine = make_engine(loaded, make_adapters(loaded))
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>"), 3, 4}
    assert engine.decoder.end == ends


# Answers


def test_answers_come_in_the_order_of_the_requests(counted: Counted) -> None:
    requests: list[Request] = [
        written("one two"),
        judged("one", "yes", "no"),
        written("one two", adapter="b"),
        judged("one", "yes", "no", adapter=None),
        written("three", DIVERSE),
        ScoreRequest("a", ((plain("x"), ("y",)), (plain("long " * 9), ("yes", "z")))),
        written("one two", adapter=None),
    ]
    answers = counted.engine.answer(requests)
    for request, answer in zip(requests, answers, strict=True):
        counted.engine.forget()
        (alone,) = counted.engine.answer([request])
        if isinstance(request, DecodeRequest):
            assert isinstance(answer, Decoded)
            assert isinstance(alone, Decoded)
            assert tokens_of(answer) == tokens_of(alone)
            assert (answer.prompt, answer.prompt_tokens) == (
                request.prompt.text,
                alone.prompt_tokens,
            )
        else:
            assert isinstance(answer, Scored)
            expected = naive(counted.adapters, counted.engine, request)
            for mine, theirs in zip(sums(answer), expected, strict=True):
                assert mine == pytest.approx(theirs, abs=1e-4)
    first, third, last = (tokens_of(cast(Decoded, answers[i])) for i in (0, 2, 6))
    assert first != third != last != first


def test_a_score_counts_tokens_of_prompts_and_completions(counted: Counted) -> None:
    request = ScoreRequest("a", ((plain("one"), ("yes", "n")), (plain("three"), ("maybe",))))
    (scored,) = counted.score(request)
    assert [[each.tokens for each in item] for item in scored.likelihoods] == [[3, 1], [5]]
    assert (scored.prompts, scored.prompt_tokens) == (("one", "three"), 8)
    assert scored.dropped_tokens == 0


def test_an_empty_text_is_certain(counted: Counted) -> None:
    (scored,) = counted.score(judged("one", "", "yes"))
    assert scored.likelihoods[0][0] == Likelihood(0.0, 0)
    assert scored.likelihoods[0][0].mean == 0.0
    assert scored.likelihoods[0][1].logprob < 0


def test_a_prompt_that_says_nothing_is_answered(counted: Counted) -> None:
    (decoded,) = counted.decode(written(""))
    assert (decoded.prompt, decoded.prompt_tokens) == ("", 1)
    assert decoded.generations[0].tokens
    (scored,) = counted.score(judged("", "yes"))
    assert scored.likelihoods[0][0].logprob < 0


def test_a_prompt_is_cut_to_leave_room_for_what_is_written(tiny_model: LoadedModel) -> None:
    tiny_model.context = 40
    counted = Counted(tiny_model)
    parts = (Segment("ask:"), Segment("d" * 60, truncatable=True))
    prompt = Prompt((Message("text", parts),), chat=False, reserve=10)
    request = DecodeRequest("a", prompt, max_new_tokens=20)
    (decoded,) = counted.decode(request)
    assert (decoded.prompt_tokens, decoded.dropped_tokens) == (20, 44)
    assert decoded.prompt == "ask:" + "d" * 16
    (scored,) = counted.score(ScoreRequest("a", ((prompt, ("x", "y" * 12)),)))
    assert (scored.prompt_tokens, scored.dropped_tokens) == (28, 36)


# What an answer says of the adapter


def test_answers_carry_the_version_of_their_adapter(counted: Counted) -> None:
    requests: list[Request] = [
        written("one"),
        judged("one", "yes"),
        written("one", adapter=None),
    ]
    assert [answer.adapter_version for answer in counted.engine.answer(requests)] == [0, 0, 0]
    counted.adapters.move("a", "b", 0.5)
    assert [answer.adapter_version for answer in counted.engine.answer(requests)] == [1, 1, 0]


def test_scores_carry_the_head_of_their_adapter(tiny_model: LoadedModel) -> None:
    counted = Counted(tiny_model, {"a": {"x": 2.0, "y": -1.5}, "b": {}})
    scored = counted.score(*(judged("one", "yes", adapter=name) for name in ("a", "b", None)))
    assert [each.head for each in scored] == [{"x": 2.0, "y": -1.5}, {}, {}]


# What is remembered


def same_answer(counted: Counted, *requests: Request) -> list[Any]:
    """Answers that need no forward pass."""
    before = counted.passes
    answers = counted.engine.answer(list(requests))
    assert counted.passes == before
    return answers


def test_the_same_request_is_answered_once(counted: Counted) -> None:
    requests: Sequence[Request] = [
        written("one"),
        written("two", DIVERSE),
        written("three", SAMPLED),
        judged("one", "yes", "n"),
    ]
    first = counted.engine.answer(list(requests))
    assert counted.passes > 0
    assert same_answer(counted, *requests) == first


def test_the_same_request_within_a_batch_is_answered_once(counted: Counted) -> None:
    counted.decode(written("one two three"))
    once = counted.tokens
    counted.engine.forget()
    answers = counted.decode(*[written("one two three")] * 5)
    assert counted.tokens == 2 * once
    assert answers == [answers[0]] * 5


def test_each_completion_is_scored_once(counted: Counted) -> None:
    (first,) = counted.score(judged("one", "yes", "no"))
    before = counted.tokens
    (again,) = counted.score(judged("one", "no", "maybe", "no"))
    assert again.likelihoods[0][0] == again.likelihoods[0][2] == first.likelihoods[0][1]
    # Of "maybe" all but the last token was read, and nothing else.
    assert counted.tokens - before == 4


def test_exploring_answers_the_greedy_request_too(counted: Counted) -> None:
    (wide,) = counted.decode(written("one", DIVERSE))
    (greedy,) = same_answer(counted, written("one"))
    assert greedy.generations == wide.generations[:1]
    # And in one batch, whichever comes first.
    counted.engine.forget()
    before = counted.tokens
    greedy, wide, _ = counted.decode(written("one"), written("one", DIVERSE), written("one"))
    assert greedy.generations == wide.generations[:1]
    # The prompt, and three steps of two rows.
    assert counted.tokens - before == 3 + 3 * 2


def test_exploring_answers_the_sampled_request_of_its_seed_too(counted: Counted) -> None:
    how = Decoding(samples=1, temperature=2.0, greedy=False)
    (wide,) = counted.decode(written("one", how, seed=1))
    (alone,) = same_answer(counted, written("one", how.first, seed=1))
    assert alone.generations == wide.generations[:1]
    passes = counted.passes
    other, greedy = counted.decode(written("one", how.first, seed=2), written("one", seed=1))
    assert counted.passes > passes
    assert len({*tokens_of(wide), *tokens_of(other), *tokens_of(greedy)}) == 4
    # A draft replays to the bit, and is the same whatever is decoded beside it.
    counted.engine.forget()
    assert counted.decode(written("one", how.first, seed=1)) == [alone]
    counted.engine.forget()
    beside, _ = counted.decode(written("one", how.first, seed=1), written("other one", how, seed=3))
    assert tokens_of(beside) == tokens_of(alone)


def test_samples_of_another_seed_are_others_and_groups_are_not(counted: Counted) -> None:
    one, two = counted.decode(written("one", SAMPLED, seed=1), written("one", SAMPLED, seed=2))
    assert tokens_of(one)[0] == tokens_of(two)[0]
    assert tokens_of(one)[1:] != tokens_of(two)[1:]
    (first,) = counted.decode(written("two", DIVERSE, seed=1))
    assert same_answer(counted, written("two", DIVERSE, seed=2)) == [first]


@pytest.mark.parametrize(
    "other",
    [
        written("one", adapter="b"),
        written("one "),
        written("one", most=5),
        written("one", DIVERSE),
        DecodeRequest("a", plain("one"), 4, ("e",)),
    ],
)
def test_another_request_is_answered_anew(counted: Counted, other: DecodeRequest) -> None:
    counted.decode(written("one"))
    passes = counted.passes
    counted.decode(other)
    assert counted.passes > passes


def test_an_updated_adapter_answers_anew(counted: Counted) -> None:
    requests: Sequence[Request] = [written("one"), judged("one", "yes")]
    before = counted.engine.answer(list(requests))
    counted.adapters.move("a", "b", 0.5)
    after = counted.engine.answer(list(requests))
    (expected,) = naive(counted.adapters, counted.engine, judged("one", "yes"))
    assert sums(cast(Scored, after[1])) == [pytest.approx(expected, abs=1e-4)]
    assert sums(cast(Scored, before[1])) != sums(cast(Scored, after[1]))
    assert tokens_of(cast(Decoded, before[0])) != tokens_of(cast(Decoded, after[0]))


def test_forgetting_forgets_all(counted: Counted) -> None:
    requests: Sequence[Request] = [written("one", DIVERSE), judged("one", "yes")]
    before = counted.engine.answer(list(requests))
    passes = counted.passes
    counted.engine.forget()
    assert not counted.engine.prefixes._entries
    assert counted.engine.answer(list(requests)) == before
    assert counted.passes == 2 * passes


def test_nothing_need_be_kept_for_the_answers_to_be_the_same(tiny_model: LoadedModel) -> None:
    counted = Counted(tiny_model, prefix_cache_bytes=0, tokens_per_batch=1)
    request = ScoreRequest("a", ((plain("one"), ("yes", "no")), (plain("two"), ("yes",))))
    (scored,) = counted.score(request)
    expected = naive(counted.adapters, counted.engine, request)
    assert sums(scored) == [pytest.approx(row, abs=1e-4) for row in expected]


def test_outputs_that_were_cut_off_say_so(counted: Counted) -> None:
    (decoded,) = counted.decode(written("one", DIVERSE))
    assert [generation.truncated for generation in decoded.generations] == [True, True]


@pytest.mark.parametrize("kind", ["decoding", "scoring"])
def test_logits_that_are_not_finite_are_an_error(counted: Counted, kind: str) -> None:
    with torch.no_grad():
        for parameter in counted.adapters.parameters("a"):
            parameter.fill_(torch.inf)
    scored = ScoreRequest("a", ((plain("x"), ("yes",)),))
    request: Request = written("x") if kind == "decoding" else scored
    with pytest.raises(UsageError, match=r"logits are not finite in float32 on cpu"):
        counted.engine.answer([request])


def test_a_frozen_prefix_is_refused_where_it_was_not_right(counted: Counted) -> None:
    prefixes = counted.engine.prefixes
    prompt = Template("b", frozen_prefix="a", chat=False).render({}, node="n")
    request = DecodeRequest("a", prompt, 4)
    counted.decode(request)
    prefixes.paths = replace(prefixes.paths, frozen_prefixes=False)
    with pytest.raises(UsageError, match="has a frozen prefix, and this model cannot read"):
        counted.decode(request)


@pytest.mark.parametrize(
    "paths", [Paths("plain"), Paths("uncached"), Paths("cascade", "packed", longest=6)]
)
def test_outputs_after_a_frozen_prefix_are_the_same_where_nothing_is_shared(
    counted: Counted, paths: Paths
) -> None:
    engine = counted.engine
    how = Decoding(groups=2, diversity_penalty=1.0)
    prompts = [
        Template(text, frozen_prefix=frozen, chat=False).render({}, node="n")
        for frozen, text in (("", "abc"), ("a", "bc"), ("b", "cd"), ("abc", ""), ("a", ""))
    ]
    requests: list[Request] = [DecodeRequest("a", prompt, 4, (), how) for prompt in prompts]
    requests.append(ScoreRequest("a", tuple((prompt, ("yes", "no")) for prompt in prompts)))
    *written, scored = engine.answer(requests)
    engine.forget()
    engine.prefixes.paths = paths
    *written_again, scored_again = engine.answer(requests)
    for found, wanted in zip(written_again, written, strict=True):
        assert isinstance(found, Decoded)
        assert isinstance(wanted, Decoded)
        for mine, theirs in zip(found.generations, wanted.generations, strict=True):
            assert mine.tokens == theirs.tokens
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert isinstance(scored, Scored)
    assert isinstance(scored_again, Scored)
    for mine, theirs in zip(scored_again.likelihoods, scored.likelihoods, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
