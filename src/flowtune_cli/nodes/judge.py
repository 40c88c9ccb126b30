"""Judge: a node that chooses among labelled answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..flow.errors import UsageError
from ..flow.node import Call, ChoiceDatum, Datum, Node, NodeOutput, Response, Score, Term
from ..flow.prompt import Template
from .factors import Factor, Texts, ask, factors_of, read_through, value


@dataclass(kw_only=True)
class Judge(Node):
    """Chooses one of its labels; its value is the label. The alternatives are the other labels.

    With ``score="choice"`` the labels' likelihoods after the prompt are compared. With
    ``score="likelihood"`` there are two labels, and the first is chosen when
    ``scale * (mean log-likelihood of the text per token - threshold)`` is not below zero, where the
    text (say, the question) stands after what is judged (say, the documents); scale and threshold
    are learned with the adapter. Of several texts the means add up, each with its ``Factor``'s
    weight and after its prompt. Of labels that score the same, the first is chosen.

    Args:
        prompt: what the model is shown.
        labels: what it may answer, white space in front included where the prompt wants it.
        score: how the labels are scored.
        text: the template of the text whose likelihood judges, or of several, for
            ``score="likelihood"``; a ``Factor`` where a text has a weight or prompt of its own.
        scale, threshold: where learning them starts; threshold in nats per token.
    """

    kind: ClassVar[str] = "judge"

    prompt: Template
    labels: tuple[str, ...] = ("Yes", "No")
    score: Literal["choice", "likelihood"] = "choice"
    text: Texts = ()
    scale: float = 1.0
    threshold: float = -2.0

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The texts whose likelihoods judge."""
        return factors_of(self.text)

    def shown(self, inputs: Mapping[str, Any]) -> str:
        terms = self._terms(inputs)
        if self.score == "choice":
            return terms[0].prompt.text
        return read_through(terms, {term.prompt: term.prompt.text for term in terms})

    async def respond(self, call: Call) -> Response:
        terms = self._terms(call.inputs)
        scored, likelihoods, rendered = await ask(call, self.adapter, terms)
        if self.score == "choice":
            prompt = rendered[terms[0].prompt]
            scores = [Score((term,)) for term in terms]
            raw = [value(score.terms, likelihoods) for score in scores]
        else:
            prompt = read_through(terms, rendered)
            # Without an adapter nothing is learned, and the engine knows of no calibration.
            learned = scored.calibration if self.adapter else self.initial_calibration()
            scores = [Score(terms, calibrated=True), Score()]
            raw = [scores[0].value(value(terms, likelihoods), learned), 0.0]
        logprobs = _log_softmax(raw)
        options = tuple(
            NodeOutput(value=label.strip(), text=label.strip(), score=score, logprob=logprob)
            for label, score, logprob in sorted(
                zip(self.labels, scores, logprobs, strict=True), key=lambda option: -option[2]
            )
        )
        return Response(
            prompt=prompt,
            outputs=options[: 1 + self.alternatives] if call.explore else options[:1],
            options=options,
            adapter_version=scored.adapter_version,
            prompt_tokens=scored.prompt_tokens,
            dropped_tokens=scored.dropped_tokens,
            detail={
                "logprobs": {
                    label.strip(): logprob
                    for label, logprob in zip(self.labels, logprobs, strict=True)
                }
            },
        )

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """``gold`` is the label that would have been right; True and False are the first two."""
        label = self.labels[0 if gold else 1].strip() if isinstance(gold, bool) else gold
        values = [option.value for option in response.options]
        if label not in values:
            raise UsageError(
                f"node '{self.name}' cannot learn the label {gold!r}; its labels: {values}"
            )
        scores = tuple(option.score for option in response.options if option.score is not None)
        return [ChoiceDatum(self.name, scores, values.index(label), self.weight)]

    def initial_calibration(self) -> tuple[float, ...]:
        return (self.scale, self.threshold) if self.score == "likelihood" else ()

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len({label.strip() for label in self.labels}) < len(self.labels):
            raise UsageError(f"node '{self.name}' needs two or more different labels")
        if self.score == "likelihood" and (len(self.labels) != 2 or not self.factors):
            raise UsageError(
                f"node '{self.name}' judges by likelihood: that needs two labels and a text"
            )

    def _terms(self, inputs: Mapping[str, Any]) -> tuple[Term, ...]:
        own = self.prompt.render(inputs, node=self.name)
        if self.score == "choice":
            return tuple(Term(own, label) for label in self.labels)
        return tuple(factor.term(own, inputs, node=self.name, mean=True) for factor in self.factors)


def _log_softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    total = top + math.log(sum(math.exp(value - top) for value in values))
    return [value - total for value in values]
