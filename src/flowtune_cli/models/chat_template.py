"""A model's chat template: which one it is, its options, its clock, and how it ends a turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date as Date
from datetime import datetime, time
from functools import cached_property
from typing import Any, Literal

import jinja2
import jinja2.ext
import jinja2.meta

from ..config.settings import ModelSettings
from ..flow.errors import UsageError, unknown_name

_DEFAULTS: Mapping[str, Any] = {"enable_thinking": False}
"""Options for the templates that know them: outputs of a few tokens have no room for thoughts."""

_OURS = frozenset({"messages", "tools", "add_generation_prompt"})
_GIVEN = frozenset(
    {"raise_exception", "strftime_now", "namespace", "dict", "range", "lipsum", "cycler", "joiner"}
)
"""What every template can read, though no option sets it."""

_CLOCK = "flowtune_clock"
# Templates call strftime_now(format): a macro of that name takes its place, with a fixed date.
_FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}{%- set ns = namespace(text=format) -%}"
    "{%- for directive, text in flowtune_clock -%}"
    "{%- set ns.text = ns.text | replace(directive, text) -%}{%- endfor -%}{{- ns.text -}}"
    "{%- endmacro %}\n"
)
_DIRECTIVES = "aAbBcdHIjmMpSUwWxXyYzZf"
_SIGN = "flowtuneanswer"
_ID = "flowtune0"
"""Of a tool call: some templates take nine letters and digits alone."""
_NO_PARAMETERS = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class TextOptions:
    """How texts become tokens, beside what the tokenizer says.

    Args:
        name: of the model, for errors.
        template_name: which of several chat templates is used.
        template_options: variables of the chat template.
        date: what its clock shows; None is today.
        special_tokens_in_text: whether inputs may hold special tokens.
    """

    name: str = "the model"
    template_name: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    date: Date | None = None
    special_tokens_in_text: bool = False

    @staticmethod
    def of(settings: ModelSettings) -> TextOptions:
        """Those that the settings ask for."""
        return TextOptions(
            settings.name,
            settings.chat_template,
            settings.template_options,
            settings.date,
            settings.special_tokens_in_text,
        )


class ChatTemplate:
    """The chat template of a tokenizer, if it has one.

    Args:
        tokenizer: of transformers.

    Attributes:
        source: its text; empty if there is none.
        date: what its clock shows; None if it reads no clock.
        options: its variables that are set, by name.
        has_system: whether it has a system part: some refuse one, some leave it out.

    Raises:
        UsageError: there is no such template, it knows no such option, or it fails on a message.
    """

    def __init__(self, tokenizer: Any, options: TextOptions) -> None:
        self._tokenizer = tokenizer
        self._name = options.name
        self.source = self._choose(getattr(tokenizer, "chat_template", None), options)
        self.date: Date | None = None
        self.has_system = False
        self.options: dict[str, Any] = {}
        self._options: dict[str, Any] = {}
        if not self.source:
            if options.template_options:
                raise UsageError(
                    f"'{self._name}' has no chat template, so model.template_options has no effect:"
                    " take it out"
                )
            return
        variables = self._variables()
        known = sorted(variables - _OURS - _GIVEN)
        for option in options.template_options:
            if option not in known:
                raise unknown_name(
                    f"variable of the chat template of '{self._name}'", option, known
                )
        defaults = {key: value for key, value in _DEFAULTS.items() if key in known}
        self.options = {**defaults, **options.template_options}
        chosen: dict[str, Any] = {}
        if isinstance(getattr(tokenizer, "chat_template", None), Mapping):
            chosen = {"chat_template": self.source}
        if "strftime_now" in variables:
            self.date = options.date or Date.today()
            chosen = {"chat_template": _FIXED_CLOCK + self.source, _CLOCK: _clock(self.date)}
        self._options = {**self.options, **chosen}
        self._render([{"role": "user", "content": "x"}])  # raises if it cannot
        self.has_system = self._shows_system()

    def render(
        self,
        chat: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] = (),
        answer: bool = True,
    ) -> str:
        """The chat's text; with ``answer``, up to where the model's answer begins.

        Args:
            chat: messages as transformers documents them.
            tools: what the model may call.

        Raises:
            UsageError: the template fails, or leaves something of the chat out.
        """
        called = any(message["role"] == "tool" or "tool_calls" in message for message in chat)
        if not self.source:
            if tools or called:
                raise UsageError(
                    f"'{self._name}' has no chat template, so it cannot be given tools: take"
                    " another model"
                )
            return "\n\n".join(message["content"] for message in chat) + "\n"
        if tools and self._loses_tools:
            raise UsageError(self._cannot("show tools", self._loses_tools))
        if called and self._loses_tool_calls:
            raise UsageError(self._cannot("show calls of tools", self._loses_tool_calls))
        if called and self._arguments_are_texts:
            chat = [_with_texts(message) for message in chat]
        return self._render(self._with_system(chat), tools, answer)

    def _with_system(self, chat: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The chat with its system message before the user's, if there is no place for it."""
        if chat[0]["role"] != "system" or self.has_system:
            return chat
        if len(chat) < 2 or chat[1]["role"] != "user":
            raise UsageError(
                f"the chat template of '{self._name}' has no system message, and the chat has no"
                " user's message behind its own that could take it in"
            )
        merged = {**chat[1], "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}
        return [merged, *chat[2:]]

    def _render(
        self, chat: Sequence[Mapping[str, Any]], tools: Sequence[Any] = (), answer: bool = True
    ) -> str:
        given: dict[str, Any] = {"tools": list(tools)} if tools else {}
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(chat),
                    tokenize=False,
                    add_generation_prompt=answer,
                    **given,
                    **self._options,
                )
            )
        except Exception as error:
            roles = ", ".join(message["role"] for message in chat)
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise UsageError(
                f"the chat template of '{self._name}' fails on a chat of {roles}: {reason}. Set"
                " model.template_options if it lacks a variable, or take another model."
            ) from error

    @property
    def shows_tools(self) -> bool:
        """Whether it shows the model what it may call."""
        return bool(self.source) and not self._loses_tools

    @property
    def tool_arguments(self) -> Literal["object", "text"] | None:
        """What it takes the arguments of a tool call as; None where it shows no calls."""
        if not self.source or self._loses_tool_calls:
            return None
        return "text" if self._arguments_are_texts else "object"

    @cached_property
    def _loses_tools(self) -> str:
        """Why tools cannot be shown; empty if they can."""
        function = {"name": _SIGN, "description": "x", "parameters": _NO_PARAMETERS}
        return self._loses(
            [{"role": "user", "content": "x"}], [{"type": "function", "function": function}]
        )

    @cached_property
    def _arguments_are_texts(self) -> bool:
        """Whether arguments of calls are to be JSON texts: some templates do not write JSON."""
        return bool(self._loses_calls({})) and not self._loses_calls("{}")

    @cached_property
    def _loses_tool_calls(self) -> str:
        """Why calls of tools and their answers cannot be shown; empty if they can."""
        return "" if self._arguments_are_texts else self._loses_calls({})

    def _loses_calls(self, arguments: Any) -> str:
        function = {"name": _SIGN, "arguments": arguments}
        call = {"type": "function", "id": _ID, "function": function}
        asked = {"role": "user", "content": "x"}
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        answer = {"role": "tool", "content": "x", "tool_call_id": _ID, "name": "x"}
        answered = {**answer, "content": _SIGN}
        silent = {**calling, "tool_calls": [{**call, "function": {**function, "name": "x"}}]}
        return self._loses([asked, calling, answer]) or self._loses([asked, silent, answered])

    def _loses(self, chat: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> str:
        """Why the sign in a chat is not shown; empty if it is."""
        try:
            return "" if _SIGN in self._render(chat, tools) else "it leaves them out"
        except UsageError as error:
            return str(error.__cause__).strip().split("\n")[0]

    def _cannot(self, what: str, reason: str) -> str:
        found = getattr(self._tokenizer, "chat_template", None)
        advice = "take another model"
        if isinstance(found, Mapping) and "tool_use" in found:
            advice = "set model.chat_template = 'tool_use'"
        return f"the chat template of '{self._name}' cannot {what}: {reason}; {advice}"

    def standalone(self) -> str:
        """The template with its options and its clock written into it; empty if there is none.

        Rendered without options, as other programs do, it gives what it gives here.
        """
        parts = [
            f"{{%- if {name} is not defined -%}}{{%- set {name} = {_literal(value)} -%}}"
            "{%- endif -%}"
            for name, value in self.options.items()
        ]
        if self.source and self.date is not None:
            parts += [f"{{%- set {_CLOCK} = {_literal(_clock(self.date))} -%}}", _FIXED_CLOCK]
        return "".join([*parts, self.source])

    def after_answer(self) -> str:
        """What the template writes behind an answer of the model; empty if it takes none."""
        if not self.source:
            return ""
        chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _SIGN}]
        try:
            _, found, rest = self._render(chat, answer=False).rpartition(_SIGN)
        except UsageError:
            return ""
        return rest if found else ""

    def _choose(self, found: Any, options: TextOptions) -> str:
        wanted = options.template_name
        if not isinstance(found, Mapping):
            if wanted is not None:
                raise UsageError(
                    f"'{self._name}' does not have several chat templates, of which"
                    f" model.chat_template = '{wanted}' could choose one: take it out"
                )
            return str(found or "")
        name = wanted or "default"
        if name not in found:
            if wanted is None:
                names = ", ".join(f"'{each}'" for each in sorted(found))
                raise UsageError(
                    f"'{self._name}' has several chat templates and no default one: set"
                    f" model.chat_template to one of {names}"
                )
            raise unknown_name(f"chat template of '{self._name}'", name, sorted(found))
        return str(found[name])

    def _variables(self) -> set[str]:
        environment = jinja2.Environment(extensions=[jinja2.ext.loopcontrols])
        # A tag of transformers that changes nothing here.
        source = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", self.source)
        try:
            return set(jinja2.meta.find_undeclared_variables(environment.parse(source)))
        except jinja2.TemplateSyntaxError as error:
            raise UsageError(
                f"the chat template of '{self._name}' cannot be read: {error.message} (line"
                f" {error.lineno}); take another version of its tokenizer"
            ) from error

    def _shows_system(self) -> bool:
        chat = [{"role": "system", "content": "abcd"}, {"role": "user", "content": "x"}]
        try:
            return "abcd" in self._render(chat)
        except UsageError:
            return False


def _with_texts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose calls have their arguments as JSON texts."""
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _literal(value: Any) -> str:
    """A value as a template writes it: JSON has the same literals, but for null."""
    return json.dumps(value, ensure_ascii=False)


def _clock(date: Date) -> list[list[str]]:
    """What each directive of ``strftime`` stands for at midnight of a date."""
    moment = datetime.combine(date, time())
    names = [f"%{flag}{letter}" for letter in _DIRECTIVES for flag in ("-", "")]
    texts = {name: moment.strftime(name.replace("-", "")) for name in names}
    return [
        [name, text.lstrip("0") or "0" if "-" in name else text] for name, text in texts.items()
    ]
