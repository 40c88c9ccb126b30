"""All that is played and learned has a deterministic algorithm on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.work import BATCHES, Small
from flowtune_cli.engine import attention_kernels, choosing, like_sizes
from flowtune_cli.flow.example import Example
from flowtune_cli.testing import make_tiny_model, train

ADAM = {"name": "adam", "lr": 1e-3}

REFUSED = (
    "put_",
    "put",
    "cumsum",
    "cumsum_",
    "histc",
    "bincount",
    "median",
    "nanmedian",
    "kthvalue",
    "nll_loss_forward",
    "nll_loss2d_forward",
    "scatter_reduce",
    "_embedding_bag",
    "multinomial",
    "grid_sampler_2d",
)
"""What torch refuses on a GPU with floating point inputs, see
``torch.use_deterministic_algorithms``."""


class Watching(TorchDispatchMode):
    """Notes which operations a GPU would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.seen.add(name)
        if name in REFUSED and args[0].is_floating_point():
            self.refused.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The ways that a GPU takes, as far as they run here."""
    monkeypatch.setattr(like_sizes, "launches_are_dear", lambda device: True)
    monkeypatch.setattr(attention_kernels, "choose", lambda *_, **__: "blocks")
    monkeypatch.setattr(choosing, "_cumulative", choosing.fixed_point_sums)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def task() -> Small:
    made = Small()
    made.nodes_by_name["query"].exploration = {"name": "multi_sample", "top_p": 0.9}
    return made


@pytest.mark.parametrize("optimizer", [ADAM, "cocob"])
def test_what_is_played_and_learned_is_deterministic(
    as_on_a_gpu: None, tmp_path: Path, optimizer: Any
) -> None:
    examples = list(task().examples(None, "train"))[: 2 * BATCHES]
    model = make_tiny_model(tmp_path / "model")
    with Watching() as watching:
        learned = run(examples, model, tmp_path / "run", optimizer)
    assert watching.refused == set()
    # The figures of a mini-batch that learned, and of samples that were drawn.
    assert len(learned) == BATCHES
    assert {"searchsorted", "sort", "index_add", "argmax"} <= watching.seen


def run(examples: list[Example], model: Path, folder: Path, optimizer: Any) -> Any:
    settings = {
        "learning": {"optimizer": optimizer},
        "adapter": {"rank": 2},
        "training": {"batch_size": 2},
    }
    return train(task(), examples, model, folder, settings)
