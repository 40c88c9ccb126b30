"""Splits rendered prompts back into the messages of a model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from ..config.settings import ModelSettings
from ..flow.errors import UsageError
from ..flow.prompt import Message, Prompt, Segment
from .chat_template import TextOptions
from .files import find_local
from .quiet import quiet
from .tokens import Tokens

if TYPE_CHECKING:
    from ..registry import Registry

_NO_OPTIONS = TextOptions()
_SYSTEM, _USER = "\x02system\x03", "\x02user\x03"


Chat = tuple[list[dict[str, str]], str]
"""Messages, each with role and content, and how the answer begins."""


class ChatSplitter:
    """Splits prompts that a model's chat template rendered.

    Rendering the messages that it returns gives the same prompt to the letter.

    Args:
        options: with which the prompts were rendered.
    """

    def __init__(self, tokenizer: Any, options: TextOptions = _NO_OPTIONS) -> None:
        self._tokens = Tokens(tokenizer, context=0, options=options)
        self._shapes: list[tuple[tuple[str, ...], list[str]]] = []
        if self._tokens.template.source:
            for roles in (("system", "user"), ("user",)):
                shape = self._shape(roles)
                if shape is not None:
                    self._shapes.append((roles, shape))

    def split(self, text: str) -> Chat | None:
        """A prompt's chat; None if it is not in the model's template."""
        for roles, shape in self._shapes:
            found = _contents(text, shape)
            if found is None:
                continue
            *contents, prefill = found
            if self._render(roles, contents, prefill) == text:
                pairs = zip(roles, contents, strict=True)
                return [{"role": role, "content": content} for role, content in pairs], prefill
        return None

    def _shape(self, roles: tuple[str, ...]) -> list[str] | None:
        """What the template writes before, between and after messages of these roles."""
        signs = [_SYSTEM if role == "system" else _USER for role in roles]
        rest = self._render(roles, signs)
        shape = []
        for sign in signs:
            before, found, rest = rest.partition(sign)
            if not found:
                return None
            shape.append(before)
        # If a template puts the system's message into the user's, its end cannot be found.
        merged = any(not before.strip() for before in shape[1:])
        return None if merged else [*shape, rest]

    def _render(self, roles: Sequence[str], contents: Sequence[str], prefill: str = "") -> str:
        pairs = zip(roles, contents, strict=True)
        messages = tuple(Message(role, (Segment(content),)) for role, content in pairs)
        return self._tokens.render(Prompt(messages, prefill))


def load_tokenizer(settings: ModelSettings, registry: Registry) -> Any:
    """A base model's tokenizer alone; that of a Hugging Face id is fetched if it is not cached.

    Raises:
        UsageError: it cannot be loaded.
    """
    source, options = source_of(settings, registry)
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"the tokenizer of '{settings.name}', whose chat template the prompts are in, cannot be"
            f" loaded: {type(error).__name__}: {reason}"
        ) from error


def source_of(settings: ModelSettings, registry: Registry) -> tuple[str | Path, dict[str, Any]]:
    """What transformers' ``from_pretrained`` takes for parts of a base model that are not weights.

    Raises:
        UsageError: there is no such model on this machine, and it is no Hugging Face id.
    """
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    files = find_local(settings.name, registry)
    if files is None:
        return settings.name, options | {"revision": settings.revision}
    return files.directory, options | ({"gguf_file": files.gguf} if files.gguf else {})


def _contents(text: str, shape: list[str]) -> list[str] | None:
    """What comes between the parts of a shape and after its last; None if it does not fit."""
    first, *between, last = shape
    if not text.startswith(first):
        return None
    rest = text[len(first) :]
    contents = []
    for part in between:
        content, found, rest = rest.partition(part)
        if not found:
            return None
        contents.append(content)
    content, found, prefill = rest.rpartition(last)
    return [*contents, content, prefill] if found else None
