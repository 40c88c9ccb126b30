"""Judge: a node that chooses among labelled answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..flow.errors import UsageError
from ..flow.node import Call, ChoiceDatum, Datum, Node, NodeOutput, Response, Score, Term
from ..flow.prompt import Template
from ..flow.request import ScoreRequest


@dataclass(kw_only=True)
class Judge(Node):
    """Chooses one of its labels; its value is the label. The alternatives are the other labels.

    With ``score="choice"`` the labels' likelihoods after the prompt are compared. With
    ``score="likelihood"`` there are two labels, and the first is chosen when
    ``scale * (mean log-likelihood of the text per token - threshold)`` is not below zero, where the
    text (say, the question) stands after what is judged (say, the documents); scale and threshold
    are learned with the adapter. Of labels that score the same, the first is chosen.

    Args:
        prompt: what the model is shown.
        labels: what it may answer, white space in front included where the prompt wants it.
        score: how the labels are scored.
        text: the template of the text whose likelihood judges, for ``score="likelihood"``.
        scale, threshold: where learning them starts; threshold in nats per token.
    """

    kind: ClassVar[str] = "judge"

    prompt: Template
    labels: tuple[str, ...] = ("Yes", "No")
    score: Literal["choice", "likelihood"] = "choice"
    text: str = ""
    scale: float = 1.0
    threshold: float = -2.0

    def shown(self, inputs: Mapping[str, Any]) -> str:
        return self.prompt.render(inputs, node=self.name).text + self._text(inputs)

    async def respond(self, call: Call) -> Response:
        prompt = self.prompt.render(call.inputs, node=self.name)
        text = self._text(call.inputs)
        completions = self.labels if self.score == "choice" else (text,)
        scored = await call.ask(ScoreRequest(self.adapter, ((prompt, completions),)))
        if self.score == "choice":
            scores = [Score((Term(prompt, label),)) for label in self.labels]
            raw = [likelihood.logprob for likelihood in scored.likelihoods[0]]
        else:
            # Without an adapter nothing is learned, and the engine knows of no calibration.
            learned = scored.calibration if self.adapter else (self.scale, self.threshold)
            scale, threshold = learned
            judged = Score((Term(prompt, text, mean=True),), calibrated=True)
            scores = [judged, Score()]
            raw = [scale * (scored.likelihoods[0][0].mean - threshold), 0.0]
        logprobs = _log_softmax(raw)
        options = tuple(
            NodeOutput(value=label.strip(), text=label.strip(), score=score, logprob=logprob)
            for label, score, logprob in sorted(
                zip(self.labels, scores, logprobs, strict=True), key=lambda option: -option[2]
            )
        )
        return Response(
            prompt=scored.prompts[0] + text,
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

    def initial_calibration(self) -> tuple[float, float] | None:
        return (self.scale, self.threshold) if self.score == "likelihood" else None

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len({label.strip() for label in self.labels}) < len(self.labels):
            raise UsageError(f"node '{self.name}' needs two or more different labels")
        if self.score == "likelihood" and (len(self.labels) != 2 or not self.text):
            raise UsageError(
                f"node '{self.name}' judges by likelihood: that needs two labels and a text"
            )

    def _text(self, inputs: Mapping[str, Any]) -> str:
        if self.score == "choice":
            return ""
        return Template(self.text, chat=False).render(inputs, node=self.name).text


def _log_softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    total = top + math.log(sum(math.exp(value - top) for value in values))
    return [value - total for value in values]
