"""What is run: a task with its settings, and the same mixed records every time."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from unittest.mock import patch

from flowtune_cli.config.resolve import resolve
from flowtune_cli.flow.example import Example
from flowtune_cli.registry import load_registry
from flowtune_cli.training.session import Session, set_up


@dataclass(frozen=True)
class Setup:
    """What is run: a task on some of its records, with ``--set`` overrides."""

    task: str
    data: Path | None
    records: int
    overrides: tuple[str, ...] = ()

    def with_overrides(self, *overrides: str) -> Setup:
        return dataclasses.replace(self, overrides=(*self.overrides, *overrides))


def prepare(setup: Setup, *, plain_weights: bool = False) -> tuple[Session, list[Example]]:
    """The session of a setup, and its records: as many of each number of hops, by a hash.

    Args:
        plain_weights: leave weights as transformers has them.
    """
    registry = load_registry()
    resolved = resolve(
        registry.task(setup.task),
        environ=os.environ,
        overrides=setup.overrides,
        registry=registry,
    )
    task = resolved.make_task()
    split = task.splits[0]
    examples = task.training_examples(task.examples(setup.data, split), split)
    chosen = mixed(list(examples), setup.records)
    unchanged = patch("flowtune_cli.training.session.block_weights")
    with unchanged if plain_weights else nullcontext():
        return set_up(task, resolved.settings, registry), chosen


def mixed(examples: Sequence[Example], count: int) -> list[Example]:
    """As many examples of each number of hops as there are, the same ones every time."""
    kinds: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda e: hashlib.sha256(e.id.encode()).digest()):
        hops = re.match(r"\d+hop", example.id)
        kinds.setdefault(hops.group() if hops else "", []).append(example)
    turns = zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return [example for example in chain.from_iterable(turns) if example is not None][:count]
