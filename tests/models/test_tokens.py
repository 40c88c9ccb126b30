"""From prompts to token ids: chat templates, and what is cut when a prompt does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.prompt import Message, Prompt, Segment, Template
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.tokens import Tokens

SYSTEM = Template(system="Be brief.", user="Why?")
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('never one') }}{% endif %}"
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
DROPPING = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model: LoadedModel) -> Any:
    return tiny_model.tokenizer


def prompt_of(*segments: tuple[str, bool], reserve: int = 10) -> Prompt:
    parts = tuple(Segment(text, truncatable) for text, truncatable in segments)
    return Prompt((Message("text", parts),), chat=False, reserve=reserve)


def shown(tokens: Tokens, template: Template) -> str:
    return tokens.encode(template.render({}, node="n")).text


def test_a_chat_gets_the_models_template(tokenizer: Any) -> None:
    template = Template(system="Be brief.", user="Why?", prefill="Because")
    encoded = Tokens(tokenizer, 1000).encode(template.render({}, node="n"))
    assert encoded.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nBecause"
    )
    assert encoded.ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(encoded.ids) == encoded.text
    assert encoded.dropped == 0


@pytest.mark.parametrize("template", [REFUSING, DROPPING])
def test_a_template_without_a_system_part_gets_it_before_the_user_message(
    tokenizer: Any, template: str
) -> None:
    tokenizer.chat_template = template
    tokens = Tokens(tokenizer, 1000)
    assert shown(tokens, SYSTEM) == "<user>Be brief.\n\nWhy?<assistant>"
    assert shown(tokens, Template(user="Why?")) == "<user>Why?<assistant>"


def test_a_template_that_fails_says_so(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(Exception, match="never"):
        shown(Tokens(tokenizer, 1000), SYSTEM)


def test_without_a_template_the_texts_stand_below_each_other(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    template = Template(system="Be brief.", user="Why?", prefill="Because")
    assert shown(Tokens(tokenizer, 1000), template) == "Be brief.\n\nWhy?\nBecause"


def test_a_plain_prompt_is_taken_as_it_is(tokenizer: Any) -> None:
    template = Template(user="Question: why? Answer:", prefill=" It", chat=False)
    assert shown(Tokens(tokenizer, 1000), template) == "Question: why? Answer: It"


class Begins:
    """A tokenizer that puts a first token in front, unless told to leave it."""

    chat_template: str | None = "there is one"
    bos_token_id = 0
    eos_token_id = 1

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [0] * add_special_tokens + [ord(c) for c in text]}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, ids))

    def apply_chat_template(self, chat: Any, **options: Any) -> str:
        return "^" + "|".join(message["content"] for message in chat)


def test_special_tokens_are_added_unless_the_template_did() -> None:
    chat = Template(user="x").render({}, node="n")
    bare = Template(user="x", chat=False).render({}, node="n")
    begins = Begins()
    assert Tokens(begins, 1000).encode(chat).ids == (ord("^"), ord("x"))
    assert Tokens(begins, 1000).encode(bare).ids == (0, ord("x"))
    begins.chat_template = None
    assert Tokens(begins, 1000).encode(chat).ids == (0, ord("x"), ord("\n"))
    assert Tokens(begins, 1000).completion("x") == (ord("x"),)
    assert Tokens(begins, 1000).completion("x", end=True) == (ord("x"), 1)


@pytest.mark.parametrize("bos", ["<|im_start|>", None])
def test_a_prompt_that_says_nothing_is_where_texts_begin(tokenizer: Any, bos: str | None) -> None:
    tokenizer.bos_token = bos
    encoded = Tokens(tokenizer, 1000).encode(prompt_of(("", True)))
    begin = tokenizer.bos_token_id if bos else tokenizer.eos_token_id
    assert (encoded.text, encoded.ids, encoded.frozen_length) == ("", (begin,), 0)


def test_a_prompt_that_is_cut_to_nothing_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="leaves no room"):
        Tokens(tokenizer, 10).encode(prompt_of(("abc", True), reserve=10))
    assert Tokens(tokenizer, 11).encode(prompt_of(("abc", True), reserve=10)).text == "a"


def test_a_prompt_at_the_limit_is_whole_and_one_token_more_is_cut(tokenizer: Any) -> None:
    prompt = prompt_of(("ask:", False), ("document", True))
    whole = Tokens(tokenizer, 22).encode(prompt)
    assert (whole.text, len(whole.ids), whole.dropped) == ("ask:document", 12, 0)
    cut = Tokens(tokenizer, 21).encode(prompt)
    assert (cut.text, len(cut.ids), cut.dropped) == ("ask:documen", 11, 1)


def test_the_longest_documents_are_cut_and_the_instruction_never(tokenizer: Any) -> None:
    parts = [("ask:", False), ("a" * 30, True), ("|", False), ("b" * 10, True), ("c" * 20, True)]
    # 65 tokens, of which 40 fit: 25 go, from the longest until all that is cut is of one length.
    encoded = Tokens(tokenizer, 50).encode(prompt_of(*parts))
    assert encoded.text == "ask:" + "a" * 12 + "|" + "b" * 10 + "c" * 13
    assert encoded.dropped == 25
    assert len(encoded.ids) == 40
    assert encoded.ids == Tokens(tokenizer, 1000).encode(prompt_of((encoded.text, False))).ids


def test_room_is_kept_for_the_reserve_or_for_a_longer_completion(tokenizer: Any) -> None:
    prompt = prompt_of(("d" * 50, True), reserve=10)
    tokens = Tokens(tokenizer, 40)
    assert len(tokens.encode(prompt).ids) == 30
    assert len(tokens.encode(prompt, completion=8).ids) == 30
    assert len(tokens.encode(prompt, completion=25).ids) == 15


def test_cutting_a_cut_prompt_changes_nothing_and_the_same_prompt_is_cut_the_same(
    tokenizer: Any,
) -> None:
    prompt = prompt_of(("ask:", False), ("Zürich, Köln, Łódź – " * 5, True), ("x" * 30, True))
    first = Tokens(tokenizer, 60).encode(prompt)
    assert len(first.ids) <= 50
    assert first.dropped > 0
    assert Tokens(tokenizer, 60).encode(prompt) == first
    again = Tokens(tokenizer, 60).encode(prompt_of((first.text, True)))
    assert (again.text, again.ids, again.dropped) == (first.text, first.ids, 0)


def test_a_prompt_of_which_nothing_may_be_cut(tokenizer: Any) -> None:
    tokens = Tokens(tokenizer, 40)
    message = r"a prompt of 50 tokens .* context of 40 for 10 more.*Template\(truncate=.*'iiii"
    with pytest.raises(UsageError, match=message):
        tokens.encode(prompt_of(("i" * 50, False)))
    with pytest.raises(UsageError, match=r"a prompt of 45 tokens"):
        tokens.encode(prompt_of(("i" * 35, False), ("d" * 10, True)))
    with pytest.raises(UsageError, match=r"for 40 more"):
        tokens.encode(prompt_of(("d" * 10, True), reserve=40))


def test_as_many_encodings_are_remembered_as_asked_for(tokenizer: Any) -> None:
    calls: list[str] = []

    def counting(text: str, **options: Any) -> Any:
        calls.append(text)
        return tokenizer(text, **options)

    tokens = Tokens(tokenizer, 100, cache_size=2)
    tokens.tokenizer = counting
    for name in "abacab":
        tokens.encode(prompt_of((name, False)))
    # c drives b out, which was used longest ago.
    assert calls == ["a", "b", "c", "b"]


def test_a_frozen_prefix_has_tokens_of_its_own(tokenizer: Any) -> None:
    template = Template(frozen_prefix="docs {d}", user="|{q}", chat=False, truncate=("d",))
    prompt = template.render({"d": "d" * 30, "q": "why"}, node="n", reserve=10)
    whole = Tokens(tokenizer, 100).encode(prompt)
    assert (whole.text, whole.frozen_length) == ("docs " + "d" * 30 + "|why", 35)
    # What is cut from its documents, it lacks.
    cut = Tokens(tokenizer, 40).encode(prompt)
    assert (cut.text, cut.frozen_length, cut.dropped) == ("docs " + "d" * 21 + "|why", 26, 9)
    assert whole.ids[:26] == cut.ids[:26]
    bare = template.render({"d": "", "q": ""}, node="n")
    tokens = Tokens(tokenizer, 500)
    short = tokens.encode(bare)
    assert (short.ids, short.frozen_length) == (tokens.completion("docs |"), 5)
    without = Template("{q}", chat=False).render({"q": "why"}, node="n")
    assert Tokens(tokenizer, 500).encode(without).frozen_length == 0


@pytest.mark.parametrize("chat", [True, False])
def test_a_lone_surrogate_is_read_as_its_escape(tokenizer: Any, chat: bool) -> None:
    tokens = Tokens(tokenizer, 1000)
    template = Template("a \ud800 b", chat=chat)
    read = Template("a \\ud800 b", chat=chat)
    assert tokens.encode(template.render({}, node="n")) == tokens.encode(read.render({}, node="n"))
    assert tokens.completion("\ud83d\ude00") == tokens.completion("\\ud83d\\ude00")
    assert tokens.completion("\U0001f600") != tokens.completion("\\ud83d\\ude00")


def test_lone_surrogates_on_both_sides_of_a_frozen_prefix(tokenizer: Any) -> None:
    tokens = Tokens(tokenizer, 1000)
    inputs = {"x": "\ud83d", "y": "\ude00"}
    prompt = Template("{y}", frozen_prefix="{x}", chat=False).render(inputs, node="n")
    encoded = tokens.encode(prompt)
    assert encoded.text == "\\ud83d\\ude00"
    assert encoded.ids[: encoded.frozen_length] == tokens.completion("\\ud83d")


def test_a_prompt_with_lone_surrogates_is_cut_like_any_other(tokenizer: Any) -> None:
    prompt = prompt_of(("\ud800 " * 200, True), ("End.", False))
    assert Tokens(tokenizer, 60).encode(prompt).dropped > 0


@pytest.mark.parametrize(
    ("model_context", "advice"),
    [
        (None, "or raise model.context, as far as the model was made for. It"),
        (1024, "or raise model.context, up to the model's own 1024. It"),
        (40, "or take a model that reads more: this one reads no longer text. It"),
    ],
)
def test_advice_that_helps(tokenizer: Any, model_context: int | None, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        Tokens(tokenizer, 40, model_context).encode(prompt_of(("i" * 50, False), reserve=10))
