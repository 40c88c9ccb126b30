"""Weights & Biases: logs settings and metrics, but neither code nor console output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..flow.errors import missing_package
from .tracker import TrackedRun

# Seconds: there may be no user at the terminal, or no network.
_LOGIN_TIMEOUT, _INIT_TIMEOUT = 15, 60


class WeightsAndBiases:
    """Weights & Biases; log in first with 'wandb login', or set WANDB_MODE=offline."""

    def __init__(self, run: TrackedRun) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise missing_package("it", "wandb", "wandb") from error

        self._run: Any = wandb.init(
            project=f"flowtune-{run.task}",
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.path),
            config=dict(run.settings),
            settings=wandb.Settings(
                login_timeout=_LOGIN_TIMEOUT,
                init_timeout=_INIT_TIMEOUT,
                console="off",
                save_code=False,
                disable_git=True,
            ),
        )

    def log(self, episodes: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=episodes)

    def close(self) -> None:
        self._run.finish()
