"""What an export's code might play otherwise than flowtune does: it does not, or refuses to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from flowtune_cli import Chat, Generate, Judge, Template
from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.exports.folder import flow_json, write_texts
from flowtune_cli.exports.readme import folder_readme
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.messages import parse_messages, parse_tools
from flowtune_cli.flow.node import Node
from flowtune_cli.flow.prompt import NotAText, Prompt
from flowtune_cli.models.tokens import Tokens
from support.exported import about_model, readme_code

TALK = Chat(name="talk", learn="nothing")
CHAT = (
    "{% for t in tools or [] %}<tool>{{ t | tojson }}</tool>{% endfor %}{% for m in messages %}"
    "[{{ m.role }} {{ m.name }} {{ m.tool_call_id }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.id }}>{{ c.function.name }} ARGUMENTS{% endfor %}"
    "{% endfor %}[answer]"
)
OBJECTS = CHAT.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
TEXTS = CHAT.replace(
    "ARGUMENTS",
    "{% if c.function.arguments is not string %}{{ raise_exception('no text') }}{% endif %}"
    "{{ c.function.arguments }}",
)
NONE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]"
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"id": "c12345678", "type": "function"}
CALLING: list[Any] = [
    {"role": "developer", "content": [{"type": "text", "text": t} for t in ("Be ", "brief.")]},
    {"role": "user", "content": "2 and 3?", "name": "Ada"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{**CALL, "function": {"name": "add", "arguments": '{"a":2,  "é": [3]}'}}],
    },
    {"role": "tool", "tool_call_id": "c12345678", "content": "5"},
]


def exported(target: Path, model: Path, template: str | None, *nodes: Node) -> dict[str, Any]:
    """The names of the README's first section, of an export of nodes without adapters."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(target / "model")
    if template is None:
        (target / "model" / "chat_template.jinja").unlink(missing_ok=True)
    (target / "model" / "config.json").write_bytes((model / "config.json").read_bytes())
    (target / "0000008").mkdir()
    (target / "0000008" / "state.json").write_text('{"nodes": {}}')
    settings = ModelSettings(name=str(target / "model"), dtype="float32")
    about = about_model(settings)
    flow = flow_json(about, target / "0000008", nodes)
    write_texts(target, flow, about.template, folder_readme(flow))
    code = readme_code(target, "Prompts")
    names: dict[str, Any] = {}
    exec(compile(code, str(target / "README.md"), "exec"), names)
    names["shown"] = Tokens(tokenizer, context=4000)
    return names


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("template", "arguments"), [(OBJECTS, "object"), (TEXTS, "text")])
def test_chats_with_tools_are_shown_as_in_flowtune(
    tmp_path: Path, tiny_model_dir: Path, template: str, arguments: str
) -> None:
    code = exported(tmp_path, tiny_model_dir, template, TALK)
    assert code["flow"]["chat_template"]["tool_arguments"] == arguments
    for messages, tools in ((CALLING, TOOLS), (CALLING[:2], TOOLS), (CALLING[:2], [])):
        prompt = Prompt(parse_messages(messages), tools=parse_tools(tools))
        found = code["chat_of"](messages, tools)
        assert found.text == code["shown"].render(prompt)
        assert found.ids == list(code["shown"].encode(prompt).ids)


@pytest.mark.parametrize("template", [NONE, None])
def test_tools_that_a_template_does_not_show_are_refused(
    tmp_path: Path, tiny_model_dir: Path, template: str | None
) -> None:
    code = exported(tmp_path, tiny_model_dir, template, TALK)
    for messages, tools in ((CALLING, []), (CALLING[:2], TOOLS)):
        with pytest.raises(UsageError):
            code["shown"].render(Prompt(parse_messages(messages), tools=parse_tools(tools)))
        with pytest.raises(ValueError, match="chat template shows no"):
            code["chat_of"](messages, tools)


def test_a_chat_that_would_lose_something_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    without = NONE.replace(
        "[{{ m.role }}]", "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    )
    code = exported(tmp_path, tiny_model_dir, without, TALK)
    answered = [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(ValueError, match="no user's message that could take the system's in"):
        code["chat_of"](answered)
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(ValueError, match="only texts"):
        code["chat_of"]([{"role": "user", "content": image}])
    steering = [{"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}]}]
    with pytest.raises(ValueError, match="take"):
        code["chat_of"](steering)


async def never() -> str:
    return ""


def test_what_is_no_text_is_not_shown_as_python(tmp_path: Path, tiny_model_dir: Path) -> None:
    ask = Generate(name="ask", prompt=Template("Ask: {question}"), learn="nothing")
    code = exported(tmp_path, tiny_model_dir, NONE, ask)
    forgotten = never()
    for value in ([{"role": "user", "content": "hi"}], forgotten):
        with pytest.raises(ValueError, match="this is no text"):
            code["prompt_of"](code["nodes"]["ask"]["prompt"], {"question": value})
        with pytest.raises(NotAText):
            ask.prompt_text({"question": value})


class Own(Judge):
    """A node type of somebody else's."""


def test_nodes_that_others_play_are_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    small = Generate(name="ask", prompt=Template("{question}"), model="org/small")
    remote = Generate(name="far", prompt=Template("{question}"), model={"url": "u", "name": "big"})
    own = Own(name="own", prompt=Template("{question}"), learn="nothing")
    plain = Generate(name="plain", prompt=Template("{question}"), learn="nothing")
    code = exported(tmp_path, tiny_model_dir, NONE, small, remote, own, plain)
    code["check_node"]("plain")
    for name, why in (
        ("ask", "ask is played by another model: org/small"),
        ("far", "another model"),
        ("own", "own is played by code of its own: .*test_readme_refuses\\.Own"),
    ):
        with pytest.raises(ValueError, match=why):
            code["check_node"](name)
    readme = (tmp_path / "README.md").read_text()
    assert "| ask | generate | none: another model | by that model |" in readme
    assert "`far` is played by another model, `big at u`, without an adapter." in readme
    assert "    generate('plain', question=...)\n" in readme
    assert "    generate('ask'" not in readme
    # Whatever reads with the model, or asks a server, asks this first.
    for function in ("def playing(name):", "def served(name, prompt"):
        body = readme.partition(function)[2].partition("\n\n\n")[0]
        assert not body or "\n    check_node(name)\n" in body
    assert "def playing(name):" in readme


def test_the_facts_of_a_template_are_written(tmp_path: Path, tiny_model_dir: Path) -> None:
    code = exported(tmp_path, tiny_model_dir, NONE, TALK)
    written = json.loads((tmp_path / "flow.json").read_text())["chat_template"]
    assert (written["tools"], written["tool_arguments"]) == (False, None)
    assert code["flow"]["chat_template"] == written
