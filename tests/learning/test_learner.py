"""What an update does to a node, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowtune_cli.config.settings import LearningSettings
from flowtune_cli.engine.adapters import Adapters, reference_of
from flowtune_cli.engine.likelihoods import graph_tokens, pack_completions
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.node import ChoiceDatum, Datum, PreferenceDatum, Score, Term, TextDatum
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import Constraint, Decoded, DecodeRequest, Decoding
from flowtune_cli.learning import datum_losses
from flowtune_cli.learning.learner import Learner
from flowtune_cli.learning.node_optimizers import NodeOptimizers
from flowtune_cli.learning.optimizers import adam, adam8bit, cocob
from flowtune_cli.learning.peers import Peers
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.out_of_memory import OutOfMemory, say_once
from flowtune_cli.models.tokens import Tokens
from support.fake_engine import writer
from support.thread_peers import on_threads
from support.tiny import (
    likelihood,
    logits,
    make_adapters,
    make_engine,
    make_model,
    plain,
    same,
    state,
    text,
    with_tokenizer,
)
from support.tokenizers import make_tokenizer

ONE, TWO = plain("one "), plain("two and more ")


def sgd(parameters: Any, lr: float = 1.0) -> torch.optim.Optimizer:
    """Moves weights by their gradients, so that a step shows them."""
    return torch.optim.SGD(parameters, lr=lr)


class Shrinking(torch.optim.SGD):
    """Lowers its own learning rate, which it keeps among its options."""

    def __init__(self, parameters: Any, lr: float, factor: float) -> None:
        super().__init__(parameters, lr=lr)
        for group in self.param_groups:
            group["factor"] = factor

    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            group["lr"] *= group["factor"]


def make_learner(
    adapters: Adapters,
    loaded: LoadedModel,
    optimizer: Callable[..., Any] = sgd,
    tokens_per_batch: int = 4096,
    *,
    options: Mapping[str, Any] | None = None,
    nodes: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Learner:
    """Args: ``options`` of the optimizer; ``nodes``: fields of single nodes."""
    chosen = LearningSettings(
        **{"clip": 1e9, "optimizer": {"name": "chosen", **(options or {})}, **settings}
    )
    limits = Limits(learning_tokens_per_batch=tokens_per_batch)
    return Learner(
        PrefixCache(adapters, limits),
        Tokens(loaded.tokenizer, loaded.context),
        chosen,
        NodeOptimizers(
            adapters,
            chosen,
            {name: writer(name, **(nodes or {}).get(name, {})) for name in adapters.nodes},
            {"chosen": optimizer, "adam": adam},
        ),
        limits,
    )


def preference(prompt: Prompt = ONE, seed: int = 0, weight: float = 1.0) -> PreferenceDatum:
    """Of a text of random tokens over another, as they were decoded."""
    chosen, rejected = (Score((Term(prompt, text(5 + n, 2 * seed + n)),)) for n in range(2))
    return PreferenceDatum("a", chosen, rejected, weight)


def choice(prompt: Prompt = ONE, right: int = 0, weight: float = 1.0) -> ChoiceDatum:
    scores = tuple(Score((Term(prompt, label),)) for label in ("Yes", "No"))
    return ChoiceDatum("a", scores, right, weight)


MIXED: list[Datum] = [
    preference(ONE, 0, weight=0.3),
    TextDatum("a", TWO, "gold text", 2.0),
    choice(TWO, 1, weight=0.5),
    preference(TWO, 1),
    preference(ONE, 2),
]


def decoded_pair(
    loaded: LoadedModel, adapters: Adapters, constraint: Constraint
) -> PreferenceDatum:
    """A preference between two outputs that were decoded under a constraint."""
    how = Decoding(groups=2, diversity_penalty=20.0)
    request = DecodeRequest("a", ONE, 12, decoding=how, constraint=constraint)
    (answer,) = make_engine(loaded, adapters).answer([request])
    assert isinstance(answer, Decoded)
    chosen, rejected = (
        Score((Term(ONE, g.tokens, constraint=constraint),)) for g in answer.generations
    )
    return PreferenceDatum("a", chosen, rejected)


class Tiny:
    """Trained adapters, and the gradients that a learner ought to find."""

    def __init__(self, loaded: LoadedModel, **more: Any) -> None:
        self.loaded = loaded
        self.adapters = make_adapters(loaded, **more)
        self.tokens = Tokens(loaded.tokenizer, loaded.context)

    def learner(self, *args: Any, **settings: Any) -> Learner:
        return make_learner(self.adapters, self.loaded, *args, **settings)

    def copy(self) -> Tiny:
        return copy.deepcopy(self)

    def likelihood(self, adapter: str, prompt: Prompt, completion: Any) -> torch.Tensor:
        ids = self.tokens.completion(completion) if isinstance(completion, str) else completion
        return likelihood(self.adapters, adapter, self.tokens.encode(prompt).ids, ids)

    def score(self, adapter: str, score: Score) -> torch.Tensor:
        (term,) = score.terms
        return self.likelihood(adapter, term.prompt, term.completion)

    def margin(self, datum: PreferenceDatum) -> torch.Tensor:
        gains = [
            self.score("a", score) - self.score(reference_of("a"), score).detach()
            for score in (datum.chosen, datum.rejected)
        ]
        return gains[0] - gains[1]

    def loss(self, datum: Datum, beta: float = 1.0) -> torch.Tensor:
        """By the definitions, a forward pass for each likelihood."""
        if isinstance(datum, PreferenceDatum):
            return torch.log1p(torch.exp(-beta * self.margin(datum)))
        if isinstance(datum, TextDatum):
            ids = (*self.tokens.completion(datum.completion), self.loaded.tokenizer.eos_token_id)
            return -self.likelihood("a", datum.prompt, ids) / len(ids)
        scores = torch.stack([self.score("a", option) for option in datum.options])
        return torch.logsumexp(scores, 0) - scores[datum.right]

    def gradients(self, data: Sequence[Datum], beta: float = 1.0) -> list[torch.Tensor]:
        total = sum(self.loss(datum, beta) * datum.weight for datum in data) / len(data)
        return list(torch.autograd.grad(total, self.adapters.parameters("a")))

    def change(self, data: Sequence[Datum], learner: Learner) -> list[torch.Tensor]:
        """How far an update moves the weights, downhill."""
        before = state(self.adapters, "a")
        learner.update("a", {"a": data})
        return [old - new for old, new in zip(before, state(self.adapters, "a"), strict=True)]


@pytest.fixture
def tiny(tiny_model: LoadedModel) -> Tiny:
    return Tiny(tiny_model)


def after_frozen(prefix: str) -> Prompt:
    """A text after a frozen prefix, which the base model reads."""
    parts = (("prefix", prefix), ("text", "and so "))
    return Prompt(tuple(Message(role, (Segment(text),)) for role, text in parts), chat=False)


def assert_near(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= 2e-4 * max(theirs.abs().max(), 1e-3)


# Steps


@pytest.mark.parametrize("datum", MIXED[:3])
@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_a_step_follows_the_gradient_of_the_loss(tiny: Tiny, datum: Datum, beta: float) -> None:
    expected = tiny.gradients([datum], beta)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected)
    assert_near(tiny.change([datum], tiny.learner(beta=beta)), expected)


@pytest.mark.parametrize("tokens_per_batch", [1, 80, 4096])
def test_a_batch_in_several_parts_is_one_step_of_the_whole(
    tiny: Tiny, tokens_per_batch: int
) -> None:
    expected = tiny.gradients(MIXED)
    learner = tiny.learner(sgd, tokens_per_batch, step_per="batch")
    assert (
        len(learner.losses.parts(MIXED, tokens_per_batch))
        == {1: 5, 80: 2, 4096: 1}[tokens_per_batch]
    )
    assert_near(tiny.change(MIXED, learner), expected)


def test_a_part_keeps_to_its_tokens(tiny: Tiny) -> None:
    # With its text, and without its end, each row is a token longer than its prompt.
    prompts = ["a", "b", "c", "x" * 50, "y" * 30, "z" * 30]
    data = [TextDatum("a", plain(prompt), "!") for prompt in prompts]
    assert tiny.learner().losses.parts(data, 88) == [data[:5], data[5:]]
    assert tiny.learner().losses.parts(data, 87) == [data[:4], data[4:]]
    # What begins alike shares a row, and so a part.
    shared = [TextDatum("a", plain("x" * 50 + more), text) for more in "pq" for text in "ab"]
    assert tiny.learner().losses.parts(shared, 56) == [shared]
    mixed = [shared[0], data[4], shared[3]]
    assert tiny.learner().losses.parts(mixed, 54) == [[shared[0], shared[3]], [data[4]]]


def test_a_step_for_each_datum(tiny: Tiny) -> None:
    alike = tiny.copy()
    learner = tiny.learner(options={"lr": 0.01})
    update = learner.update("a", {"a": MIXED})["a"]
    assert update.steps == 5
    assert tiny.adapters.version("a") == 1
    for datum in MIXED:
        gradients = alike.gradients([datum])
        with torch.no_grad():
            for parameter, gradient in zip(alike.adapters.parameters("a"), gradients, strict=True):
                parameter -= 0.01 * gradient / len(MIXED)
    assert_near(state(tiny.adapters, "a"), state(alike.adapters, "a"))


def test_losses_count_by_weight_over_the_number_of_data(tiny: Tiny) -> None:
    light, heavy = (preference(weight=weight) for weight in (1.0, 3.0))
    changes = []
    for datum in (light, heavy):
        fresh = tiny.copy()
        changes.append(fresh.change([datum], fresh.learner()))
    assert_near(changes[1], [3 * change for change in changes[0]])
    fresh = tiny.copy()
    both = fresh.change([light, light], fresh.learner(step_per="batch"))
    assert_near(both, changes[0])


def test_an_update_tells_what_it_found(tiny: Tiny) -> None:
    beta = 0.5
    margins = [
        beta * float(tiny.margin(datum).detach())
        for datum in MIXED
        if isinstance(datum, PreferenceDatum)
    ]
    losses = [float(tiny.loss(datum, beta).detach()) for datum in MIXED]
    largest = max(float(gradient.abs().max()) for gradient in tiny.gradients(MIXED, beta))
    update = tiny.learner(step_per="batch", beta=beta).update("a", {"a": MIXED})["a"]
    assert (update.node, update.data, update.preferences, update.steps) == ("a", 5, 3, 1)
    assert update.loss == pytest.approx(sum(losses) / 5, rel=1e-4)
    assert update.margin == pytest.approx(sum(margins) / 3, abs=1e-3)
    assert update.accuracy == sum(margin > 0 for margin in margins) / 3
    assert update.gradient_norm == pytest.approx(largest, rel=1e-3)


def test_without_preferences_there_is_no_margin(tiny: Tiny) -> None:
    update = tiny.learner().update("a", {"a": [choice(), TextDatum("a", ONE, "gold")]})["a"]
    assert (update.margin, update.accuracy, update.preferences) == (None, None, 0)


def test_preferences_raise_the_margin_step_by_step(tiny: Tiny) -> None:
    learner = tiny.learner(adam, options={"lr": 0.003})
    updates = [learner.update("a", {"a": [preference()]})["a"] for _ in range(4)]
    margins = [update.margin or 0.0 for update in updates]
    assert margins == sorted(margins)
    assert margins[-1] > margins[0] + 1
    assert updates[-1].loss < updates[0].loss


def test_a_target_becomes_likelier_step_by_step(tiny: Tiny) -> None:
    learner = tiny.learner(adam, options={"lr": 0.02})
    losses = [
        learner.update("a", {"a": [TextDatum("a", ONE, "gold")]})["a"].loss for _ in range(20)
    ]
    assert losses[-1] < losses[0] / 3


def test_gradients_are_clipped_to_an_infinity_norm(tiny: Tiny) -> None:
    exact = tiny.gradients([preference()])
    largest = max(float(gradient.abs().max()) for gradient in exact)
    clip = largest / 10
    learner = tiny.learner(clip=clip)
    change = tiny.change([preference()], learner)
    assert max(float(moved.abs().max()) for moved in change) == pytest.approx(clip, rel=1e-3)
    assert_near(change, [gradient / 10 for gradient in exact])


def test_an_expression_of_terms(tiny: Tiny) -> None:
    """Coefficients, means over tokens, and an empty text, which is certain."""
    yes, no = Term(ONE, "Yes"), Term(TWO, "No way", coefficient=-2.0, mean=True)
    sums = Score((yes, no, Term(ONE, "", mean=True)))
    datum = ChoiceDatum("a", (sums, Score()), 0)
    score = tiny.likelihood("a", ONE, "Yes") - 2 * tiny.likelihood("a", TWO, "No way") / 6
    loss = torch.log1p(torch.exp(-score))
    expected = torch.autograd.grad(loss, tiny.adapters.parameters("a"))
    assert_near(tiny.change([datum], tiny.learner()), expected)


def test_a_model_with_windows_learns_the_same_way(tiny_model: LoadedModel) -> None:
    tiny = Tiny(make_model("Mistral", tiny_model))
    expected = tiny.gradients(MIXED)
    assert_near(tiny.change(MIXED, tiny.learner(step_per="batch")), expected)


# Heads


def judged(right: int) -> ChoiceDatum:
    """A judge by likelihood: is the text likely enough?"""
    score = Score((Term(ONE, "why", mean=True),), {"likelihood": 2.0, "bias": 1.0})
    return ChoiceDatum("a", (score, Score()), right)


def test_scale_and_bias_are_learned(tiny_model: LoadedModel) -> None:
    tiny = Tiny(tiny_model, nodes={"a": {"likelihood": 1.5, "bias": 0.25}})
    mean = float(tiny.likelihood("a", ONE, "why").detach()) / 3
    probability = 1 / (1 + torch.exp(torch.tensor(-1.5 * (mean + 2.0) - 0.25)).item())
    update = tiny.learner().update("a", {"a": [judged(right=1)]})["a"]
    assert update.loss == pytest.approx(-torch.log(torch.tensor(1 - probability)).item(), rel=1e-3)
    # Of -log(1 - sigmoid(scale * (mean + 2) + bias)), by scale and by bias.
    head = tiny.adapters.head("a")
    assert head["likelihood"] == pytest.approx(1.5 - probability * (mean + 2.0), rel=1e-3)
    assert head["bias"] == pytest.approx(0.25 - probability, rel=1e-3)
    assert tiny.adapters.head(reference_of("a")) == {"likelihood": 1.5, "bias": 0.25}


def test_a_preference_is_relative_to_the_references_head(
    tiny_model: LoadedModel,
) -> None:
    tiny = Tiny(tiny_model, nodes={"a": {"likelihood": 1.5, "bias": 0.0}})
    tiny.adapters.heads["a"].load({"likelihood": 0.5, "bias": -1.0}, "here")
    yes, no = judged(0).options
    mean, reference = (
        float(tiny.likelihood(name, ONE, "why").detach()) / 3 for name in ("a", reference_of("a"))
    )
    update = tiny.learner().update("a", {"a": [PreferenceDatum("a", yes, no)]})["a"]
    assert update.margin == pytest.approx(
        0.5 * (mean + 2.0) - 1.0 - 1.5 * (reference + 2.0), abs=1e-3
    )


def test_weights_of_features_are_learned(tiny_model: LoadedModel) -> None:
    tiny = Tiny(tiny_model, nodes={"a": {"x": 0.5, "y": 0.0}})
    options = (Score((), {"x": 1.0, "y": 3.0}), Score((), {"x": 2.0, "y": -1.0}))
    update = tiny.learner().update("a", {"a": [ChoiceDatum("a", options, 1)]})["a"]
    # Of -log softmax of 0.5 and 1: the right one has probability p.
    p = 1 / (1 + math.exp(-0.5))
    assert update.loss == pytest.approx(-math.log(p))
    expected = {"x": 0.5 - (1 - p) * -1.0, "y": -(1 - p) * 4.0}
    assert tiny.adapters.head("a") == pytest.approx(expected)
    assert tiny.adapters.head(reference_of("a")) == {"x": 0.5, "y": 0.0}


def test_a_likelihood_as_played_teaches_the_head_alone(tiny_model: LoadedModel) -> None:
    tiny = Tiny(tiny_model, nodes={"a": {"x": 0.5}})
    before = state(tiny.adapters, "a")
    options = tuple(
        Score((), {"likelihood": known, "x": x}) for x, known in ((1.0, 2.0), (2.0, 1.0))
    )
    update = tiny.learner().update("a", {"a": [ChoiceDatum("a", options, 1)]})["a"]
    assert update.loss == pytest.approx(math.log1p(math.exp(0.5)))
    assert all(map(torch.equal, before[:-1], state(tiny.adapters, "a")[:-1]))
    assert tiny.adapters.head("a")["x"] == pytest.approx(0.5 + 1 / (1 + math.exp(-0.5)))


def test_a_preference_between_features_is_relative_to_the_references_weights(
    tiny_model: LoadedModel,
) -> None:
    tiny = Tiny(tiny_model, nodes={"a": {"x": 0.5}})
    tiny.adapters.heads["a"].load({"x": 2.0}, "here")
    datum = PreferenceDatum("a", Score((), {"x": 3.0}), Score((), {"x": 1.0}))
    assert tiny.learner().update("a", {"a": [datum]})["a"].margin == pytest.approx(
        (2.0 - 0.5) * 2.0
    )


def test_heads_learn_in_steps_of_their_own(tiny_model: LoadedModel) -> None:
    def learned(**settings: Any) -> tuple[Tiny, list[torch.Tensor]]:
        tiny = Tiny(
            copy.deepcopy(tiny_model), nodes={"a": {"likelihood": 1.5, "bias": 0.0}, "b": {}}
        )
        before = state(tiny.adapters, "a")
        tiny.learner(**settings).update("a", {"a": [judged(right=1)]})
        return tiny, [now - was for now, was in zip(state(tiny.adapters, "a"), before, strict=True)]

    tiny, alike = learned()
    own = {"a": {"head_optimizer": {"lr": 0.25}}}
    tiny, apart = learned(nodes=own)
    for one, other in zip(alike[:-1], apart[:-1], strict=True):
        assert torch.equal(one, other)
    assert torch.allclose(apart[-1], 0.25 * alike[-1], atol=1e-6)
    learner = tiny.learner(adam, nodes=own)
    assert [group["lr"] for group in learner.optimizers["a"].param_groups] == [1e-4, 0.25]
    assert [group["lr"] for group in learner.optimizers["b"].param_groups] == [1e-4]
    with pytest.raises(UsageError, match=r"head_optimizer of node 'a' does not fit 'chosen'"):
        tiny.learner(nodes={"a": {"head_optimizer": {"speed": 0.25}}})


def test_an_adapter_and_its_head_are_clipped_apart(tiny_model: LoadedModel) -> None:
    datum = ChoiceDatum(
        "a", (Score((Term(ONE, "why"),), {"x": 100.0}), Score((Term(TWO, "so"),))), 1
    )

    def learned(clip: float) -> tuple[float, list[torch.Tensor]]:
        tiny = Tiny(copy.deepcopy(tiny_model), nodes={"a": {"x": 0.0}})
        before = state(tiny.adapters, "a")
        learner = tiny.learner(clip=clip, nodes={"a": {"head_optimizer": {"lr": 1.0}}})
        norm = learner.update("a", {"a": [datum]})["a"].gradient_norm
        return norm, [now - was for now, was in zip(state(tiny.adapters, "a"), before, strict=True)]

    _, free = learned(1e9)
    of_adapter, of_head = max(float(m.abs().max()) for m in free[:-1]), free[-1].abs().max()
    assert of_adapter < of_head
    norm, clipped = learned((of_adapter + float(of_head)) / 2)
    assert norm == pytest.approx(float(of_head))
    assert clipped[-1].abs().max() < of_head
    for one, other in zip(free[:-1], clipped[:-1], strict=True):
        assert torch.equal(one, other)


# Short of memory


def fail_above(
    monkeypatch: pytest.MonkeyPatch, tokens: float, *, recomputing: bool = False
) -> list[float]:
    """Memory holds the graph of so many tokens; returns those of each pass that was tried.

    Args:
        recomputing: what is computed layer by layer fits.
    """
    tried: list[float] = []
    plain_likelihoods = datum_losses.likelihoods

    def likelihoods(prefixes: Any, adapter: Any, completions: Any, **more: Any) -> torch.Tensor:
        values = plain_likelihoods(prefixes, adapter, completions, **more)
        size = graph_tokens(pack_completions(prefixes, completions))
        if values.requires_grad:
            tried.append(size)
            fits = recomputing and size > more["max_graph_tokens"]
            if size > tokens and not fits:
                # In the backward pass, when part of the gradients is there.
                values.register_hook(run_out)
        return values

    def run_out(gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(datum_losses, "likelihoods", likelihoods)
    return tried


@pytest.mark.parametrize("step_per", ["datum", "batch"])
def test_short_of_memory_a_step_is_taken_in_smaller_parts(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, step_per: str, capfd: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    expected = tiny.copy()
    plainly = expected.learner(adam, step_per=step_per).update("a", {"a": MIXED})["a"]
    tried = fail_above(monkeypatch, 30, recomputing=True)
    found = tiny.learner(adam, step_per=step_per).update("a", {"a": MIXED})["a"]
    assert max(tried) > 30
    assert found.steps == plainly.steps
    assert found.loss == pytest.approx(plainly.loss, abs=1e-5)
    assert found.margin == pytest.approx(plainly.margin, abs=1e-4)
    assert found.gradient_norm == pytest.approx(plainly.gradient_norm, rel=1e-4)
    for one, other in zip(state(tiny.adapters, "a"), state(expected.adapters, "a"), strict=True):
        assert (one - other).abs().max() < 1e-5
    assert capfd.readouterr().err.count("memory is short while learning") == 1


def test_without_memory_for_one_datum_no_step_is_taken(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = tiny.learner(adam, step_per="batch")
    before = state(tiny.adapters, "a")
    tried = fail_above(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match=r"while learning from one datum: CUDA out of memory"):
        learner.update("a", {"a": MIXED})
    assert 2 <= len(tried) <= 8
    assert same(state(tiny.adapters, "a"), before)
    assert all(parameter.grad is None for parameter in tiny.adapters.parameters("a"))
    assert optimizer_state(learner, "a") == []
    assert tiny.adapters.version("a") == 0


# What is left alone


def flat(state: Mapping[str, Any]) -> list[Any]:
    """All tensors and numbers of a state, nested or not."""
    values = [state[key] for key in sorted(state)]
    return [x for value in values for x in (flat(value) if isinstance(value, dict) else [value])]


def optimizer_state(learner: Learner, node: str) -> list[torch.Tensor]:
    states = learner.optimizers[node].state_dict()["state"]
    return [
        torch.as_tensor(value).clone() for index in sorted(states) for value in flat(states[index])
    ]


@pytest.mark.parametrize("optimizer", [cocob, adam])
def test_other_nodes_and_references_are_left_alone_to_the_bit(
    tiny: Tiny, optimizer: Callable[..., Any]
) -> None:
    learner = tiny.learner(optimizer)
    learner.update("b", {"b": [replace(each, node="b") for each in (preference(), choice())]})
    others = ["b", reference_of("a"), reference_of("b")]
    weights = {name: state(tiny.adapters, name) for name in others}
    held = optimizer_state(learner, "b")
    assert held
    base = {name: weight.clone() for name, weight in tiny.adapters.model.named_parameters()}
    learner.update("a", {"a": MIXED})
    for name in others:
        assert same(state(tiny.adapters, name), weights[name])
    assert same(optimizer_state(learner, "b"), held)
    assert tiny.adapters.versions == {"a": 1, "b": 1, "reference-of-a": 0, "reference-of-b": 0}
    for name, weight in tiny.adapters.model.named_parameters():
        assert torch.equal(weight, base[name]) == ("adapter-a." not in name)


@pytest.mark.parametrize("tokens", [None, 40])
@pytest.mark.parametrize("size", [1, 2])
def test_adapters_that_step_together_step_as_each_by_itself(
    tiny: Tiny, tokens: int | None, size: int
) -> None:
    data = {"a": MIXED, "b": [replace(each, node="b") for each in (preference(), choice())]}
    copies = [tiny.copy() for _ in range(size)]
    learners = [each.learner(cocob, step_per="batch") for each in [tiny, *copies]]
    for learner in learners if tokens is not None else ():
        learner.tokens_per_batch = tokens
    alone, *several = learners
    expected = {name: alone.update(name, {name: of_it}) for name, of_it in data.items()}

    def together(peers: Peers) -> Any:
        units = {name: {name: of_it} for name, of_it in data.items()}
        return several[peers.rank].update_together(units, peers)

    assert on_threads(size, together) == [expected] * size
    for each, learner in zip(copies, several, strict=True):
        for node in data:
            assert same(state(each.adapters, node), state(tiny.adapters, node))
            assert same(optimizer_state(learner, node), optimizer_state(alone, node))
        assert each.adapters.versions == tiny.adapters.versions
        assert all(parameter.grad is None for parameter in each.adapters.model.parameters())


def test_a_learner_leaves_no_gradients(tiny: Tiny) -> None:
    tiny.learner().update("a", {"a": MIXED})
    assert all(parameter.grad is None for parameter in tiny.adapters.model.parameters())


def test_an_update_waits_for_the_device_as_often_whatever_is_adapted(
    tiny_model: LoadedModel,
) -> None:
    class Reads(TorchDispatchMode):
        """Counts how often a figure is read off the device."""

        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    counts = []
    for targets in (["q_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]):
        tiny = Tiny(copy.deepcopy(tiny_model), targets=targets)
        learner = tiny.learner(step_per="batch")
        with Reads() as reads:
            learner.update("a", {"a": [preference()]})
            tiny.adapters.distance("a")
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_updates_are_the_same_to_the_bit_each_time(tiny: Tiny) -> None:
    alike = tiny.copy()
    for each in (tiny, alike):
        each.learner(cocob).update("a", {"a": MIXED})
    assert same(state(tiny.adapters, "a"), state(alike.adapters, "a"))


# What goes wrong


def refused(learner: Learner, data: Sequence[Datum], message: str) -> None:
    adapters = learner.adapters
    weights, held = state(adapters, "a"), optimizer_state(learner, "a")
    with pytest.raises(FlowtuneError, match=message):
        learner.update("a", {"a": data})
    assert same(state(adapters, "a"), weights)
    assert same(optimizer_state(learner, "a"), held)
    assert adapters.version("a") == 1


@pytest.mark.parametrize("step_per", ["batch", "datum"])
def test_a_loss_that_is_not_finite_takes_no_step(tiny: Tiny, step_per: str) -> None:
    learner = tiny.learner(adam, 1, step_per=step_per)
    learner.update("a", {"a": [preference()]})
    bad = preference(weight=float("inf"))
    data = [bad, preference()] if step_per == "datum" else [preference(), bad]
    refused(learner, data, "the loss of node 'a' is inf: its step was not taken.*scale the reward")
    # A later update knows nothing of it.
    expected = tiny.gradients([choice()])
    assert_near(tiny.change([choice()], tiny.learner()), expected)


def test_a_reference_that_is_not_finite_takes_no_step(tiny: Tiny) -> None:
    learner = tiny.learner(cocob)
    learner.update("a", {"a": [preference()]})
    with torch.no_grad():
        for parameter in tiny.adapters.parameters(reference_of("a")):
            parameter.fill_(torch.nan)
    refused(learner, [preference()], "the loss of node 'a' is nan")


def test_a_gradient_that_is_not_finite_takes_no_step(tiny: Tiny) -> None:
    learner = tiny.learner(cocob)
    learner.update("a", {"a": [preference()]})
    tiny.adapters.parameters("a")[1].register_hook(lambda gradient: gradient * torch.nan)
    refused(learner, [preference()], "the gradient of node 'a' is nan")


def test_a_step_into_nowhere_is_noticed(tiny: Tiny) -> None:
    learner = tiny.learner(options={"lr": float("inf")})
    with pytest.raises(FlowtuneError, match="node 'a' is no longer finite"):
        learner.update("a", {"a": [preference()]})


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(adam, {"alpha": 3}), (cocob, {"lr": 1.0}), (adam, {"lr": -1.0}), (adam, {"betas": 3})],
)
def test_options_that_an_optimizer_does_not_take(
    tiny: Tiny, optimizer: Callable[..., Any], options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"learning\.optimizer does not fit 'chosen'"):
        tiny.learner(optimizer, options=options)


def test_a_node_may_have_options_of_its_own(tiny: Tiny) -> None:
    learner = tiny.learner(sgd, options={"lr": 0.5}, nodes={"b": {"optimizer": {"lr": 0.1}}})
    rates = {node: learner.optimizers[node].param_groups[0]["lr"] for node in "ab"}
    assert rates == {"a": 0.5, "b": 0.1}
    learner = tiny.learner(sgd, nodes={"b": {"optimizer": "adam"}})
    assert learner.optimizers.names == {"a": "chosen", "b": "adam"}
    assert isinstance(learner.optimizers["b"], torch.optim.Adam)
    with pytest.raises(UsageError, match=r"optimizer of node 'b' does not fit 'chosen'"):
        tiny.learner(adam, nodes={"b": {"optimizer": {"alpha": 1}}})


# Saved and loaded


@pytest.mark.parametrize("optimizer", [cocob, adam, adam8bit])
def test_a_learner_goes_on_exactly(
    tiny: Tiny, optimizer: Callable[..., Any], tmp_path: Path
) -> None:
    learner = tiny.learner(optimizer)
    fresh = tiny.copy()
    for _ in range(3):
        learner.update("a", {"a": MIXED})
    learner.optimizers.save(tmp_path / "optimizers")
    tiny.adapters.save(tmp_path / "adapters")

    fresh.adapters.load(tmp_path / "adapters")
    again = fresh.learner(optimizer)
    again.optimizers.load(tmp_path / "optimizers")
    assert same(optimizer_state(again, "a"), optimizer_state(learner, "a"))
    assert optimizer_state(again, "b") == []
    for each in (learner, again):
        each.update("a", {"a": MIXED})
        each.update("b", {"b": [replace(preference(), node="b")]})
    for name in tiny.adapters.versions:
        assert same(state(tiny.adapters, name), state(fresh.adapters, name))
    for node in ("a", "b"):
        assert same(optimizer_state(again, node), optimizer_state(learner, node))
    # And it matters: an optimizer that begins anew goes elsewhere.
    assert optimizer_state(fresh.learner(optimizer), "a") == []


@pytest.mark.parametrize(("optimizer", "options"), [(cocob, {"alpha": 10.0}), (adam, {"lr": 0.1})])
def test_a_head_with_steps_of_its_own_resumes_exactly(
    tiny_model: LoadedModel,
    tmp_path: Path,
    optimizer: Callable[..., Any],
    options: dict[str, float],
) -> None:
    data: list[Datum] = [
        *MIXED,
        ChoiceDatum("a", (Score((), {"x": 3.0}), Score((), {"x": 1.0})), 1),
    ]
    tiny, fresh = (Tiny(copy.deepcopy(tiny_model), nodes={"a": {"x": 0.5}}) for _ in range(2))
    learner, again = (
        each.learner(optimizer, nodes={"a": {"head_optimizer": options}}) for each in (tiny, fresh)
    )
    for _ in range(3):
        learner.update("a", {"a": data})
    learner.optimizers.save(tmp_path / "optimizers")
    tiny.adapters.save(tmp_path / "adapters")
    fresh.adapters.load(tmp_path / "adapters")
    again.optimizers.load(tmp_path / "optimizers")
    for each in (learner, again):
        each.update("a", {"a": data})
    assert same(state(tiny.adapters, "a"), state(fresh.adapters, "a"))
    assert same(optimizer_state(again, "a"), optimizer_state(learner, "a"))


def test_optimizer_states_of_another_task(tiny: Tiny, tmp_path: Path) -> None:
    learner = tiny.learner(cocob)
    learner.optimizers.save(tmp_path / "optimizers")
    (tmp_path / "optimizers" / "b.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no optimizer state of node 'b'"):
        learner.optimizers.load(tmp_path / "optimizers")
    (tmp_path / "optimizers" / "b.safetensors").write_bytes(b"cut off")
    with pytest.raises(UsageError, match=r"b\.safetensors is no optimizer state"):
        learner.optimizers.load(tmp_path / "optimizers")


def test_states_are_written_before_anything_is_learned(tiny: Tiny) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["seen"] = {1}

    with pytest.raises(UsageError, match=r"'chosen' cannot be used here.*0\.seen is of type set"):
        tiny.learner(lambda parameters: Odd(parameters, lr=1.0))


def test_what_an_optimizer_keeps_in_its_groups_goes_on_unless_it_is_a_setting(
    tiny: Tiny, tmp_path: Path
) -> None:
    learner = tiny.learner(Shrinking, options={"lr": 0.5, "factor": 0.5})
    for _ in range(2):
        learner.update("a", {"a": [preference()]})
    learner.optimizers.save(tmp_path / "optimizers")
    again = tiny.learner(Shrinking, options={"lr": 0.5, "factor": 0.25})
    again.optimizers.load(tmp_path / "optimizers")
    (group,) = again.optimizers["a"].param_groups
    assert group["lr"] == 0.125
    assert group["factor"] == 0.25


# Memory


def test_remembered_frozen_prefixes_are_not_read_again(tiny: Tiny) -> None:
    learner = tiny.learner()
    prefixes = learner.prefixes
    read = [tiny.tokens.encode(after_frozen(f"a fact, number {n}. ")) for n in range(4)]
    lengths = [encoded.frozen_length for encoded in read]
    prefixes.prefill("a", [encoded.ids for encoded in read], keep=True, frozen_lengths=lengths)
    data: list[Datum] = [
        choice(after_frozen("a fact, number 1. ")),
        TextDatum("a", after_frozen("a fact, number 3. "), "gold", 1.0),
        choice(ONE),
    ]
    fresh = tiny.copy()
    expected = fresh.change(data, fresh.learner())
    prefixes.clear(learner.losses.frozen_prefixes(data))
    kept = [(key.namespace.adapter, key.ids) for key in prefixes._entries]
    frozen = [read[n].ids[: lengths[n]] for n in (1, 3)]
    assert sorted(kept) == sorted((None, ids) for ids in frozen)
    passes = []
    tiny.adapters.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"]), with_kwargs=True
    )
    assert_near(tiny.change(data, learner), expected)
    begins = {tuple(row[: len(ids)]) for ids in frozen for seen in passes for row in seen.tolist()}
    assert passes
    assert not begins & set(frozen)


def test_processes_learn_from_data_whose_frozen_prefixes_they_have_read(tiny: Tiny) -> None:
    prompts = [after_frozen(f"a fact, number {n}. ") for n in range(4)]
    parts = [[choice(prompt)] for prompt in prompts]

    def places(peers: Peers) -> list[int]:
        learner = tiny.learner()
        mine = [tiny.tokens.encode(prompts[n]) for n in ((1, 2) if peers.rank else (0, 3))]
        learner.prefixes.prefill_frozen(each.ids[: each.frozen_length] for each in mine)
        return learner.share(parts, peers)

    assert on_threads(2, places) == [[0, 3], [1, 2]]


# Tokens


@pytest.mark.parametrize("kind", ["prepend", "byte level"])
def test_what_was_decoded_is_learned_not_its_text_tokenised_again(
    tiny_model: LoadedModel, kind: str
) -> None:
    loaded = with_tokenizer(tiny_model, make_tokenizer(kind))
    tiny = Tiny(loaded)
    engine = make_engine(loaded, tiny.adapters)
    request = DecodeRequest("a", ONE, 12, (), Decoding(samples=2, temperature=2.0))
    (decoded,) = engine.answer([request])
    assert isinstance(decoded, Decoded)
    first, second = (generation.tokens for generation in decoded.generations[1:])
    assert tiny.tokens.completion(decoded.generations[1].text) != first
    chosen, rejected = (Score((Term(ONE, tokens),)) for tokens in (first, second))
    data = [PreferenceDatum("a", chosen, rejected)]
    learner = tiny.learner()
    assert [c.tokens for c in learner.losses.completions(data[0])] == [first, second]
    expected = tiny.gradients(data)
    for mine, theirs in zip(tiny.change(data, learner), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def test_a_target_ends_with_the_chat_templates_end(tiny_model: LoadedModel) -> None:
    tokenizer = make_tokenizer("prepend")
    tiny = Tiny(with_tokenizer(tiny_model, tokenizer))
    chat = Prompt((Message("user", (Segment("why"),)),), reserve=16)
    (datum,) = tiny.learner().losses.completions(TextDatum("a", chat, "Yes"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end != tokenizer.eos_token_id
    whole = tokenizer(tiny.tokens.render(chat) + "Yes", add_special_tokens=False)["input_ids"]
    assert [*datum.prompt, *datum.tokens] == [*whole, end]
    (bare,) = tiny.learner().losses.completions(TextDatum("a", ONE, "Yes"))
    assert bare.tokens[-1] == tokenizer.eos_token_id


def test_rival_labels_are_learned_with_their_end(tiny_model: LoadedModel) -> None:
    tiny = Tiny(tiny_model)
    end = tiny_model.tokenizer.eos_token_id
    labels = ("1", "10")

    def choose(rivals: tuple[str, ...], *completions: Any) -> ChoiceDatum:
        scores = tuple(Score((Term(ONE, each, rivals=rivals),)) for each in completions)
        return ChoiceDatum("a", scores, 0)

    learner = tiny.learner()
    spelled = choose((), *((*tiny.tokens.completion(label), end) for label in labels))
    assert learner.losses.completions(choose(labels, *labels)) == learner.losses.completions(
        spelled
    )
    apart = ("1", "no")
    assert learner.losses.completions(choose(apart, *apart)) == learner.losses.completions(
        choose((), *apart)
    )


# Under constraints


@pytest.mark.parametrize("way", ["packed", "plain"])
def test_preferences_under_a_constraint_are_among_what_was_allowed(
    tiny_model: LoadedModel, way: Any
) -> None:
    adapters = make_adapters(tiny_model)
    # The reference lags behind.
    with torch.no_grad():
        for parameter in adapters.parameters(reference_of("a")):
            parameter.mul_(0.5)
    constraint = Constraint("regex", "[ab] is the text[cd]")
    datum = decoded_pair(tiny_model, adapters, constraint)
    learner = make_learner(adapters, tiny_model, beta=0.7)
    learner.prefixes.paths = replace(learner.prefixes.paths, learning=way)
    tokens = learner.losses.tokens
    grammar = tokens.grammar(constraint, ONE)
    assert grammar is not None
    ids = tokens.encode(ONE).ids

    def value(score: Score, adapter: str) -> float:
        (term,) = score.terms
        assert isinstance(term.completion, tuple)
        mask = grammar.allowed(term.completion, 258).to(adapters.model.device)
        total = 0.0
        for place, token in enumerate(term.completion):
            row = logits(adapters, adapter, [*ids, *term.completion[:place]])[-1].detach()
            total += float(row[token] - row[mask[place]].logsumexp(0))
        return total

    margin = sum(
        sign * (value(score, "a") - value(score, reference_of("a")))
        for sign, score in ((1, datum.chosen), (-1, datum.rejected))
    )
    assert abs(margin) > 1e-3
    update = learner.update("a", {"a": [datum]})["a"]
    assert update.loss == pytest.approx(math.log1p(math.exp(-0.7 * margin)), abs=1e-4)
    assert update.margin == pytest.approx(0.7 * margin, abs=1e-4)
    assert update.gradient_norm > 0


def test_what_a_constraint_forces_is_not_learned(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    before = state(adapters, "a")
    terms = []
    for written in ("the one", "the other text"):
        constraint = Constraint("choice", f'["{written}"]')
        ids = Tokens(tiny_model.tokenizer, 100).completion(written)
        terms.append(Term(ONE, (*ids, tiny_model.tokenizer.eos_token_id), constraint=constraint))
    datum = PreferenceDatum("a", *(Score((term,)) for term in terms))
    # Beside one with the same tokens without a constraint, which is learned.
    free = PreferenceDatum("a", *(Score((replace(term, constraint=None),)) for term in terms))
    update = make_learner(adapters, tiny_model).update("a", {"a": [datum]})["a"]
    assert (update.gradient_norm, update.margin) == (0.0, 0.0)
    assert same(state(adapters, "a"), before)
    update = make_learner(adapters, tiny_model).update("a", {"a": [datum, free]})["a"]
    assert update.gradient_norm > 0


def test_data_teach_the_adapter_of_their_own_node_alone(tiny_model: LoadedModel) -> None:
    learner = Tiny(tiny_model).learner()
    for adapter, data in (("b", {"b": [preference()]}), ("b", {"a": [preference()]})):
        with pytest.raises(FlowtuneError, match="a datum of node 'a' cannot teach node"):
            learner.update(adapter, data)
