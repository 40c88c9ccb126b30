"""The losses of data, with gradients: what each datum's scores are, and what is read for them.

Every datum is made of scores (see ``flow.node.Score``). They are computed with gradients under the
adapter and, for preferences, without gradients under its reference; the head is that of the datum's
own node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.adapters import reference_of
from ..engine.likelihoods import Completion, graph_tokens, likelihoods, pack_completions
from ..engine.packing import Ids
from ..engine.prefix_cache import PrefixCache
from ..flow.node import Datum, PreferenceDatum, Score, Term, TextDatum
from ..flow.prompt import Prompt
from ..models.constraints import Grammar
from ..models.tokens import Tokens
from .losses import choice_loss, dpo_loss, text_loss


class DatumLosses:
    """Computes the losses of data.

    Args:
        prefixes: of the model with all adapters; caches frozen prefixes.
        tokens: encodes prompts exactly as the engine does.
        beta: of preferences, see ``dpo_loss``.
    """

    def __init__(self, prefixes: PrefixCache, tokens: Tokens, beta: float) -> None:
        self.prefixes = prefixes
        self.adapters = prefixes.adapters
        self.tokens = tokens
        self.beta = beta

    def frozen_prefixes(self, data: Iterable[Datum]) -> set[Ids]:
        """The frozen prefixes of these data's prompts, which learning reads again."""
        return {
            completion.frozen_prefix
            for datum in data
            for completion in self.completions(datum)
            if completion.frozen_length
        }

    def graph_tokens(self, part: Sequence[Datum]) -> float:
        """What reading a part with gradients keeps in memory, in tokens."""
        completions = [c for datum in part for c in self.completions(datum)]
        return graph_tokens(pack_completions(self.prefixes, completions))

    def parts(self, data: Sequence[Datum], budget: float) -> list[list[Datum]]:
        """Groups of data whose graphs hold no more tokens; shared prefixes side by side."""
        completions = {id(datum): self.completions(datum) for datum in data}
        parts: list[list[Datum]] = []
        together: list[Completion] = []

        def place(datum: Datum) -> list[tuple[Ids, int, Ids]]:
            # Grammars have no order.
            return [completion[:3] for completion in completions[id(datum)]]

        for datum in sorted(data, key=place):
            together += completions[id(datum)]
            rows = pack_completions(self.prefixes, together)
            if parts and graph_tokens(rows) <= budget:
                parts[-1].append(datum)
            else:
                parts.append([datum])
                together = list(completions[id(datum)])
        return parts

    def of(
        self, adapter: str, data: Sequence[Datum], budget: float
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Each datum's loss, with gradients, and the gain over the reference of a preference.

        Args:
            budget: where graphs hold more tokens, layers are computed twice, see ``likelihoods``.
        """
        completions = list(dict.fromkeys(c for datum in data for c in self.completions(datum)))
        values = likelihoods(self.prefixes, adapter, completions, max_graph_tokens=budget)
        policy = dict(zip(completions, values, strict=True))
        reference = self._reference(adapter, data)
        return [self._loss(datum, policy, reference) for datum in data]

    def _reference(self, adapter: str, data: Sequence[Datum]) -> Mapping[Completion, Tensor]:
        completions = list(
            dict.fromkeys(
                completion
                for datum in data
                if isinstance(datum, PreferenceDatum)
                for completion in self.completions(datum)
            )
        )
        if not completions:
            return {}
        with torch.no_grad():
            values = likelihoods(self.prefixes, reference_of(adapter), completions)
        return dict(zip(completions, values, strict=True))

    def _loss(
        self,
        datum: Datum,
        policy: Mapping[Completion, Tensor],
        reference: Mapping[Completion, Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        node = datum.node
        if isinstance(datum, TextDatum):
            (completion,) = self.completions(datum)
            return text_loss(policy[completion], len(completion.tokens)), None
        if isinstance(datum, PreferenceDatum):
            chosen, rejected = (
                self._score(score, policy, node) for score in (datum.chosen, datum.rejected)
            )
            with torch.no_grad():
                reference_chosen, reference_rejected = (
                    self._score(score, reference, reference_of(node))
                    for score in (datum.chosen, datum.rejected)
                )
            loss = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, self.beta)
            gain = (chosen - reference_chosen) - (rejected - reference_rejected)
            return loss, gain.detach()
        scores = torch.stack([self._score(score, policy, node) for score in datum.options])
        return choice_loss(scores, datum.right), None

    def _score(self, score: Score, values: Mapping[Completion, Tensor], node: str) -> Tensor:
        """A score with a node's head, or that of ``reference_of`` it."""
        likelihood: Any = 0.0
        for term in score.terms:
            completion = self._completion(term)
            value = values[completion]
            length = max(len(completion.tokens), 1)
            likelihood = likelihood + term.coefficient * (value / length if term.mean else value)
        head = self.adapters.heads[node].tensors() if node in self.adapters.heads else {}
        total = score.value(likelihood, head)
        return torch.as_tensor(total, dtype=torch.float32, device=self.adapters.model.device)

    def completions(self, datum: Datum) -> list[Completion]:
        """What a datum's likelihoods are of, in its order."""
        if isinstance(datum, TextDatum):
            tokens = self.tokens.answer(datum.completion, datum.prompt)
            return [self._after(datum.prompt, tokens)]
        scores: Sequence[Score]
        if isinstance(datum, PreferenceDatum):
            scores = (datum.chosen, datum.rejected)
        else:
            scores = datum.options
        return [self._completion(term) for score in scores for term in score.terms]

    def _completion(self, term: Term) -> Completion:
        tokens = term.completion
        if isinstance(tokens, str):
            texts = term.rivals or (tokens,)
            found = self.tokens.completions(texts, term.prompt, rivals=bool(term.rivals))
            tokens = found[texts.index(tokens)]
        grammar = self.tokens.grammar(term.constraint, term.prompt)
        return self._after(term.prompt, tokens, grammar)

    def _after(self, prompt: Prompt, tokens: Ids, grammar: Grammar | None = None) -> Completion:
        encoded = self.tokens.encode(prompt, len(tokens))
        return Completion(encoded.ids, encoded.frozen_length, tokens, grammar)
