"""Rank: a node that scores candidates and takes the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..flow.errors import UsageError
from ..flow.node import Call, ChoiceDatum, Datum, Node, NodeOutput, Response, Score, Term
from ..flow.prompt import Prompt, Template
from ..flow.request import ScoreRequest


@dataclass(kw_only=True)
class Rank(Node):
    """Takes the best of the call's ``candidates``; the alternatives are the next best ones.

    The prompt is shown once a candidate, as ``{candidate}``. With ``score="choice"`` a candidate
    scores the log-odds of the first label over the second. With ``score="likelihood"`` it scores
    the log-likelihood of a text (say, the query) after the candidate: the prompt then shows the
    candidate alone, so that what the model makes of it serves every query. The log-likelihoods of
    several texts, each after the candidate, add up: one that stays the same is computed once.

    Args:
        prompt: what the model is shown of one candidate.
        score: how a candidate is scored.
        labels: the two labels of ``score="choice"``.
        text: the template of the text whose likelihood scores, or of several, for
            ``score="likelihood"``.
        negatives: how many of the best wrong candidates the best right one is learned against,
            from a target with ``score="likelihood"``.
    """

    kind: ClassVar[str] = "rank"

    prompt: Template
    score: Literal["choice", "likelihood"] = "choice"
    labels: tuple[str, str] = ("Yes", "No")
    text: str | tuple[str, ...] = ()
    negatives: int = 3

    def shown(self, inputs: Mapping[str, Any]) -> str:
        prompts = self._prompts(inputs)
        return "\n".join(prompt.text for prompt in prompts) + "".join(self._texts(inputs))

    async def respond(self, call: Call) -> Response:
        candidates = self._candidates(call.inputs)
        prompts = self._prompts(call.inputs)
        texts = self._texts(call.inputs)
        completions = self.labels if self.score == "choice" else texts
        scored = await call.ask(
            ScoreRequest(self.adapter, tuple((prompt, completions) for prompt in prompts))
        )
        ranked = []
        for candidate, prompt, likelihoods in zip(
            candidates, prompts, scored.likelihoods, strict=True
        ):
            logprobs = [likelihood.logprob for likelihood in likelihoods]
            value = logprobs[0] - logprobs[1] if self.score == "choice" else sum(logprobs)
            ranked.append((value, candidate, self._score(prompt, texts)))
        order = sorted(range(len(ranked)), key=lambda i: -ranked[i][0])
        options = tuple(
            NodeOutput(
                value=ranked[i][1],
                text=str(ranked[i][1]),
                score=ranked[i][2],
                logprob=ranked[i][0],
            )
            for i in order
        )
        return Response(
            prompt=scored.prompts[order[0]] + "".join(texts),
            outputs=options[: 1 + self.alternatives] if call.explore else options[:1],
            options=options,
            adapter_version=scored.adapter_version,
            prompt_tokens=scored.prompt_tokens,
            dropped_tokens=scored.dropped_tokens,
            detail={"scores": [value for value, _, _ in ranked]},
        )

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """``gold`` is the collection of the candidates that would have been right."""
        if not isinstance(gold, Collection) or isinstance(gold, (str, bytes)):
            raise UsageError(
                f"node '{self.name}' learns from a collection of right candidates; got {gold!r}"
            )
        golds = list(gold)  # candidates need not be hashable
        right = [option for option in response.options if option.value in golds]
        wrong = [option for option in response.options if option.value not in golds]
        if self.score == "choice":
            best = [(option, 0) for option in right[:1]] + [(option, 1) for option in wrong[:1]]
            return [
                ChoiceDatum(self.name, self._labelled(option), label, self.weight)
                for option, label in best
            ]
        if not right or not wrong:
            return []
        rivals = [right[0], *wrong[: self.negatives]]
        scores = tuple(option.score for option in rivals if option.score is not None)
        return [ChoiceDatum(self.name, scores, 0, self.weight)]

    def __post_init__(self) -> None:
        if isinstance(self.text, str):
            self.text = (self.text,) if self.text else ()
        if self.score == "likelihood" and not self.text:
            raise UsageError(f"node '{self.name}' ranks by likelihood: that needs a text")
        if len(self.labels) != 2 or self.labels[0].strip() == self.labels[1].strip():
            raise UsageError(f"node '{self.name}' needs two different labels")

    def _candidates(self, inputs: Mapping[str, Any]) -> Sequence[Any]:
        candidates = inputs.get("candidates")
        if not candidates:
            raise ValueError(f"node '{self.name}' was called without any candidates")
        return list(candidates)

    def _prompts(self, inputs: Mapping[str, Any]) -> list[Prompt]:
        return [
            self.prompt.render({**inputs, "candidate": candidate}, node=self.name)
            for candidate in self._candidates(inputs)
        ]

    def _texts(self, inputs: Mapping[str, Any]) -> tuple[str, ...]:
        if self.score == "choice":
            return ()
        return tuple(
            Template(text, chat=False).render(inputs, node=self.name).text for text in self.text
        )

    def _score(self, prompt: Prompt, texts: Sequence[str]) -> Score:
        if self.score == "likelihood":
            return Score(tuple(Term(prompt, text) for text in texts))
        yes, no = self.labels
        return Score((Term(prompt, yes), Term(prompt, no, coefficient=-1.0)))

    def _labelled(self, option: NodeOutput) -> tuple[Score, ...]:
        assert option.score is not None
        prompt = option.score.terms[0].prompt
        return tuple(Score((Term(prompt, label),)) for label in self.labels)
