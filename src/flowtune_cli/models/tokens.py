"""From prompts to token ids: renders the chat template, and cuts what does not fit."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from ..flow.errors import UsageError
from ..flow.prompt import Message, Prompt, Segment


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


class Tokens:
    """Renders and encodes prompts for one tokenizer and context length.

    Args:
        tokenizer: of transformers, fast or slow.
        context: the longest prompt plus output, in tokens.
        model_context: the longest that the model can read, if that is known.
        cache_size: how many prompts' encodings are kept.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: int,
        model_context: int | None = None,
        cache_size: int = 4096,
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.model_context = model_context
        self._cache_size = cache_size
        self._encoded: OrderedDict[tuple[Prompt, int], Encoded] = OrderedDict()
        self._has_template = bool(getattr(tokenizer, "chat_template", None))
        self._has_system = self._has_template and self._shows_system()
        bos = tokenizer.bos_token_id
        self._begin: int = tokenizer.eos_token_id if bos is None else bos

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

    def completion(self, text: str, *, end: bool = False) -> tuple[int, ...]:
        """Token ids of a text that follows a prompt; ``end`` adds the end-of-turn token."""
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return (*ids, self.tokenizer.eos_token_id) if end else ids

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def render(self, prompt: Prompt) -> str:
        """The prompt's text with the model's chat template around it."""
        if not prompt.chat:
            return "".join(message.text for message in prompt.messages) + prompt.prefill
        if not self._has_template:
            return "\n\n".join(message.text for message in prompt.messages) + "\n" + prompt.prefill
        chat = [{"role": m.role, "content": m.text} for m in prompt.messages]
        if chat[0]["role"] == "system" and len(chat) > 1 and not self._has_system:
            merged = f"{chat[0]['content']}\n\n{chat[1]['content']}"
            chat = [{"role": "user", "content": merged}, *chat[2:]]
        return self._apply_template(chat) + prompt.prefill

    def _shows_system(self) -> bool:
        """Whether the chat template has a system part: some refuse one, some leave it out."""
        chat = [{"role": "system", "content": "abcd"}, {"role": "user", "content": "x"}]
        try:
            return "abcd" in self._apply_template(chat)
        except Exception:
            return False

    def _apply_template(self, chat: list[dict[str, str]]) -> str:
        return str(
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        )

    def _encode(self, prompt: Prompt) -> Encoded:
        text = self.render(prompt)
        # A chat template writes the model's special tokens itself; a plain text has none yet.
        special = not prompt.chat or not self._has_template
        frozen: tuple[int, ...] = ()
        prefix = prompt.frozen_prefix
        if prefix:
            # On its own, so that its tokens are the same whatever follows it.
            frozen = tuple(self.tokenizer(prefix, add_special_tokens=True)["input_ids"])
            text, special = text[len(prefix) :], False
        ids = frozen + tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        return Encoded(prefix + text, ids or (self._begin,), 0, len(frozen))

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
            cut = _with_truncatable(prompt, [self.decode(piece) for piece in pieces])
            encoded = self._encode(cut)
            excess = len(encoded.ids) - room
        return replace(encoded, dropped=whole - len(encoded.ids))

    def _more_context(self) -> str:
        if self.model_context is None:
            return "raise model.context, as far as the model was made for"
        if self.context < self.model_context:
            return f"raise model.context, up to the model's own {self.model_context}"
        return "take a model that reads more: this one reads no longer text"


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
        messages.append(Message(message.role, segments))
    return replace(prompt, messages=tuple(messages))
