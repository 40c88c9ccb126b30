"""The presets of the MuSiQue tasks: the paper's settings, and settings for a small model."""

from __future__ import annotations

from typing import Any

from flowtune_cli import Preset

PAPER = Preset(
    "paper",
    "the settings of the paper's reported runs, which trained Phi-3-medium-128k-instruct",
    {
        "model.quantization": "nf4",
        "model.dtype": "bfloat16",
        "adapter.rank": 8,
        "adapter.rslora": True,
        "learning.optimizer": {"name": "cocob", "alpha": 1000.0},
        "learning.beta": 1.0,
        "learning.clip": 1.0,
        "learning.step_per": "datum",
        "learning.reference_weight": 0.5,
        "training.seed": 42,
        "training.passes": 1,
        "training.save_every": 100,
        "max_retrievals": 4,
        "min_retrievals": 1,
        "ranking": "choice",
        "judging": "choice",
        "credit": "immediate",
        "match_hops": True,
        "nodes.query.alternatives": 1,
        "nodes.stop.learn": "supervised",
        "nodes.verbose.exploration": {"name": "diverse_beam", "beams": 16},
        "nodes.verbose.alternatives": 3,
        "nodes.verbose.pairs": "best",
    },
)

_SMALL: dict[str, Any] = {
    "learning.optimizer": {"name": "adam", "lr": 1e-3},
    # They start well, and larger steps undo that: verbose answers come to be empty. retrieve's
    # likelihoods count for 0.03 of a nat, so to lower its loss they would be moved by many.
    "nodes.retrieve.optimizer": {"lr": 1e-5},
    "nodes.verbose.optimizer": {"lr": 1e-4},
    # The weights of its features start from zero.
    "nodes.retrieve.head_optimizer": {"lr": 0.1},
}


_SMALL_FULL: dict[str, Any] = {
    **_SMALL,
    "nodes.sufficiency.optimizer": {"lr": 1e-4},
    "nodes.sufficiency.head_optimizer": {"lr": 0.01},
}

SMALL, SMALL_FULL = (
    Preset(
        "small",
        "learning rates for a model of about a hundred million parameters",
        settings,
        models=("smollm2-135m",),
    )
    for settings in (_SMALL, _SMALL_FULL)
)
