"""Judge: a node that chooses among labelled answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..flow.errors import UsageError
from ..flow.node import (
    LIKELIHOOD,
    Call,
    ChoiceDatum,
    Datum,
    Node,
    NodeOutput,
    Response,
    Score,
    Serves,
    Term,
)
from ..flow.prompt import Template
from .factors import Factor, Texts, as_factors, concatenated, score_terms, sum_terms

BIAS = "bias"


@dataclass(kw_only=True)
class Judge(Node):
    """Chooses one of its labels; its value is the label. The alternatives are the other labels.

    With ``score="choice"`` the labels' likelihoods after the prompt are compared. With
    ``score="likelihood"`` there are two labels, and the first is chosen when

        scale * (mean log-likelihood of the text per token - threshold) + bias >= 0

    where the text (say, the question) follows what is judged (say, the documents). ``scale`` and
    ``bias`` are the node's head, learned beside the adapter. With several texts the means are
    summed, each times its ``Factor``'s weight and after its prompt. On a tie the first label wins.

    Args:
        prompt: what the model is shown.
        labels: its possible answers, with the leading space that the prompt needs. Where one begins
            another, as "1" begins "10", they are told apart by the token that ends an output.
        score: how the labels are scored.
        text: for ``score="likelihood"``, the template of the text whose likelihood judges, or of
            several; a ``Factor`` gives a text a weight or prompt of its own.
        scale: its initial value.
        threshold: in nats per token. It stays as it is; the bias, which starts at 0, is learned.
    """

    kind: ClassVar[str] = "judge"
    serves: ClassVar[Serves | None] = "text"
    scores: ClassVar[bool] = True

    prompt: Template
    labels: tuple[str, ...] = ("Yes", "No")
    score: Literal["choice", "likelihood"] = "choice"
    text: Texts = ()
    scale: float = 1.0
    threshold: float = -2.0

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The texts whose likelihoods judge."""
        return as_factors(self.text)

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        terms = self._terms(inputs)
        if self.score == "choice":
            return terms[0].prompt.text
        return concatenated(terms, {term.prompt: term.prompt.text for term in terms})

    async def respond(self, call: Call) -> Response:
        terms = self._terms(call.inputs)
        scored, likelihoods, rendered = await score_terms(call, self, terms)
        if self.score == "choice":
            prompt = rendered[terms[0].prompt]
            scores = [Score((term,)) for term in terms]
        else:
            prompt = concatenated(terms, rendered)
            # Around the threshold the likelihood is near 0, so that scale and bias learn apart.
            scores = [Score(terms, {LIKELIHOOD: -self.threshold, BIAS: 1.0}), Score()]
        head = {**self.initial_head(), **scored.head}
        raw = [score.value(sum_terms(score.terms, likelihoods), head) for score in scores]
        logprobs = _log_softmax(raw)
        options = tuple(
            NodeOutput(value=label.strip(), text=label.strip(), score=score, logprob=logprob)
            for label, score, logprob in sorted(
                zip(self.labels, scores, logprobs, strict=True), key=lambda option: -option[2]
            )
        )
        return Response(
            prompt=prompt,
            outputs=options[: 1 + self.alternatives] if call.wants_alternatives else options[:1],
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
        """``gold`` is the right label; True and False stand for the first two."""
        label = self.labels[0 if gold else 1].strip() if isinstance(gold, bool) else gold
        values = [option.value for option in response.options]
        if label not in values:
            raise UsageError(
                f"node '{self.name}' cannot learn the label {gold!r}; its labels: {values}"
            )
        scores = tuple(option.score for option in response.options if option.score is not None)
        return [ChoiceDatum(self.name, scores, values.index(label), self.weight)]

    @property
    def input_names(self) -> frozenset[str]:
        return self.prompt.fields.union(*(factor.fields for factor in self.factors))

    def initial_head(self) -> Mapping[str, float]:
        return {LIKELIHOOD: self.scale, BIAS: 0.0} if self.score == "likelihood" else {}

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len({label.strip() for label in self.labels}) < len(self.labels):
            raise UsageError(f"node '{self.name}' needs two or more different labels")
        if self.score == "likelihood" and (len(self.labels) != 2 or not self.factors):
            raise UsageError(
                f"node '{self.name}' judges by likelihood: that needs two labels and a text"
            )

    def _terms(self, inputs: Mapping[str, Any]) -> tuple[Term, ...]:
        prompt = self.prompt.render(inputs, node=self.name)
        if self.score == "choice":
            return tuple(Term(prompt, label, rivals=self.labels) for label in self.labels)
        return tuple(
            factor.term(prompt, inputs, node=self.name, mean=True) for factor in self.factors
        )


def _log_softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    total = top + math.log(sum(math.exp(value - top) for value in values))
    return [value - total for value in values]
