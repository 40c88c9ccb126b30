"""Proof at load: the ways to run a model, held against the model's own plain forward.

No architecture is trusted by its name. What a way decodes, scores and learns is compared twice:

- In float32, on a copy with one layer of each kind, few tokens, narrow windows and a random adapter
  (see ``structure``): nothing but rounding may differ.
- On the whole model in its own dtype, by few passes: a token may differ by three times what it does
  by the model's own forward between shapes of a batch (root mean squares). Where experts are chosen
  by what was rounded, the median counts, if the copy agreed.

The first way that agrees is taken, from the fastest to the most general.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..config.settings import AdapterSettings
from ..flow.errors import UsageError
from .baseline import BROKEN, Baseline
from .comparison import Comparison, one_line
from .forward import check_finite
from .packing import Ids
from .paths import LEARNING, PLAYING, Paths
from .plain import last_logits
from .proof_cases import random_texts, vocabulary
from .structure import structural_copy


@dataclass(frozen=True)
class Proved:
    """The ways that a model is run by, and why no faster ones.

    Args:
        found: what is done without, and why: what differed in faster ways. One line each.
    """

    paths: Paths
    found: tuple[str, ...] = ()


def prove(model: Any, settings: AdapterSettings, context: int, texts: Sequence[Ids] = ()) -> Proved:
    """Find the fastest ways to run a model that agree with its own forward.

    Args:
        model: without adapters, and its weights as they were loaded.
        context: the longest text that it will read, in tokens.
        texts: token ids of real texts, of 30 tokens or so.

    Raises:
        UsageError: none agrees, or its logits are not finite.
    """
    (ids,) = random_texts(vocabulary(model), [8])
    with torch.no_grad():
        logits = last_logits(model, torch.tensor([ids], device=model.device), 1)
    check_finite(model, [float(logits.float().logsumexp(-1))])
    last_place = torch.finfo(model.dtype).eps * float(logits.abs().max()) / 4
    wanted = Paths.by_config(model, context)
    found: list[str] = []
    if wanted.devices > 1:
        found.append(
            "what prompts share is copied for each of them: the model is split over"
            f" {wanted.devices} devices, and to read it in place is for a model on one"
        )
    structure = _prove_structure(model, settings, context, texts, found, wanted)
    if structure is not None:
        wanted = replace(
            structure, longest=wanted.longest, branches=wanted.branches, devices=wanted.devices
        )
    own = Baseline(model, settings, context, texts, last_place=last_place)
    try:
        comparison = Comparison(own, short=structure is not None)
        paths = _first_that_agrees(comparison, wanted, found)
    finally:
        own.adapters.remove()
    return Proved(paths, tuple(found))


def _prove_structure(
    model: Any,
    settings: AdapterSettings,
    context: int,
    texts: Sequence[Ids],
    found: list[str],
    wanted: Paths,
) -> Paths | None:
    """The ways that agree on a small float32 copy, none faster than ``wanted``; None if there is
    no such copy."""
    sample = structural_copy(model, context)
    if sample is None:
        return None
    try:
        own = Baseline(sample, settings, context, texts, last_place=None)
    except BROKEN as error:
        # Layers of some models hang together, so that a few of them do not run.
        found.append(
            "this model was compared as a whole alone: its first layers do not run without the"
            f" others ({one_line(error)})"
        )
        return None
    fastest = Paths.by_config(sample, context)
    playing = max(fastest.playing, wanted.playing, key=PLAYING.index)
    return _first_that_agrees(Comparison(own), replace(fastest, playing=playing), found)


def _first_that_agrees(comparison: Comparison, wanted: Paths, found: list[str]) -> Paths:
    """The first of ``wanted`` and what is more general than it that agrees."""
    agreed: Paths | None = None
    reason = ""
    for paths in _ways_to_play(wanted):
        differs = comparison.difference(paths, comparison.play)
        if differs is None:
            agreed = paths
            break
        reason = f"{paths.playing_text}: {differs}"
        if paths.without:
            found.append(f"{paths.without} is not right for this model ({reason})")
    if agreed is None:
        raise UsageError(
            "this model cannot be played: what it decodes with its own cache is not what its own"
            f" forward computes ({reason}). Take another model, or another transformers."
        )
    frozen = wanted.frozen_prefixes
    if frozen and (differs := comparison.difference(agreed, comparison.play_frozen)):
        found.append(
            f"a prompt with a frozen prefix is an error: it is not right for this model ({differs})"
        )
        frozen = False
    agreed = replace(agreed, frozen_prefixes=frozen)
    ways = LEARNING[LEARNING.index(wanted.learning) :] if agreed.shares(0) else ("plain",)
    for learning in ways:
        paths = replace(agreed, learning=learning)
        differs = comparison.difference(paths, comparison.learn)
        if differs is None:
            break
        reason = f"learning {learning}: {differs}"
        found.append(
            "texts are learned from one by one: to read once what they share is not right for this"
            f" model ({reason})"
        )
    else:
        raise UsageError(
            "this model cannot be trained: its gradients are not those of its own forward"
            f" ({reason}). Take another model, or another transformers."
        )
    # What layers compute twice does not depend on depth and dtype.
    if (
        paths.recomputing
        and not comparison.short
        and (differs := comparison.difference(paths, comparison.learn_recomputing))
    ):
        found.append(
            "long texts take more memory in learning: gradient checkpointing is not right for this"
            f" model ({differs})"
        )
        paths = replace(paths, recomputing=False)
    return paths


def _ways_to_play(wanted: Paths) -> Iterator[Paths]:
    """``wanted``, then what is more general than it."""
    for playing in PLAYING[PLAYING.index(wanted.playing) :]:
        paths = replace(wanted, playing=playing, learning="plain")
        yield paths
        if paths.longest is not None and paths.cached_beyond and playing != "uncached":
            yield replace(paths, cached_beyond=False)


def real_texts(encode: Callable[[str], Sequence[int]]) -> Iterator[Ids]:
    """Token ids of two texts as flows have them."""
    for text in _TEXTS:
        yield tuple(encode(text))


_TEXTS = (
    "Document [1] The river rises in the hills north of the town and flows east for 40 miles.\n"
    "Question: Where does the river rise?\nAnswer:",
    '{"tool": "search", "query": "who built the first iron bridge, and when?"}',
)
