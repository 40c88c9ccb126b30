"""Factors: likelihoods of texts, of which a node's scores are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..flow.node import Call, Node, Term
from ..flow.prompt import Prompt, Template
from ..flow.request import Likelihood, Scored, ScoreRequest


@dataclass(frozen=True)
class Factor:
    """The likelihood of a text after a prompt, to the power of a weight.

    Args:
        text: a template; a ``Rank`` may show ``{candidate}`` in it.
        prompt: what the text follows; None is the node's own prompt.
        weight: multiplies its log-likelihood; a negative one discounts texts that are likely
            anyway.
    """

    text: str
    prompt: Template | None = None
    weight: float = 1.0

    @property
    def fields(self) -> frozenset[str]:
        """The names of the inputs that it shows."""
        own = Template(self.text, chat=False).fields
        return own | self.prompt.fields if self.prompt else own

    def term(
        self, node_prompt: Prompt, inputs: Mapping[str, Any], *, node: str, mean: bool = False
    ) -> Term:
        """Its term of a score.

        Args:
            node_prompt: the node's prompt, rendered.
            mean: its log-likelihood per token instead of summed.
        """
        prompt = self.prompt.render(inputs, node=node) if self.prompt else node_prompt
        text = Template(self.text, chat=False).render(inputs, node=node).text
        return Term(prompt, text, self.weight, mean)


Texts = str | tuple[str | Factor, ...]
"""One text or several; a string has weight 1 and follows the node's own prompt."""


def as_factors(texts: Texts) -> tuple[Factor, ...]:
    """The factors of one or several texts; none for an empty one."""
    several = (texts,) if isinstance(texts, str) else texts
    return tuple(Factor(text) if isinstance(text, str) else text for text in several if text)


class ScoredTerms(NamedTuple):
    """The engine's answer about terms.

    Args:
        likelihoods: of each term.
        rendered: each prompt as the model saw it.
    """

    scored: Scored
    likelihoods: Mapping[Term, Likelihood]
    rendered: Mapping[Prompt, str]


async def score_terms(call: Call, node: Node, terms: Iterable[Term]) -> ScoredTerms:
    """Score terms of a node whose completions are texts, with one request item per prompt.

    Raises:
        ValueError: some terms have rivals and others none: these are requests of their own.
    """
    items: dict[Prompt, dict[str, None]] = {}
    requested = list(terms)
    rivals = any(term.rivals for term in requested)
    if not all(bool(term.rivals) is rivals for term in requested):
        raise ValueError("of the terms of one request, either all have rivals or none")
    for term in requested:
        asked = term.rivals or (str(term.completion),)
        items.setdefault(term.prompt, {}).update(dict.fromkeys(asked))
    request = tuple((prompt, tuple(texts)) for prompt, texts in items.items())
    head = node.name if node.share is not None else None
    scored = await call.ask(ScoreRequest(node.adapter_name, request, rivals, head))
    found = {
        (prompt, text): likelihood
        for (prompt, texts), likelihoods in zip(request, scored.likelihoods, strict=True)
        for text, likelihood in zip(texts, likelihoods, strict=True)
    }
    return ScoredTerms(
        scored,
        {term: found[term.prompt, str(term.completion)] for term in requested},
        dict(zip(items, scored.prompts, strict=True)),
    )


def sum_terms(terms: Iterable[Term], likelihoods: Mapping[Term, Likelihood]) -> float:
    """The sum of terms, each times its coefficient."""
    return sum(
        term.coefficient * (likelihoods[term].mean if term.mean else likelihoods[term].logprob)
        for term in terms
    )


def concatenated(terms: Iterable[Term], rendered: Mapping[Prompt, str]) -> str:
    """Terms for a person: each prompt once, followed by all its completions."""
    completions: dict[Prompt, str] = {}
    for term in terms:
        completions[term.prompt] = completions.get(term.prompt, "") + str(term.completion)
    return "\n\n".join(rendered[prompt] + texts for prompt, texts in completions.items())
