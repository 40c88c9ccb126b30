"""The learner: takes a node's data of one mini-batch and updates the node's adapter at once.

Every datum is an expression over log-likelihoods (see ``flow.node.Score``). The expression is
evaluated with gradients under the node's adapter and, for preferences, without under its reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config.optimizers import OptimizerChoice, optimizer_choices
from ..config.settings import LearningSettings
from ..engine.adapters import reference_of
from ..engine.likelihoods import Completion, graph_tokens, likelihoods, pack_completions
from ..engine.limits import Limits
from ..engine.packing import Ids
from ..engine.prefix_cache import PrefixCache
from ..flow.errors import FlowtuneError, UsageError
from ..flow.node import Datum, Node, PreferenceDatum, Score, Term, TextDatum
from ..flow.prompt import Prompt
from ..models.tokens import Tokens
from .losses import choice_loss, dpo_loss, text_loss

WriteError = SafetensorError
"""What a failed write of weights raises, besides OSError."""


@dataclass(frozen=True)
class Update:
    """What one mini-batch did to one node.

    Args:
        data: how many data; ``preferences`` of them are preferences.
        loss: mean over data, before their weights.
        margin: mean of beta times the policy's gain over the reference, over preferences.
        accuracy: share of preferences whose chosen output already gained on its rival.
        gradient_norm: mean over steps of the infinity norm before clipping.
    """

    node: str
    data: int
    preferences: int
    steps: int
    loss: float
    margin: float | None
    accuracy: float | None
    gradient_norm: float


class Learner:
    """Updates adapters, each with an optimizer of its own.

    Args:
        prefixes: of the model with all nodes' adapters; remembers prompts' frozen prefixes.
        tokens: encodes prompts exactly as the engine does.
        settings: optimizer, beta, clipping and steps.
        nodes: the nodes with adapters, by name: each may have an optimizer of its own.
        factory: gives the factory of the optimizer with a name, ``factory(parameters, **options)``.
        limits: tokens in one forward pass that keeps gradients.
    """

    def __init__(
        self,
        prefixes: PrefixCache,
        tokens: Tokens,
        settings: LearningSettings,
        nodes: Mapping[str, Node],
        factory: Callable[[str], Callable[..., torch.optim.Optimizer]],
        limits: Limits,
    ) -> None:
        self.prefixes = prefixes
        self.adapters = adapters = prefixes.adapters
        self.tokens = tokens
        self.settings = settings
        self.tokens_per_batch = limits.learning_tokens_per_batch
        self.factory = factory
        choices = {name: optimizer_choices(settings, nodes[name]) for name in adapters.nodes}
        self.optimizers = {name: self._optimizer(name, *both) for name, both in choices.items()}
        self.optimizer_names = {name: choice.name for name, (choice, _) in choices.items()}

    def _optimizer(
        self, node: str, choice: OptimizerChoice, head_choice: OptimizerChoice
    ) -> torch.optim.Optimizer:
        """Of an adapter, and of its head in a parameter group of its own."""
        head = self.adapters.heads.get(node)
        if head is None:
            return self._made(self.adapters.parameters(node), choice)
        weights = [p for p in self.adapters.parameters(node) if p is not head.weights]
        optimizer = self._made(weights, choice)
        optimizer.add_param_group(self._made([head.weights], head_choice).param_groups[0])
        return optimizer

    def _made(self, parameters: Sequence[Tensor], choice: OptimizerChoice) -> torch.optim.Optimizer:
        try:
            return self.factory(choice.name)(parameters, **choice.options)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{choice.where} does not fit '{choice.name}': {error}."
                f" See 'flowtune show {choice.name}'."
            ) from None

    def frozen_prefixes(self, data: Iterable[Datum]) -> set[Ids]:
        """The frozen prefixes of these data's prompts, which learning reads again."""
        return {
            completion.frozen_prefix
            for datum in data
            for completion in self._completions(datum)
            if completion.frozen_length
        }

    def update(self, node: str, data: Sequence[Datum]) -> Update:
        """Learn from a node's data of one mini-batch: a step a datum, or one for all.

        Each loss is weighted by its datum's weight over the number of data.

        Raises:
            FlowtuneError: a loss or gradient is not finite; the weights are as before that step.
        """
        groups = [[datum] for datum in data] if self.settings.step_per == "datum" else [list(data)]
        optimizer = self.optimizers[node]
        losses: list[float] = []
        margins: list[float] = []
        norms: list[float] = []
        for group in groups:
            optimizer.zero_grad(set_to_none=True)
            for part in self._parts(group):
                loss = torch.zeros(())
                for datum, (value, margin) in zip(part, self._losses(node, part), strict=True):
                    losses.append(float(value.detach()))
                    if margin is not None:
                        margins.append(margin)
                    loss = loss.to(value.device) + value * (datum.weight / len(data))
                if not math.isfinite(float(loss.detach())):
                    raise FlowtuneError(
                        f"the loss of node '{node}' is {float(loss.detach())}: its step was not"
                        " taken. Lower the step size (learning.optimizer) or use float32."
                    )
                with self.adapters.using(node):
                    loss.backward()  # type: ignore[no-untyped-call]
            # The gradients of an adapter and of its head differ in size.
            norms.append(max(self._clip(node, g["params"]) for g in optimizer.param_groups))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.adapters.check_finite([node])
        self.adapters.versions[node] += 1
        return Update(
            node=node,
            data=len(data),
            preferences=len(margins),
            steps=len(groups),
            loss=sum(losses) / len(losses),
            margin=sum(margins) / len(margins) if margins else None,
            accuracy=sum(m > 0 for m in margins) / len(margins) if margins else None,
            gradient_norm=sum(norms) / len(norms),
        )

    def _clip(self, node: str, parameters: Sequence[Tensor]) -> float:
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in parameters if p.grad is not None], self.settings.clip, norm_type=math.inf
        )
        if not math.isfinite(float(norm)):
            raise FlowtuneError(
                f"the gradient of node '{node}' is {float(norm)}: its step was not taken. Lower"
                " the step size (learning.optimizer) or use float32."
            )
        return float(norm)

    def _parts(self, data: Sequence[Datum]) -> list[list[Datum]]:
        """Data whose graphs fit into memory together, those that begin alike side by side."""
        completions = {id(datum): self._completions(datum) for datum in data}
        parts: list[list[Datum]] = []
        together: list[Completion] = []
        for datum in sorted(data, key=lambda datum: completions[id(datum)]):
            together += completions[id(datum)]
            rows = pack_completions(self.prefixes, together)
            if parts and graph_tokens(rows) <= self.tokens_per_batch:
                parts[-1].append(datum)
            else:
                parts.append([datum])
                together = list(completions[id(datum)])
        return parts

    def _losses(self, node: str, data: Sequence[Datum]) -> list[tuple[Tensor, float | None]]:
        """Each datum's loss, with gradients, and a preference's margin."""
        completions = list(dict.fromkeys(c for datum in data for c in self._completions(datum)))
        values = likelihoods(
            self.prefixes, node, completions, max_graph_tokens=self.tokens_per_batch
        )
        policy = dict(zip(completions, values, strict=True))
        reference = self._reference(node, data)
        return [self._loss(node, datum, policy, reference) for datum in data]

    def _reference(self, node: str, data: Sequence[Datum]) -> Mapping[Completion, Tensor]:
        completions = list(
            dict.fromkeys(
                completion
                for datum in data
                if isinstance(datum, PreferenceDatum)
                for completion in self._completions(datum)
            )
        )
        if not completions:
            return {}
        with torch.no_grad():
            values = likelihoods(self.prefixes, reference_of(node), completions)
        return dict(zip(completions, values, strict=True))

    def _loss(
        self,
        node: str,
        datum: Datum,
        policy: Mapping[Completion, Tensor],
        reference: Mapping[Completion, Tensor],
    ) -> tuple[Tensor, float | None]:
        if isinstance(datum, TextDatum):
            (completion,) = self._completions(datum)
            return text_loss(policy[completion], len(completion.tokens)), None
        if isinstance(datum, PreferenceDatum):
            chosen, rejected = (
                self._score(score, policy, node) for score in (datum.chosen, datum.rejected)
            )
            with torch.no_grad():
                held_chosen, held_rejected = (
                    self._score(score, reference, reference_of(node))
                    for score in (datum.chosen, datum.rejected)
                )
            loss = dpo_loss(chosen, rejected, held_chosen, held_rejected, self.settings.beta)
            gain = (chosen - held_chosen) - (rejected - held_rejected)
            return loss, self.settings.beta * float(gain.detach())
        scores = torch.stack([self._score(score, policy, node) for score in datum.options])
        return choice_loss(scores, datum.right), None

    def _score(self, score: Score, values: Mapping[Completion, Tensor], adapter: str) -> Tensor:
        """A score under an adapter and its head."""
        likelihood: Any = 0.0
        for term in score.terms:
            completion = self._completion(term)
            value = values[completion]
            length = max(len(completion.tokens), 1)
            likelihood = likelihood + term.coefficient * (value / length if term.mean else value)
        head = self.adapters.heads[adapter].tensors() if adapter in self.adapters.heads else {}
        total = score.value(likelihood, head)
        return torch.as_tensor(total, dtype=torch.float32, device=self.adapters.model.device)

    def _completions(self, datum: Datum) -> list[Completion]:
        if isinstance(datum, TextDatum):
            tokens = self.tokens.completion(datum.completion, end=True)
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
            tokens = self.tokens.completion(tokens)
        return self._after(term.prompt, tokens)

    def _after(self, prompt: Prompt, tokens: Ids) -> Completion:
        encoded = self.tokens.encode(prompt, len(tokens))
        return Completion(encoded.ids, encoded.frozen_length, tokens)

    def save(self, directory: Path) -> None:
        """Write every optimizer's state as safetensors: ``directory/NODE.safetensors``."""
        directory.mkdir(parents=True)
        for node, optimizer in self.optimizers.items():
            flat = {}
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    flat[f"{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
            save_file(flat, directory / f"{node}.safetensors")

    def load(self, directory: Path) -> None:
        """Read what ``save`` wrote; the optimizers go on exactly.

        Raises:
            UsageError: a node's state is missing, or cannot be read.
        """
        for node, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            file = directory / f"{node}.safetensors"
            try:
                tensors = load_file(file)
            except (OSError, SafetensorError) as error:
                raise UsageError(f"there is no optimizer state of node '{node}': {error}") from None
            for name, value in tensors.items():
                index, key = name.split(".", 1)
                state.setdefault(int(index), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
