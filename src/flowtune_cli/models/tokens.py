"""From prompts to token ids: renders the chat template, and cuts what does not fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from ..flow.errors import UsageError
from ..flow.prompt import Message, Prompt, Segment
from ..flow.request import Constraint
from ..flow.surrogates import escaped
from .chat_documents import message_documents, texts, tool_documents
from .chat_template import ChatTemplate, TextOptions
from .constraints import Constraints, Grammar
from .control_tokens import ControlTokens
from .seam import Seam
from .seam import cut as cut_lead
from .tool_calls import Parsed, ToolCallParser

_NO_OPTIONS = TextOptions()
_SIGN = "flowtuneanswer"


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model gets it.

    Args:
        text: the prompt, with the chat template around it.
        ids: its tokens.
        dropped: how many tokens were cut.
        frozen_length: how many of the tokens are the frozen prefix, which the base model reads
            without the node's adapter.
    """

    text: str
    ids: tuple[int, ...]
    dropped: int
    frozen_length: int = 0


class _Rendered(NamedTuple):
    """A prompt's text, and the places where it is cut so that control tokens in data stay text."""

    text: str
    cuts: tuple[int, ...] = ()


class Tokens:
    """Renders and encodes prompts for one tokenizer and context length.

    Args:
        tokenizer: of transformers, fast or slow.
        context: the longest prompt plus output, in tokens.
        model_context: the longest that the model can read, if that is known.
        cache_size: how many prompts' encodings are kept.
        options: what is set, beside what the tokenizer says.

    Attributes:
        begin: the token ids that a plain text begins with.
        controls: the tokens that steer the model.
        seam: tokenises texts that continue others.
        end_of_turn: ends an answer of a chat; the chat template's own, or else the tokenizer's end.

    Raises:
        UsageError: the tokenizer or its chat template cannot be used.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: int,
        model_context: int | None = None,
        cache_size: int = 4096,
        options: TextOptions = _NO_OPTIONS,
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.model_context = model_context
        self.template = ChatTemplate(tokenizer, options)
        self.controls = ControlTokens(tokenizer, self.template.source)
        self._tool_calls = ToolCallParser(tokenizer, self.template.source)
        self._constraints = Constraints(tokenizer, self.template.source, options.name)
        self._keeps_special = options.special_tokens_in_text
        self._name = options.name
        self._cache_size = cache_size
        self._encoded: OrderedDict[tuple[Prompt, int], Encoded] = OrderedDict()
        # What is cut out of a document keeps the special tokens that it may have.
        decode = self.whole_text if self._keeps_special else self.decode
        self.seam = Seam(self._ids, decode, options.name)
        self.begin = self._special_begin(options.name)
        end = self.controls.at_start(self.template.after_answer().lstrip())
        self.end_of_turn: int = tokenizer.eos_token_id if end is None else end

    def encode(self, prompt: Prompt, completion: int = 0) -> Encoded:
        """Token ids of a prompt that leave room for its reserve, or for a longer ``completion``.

        An empty prompt, as of a node that shows what another one wrote, becomes one token: the
        one that texts begin with, or, if the model has none, the one between them.

        Raises:
            UsageError: the prompt does not fit even with every document cut away.
        """
        room = self.context - max(prompt.reserve, completion)
        key = (prompt, room)
        if key in self._encoded:
            self._encoded.move_to_end(key)
            return self._encoded[key]
        encoded = self._fit(prompt, room)
        self._encoded[key] = encoded
        if len(self._encoded) > self._cache_size:
            self._encoded.popitem(last=False)
        return encoded

    def completion(
        self, text: str, *, after: Prompt | None = None, end: bool = False
    ) -> tuple[int, ...]:
        """Token ids of a text that follows a prompt; None is any ordinary text.

        Args:
            end: add the token that ends an output.
        """
        text = escaped(text)
        ids = self._following(after, self._cut(text, [Segment(text)]))
        return (*ids, self._end(after)) if end else ids

    def answer(self, answer: str | Message, after: Prompt) -> tuple[int, ...]:
        """Token ids of a whole answer to a prompt, with the token that ends it.

        Args:
            answer: a text, or an assistant's message as the chat template writes it.

        Raises:
            UsageError: the template writes no such message behind this prompt.
        """
        if isinstance(answer, str):
            return self.completion(answer, after=after, end=True)
        before, text = self._answered(_without_surrogates(after), answer)
        return (*self._behind(before, text), self._end(after))

    def _answered(self, prompt: Prompt, answer: Message) -> tuple[_Rendered, _Rendered]:
        """A prompt's text, and what the template writes of an answer behind it, without its end."""
        whole = _without_surrogates(replace(prompt, messages=(*prompt.messages, answer)))
        before = self._render(prompt)
        written = self._render(whole, answer=False)
        text, cuts = written.text, written.cuts
        begin = len(before.text)
        if not text.startswith(before.text):
            # What the template puts before the model's answer is not what it shows of one later.
            sign = replace(answer, segments=(Segment(_SIGN),), tool_calls=())
            signed = replace(whole, messages=(*prompt.messages, sign))
            begin = self._render(signed, answer=False).text.rfind(_SIGN)
        rest = text[begin:].removesuffix(self.template.after_answer())
        if begin < 0 or not rest.strip():
            raise UsageError(
                f"the chat template of '{self._name}' does not write an assistant's message with"
                " tool calls behind this prompt, so it cannot be a target: take another model"
            )
        shifted = tuple(cut - begin for cut in cuts if begin < cut < begin + len(rest))
        return before, _Rendered(rest, shifted)

    def completions(
        self, texts: Sequence[str], after: Prompt, *, rivals: bool
    ) -> list[tuple[int, ...]]:
        """Token ids of texts that follow a prompt.

        Args:
            rivals: they are answers which their likelihoods are to tell apart. Where the tokens of
                one begin another's, the first would be as likely as all that begins so: then each
                of them ends with the token that ends an output.
        """
        if not rivals:
            return [self.completion(text, after=after) for text in texts]
        found = [self._following(after, _Rendered(escaped(text))) for text in texts]
        ordered = sorted(found)
        if any(b[: len(a)] == a for a, b in pairwise(ordered)):
            return [(*ids, self._end(after)) for ids in found]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def tool_calls(self, ids: Sequence[int], tools: str, prompt: Sequence[int]) -> Parsed | None:
        """The tool calls that a model wrote after a prompt, and its text without them.

        Args:
            ids: an output without its end.
            tools: those of the prompt; empty if it has none.

        Returns:
            None if there are none, or they are not well-formed; then the output is a text.
        """
        if not tools:
            return None
        found = self._tool_calls.parse(self.whole_text(ids), tools, lambda: self.whole_text(prompt))
        return found and found._replace(text=self.controls.without_special(found.text))

    def grammar(self, constraint: Constraint | None, prompt: Prompt) -> Grammar | None:
        """The token sequences that a constraint allows after a prompt, their end included.

        Raises:
            UsageError: it cannot be kept: it is not valid, say.
        """
        if constraint is None:
            return None
        return self._constraints.grammar(constraint, self._end(prompt), prompt.tools)

    def before_stop(self, ids: Sequence[int], stops: Sequence[str]) -> str | None:
        """The text of an output before the first of these strings; None if it has none of them.

        A stop may hold special tokens, though the text has none.
        """
        text = self.decode(ids)
        found = [text[:place] for stop in stops if (place := text.find(stop)) >= 0]
        special = [stop for stop in stops if self.controls.has_special(stop)]
        if special:
            whole = self.whole_text(ids)
            places = [place for stop in special if (place := whole.find(stop)) >= 0]
            found += [self.controls.without_special(whole[:place]) for place in places]
        return min(found, key=len, default=None)

    def render(self, prompt: Prompt) -> str:
        """The prompt's text with the model's chat template around it."""
        return self._render(prompt).text

    def _render(self, prompt: Prompt, *, answer: bool = True) -> _Rendered:
        prefill = Segment(prompt.prefill, authored=prompt.authored_prefill)
        messages = prompt.messages
        if not prompt.chat:
            segments = [*(s for m in messages for s in m.segments), prefill]
            return self._cut("".join(segment.text for segment in segments), segments)
        # No text of the prompt holds this character: it marks where the text will be cut.
        mark = _unused(prompt)

        def shown(segments: Sequence[Segment]) -> str:
            return self._marked([replace(s, text=escaped(s.text)) for s in segments], mark)

        tools = tool_documents(prompt.tools, shown)
        chat = message_documents(messages, shown)
        text = self.template.render(chat, tools=tools, answer=answer)
        return _unmarked(text + self._marked([prefill], mark), mark)

    def _cut(self, text: str, segments: Sequence[Segment]) -> _Rendered:
        """A text that consists of segments, cut inside the control tokens that data spells out."""
        if self._keeps_special:
            return _Rendered(text)
        return _Rendered(text, tuple(place + 1 for place in self.controls.spelled(segments)))

    def _marked(self, segments: Sequence[Segment], mark: str) -> str:
        text = "".join(segment.text for segment in segments)
        return mark.join(_pieces(self._cut(text, segments)))

    def _encode(self, prompt: Prompt) -> Encoded:
        prompt = _without_surrogates(prompt)
        text, cuts = self._render(prompt)
        # A chat template writes the model's special tokens itself; a plain text has none yet.
        ids = () if prompt.chat and self.template.source else self.begin
        length = len(prompt.frozen_prefix)
        if not length:
            ids += self._pieces_ids(_Rendered(text, cuts))
            return Encoded(text, ids or (self.empty,), 0)
        # On its own, so that its tokens are the same whatever follows it.
        prefix = _Rendered(text[:length], tuple(cut for cut in cuts if cut < length))
        rest = _Rendered(text[length:], tuple(cut - length for cut in cuts if cut > length))
        frozen = ids + self._pieces_ids(prefix)
        ids = frozen + self._behind(prefix, rest)
        return Encoded(text, ids or (self.empty,), 0, len(frozen))

    def _following(self, prompt: Prompt | None, text: _Rendered) -> tuple[int, ...]:
        """Token ids of a text that follows a prompt, or any ordinary text."""
        if self.seam.is_plain:
            return self._pieces_ids(text)
        if prompt is None:
            return self._continued(_pieces(text))
        return self._behind(self._render(_without_surrogates(prompt)), text)

    def _behind(self, before: _Rendered, text: _Rendered) -> tuple[int, ...]:
        """Token ids of a text that follows another one, as they are where both are one text."""
        if self.seam.is_plain or not before.text:
            return self._pieces_ids(text)
        first, *rest = _pieces(text)
        token = self.controls.at_end(before.text)
        place = len(before.text) - len(token)
        if token and place + 1 not in before.cuts:
            # A tokenizer begins anew behind a special token.
            ids = cut_lead(self._ids, token, self._ids(token), first)
            if ids is not None:
                return ids + self._continued(rest)
        return self._continued([first, *rest])

    def _pieces_ids(self, text: _Rendered) -> tuple[int, ...]:
        """Token ids of a text with which a text begins."""
        first, *rest = _pieces(text)
        return self._ids(first) + self._continued(rest)

    def _continued(self, pieces: Sequence[str]) -> tuple[int, ...]:
        return tuple(token for piece in pieces for token in self.seam.encode(piece))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def whole_text(self, ids: Sequence[int]) -> str:
        """The text of token ids with the special tokens in it."""
        return str(self.tokenizer.decode(list(ids)))

    def _end(self, prompt: Prompt | None) -> int:
        """The token that ends an output after a prompt."""
        chat = prompt is not None and prompt.chat and bool(self.template.source)
        return self.end_of_turn if chat else int(self.tokenizer.eos_token_id)

    @property
    def empty(self) -> int:
        """The token that stands for an empty prompt."""
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)

    def _special_begin(self, name: str) -> tuple[int, ...]:
        """What the tokenizer puts before a text; what it puts behind one would end a prompt."""
        bare = self._ids("x")
        ids = tuple(self.tokenizer("x", add_special_tokens=True)["input_ids"])
        for place in range(len(ids) - len(bare) + 1):
            if ids[place : place + len(bare)] == bare:
                return ids[:place]
        raise UsageError(
            f"the tokenizer of '{name}' has other tokens for a text with special tokens around it:"
            " take another version of it"
        )

    def _fit(self, prompt: Prompt, room: int) -> Encoded:
        encoded = self._encode(prompt)
        if len(encoded.ids) <= room:
            return encoded
        whole = len(encoded.ids)
        segments = [s for m in prompt.messages for s in m.segments if s.truncatable]
        pieces = [list(self.completion(segment.text)) for segment in segments]
        excess = whole - room
        while excess > 0 or not encoded.text:
            if not any(pieces):
                raise UsageError(
                    f"a prompt of {whole} tokens leaves no room in the context of {self.context}"
                    f" for {self.context - room} more, and nothing in it may be cut. Shorten the"
                    " prompt, mark its documents with Template(truncate=...), or"
                    f" {self._more_context()}. It begins: {encoded.text[:200]!r}"
                )
            _cut_longest(pieces, excess)
            cut = _with_truncatable(prompt, [self.seam.decode(tuple(piece)) for piece in pieces])
            encoded = self._encode(cut)
            excess = len(encoded.ids) - room
        return replace(encoded, dropped=whole - len(encoded.ids))

    def _more_context(self) -> str:
        if self.model_context is None:
            return "raise model.context, as far as the model was made for"
        if self.context < self.model_context:
            return f"raise model.context, up to the model's own {self.model_context}"
        return "take a model that reads more: this one reads no longer text"


def _without_surrogates(prompt: Prompt) -> Prompt:
    """The prompt as a model can read it."""
    if escaped(prompt.text) == prompt.text:
        return prompt
    messages = tuple(
        replace(m, segments=tuple(replace(s, text=escaped(s.text)) for s in m.segments))
        for m in prompt.messages
    )
    return replace(prompt, messages=messages, prefill=escaped(prompt.prefill))


def _pieces(text: _Rendered) -> list[str]:
    """A text's parts between the places where it is cut."""
    places = (0, *text.cuts, len(text.text))
    return [text.text[a:b] for a, b in pairwise(places)]


def _unused(prompt: Prompt) -> str:
    """A character for private use that the prompt does not hold."""
    text = texts(prompt)
    return next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in text)


def _unmarked(text: str, mark: str) -> _Rendered:
    """A text without its marks, cut where they were."""
    if mark not in text:
        return _Rendered(text)
    parts = text.split(mark)
    lengths = accumulate(len(part) for part in parts[:-1])
    return _Rendered("".join(parts), tuple(lengths))


def _cut_longest(pieces: list[list[int]], excess: int) -> None:
    """Shorten the longest pieces, level by level, by ``excess`` tokens in all."""
    for _ in range(excess):
        longest = max(pieces, key=len)
        if not longest:
            return
        longest.pop()


def _with_truncatable(prompt: Prompt, texts: list[str]) -> Prompt:
    remaining = iter(texts)
    messages = []
    for message in prompt.messages:
        segments = tuple(
            Segment(next(remaining), True) if segment.truncatable else segment
            for segment in message.segments
        )
        messages.append(replace(message, segments=segments))
    return replace(prompt, messages=tuple(messages))
