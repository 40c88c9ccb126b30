"""Rank: a node that scores candidates and takes the best."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from ..flow.errors import UsageError
from ..flow.node import Call, ChoiceDatum, Datum, Node, NodeOutput, Response, Score, Term
from ..flow.prompt import Template
from .factors import Factor, Texts, ask, factors_of, read_through, value
from .measure import Measure


@dataclass(kw_only=True)
class Rank(Node):
    """Takes the best of the call's ``candidates``; the alternatives are the next best ones.

    The prompt is shown once a candidate, as ``{candidate}``. With ``score="choice"`` a candidate
    scores the log-odds of the first label over the second. With ``score="likelihood"`` it scores
    the log-likelihood of a text (say, the query) after the candidate: the prompt then shows the
    candidate alone, so that what the model makes of it serves every query. Of several texts the
    log-likelihoods add up, each with its ``Factor``'s weight and after its prompt; what stays the
    same from call to call is computed once. Measures of a candidate are added, each times its
    weight, which is learned.

    Args:
        prompt: what the model is shown of one candidate.
        score: how a candidate is scored.
        labels: the two labels of ``score="choice"``.
        text: the template of the text whose likelihood scores, or of several, for
            ``score="likelihood"``; a ``Factor`` where a text has a weight or prompt of its own.
        measures: what else scores a candidate.
        negatives: how many of the best wrong candidates the best right one is learned against,
            from a target with ``score="likelihood"``. With measures it is learned against the
            others, too, whose likelihoods then stay what they were, so that they cost nothing.
    """

    kind: ClassVar[str] = "rank"

    prompt: Template
    score: Literal["choice", "likelihood"] = "choice"
    labels: tuple[str, str] = ("Yes", "No")
    text: Texts = ()
    measures: tuple[Measure, ...] = ()
    negatives: int = 3

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The texts whose likelihoods score a candidate."""
        return factors_of(self.text)

    def shown(self, inputs: Mapping[str, Any]) -> str:
        terms = [term for each in self._offered(inputs) for term in self._terms(each)]
        texts = [] if self.score == "choice" else [str(term.completion) for term in terms]
        prompts = [term.prompt.text for term in terms]
        return "\n".join(dict.fromkeys(prompts)) + "".join(dict.fromkeys(texts))

    async def respond(self, call: Call) -> Response:
        offered = self._offered(call.inputs)
        candidates = [each["candidate"] for each in offered]
        scores = [
            Score(tuple(self._terms(each)), tuple(float(m.of(each)) for m in self.measures))
            for each in offered
        ]
        scored, likelihoods, rendered = await ask(
            call, self.adapter, (term for score in scores for term in score.terms)
        )
        # Without an adapter nothing is learned, and the engine knows of no weights.
        weights = scored.calibration if self.adapter else self.initial_calibration()
        known = [value(score.terms, likelihoods) for score in scores]
        values = [score.value(own, weights) for score, own in zip(scores, known, strict=True)]
        order = _best_first(values)
        options = tuple(
            NodeOutput(
                value=candidates[i], text=str(candidates[i]), score=scores[i], logprob=values[i]
            )
            for i in order
        )
        best = scores[order[0]].terms
        if self.score == "choice":
            prompt = rendered[best[0].prompt]
        else:
            prompt = read_through(best, rendered)
        return Response(
            prompt=prompt,
            outputs=options[: 1 + self.alternatives] if call.explore else options[:1],
            options=options,
            adapter_version=scored.adapter_version,
            prompt_tokens=scored.prompt_tokens,
            dropped_tokens=scored.dropped_tokens,
            detail={"scores": values, **self._parts(known, scores[order[0]], weights)},
        )

    def _parts(
        self, likelihoods: Sequence[float], best: Score, weights: Sequence[float]
    ) -> Mapping[str, Any]:
        """What scores are made of, where that is more than likelihoods: of the best, all of it."""
        if not self.measures:
            return {}
        added = [weight * figure for weight, figure in zip(weights, best.measures, strict=True)]
        names = [measure.name for measure in self.measures]
        return {"likelihoods": likelihoods, "measures": dict(zip(names, added, strict=True))}

    def initial_calibration(self) -> tuple[float, ...]:
        return tuple(measure.weight for measure in self.measures)

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
        scores = [option.score for option in rivals if option.score is not None]
        if self.measures:
            scores += self._as_played(response, [*right, *wrong[: self.negatives]])
        return [ChoiceDatum(self.name, tuple(scores), 0, self.weight)]

    def _as_played(self, response: Response, apart: Sequence[NodeOutput]) -> Iterator[Score]:
        """The scores of all other options, with the likelihoods that they had when played."""
        known = response.detail["likelihoods"]
        order = _best_first(response.detail["scores"])
        for place, option in zip(order, response.options, strict=True):
            if option.score is not None and not any(option is other for other in apart):
                yield Score(measures=option.score.measures, known=known[place])

    def __post_init__(self) -> None:
        if self.score == "likelihood" and not self.factors:
            raise UsageError(f"node '{self.name}' ranks by likelihood: that needs a text")
        if len(self.labels) != 2 or self.labels[0].strip() == self.labels[1].strip():
            raise UsageError(f"node '{self.name}' needs two different labels")

    def _offered(self, inputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The inputs with each candidate, in order."""
        candidates = inputs.get("candidates")
        if not candidates:
            raise ValueError(f"node '{self.name}' was called without any candidates")
        return [{**inputs, "candidate": candidate} for candidate in candidates]

    def _terms(self, inputs: Mapping[str, Any]) -> Iterator[Term]:
        own = self.prompt.render(inputs, node=self.name)
        if self.score == "choice":
            for label, coefficient in zip(self.labels, (1.0, -1.0), strict=True):
                yield Term(own, label, coefficient)
            return
        for factor in self.factors:
            yield factor.term(own, inputs, node=self.name)

    def _labelled(self, option: NodeOutput) -> tuple[Score, ...]:
        assert option.score is not None
        prompt = option.score.terms[0].prompt
        first, second = (Score((Term(prompt, label),)) for label in self.labels)
        return replace(first, measures=option.score.measures), second


def _best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])
