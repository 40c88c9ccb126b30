"""Factors: likelihoods of texts, by which a node scores what it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..flow.node import Call, Term
from ..flow.prompt import Prompt, Template
from ..flow.request import Likelihood, Scored, ScoreRequest


@dataclass(frozen=True)
class Factor:
    """The likelihood of a text after a prompt, to the power of a weight.

    Args:
        text: a template; a ``Rank`` may show ``{candidate}`` in it.
        prompt: what it stands after; None is the node's own prompt.
        weight: multiplies its log-likelihood; below zero, what is likely anyway counts less.
    """

    text: str
    prompt: Template | None = None
    weight: float = 1.0

    def term(
        self, own: Prompt, inputs: Mapping[str, Any], *, node: str, mean: bool = False
    ) -> Term:
        """What it adds to a score.

        Args:
            own: the node's prompt, rendered.
            mean: its log-likelihood per token instead of summed.
        """
        prompt = self.prompt.render(inputs, node=node) if self.prompt else own
        text = Template(self.text, chat=False).render(inputs, node=node).text
        return Term(prompt, text, self.weight, mean)


Texts = str | tuple[str | Factor, ...]
"""One text or several; a string weighs 1 and stands after the node's own prompt."""


def factors_of(texts: Texts) -> tuple[Factor, ...]:
    """The factors; none if there is no text."""
    several = (texts,) if isinstance(texts, str) else texts
    return tuple(Factor(text) if isinstance(text, str) else text for text in several if text)


class Asked(NamedTuple):
    """What the engine said of terms.

    Args:
        likelihoods: each term's.
        rendered: each different prompt as the model was shown it.
    """

    scored: Scored
    likelihoods: Mapping[Term, Likelihood]
    rendered: Mapping[Prompt, str]


async def ask(call: Call, adapter: str | None, terms: Iterable[Term]) -> Asked:
    """Score terms whose completions are texts, each prompt named once with all its completions."""
    items: dict[Prompt, dict[str, None]] = {}
    wanted = list(terms)
    for term in wanted:
        items.setdefault(term.prompt, {})[str(term.completion)] = None
    asked = tuple((prompt, tuple(texts)) for prompt, texts in items.items())
    scored = await call.ask(ScoreRequest(adapter, asked))
    found = {
        (prompt, text): likelihood
        for (prompt, texts), likelihoods in zip(asked, scored.likelihoods, strict=True)
        for text, likelihood in zip(texts, likelihoods, strict=True)
    }
    return Asked(
        scored,
        {term: found[term.prompt, str(term.completion)] for term in wanted},
        dict(zip(items, scored.prompts, strict=True)),
    )


def value(terms: Iterable[Term], likelihoods: Mapping[Term, Likelihood]) -> float:
    """The sum of terms."""
    return sum(
        term.coefficient * (likelihoods[term].mean if term.mean else likelihoods[term].logprob)
        for term in terms
    )


def read_through(terms: Iterable[Term], rendered: Mapping[Prompt, str]) -> str:
    """What a person sees of terms: each different prompt once, with all that stands after it."""
    after: dict[Prompt, str] = {}
    for term in terms:
        after[term.prompt] = after.get(term.prompt, "") + str(term.completion)
    return "\n\n".join(rendered[prompt] + texts for prompt, texts in after.items())
