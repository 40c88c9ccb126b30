"""Weights & Biases: settings and figures, and neither code nor what the program says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..flow.errors import missing_package
from .tracking import TrackedRun

# Seconds: nobody may sit at the terminal, or the network may be away.
_LOGIN, _INIT = 15, 60


class WeightsAndBiases:
    """Weights & Biases; log in first by 'wandb login', or set WANDB_MODE=offline."""

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
                login_timeout=_LOGIN,
                init_timeout=_INIT,
                console="off",
                save_code=False,
                disable_git=True,
            ),
        )

    def log(self, episodes: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=episodes)

    def close(self) -> None:
        self._run.finish()
