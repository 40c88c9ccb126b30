"""Generate: a node that writes text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..flow.errors import UsageError
from ..flow.node import Call, Datum, Node, NodeOutput, Response, Score, Term, TextDatum
from ..flow.prompt import Prompt, Template
from ..flow.request import GREEDY, DecodeRequest


@dataclass(kw_only=True)
class Generate(Node):
    """Generates text greedily; alternatives come from its exploration strategy.

    Args:
        prompt: what the model is shown.
        max_new_tokens: an output is truncated at this many tokens.
        stop: an output ends before the first of these strings, which may hold special tokens.
    """

    kind: ClassVar[str] = "generate"

    prompt: Template
    max_new_tokens: int = 50
    stop: tuple[str, ...] = ()

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
        outputs: dict[str, NodeOutput] = {}
        for generation in decoded.generations:
            text = generation.text.strip()
            if text in outputs or len(outputs) > self.alternatives:
                continue
            outputs[text] = NodeOutput(
                value=text,
                text=text,
                score=Score((Term(prompt, generation.tokens),)),
                logprob=generation.logprob,
                tokens=generation.length,
                truncated=generation.truncated,
            )
        return Response(
            prompt=decoded.prompt,
            outputs=tuple(outputs.values()),
            adapter_version=decoded.adapter_version,
            prompt_tokens=decoded.prompt_tokens,
            dropped_tokens=decoded.dropped_tokens,
        )

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """``gold`` is the right text."""
        if not isinstance(gold, str) or not gold.strip():
            raise UsageError(
                f"node '{self.name}' learns from target texts; got {gold!r} instead of one"
            )
        score = response.outputs[0].score
        assert score is not None
        prompt = score.terms[0].prompt
        # The text starts the model's turn, or continues the prompt, and then needs a space.
        before = prompt.prefill or ("" if prompt.chat else prompt.text)
        lead = " " if before and not before[-1].isspace() else ""
        return [TextDatum(self.name, prompt, lead + gold.strip(), self.weight)]

    def _prompt(self, inputs: Mapping[str, Any]) -> Prompt:
        return self.prompt.render(inputs, node=self.name, reserve=self.max_new_tokens)
