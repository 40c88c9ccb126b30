"""Constraints on what a model writes: the tokens that they allow at each place, by llguidance."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..flow.errors import FlowtuneError, UsageError, missing_package
from ..flow.request import Constraint
from .grammar_text import JSON_LAYOUT, escaped, without
from .tool_calls import PYTHON_TAG, CallGrammar, tool_call_grammar

_KEPT = 128
"""How many grammars are kept; making one takes milliseconds."""

_BITS = torch.arange(8, dtype=torch.uint8)


class Matcher:
    """One output under a constraint, token by token.

    Args:
        matcher: of llguidance.
        shown: the constraint, for errors.
    """

    def __init__(self, matcher: Any, shown: str) -> None:
        self._matcher = matcher
        self._shown = shown

    def allowed(self, vocabulary: int) -> Tensor:
        """Which tokens may come next, shape (vocabulary,), bool.

        Raises:
            FlowtuneError: none may: the constraint is too complex, say.
        """
        found = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = ((found[:, None] >> _BITS) & 1).bool().flatten()[:vocabulary]
        self._check(bool(bits.any()))
        # A model may have more logits than its tokenizer has tokens.
        mask = torch.zeros(vocabulary, dtype=torch.bool)
        mask[: len(bits)] = bits
        return mask

    def take(self, token: int) -> None:
        """Go on behind a token.

        Raises:
            FlowtuneError: it was not allowed.
        """
        self._check(self._matcher.consume_token(token))

    def _check(self, fine: bool) -> None:
        if not fine or self._matcher.is_error():
            reason = _line(self._matcher.get_error()) or "no token of the model fits"
            raise FlowtuneError(f"{self._shown} could not be kept to the end: {reason}")


@dataclass(frozen=True)
class Grammar:
    """A constraint on the outputs after a prompt; equal ones allow the same.

    Args:
        constraint: what is allowed.
        end: the token that ends an output.
        tools: that may be called, as JSON text; empty if none.
        start: of llguidance, at the beginning of an output.
    """

    constraint: Constraint
    end: int
    tools: str
    start: Any = field(compare=False, repr=False)

    def matcher(self) -> Matcher:
        """For one output."""
        return Matcher(self.start.deep_copy(), shown(self.constraint))

    def allowed(self, tokens: Sequence[int], vocabulary: int) -> Tensor:
        """Which tokens were allowed in the place of each token, shape (tokens, vocabulary), bool.

        Raises:
            FlowtuneError: one of them was not.
        """
        matcher = self.matcher()
        masks = torch.zeros((len(tokens), vocabulary), dtype=torch.bool)
        for place, token in enumerate(tokens):
            masks[place] = matcher.allowed(vocabulary)
            matcher.take(token)
        return masks


class Constraints:
    """Makes grammars for a tokenizer.

    Args:
        tokenizer: of transformers.
        template: the source of its chat template; empty if there is none.
        name: of the model, for errors.
    """

    def __init__(self, tokenizer: Any, template: str, name: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._name = name
        self._by_end: dict[int, Any] = {}
        self._grammars: OrderedDict[tuple[Constraint, int, str], Grammar] = OrderedDict()

    def grammar(self, constraint: Constraint, end: int, tools: str) -> Grammar:
        """A constraint's grammar.

        Args:
            end: the token that ends an output.
            tools: those of the prompt, of which one may be called instead; empty if it has none.

        Raises:
            UsageError: the constraint is not valid, the tokenizer cannot be used so, or llguidance
                is not installed.
        """
        key = (constraint, end, tools)
        if key in self._grammars:
            self._grammars.move_to_end(key)
            return self._grammars[key]
        grammar = Grammar(*key, self._start(*key))
        self._grammars[key] = grammar
        if len(self._grammars) > _KEPT:
            self._grammars.popitem(last=False)
        return grammar

    def _start(self, constraint: Constraint, end: int, tools: str) -> Any:
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError:
            raise missing_package("a constraint", "llguidance", "constraints") from None
        made = self._tokens(end)
        try:
            source = self._source(LLMatcher, constraint, tools)
            brief = LLParserLimits(verbose_errors=False)
            start = LLMatcher(made, source, log_level=0, limits=brief)
        except ValueError as error:
            raise _invalid(constraint, str(error)) from None
        if start.is_error():
            raise _invalid(constraint, start.get_error())
        return start

    def _source(self, matchers: Any, constraint: Constraint, tools: str) -> str:
        """A constraint in the form of llguidance."""
        value = constraint.value
        if constraint.kind == "tool_calls":
            called = self._tool_calls(json.loads(value), tools)
            return str(matchers.grammar_from_lark(f"start: call\n{called.rules}"))
        if constraint.kind == "text":
            return str(matchers.grammar_from_lark(self._text(tools)))
        makers = {
            "json_schema": partial(matchers.grammar_from_json_schema, value, JSON_LAYOUT),
            "json_object": partial(
                matchers.grammar_from_json_schema, '{"type": "object"}', JSON_LAYOUT
            ),
            "regex": partial(matchers.grammar_from_regex, value),
            "choice": partial(self._choice, matchers, value),
        }
        source = str(makers[constraint.kind]())
        if not tools:
            return source
        (text,) = json.loads(source)["grammars"]
        lark = f"start: @text | call\n{self._tool_calls(None, tools).rules}"
        either = [{"name": "either", "lark_grammar": lark}, {**text, "name": "text"}]
        return json.dumps({"grammars": either})

    def _text(self, tools: str) -> str:
        """Any text, and maybe a call of a tool behind it, as a Lark grammar.

        A text does not spell out what calls begin with. Where they begin like other text, with
        JSON, a text does not begin so, and there is no call behind one.
        """
        if not tools:
            return "start: TEXT\nTEXT: /(?s:.*)/"
        called = self._tool_calls(None, tools)
        mark = called.opening
        if not mark:
            start = "start: TEXT | call"
            text = rf"TEXT: /\s*([^\s{{](?s:.*))?/ & {without(PYTHON_TAG)}"
        elif called.special:
            start = "start: TEXT | TEXT call | call"
            text = f"TEXT: {without(mark)}"
        else:
            # One terminal up to the end of the mark: its first letters may be those of a text.
            start = "start: TEXT | call | BEFORE behind"
            text = f"TEXT: {without(mark)}\nBEFORE: ({without(mark)}) /{escaped(mark)}/"
        return f"{start}\n{text}\n{called.rules}"

    def _choice(self, matchers: Any, value: str) -> Any:
        # Strings of its own grammars hold no control characters.
        return matchers.grammar_from_regex("|".join(map(_literally, json.loads(value))))

    def _tool_calls(self, wanted: str | None, tools: str) -> CallGrammar:
        """A call of a tool, or of any one."""
        functions = [tool["function"] for tool in json.loads(tools or "[]")]
        chosen = [f for f in functions if wanted is None or f["name"] == wanted]
        grammar = tool_call_grammar(self._tokenizer, self._template, chosen)
        if grammar is None:
            raise UsageError(
                f"how '{self._name}' writes tool calls is not known, so none can be allowed under a"
                " constraint, or asked for: set tool_choice to 'none', or take another model"
            )
        return grammar

    def _tokens(self, end: int) -> Any:
        """The tokenizer in the form of llguidance."""
        if end not in self._by_end:
            from llguidance.hf import from_tokenizer

            try:
                made = from_tokenizer(self._tokenizer, eos_token=end)
            except Exception as error:  # by Rust: of any kind
                raise self._unusable(_line(str(error))) from error
            # What is forced is tokenised; a space in front would not fit.
            if made.decode_str(made.tokenize_str("x")) != "x":
                raise self._unusable("it adds a space before each text")
            self._by_end[end] = made
        return self._by_end[end]

    def _unusable(self, reason: str) -> UsageError:
        return UsageError(
            f"the tokenizer of '{self._name}' cannot be used with constraints: {reason}; take"
            " another model, or ask for none"
        )


def _literally(text: str) -> str:
    """A regular expression that matches this text alone."""
    return "".join(c if c.isascii() and c.isalnum() else rf"\u{{{ord(c):x}}}" for c in text)


def shown(constraint: Constraint) -> str:
    """A constraint as errors name it."""
    value = constraint.value if len(constraint.value) <= 60 else f"{constraint.value[:57]}..."
    return f"the constraint {constraint.kind} {value}".strip()


def _invalid(constraint: Constraint, reason: str) -> UsageError:
    return UsageError(f"{shown(constraint)} cannot be used: {_line(reason)}")


def _line(text: str) -> str:
    return " ".join(text.split())
