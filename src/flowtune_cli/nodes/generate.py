"""Generate: a node that writes text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..flow.errors import UsageError
from ..flow.node import Call, Datum, Node, Response, Serves, TextDatum
from ..flow.prompt import Prompt, Template
from ..flow.request import GREEDY, DecodeRequest, Generation
from .generated import prompt_of, response_of, target_text


@dataclass(kw_only=True)
class Generate(Node):
    """Generates text greedily; alternatives come from its exploration strategy.

    Args:
        prompt: what the model is shown.
        max_new_tokens: an output is truncated at this many tokens.
        stop: an output ends before the first of these strings, which may hold special tokens.
    """

    kind: ClassVar[str] = "generate"
    serves: ClassVar[Serves | None] = "written"

    prompt: Template
    max_new_tokens: int = 50
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"node '{self.name}': max_new_tokens must be 1 or more")

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return self._prompt(inputs).text

    async def respond(self, call: Call) -> Response:
        prompt = self._prompt(call.inputs)
        decoding = call.exploration.decoding(self.alternatives) if call.exploration else GREEDY
        decoded = await call.ask(
            DecodeRequest(
                self.adapter_name, prompt, self.max_new_tokens, self.stop, decoding, call.seed
            )
        )

        def read(generation: Generation) -> tuple[str, str, str]:
            text = generation.text.strip()
            return text, text, text

        return response_of(decoded, prompt, read, self.alternatives)

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """``gold`` is the right text."""
        text, prompt = target_text(self.name, gold), prompt_of(response)
        # The text starts the model's turn, or continues the prompt, and then needs a space.
        before = prompt.prefill or ("" if prompt.chat else prompt.text)
        lead = " " if before and not before[-1].isspace() else ""
        return [TextDatum(self.name, prompt, lead + text, self.weight)]

    @property
    def input_names(self) -> frozenset[str]:
        return self.prompt.fields

    def _prompt(self, inputs: Mapping[str, Any]) -> Prompt:
        return self.prompt.render(inputs, node=self.name, reserve=self.max_new_tokens)
