"""For the tests of plugins: a scripted engine, checks of tasks and flows, and a tiny model.

None of it needs pytest. Only ``make_tiny_model``, ``TinySession`` and ``train`` import torch, when
they are called.
"""

from ..flow.deviation import prefer
from .checks import check_task
from .engine import ScriptedEngine
from .episodes import deviate, play, play_with_rollouts, training_data
from .replay import assert_replays
from .tiny_model import TinySession, make_tiny_model, train

__all__ = [
    "ScriptedEngine",
    "TinySession",
    "assert_replays",
    "check_task",
    "deviate",
    "make_tiny_model",
    "play",
    "play_with_rollouts",
    "prefer",
    "train",
    "training_data",
]
