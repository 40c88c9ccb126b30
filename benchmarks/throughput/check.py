"""Do both sides make the same outputs, preferences and gradients? In float32, before any timing.

Each side plays and deviates by itself on the same adapters, whose weights are made different from
each other and from the base model's. Then:

- every answer that both gave is compared: outputs token by token, log-probabilities to 1e-4;
- preferences are compared one by one;
- the losses' gradients, for every step of learning from flowtune's data, to 1e-4.

Where outputs differ, the scores of the two tokens that they first differ in are computed anew. If
they are within 1e-4 of each other it is a tie, which rounding decides: it is reported, and what
follows from it may differ as well. Anything else is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.throughput.meter import Watched
from benchmarks.throughput.plain import PlainEngine, PlainLearner, read_frozen_prefix
from benchmarks.throughput.records import Setup, prepare
from benchmarks.throughput.side import check_episodes
from flowtune_cli.engine.forward import with_cache
from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.node import Datum
from flowtune_cli.flow.request import Answer, Decoded, DecodeRequest, Request, Scored
from flowtune_cli.learning.learner import Learner
from flowtune_cli.learning.node_optimizers import NodeOptimizers
from flowtune_cli.training.data import collect
from flowtune_cli.training.session import Session

TOLERANCE = 1e-4


@dataclass
class Report:
    """What was compared: how often, the largest difference, ties, and what is wrong."""

    counts: dict[str, int] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    ties: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def compare(self, what: str, first: float, second: float, size: float, where: str) -> None:
        """Note a difference relative to 1 + ``size``."""
        difference = abs(first - second) / (1 + size)
        self.counts[what] = self.counts.get(what, 0) + 1
        self.largest[what] = max(self.largest.get(what, 0.0), difference)
        if not difference <= TOLERANCE:
            self.errors.append(f"{what} of {where}: {first} and {second}")

    def same(self, what: str, first: Any, second: Any) -> None:
        """Note whether two things that follow from the outputs are equal, ties apart."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if first != second and not self.ties:
            self.errors.append(f"{what}: {first} and {second}")


def check(setup: Setup) -> Report:
    """Compare both sides on a setup's records, with one state of the adapters."""
    setup = setup.with_overrides("model.dtype=float32")
    session, examples = prepare(setup)
    plainly, _ = prepare(setup, plain_weights=True)
    for side in (session, plainly):
        perturb(side)
    report = Report()
    tokens = plainly.engine.tokens
    plain = PlainEngine(plainly.adapters, tokens.tokenizer, tokens.context)
    session.engine.forget()
    (fast_traces, fast), (plain_traces, slow) = (
        _explore(session, engine, examples) for engine in (session.engine, plain)
    )
    for request in fast.keys() & slow.keys():
        _compare(report, session, request, fast[request], slow[request])
    alone = [str(request)[:200] for request in fast.keys() ^ slow.keys()]
    report.same("sets of requests", alone, [])
    for trace, other in zip(fast_traces, plain_traces, strict=True):
        report.same("preferences", _preferences(trace), _preferences(other))
    data = {
        name: of_node.data for name, of_node in collect(session.task.nodes, fast_traces).items()
    }
    compare_gradients(report, session, plainly, data)
    return report


def perturb(session: Session, size: float = 0.01) -> None:
    """Give every adapter weights of its own: new ones would all compute the same."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in session.adapters.versions:
            for parameter in session.adapters.parameters(name):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter), alpha=size)


def _explore(
    session: Session, engine: Any, examples: Sequence[Any]
) -> tuple[list[Trace], dict[Request, Answer]]:
    watched = Watched(engine)
    found = dict(Session(**{**vars(session), "engine": watched}).deviate(examples))
    check_episodes(trace.episode for trace in found.values())
    return [found[position] for position in range(len(examples))], dict(watched.log)


def _preferences(trace: Trace) -> list[Any]:
    return [
        (p.step, p.node, p.alternative, p.chosen.text, p.rejected.text, round(p.margin, 6))
        for p in trace.preferences
    ]


def _compare(report: Report, session: Session, request: Request, fast: Any, plain: Any) -> None:
    if isinstance(request, DecodeRequest):
        _compare_outputs(report, session, request, fast, plain)
        return
    assert isinstance(fast, Scored)
    for item, others in zip(fast.likelihoods, plain.likelihoods, strict=True):
        for a, b in zip(item, others, strict=True):
            where = f"a completion of {a.tokens} tokens for {request.adapter}"
            report.compare("score", a.logprob, b.logprob, abs(b.logprob), where)


def _compare_outputs(
    report: Report, session: Session, request: DecodeRequest, fast: Decoded, plain: Decoded
) -> None:
    for row, (a, b) in enumerate(zip(fast.generations, plain.generations, strict=True)):
        where = f"output {row} of {request.adapter}"
        if a.tokens == b.tokens:
            report.same("texts", (a.text, a.truncated), (b.text, b.truncated))
            assert a.logprob is not None
            assert b.logprob is not None
            report.compare("output", a.logprob, b.logprob, abs(b.logprob), where)
            continue
        place = next(
            (i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y), None
        )
        if place is None:
            report.errors.append(f"{where}: one of {a.text!r} and {b.text!r} ended too soon")
            return
        gap = _gap(session, request, plain, row, place, a.tokens[place])
        text = f"{where}, token {place}: {a.text!r} and {b.text!r}, whose scores differ by {gap:g}"
        (report.ties if gap <= TOLERANCE else report.errors).append(text)
        return  # the rows below pay for what this one chose


def _gap(
    session: Session, request: DecodeRequest, plain: Decoded, row: int, place: int, rival: int
) -> float:
    """How far a row's token at a place is ahead of a rival, by a forward pass of its own."""
    tokens = plain.generations[row].tokens
    prompt = session.engine.tokens.encode(request.prompt, request.max_new_tokens)
    frozen_length = prompt.frozen_length if request.adapter else 0
    cache = read_frozen_prefix(session.adapters, prompt) if frozen_length else DynamicCache()
    with torch.no_grad(), session.adapters.using(request.adapter) as model:
        ids = torch.tensor([[*prompt.ids[frozen_length:], *tokens[:place]]], device=model.device)
        read = model(ids, **with_cache(model, cache))
    scores = read.logits[0, -1].float().log_softmax(-1)
    for above in plain.generations[:row]:
        if len(above.tokens) > place:
            scores[above.tokens[place]] -= request.decoding.diversity_penalty
    return abs(float(scores[tokens[place]] - scores[rival]))


def compare_gradients(
    report: Report, session: Session, plainly: Session, data: Mapping[str, Sequence[Datum]]
) -> None:
    """Compare the gradients of every step, without taking any."""
    settings = session.settings.learning.model_copy(update={"clip": 1e9, "optimizer": "gradients"})
    nodes = {
        name: dataclasses.replace(node, optimizer=None, head_optimizer=None)
        for name, node in session.task.nodes_by_name.items()
    }
    learners = [
        Learner(
            side.engine.prefixes,
            side.engine.tokens,
            settings,
            NodeOptimizers(side.adapters, settings, nodes, {"gradients": _Gradients}),
            side.engine.limits,
        )
        for side in (session, plainly)
    ]
    updates: list[Callable[..., Any]] = [
        learners[0].update,
        PlainLearner(learners[1], plainly.engine.tokens).update,
    ]
    for node, of_node in data.items():
        if not of_node:
            continue
        for update in updates:
            update(node, {node: of_node})
        steps = [learner.optimizers[node].steps for learner in learners]  # type: ignore[attr-defined]
        report.same("steps", len(steps[0]), len(steps[1]))
        for fast, slow in zip(*steps, strict=True):
            largest = float(slow.abs().max())
            difference = float((fast - slow).abs().max())
            report.compare("gradient", difference, 0.0, largest, f"node {node}")


class _Gradients(torch.optim.Optimizer):
    """Keeps the gradients of each step, and changes nothing."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})
        self.steps: list[Tensor] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        self.steps.append(torch.cat([part.detach().flatten().clone() for part in parts]))
