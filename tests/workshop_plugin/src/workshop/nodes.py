"""Two node types: Vote samples and takes the majority; Pick is a bandit that learns by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flowtune_cli import (
    Call,
    Datum,
    Decoded,
    DecodeRequest,
    Decoding,
    Generation,
    Node,
    NodeOutput,
    Preference,
    Response,
    Score,
    SelfLearning,
    Template,
    Term,
    TextDatum,
    UsageError,
)


@dataclass(kw_only=True)
class Vote(Node):
    """Samples several texts and takes the most frequent one (Wang et al. 2022, arXiv:2203.11171).

    Args:
        prompt: what the model is shown.
        votes: how many samples, besides the greedy text.
        max_new_tokens: a text is truncated at this many tokens.
    """

    kind: ClassVar[str] = "vote"

    prompt: Template
    votes: int = 4
    max_new_tokens: int = 8

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return self.prompt.render(inputs, node=self.name).text

    async def respond(self, call: Call) -> Response:
        prompt = self.prompt.render(call.inputs, node=self.name, reserve=self.max_new_tokens)
        decoding = Decoding(samples=self.votes)
        if call.exploration is not None:
            decoding = call.exploration.decoding(self.votes)
        decoded: Decoded = await call.ask(
            DecodeRequest(
                self.adapter_name, prompt, self.max_new_tokens, decoding=decoding, seed=call.seed
            )
        )
        votes: dict[str, list[Generation]] = {}
        for generation in decoded.generations:
            votes.setdefault(generation.text.strip(), []).append(generation)
        ranked = sorted(votes.items(), key=lambda item: -len(item[1]))
        outputs = tuple(
            NodeOutput(
                value=text,
                text=text,
                score=Score((Term(prompt, generations[0].tokens),)),
                logprob=generations[0].logprob,
                tokens=len(generations[0].tokens),
                truncated=generations[0].truncated,
            )
            for text, generations in ranked
        )
        return Response(
            prompt=decoded.prompt,
            outputs=outputs[: 1 + self.alternatives] if call.wants_alternatives else outputs[:1],
            options=outputs,
            adapter_version=decoded.adapter_version,
            prompt_tokens=decoded.prompt_tokens,
            dropped_tokens=decoded.dropped_tokens,
            detail={"votes": {text: len(generations) for text, generations in ranked}},
        )

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        if not isinstance(gold, str):
            raise UsageError(f"node '{self.name}' learns from texts; got {gold!r}")
        score = response.outputs[0].score
        assert score is not None
        return [TextDatum(self.name, score.terms[0].prompt, gold, self.weight)]


@dataclass(kw_only=True)
class Pick(Node, SelfLearning):
    """Picks one of its options, the one that has won by the most so far; needs no model."""

    kind: ClassVar[str] = "pick"
    uses_adapter: ClassVar[bool] = False

    options: tuple[str, ...] = ("short", "long")
    won: dict[str, float] = field(default_factory=dict)

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return ""

    async def respond(self, call: Call) -> Response:
        ranked = sorted(self.options, key=lambda option: -self.won.get(option, 0.0))
        outputs = tuple(NodeOutput(value=option, text=option) for option in ranked)
        return Response("", outputs if call.wants_alternatives else outputs[:1], options=outputs)

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        return []

    def update(
        self, preferences: Sequence[Preference], targets: Sequence[tuple[Response, Any]]
    ) -> float:
        for preference in preferences:
            chosen, rejected = preference.chosen.value, preference.rejected.value
            self.won[chosen] = self.won.get(chosen, 0.0) + preference.margin
            self.won[rejected] = self.won.get(rejected, 0.0) - preference.margin
        return sum(preference.margin for preference in preferences) / max(len(preferences), 1)

    def state(self) -> Mapping[str, Any]:
        return dict(self.won)

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.won = dict(state)
