"""Rank: a node that scores candidates and takes the best."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    Term,
)
from ..flow.prompt import Template
from .factors import Factor, Texts, as_factors, concatenated, score_terms, sum_terms
from .feature import Feature


@dataclass(kw_only=True)
class Rank(Node):
    """Chooses the best of the call's ``candidates``; the alternatives are the next best ones.

    The prompt is shown once per candidate, as ``{candidate}``. With ``score="choice"`` a candidate
    scores the log-odds of the first label over the second. With ``score="likelihood"`` it scores
    the log-likelihood of a text (say, the query) after the candidate: the prompt then shows the
    candidate alone, so that its keys and values serve every query. With several texts the
    log-likelihoods are summed, each times its ``Factor``'s weight and after its prompt. Features
    of a candidate are added, each times its parameter of the node's head, which is learned.

    Args:
        prompt: what the model is shown of one candidate.
        score: how a candidate is scored.
        labels: the two labels of ``score="choice"``.
        text: for ``score="likelihood"``, the template of the text whose likelihood scores, or of
            several; a ``Factor`` gives a text a weight or prompt of its own.
        features: what else scores a candidate.
        negatives: with ``score="likelihood"``, how many of the best wrong candidates a target
            contrasts with the best right one. With features, all others are contrasted, too, but
            with their likelihoods as played: that teaches the head, and costs no forward pass.
    """

    kind: ClassVar[str] = "rank"
    scores: ClassVar[bool] = True

    prompt: Template
    score: Literal["choice", "likelihood"] = "choice"
    labels: tuple[str, str] = ("Yes", "No")
    text: Texts = ()
    features: tuple[Feature, ...] = ()
    negatives: int = 3

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The texts whose likelihoods score a candidate."""
        return as_factors(self.text)

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        terms = [term for each in self._with_candidates(inputs) for term in self._terms(each)]
        texts = [] if self.score == "choice" else [str(term.completion) for term in terms]
        prompts = [term.prompt.text for term in terms]
        return "\n".join(dict.fromkeys(prompts)) + "".join(dict.fromkeys(texts))

    async def respond(self, call: Call) -> Response:
        inputs = self._with_candidates(call.inputs)
        candidates = [each["candidate"] for each in inputs]
        scores = [
            Score(tuple(self._terms(each)), {f.name: f.value(each) for f in self.features})
            for each in inputs
        ]
        scored, likelihoods, rendered = await score_terms(
            call, self, (term for score in scores for term in score.terms)
        )
        head = {**self.initial_head(), **scored.head}
        sums = [sum_terms(score.terms, likelihoods) for score in scores]
        values = [score.value(total, head) for score, total in zip(scores, sums, strict=True)]
        order = _best_first(values)
        options = tuple(
            NodeOutput(
                value=candidates[i], text=str(candidates[i]), score=scores[i], logprob=values[i]
            )
            for i in order
        )
        best = scores[order[0]]
        if self.score == "choice":
            prompt = rendered[best.terms[0].prompt]
        else:
            prompt = concatenated(best.terms, rendered)
        return Response(
            prompt=prompt,
            outputs=options[: 1 + self.alternatives] if call.wants_alternatives else options[:1],
            options=options,
            adapter_version=scored.adapter_version,
            prompt_tokens=scored.prompt_tokens,
            dropped_tokens=scored.dropped_tokens,
            detail={"scores": values, **self._parts(sums, best, head)},
        )

    def _parts(
        self, likelihoods: Sequence[float], best: Score, head: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Every candidate's likelihood, and what each feature adds to the best one's score."""
        if not self.features:
            return {}
        added = {name: head[name] * value for name, value in best.features.items()}
        return {"likelihoods": likelihoods, "features": added}

    def initial_head(self) -> Mapping[str, float]:
        return {feature.name: feature.weight for feature in self.features}

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """``gold`` is the collection of right candidates."""
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
        scores = [option.score for option in rivals if option.score is not None]
        if self.features:
            scores += self._as_played(response, [*right, *wrong[: self.negatives]])
        return [ChoiceDatum(self.name, tuple(scores), 0, self.weight)]

    def _as_played(self, response: Response, excluded: Sequence[NodeOutput]) -> Iterator[Score]:
        """The scores of all other options, with the likelihoods that they had when played."""
        likelihoods = response.detail["likelihoods"]
        order = _best_first(response.detail["scores"])
        for i, option in zip(order, response.options, strict=True):
            if option.score is not None and not any(option is other for other in excluded):
                yield Score(features={LIKELIHOOD: likelihoods[i], **option.score.features})

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if LIKELIHOOD in names or len(set(names)) < len(names):
            raise UsageError(
                f"node '{self.name}': its features need different names, and none may be"
                f" '{LIKELIHOOD}'"
            )
        if self.score == "likelihood" and not self.factors:
            raise UsageError(f"node '{self.name}' ranks by likelihood: that needs a text")
        if len(self.labels) != 2 or self.labels[0].strip() == self.labels[1].strip():
            raise UsageError(f"node '{self.name}' needs two different labels")

    def _with_candidates(self, inputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The inputs with each candidate, in order."""
        candidates = inputs.get("candidates")
        if not candidates:
            raise ValueError(f"node '{self.name}' was called without any candidates")
        return [{**inputs, "candidate": candidate} for candidate in candidates]

    def _terms(self, inputs: Mapping[str, Any]) -> Iterator[Term]:
        prompt = self.prompt.render(inputs, node=self.name)
        if self.score == "choice":
            for label, coefficient in zip(self.labels, (1.0, -1.0), strict=True):
                yield Term(prompt, label, coefficient, rivals=self.labels)
            return
        for factor in self.factors:
            yield factor.term(prompt, inputs, node=self.name)

    def _labelled(self, option: NodeOutput) -> tuple[Score, ...]:
        assert option.score is not None
        prompt = option.score.terms[0].prompt
        first, second = (Score((Term(prompt, label, rivals=self.labels),)) for label in self.labels)
        return replace(first, features=option.score.features), second


def _best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])
